"""The devices: which strategy, which worker. Only this module and `arithmetic` query them."""

import functools
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from trainer.distributed import heartbeat, membership, rendezvous, required_devices, tpus, tracing
from trainer.errors import InputError, RetryableError

_Implementation = tf.distribute.experimental.CommunicationImplementation
# Name → how workers exchange sums: without GPUs, and with them.
COLLECTIVES = {
    "auto": (_Implementation.AUTO, _Implementation.NCCL),
    "nccl": (_Implementation.NCCL, _Implementation.NCCL),
    "ring": (_Implementation.RING, _Implementation.RING),
}


def connect(
    name: str,
    tpu: str = "",
    virtual_devices: int = 0,
    timeouts: rendezvous.Timeouts = rendezvous.TIMEOUTS,
    collectives: str = "auto",
    require: str = "",
) -> tf.distribute.Strategy:
    """Connects to the devices and returns the strategy that spans them.

    Args:
        name: `auto`, `one_device`, `mirrored`, `multi_worker` or `tpu`.
        tpu: `local`, a TPU's name or its `grpc://host:port`.
        virtual_devices: number of logical CPU devices to make; 0 leaves the CPU whole.
        timeouts: how long to wait for other workers.
        collectives: how workers exchange sums, a row of COLLECTIVES.
        require: devices that this worker must compute on, see `required`.

    Raises:
        InputError: when what the name or `require` asks for is not there.
        rendezvous.LostWorkerError: when a worker does not come.
    """
    if virtual_devices:
        _split_cpu(virtual_devices)
    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        name = _choose_strategy(tpu, len(gpus), virtual_devices)
    if name != "tpu" and not gpus:  # before waiting for the other workers
        required_devices.check(require, required_devices.Devices("cpu", None))
    builders: Mapping[str, Callable[[], tf.distribute.Strategy]] = {
        "one_device": _one_device,
        "mirrored": lambda: _mirrored(virtual_devices),
        "multi_worker": lambda: _multi_worker(timeouts, collectives),
        "tpu": lambda: tpus.connect(tpu or "local"),
    }
    strategy = builders[name]()
    found = required_devices.Devices(
        device_kind(strategy).lower(), len(strategy.extended.worker_devices)
    )
    required_devices.check(require, found)
    return strategy


def connect_alone(
    name: str, tpu: str = "", virtual_devices: int = 0, require: str = ""
) -> tf.distribute.Strategy:
    """Connects as `connect` does, but `auto` is of this machine, whatever others there are."""
    if name == "auto":
        num_gpus = len(tf.config.list_physical_devices("GPU"))
        name = _choose_alone(tpu, num_gpus, virtual_devices)
    return connect(name, tpu, virtual_devices, require=require)


def connect_several(name: str, tpu: str = "", virtual_devices: int = 0) -> tf.distribute.Strategy:
    """Connects as `connect` does, but splits the CPU in two if `auto` would be one device."""
    if name == "auto" and not virtual_devices:
        gpus = tf.config.list_physical_devices("GPU")
        if _choose_strategy(tpu, len(gpus), 0) == "one_device":
            virtual_devices = 2
    return connect(name, tpu, virtual_devices)


def _choose_strategy(tpu: str, num_gpus: int, virtual_devices: int) -> str:
    members = None if tpu else membership.read()
    if members is not None and len(members.addresses) > 1:
        return "multi_worker"
    return _choose_alone(tpu, num_gpus, virtual_devices)


def _choose_alone(tpu: str, num_gpus: int, virtual_devices: int) -> str:
    if tpu:
        return "tpu"
    return "mirrored" if max(num_gpus, virtual_devices) > 1 else "one_device"


def _split_cpu(number: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * number
    if tf.config.get_logical_device_configuration(cpu) != logical:
        tf.config.set_logical_device_configuration(cpu, logical)


def _grow_gpu_memory() -> None:
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def _one_device() -> tf.distribute.Strategy:
    _grow_gpu_memory()
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return tf.distribute.OneDeviceStrategy(f"/{kind}:0")


def _mirrored(virtual_devices: int) -> tf.distribute.Strategy:
    if virtual_devices:
        return tf.distribute.MirroredStrategy([f"/CPU:{i}" for i in range(virtual_devices)])
    if not tf.config.list_physical_devices("GPU"):
        raise RetryableError(
            "--strategy=mirrored finds no GPU; use --strategy=one_device, or --virtual_devices=2 "
            "to try several replicas on the CPU."
        )
    _grow_gpu_memory()
    return tf.distribute.MirroredStrategy()


def _multi_worker(timeouts: rendezvous.Timeouts, collectives: str) -> tf.distribute.Strategy:
    members = membership.read()
    if members is None:
        raise InputError(
            "--strategy=multi_worker finds no TF_CONFIG in the environment; set it to "
            '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}, or '
            "start the workers by python -m launch.local --workers=N -- …"
        )
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if collectives == "nccl" and not num_gpus:
        raise RetryableError(
            "--collectives=nccl finds no GPU, and sums between GPUs only; drop it."
        )
    _grow_gpu_memory()
    others = heartbeat.join(members, timeouts) if len(members.addresses) > 1 else None
    # TF_CONFIG itself may name tasks that do not train, for which TensorFlow would wait forever.
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(members.addresses)}),
        task_type="worker",
        task_id=members.index,
        num_accelerators={"GPU": num_gpus},
        rpc_layer="grpc",
    )
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=COLLECTIVES[collectives][num_gpus > 0]
    )
    connect_all = functools.partial(
        tf.distribute.MultiWorkerMirroredStrategy, resolver, communication_options=options
    )
    if others is None:
        return connect_all()
    _configure_heartbeats(len(members.addresses), timeouts)
    with others.watched_from_outside():  # TensorFlow keeps Python's lock until all are connected
        strategy = connect_all()
    others.watch(_abort_collectives, SIGNS_OF_LOSS)
    return strategy


# What collectives raise when a worker is lost.
SIGNS_OF_LOSS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)


def _configure_heartbeats(num_workers: int, timeouts: rendezvous.Timeouts) -> None:
    """Configures TensorFlow's own watch as the strategy would, but with twice our timeout.

    Its 10 s would end a job in a pause that `timeouts` allow. There is no public name for it.
    """
    job = context.coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=num_workers)
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        heartbeat_timeout_in_ms=int(2000 * timeouts.heartbeat_seconds),
        coordinated_jobs=[job],
    )


def _abort_collectives() -> None:
    # TensorFlow has no public name for it; its own health check does the same.
    context.context().abort_collective_ops(tf.errors.UNAVAILABLE, "a worker is lost")


def worker_of(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns (index of this worker, number of workers); the chief is worker 0."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return 0, 1
    spec = resolver.cluster_spec().as_dict()
    order = [(kind, i) for kind in ("chief", "worker") for i in range(len(spec.get(kind, ())))]
    return order.index((resolver.task_type, int(resolver.task_id))), len(order)


def num_input_hosts(strategy: tf.distribute.Strategy) -> int:
    """Returns how many machines read training data, each its own: workers, or a TPU's hosts."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return strategy.extended.num_hosts
    return worker_of(strategy)[1]


def device_kind(strategy: tf.distribute.Strategy) -> str:
    """Returns `CPU`, `GPU` or `TPU`."""
    device = strategy.extended.worker_devices[0]
    return tf.DeviceSpec.from_string(device).device_type or "CPU"


def device_names(strategy: tf.distribute.Strategy) -> list[str]:
    """Returns the names of this worker's devices, as NVIDIA or TensorFlow calls them."""
    if device_kind(strategy) != "GPU":
        return list(strategy.extended.worker_devices)
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [found.get("device_name", "GPU") for found in details]


def compiles_collectives(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether TensorFlow can put the sums of several replicas into an XLA program.

    It can where each replica is a GPU. On CPUs it cannot, and TPUs compile them by themselves.
    """
    return strategy.num_replicas_in_sync > 1 and device_kind(strategy) == "GPU"


def device_memory(strategy: tf.distribute.Strategy) -> int | None:
    """Returns the most bytes that this worker's first GPU or TPU has held; None on a CPU."""
    if device_kind(strategy) == "CPU":
        return None
    return peak_bytes(strategy.extended.worker_devices[0])


def peak_bytes(device: str) -> int | None:
    """Returns the most bytes that a device has held, by its full name; None if it is not known."""
    spec = tf.DeviceSpec.from_string(device)
    try:
        found = tf.config.experimental.get_memory_info(f"{spec.device_type}:{spec.device_index}")
    except (ValueError, RuntimeError, NotImplementedError, tf.errors.OpError):
        return None
    return (found or {}).get("peak")


def sum_over_workers(strategy: tf.distribute.Strategy, array: np.ndarray) -> np.ndarray:
    """Returns the sum of an array over the workers, each of which holds one of its shape."""
    if worker_of(strategy)[1] == 1 or not array.size:  # of nothing, TensorFlow's sum crashes
        return array
    return _summation(strategy)(tf.constant(array)).numpy()


@functools.cache
def _summation(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function of a tensor → its sum over the workers, with a graph for each shape.

    It is made once: a graph stays in memory as long as the process, and takes 0.1 s to make.
    """

    def sum_over_replicas(value: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        first = context.replica_id_in_sync_group % len(strategy.extended.worker_devices) == 0
        share = tf.where(first, value, tf.zeros_like(value))  # a worker counts once
        return context.all_reduce(tf.distribute.ReduceOp.SUM, share)

    @tracing.for_each_shape
    def total(value: tf.Tensor) -> tf.Tensor:
        sums = strategy.run(sum_over_replicas, args=(value,))
        return strategy.experimental_local_results(sums)[0]

    return total


def agree(
    strategy: tf.distribute.Strategy, stopping: bool, seconds_per_step: float
) -> tuple[bool, float]:
    """Returns whether any worker is stopping, and their mean time per step: on all the same."""
    number = worker_of(strategy)[1]
    mine = np.array([stopping, seconds_per_step], np.float32)
    stopping_workers, seconds = sum_over_workers(strategy, mine)
    return bool(stopping_workers), float(seconds) / number


def wait_for_workers(strategy: tf.distribute.Strategy) -> None:
    """Returns once every worker is here."""
    sum_over_workers(strategy, np.zeros(1, np.float32))


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seeds Python, NumPy, TensorFlow and Keras; if asked, refuses varying operations."""
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
