"""The compiled training step.

One training step of N replicas equals the step of one device on the whole batch: every sum is
divided by its weight over *all* replicas, gradients are summed, and only then clipped.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import InputError
from trainer.models import channel_packing, functional, norms
from trainer.training import losses

Batch = Mapping[str, tf.Tensor]
SUM = tf.distribute.ReduceOp.SUM
TESTED_KERAS = ">=3.12,<3.16"  # as setup.py has it


def train_loop(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    terms: Sequence[losses.Term],
    class_weights: tf.Tensor,
    *,
    clip_norm: float = 0.0,
    accumulate_steps: int = 1,
    average: keras.Model | None = None,
    average_decay: float = 0.0,
    jit_compile: bool = False,
    collectives_in_xla: bool = False,
    lane_width: int = 1,
    frozen: Collection[keras.layers.Layer] = (),
    timed: bool = True,
) -> Callable[[Iterator, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns a function that runs a number of training steps in one call.

    Args:
        strategy: the strategy in whose scope model and optimizer were built.
        model: images float32 [B, *S, C] → logits [B, *S, K], or several outputs of which some may
            be coarser (see `models.functional`).
        optimizer: built for the model's trainable variables.
        terms: the loss, a row of `losses.LOSSES`.
        class_weights: float32 [num_classes], weight of each class in the loss.
        clip_norm: largest norm of the summed gradient; 0: unlimited.
        accumulate_steps: parts in which each replica's batch is computed, to save memory.
        average: a model whose variables follow the moving average of `model`'s.
        average_decay: decay of that average, per step; less in the first steps, see `warmed_up`.
        jit_compile: whether XLA compiles the step: all of it on one replica, and on several with
            `collectives_in_xla`; else the forward and backward pass.
        collectives_in_xla: whether the program of several replicas may have the collectives in it;
            see `strategies.compiles_collectives`.
        lane_width: channels that the device computes at a time, see `channel_packing.LANE_WIDTHS`.
        frozen: layers whose weights and statistics stay, computed as in prediction.
        timed: whether to time the input; TensorFlow refuses to where operations are deterministic,
            and on a TPU the loop would wait for each step.

    Returns:
        `loop(iterator, num_steps)`, with `num_steps` an int32 scalar, which returns `loss`,
        `loss/TERM` for each of several terms, `gradient_norm` and `wait_seconds`, the time for
        which a step waited for its input, each float32 [num_steps].
    """
    several = strategy.num_replicas_in_sync > 1
    compiles_all = jit_compile and (collectives_in_xla or not several)
    if compiles_all and several:
        _count_steps_on_each_replica(optimizer)
    step_of_replica = _StepOfReplica(
        model,
        optimizer,
        terms,
        class_weights,
        clip_norm=clip_norm,
        accumulate_steps=accumulate_steps,
        average=average,
        average_decay=average_decay,
        jit_compile=jit_compile and not compiles_all,
        lane_width=lane_width,
        frozen=frozen,
    )
    # The XLA boundary: a replica's step, but for the input that it waits for.
    whole = (
        tf.function(step_of_replica.whole, jit_compile=True, autograph=False)
        if compiles_all
        else step_of_replica.whole
    )
    around = accumulate_steps > 1 and _meet_outside_loops(strategy, model)
    assert not (around and jit_compile), "replicas cannot meet in the loop of an XLA program"
    step = _loop_around(strategy, step_of_replica) if around else _loop_within(strategy, whole)

    @tf.autograph.experimental.do_not_convert
    def run(batch: Batch, after: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        figures = step(batch, after)
        return {key: _local(strategy, value)[0] for key, value in figures.items()}

    return _timed_loop(strategy, run, ("loss", *_names_of_parts(terms), "gradient_norm"), timed)


def _timed_loop(
    strategy: tf.distribute.Strategy,
    run: Callable[[Batch, Sequence[tf.Tensor]], dict[str, tf.Tensor]],
    figures: Sequence[str],
    timed: bool,
) -> Callable[[Iterator, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the function that `train_loop` returns.

    Args:
        strategy: of the replicas.
        run: takes a step, once what it is given has arrived; returns figures by name.
        figures: their names.
        timed: whether to time the input.
    """
    names = (*figures, "wait_seconds")

    def time_after(tensors: Iterable[tf.Tensor]) -> tf.Tensor:
        if not timed:
            return tf.zeros((), tf.float64)
        with tf.control_dependencies(tensors):
            return tf.timestamp()

    @tf.function
    def loop(iterator: Iterator, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        series = {key: tf.TensorArray(tf.float32, num_steps, element_shape=()) for key in names}
        ended = time_after([])  # the step before
        for number in tf.range(num_steps):
            batch = next(iterator)
            arrived = time_after([x for value in batch.values() for x in _local(strategy, value)])
            step = run(batch, [arrived] if timed else [])
            # A batch is fetched while the step before is computed: less than 0 is no wait.
            waited = tf.maximum(arrived - ended, 0) if timed else ended
            ended = time_after(step.values())
            step["wait_seconds"] = tf.cast(waited, tf.float32)
            series = {key: series[key].write(number, step[key]) for key in names}
        return {key: series[key].stack() for key in names}

    return loop


def step_of_one_replica(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    terms: Sequence[losses.Term],
    class_weights: tf.Tensor,
    *,
    clip_norm: float = 0.0,
    accumulate_steps: int = 1,
    average: keras.Model | None = None,
    average_decay: float = 0.0,
    lane_width: int = 1,
) -> Any:
    """Returns what `train_loop` makes one replica do at each step, as one XLA program.

    It is lowered or compiled for a device that is not here, so nothing is split over devices:
    the sums over all replicas, which are no part of a replica's own work, are those of one.

    Args:
        model: images float32 [B, *S, C] → logits [B, *S, K], or several outputs of which some may
            be coarser (see `models.functional`).
        optimizer: built for the model's trainable variables.
        terms: the loss, a row of `losses.LOSSES`.
        class_weights: float32 [num_classes], weight of each class in the loss.
        clip_norm: largest norm of the summed gradient; 0: unlimited.
        accumulate_steps: parts in which the batch is computed, to save memory.
        average: a model whose variables follow the moving average of `model`'s.
        average_decay: decay of that average, per step; less in the first steps, see `warmed_up`.
        lane_width: channels that the device computes at a time, see `channel_packing.LANE_WIDTHS`.

    Returns:
        A `tf.function` of (images, labels, valid), a batch's parts, which returns (loss, gradient
        norm). `step.experimental_get_compiler_ir(*batch_spec(…))(stage="hlo")` is its program.
    """
    step_of_replica = _StepOfReplica(
        model,
        optimizer,
        terms,
        class_weights,
        clip_norm=clip_norm,
        accumulate_steps=accumulate_steps,
        average=average,
        average_decay=average_decay,
        jit_compile=False,  # the whole is compiled
        lane_width=lane_width,
    )

    @tf.function(jit_compile=True, autograph=False)
    def step(images: tf.Tensor, labels: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        figures = step_of_replica.whole({"images": images, "labels": labels, "valid": valid})
        return figures["loss"], figures["gradient_norm"]

    return step


def batch_spec(batch_size: int, crop: Sequence[int], channels: int) -> tuple[tf.TensorSpec, ...]:
    """Returns the shapes and types of the images, labels and valid pixels of a training batch.

    Args:
        batch_size: images per replica.
        crop: *S, pixels along each spatial axis.
        channels: of the images.
    """
    shape = (batch_size, *crop)
    return (
        tf.TensorSpec((*shape, channels), tf.float32),
        tf.TensorSpec(shape, tf.int32),
        tf.TensorSpec(shape, tf.float32),
    )


class _StepOfReplica:
    """What a replica does in a step: `begin`, `part` for each part of its batch, `end`.

    All are called in the replica's context. The parts are computed one after the other, in a loop,
    so that each takes the memory of the one before and the program is that of one.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        terms: Sequence[losses.Term],
        class_weights: tf.Tensor,
        *,
        clip_norm: float,
        accumulate_steps: int,
        average: keras.Model | None,
        average_decay: float,
        jit_compile: bool,
        lane_width: int,
        frozen: Collection[keras.layers.Layer] = (),
    ):
        """Computes nothing yet; see `train_loop` for the arguments.

        Raises:
            InputError: the batch is to be computed in parts, and the loss takes it as a whole.
        """
        if accumulate_steps > 1 and losses.of_whole_batch(terms):
            raise InputError(
                f"--accumulate_steps={accumulate_steps} computes a batch in parts, and --loss has "
                "a Dice over the whole batch; use --loss=ce_linear_dice, or --accumulate_steps=1."
            )
        _sum_gradients_once(optimizer)
        self._model, self._optimizer = model, optimizer
        self._terms, self._class_weights = terms, class_weights
        self._clip_norm, self.num_parts = clip_norm, accumulate_steps
        still = {id(variable) for layer in frozen for variable in layer.variables}
        self._variables = [v for v in model.trainable_variables if id(v) not in still]
        self._statistics = [v for v in norms.own_statistics(model) if id(v) not in still]
        self._followed: list[tuple[Any, Any]] = []
        if average is not None:
            pairs = zip(average.variables, model.variables, strict=True)
            self._followed = [(slow, fast) for slow, fast in pairs if id(fast) not in still]
        self._average_decay = average_decay
        self._forward = channel_packing.packed(model, lane_width, frozen)
        # The XLA boundary where collectives cannot be in its program: what a replica computes
        # between them.
        self._gradients = (
            tf.function(self._forward_backward, jit_compile=True, autograph=False)
            if jit_compile
            else self._forward_backward
        )

    def whole(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Takes the step with a replica's batch; returns what `end` does."""
        weights = self.begin(batch)
        if self.num_parts == 1:
            return self.end(self.part(batch, weights, 0))

        def turn(i: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            found = self.part(batch, weights, i)
            return i + 1, [a + b for a, b in zip(sums, found, strict=True)]

        _, sums = tf.while_loop(
            lambda i, _: i < self.num_parts,
            turn,
            (tf.constant(0), self.zeros()),
            parallel_iterations=1,
            maximum_iterations=self.num_parts,
        )
        return self.end(sums)

    def begin(self, batch: Batch) -> list[tf.Tensor]:
        """Returns by what each output's partial losses are divided."""
        strides = functional.strides(self._model, batch["labels"].shape[1:])
        weights = [self._weights(stride, batch["labels"], batch["valid"]) for stride in strides]
        return tf.distribute.get_replica_context().all_reduce(SUM, weights)

    def part(self, batch: Batch, weights: list[tf.Tensor], i: Any) -> list[tf.Tensor]:
        """Returns the partial losses and the gradients of the batch's i-th part."""
        images, labels, valid = (
            _part(batch[key], i, self.num_parts) for key in ("images", "labels", "valid")
        )
        return self._gradients(images, labels, valid, weights, self._loss_scale())

    def zeros(self) -> list[tf.Tensor]:
        """Returns zeros of the shapes and types of what `part` returns."""
        gradients = (tf.zeros(v.shape, v.dtype) for v in self._variables)
        return [tf.zeros(len(self._terms)), *gradients]

    def end(self, sums: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Updates the variables by the sums of what `part` returned.

        Returns:
            Figures by name, float32 scalars, the same on all replicas.
        """
        context = tf.distribute.get_replica_context()
        values, *gradients = context.all_reduce(SUM, sums)
        if context.num_replicas_in_sync > 1 and self._statistics:
            _average_over_replicas(context, self._statistics)
        norm = tf.linalg.global_norm(gradients) / self._loss_scale()
        if self._clip_norm:
            factor = self._clip_norm / tf.maximum(norm, self._clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        self._optimizer.apply(gradients, self._variables)
        if self._followed:
            decay = warmed_up(self._average_decay, self._optimizer.iterations)
            _follow(self._followed, decay)
        return {
            "loss": _total(self._terms, values),
            **dict(zip(_names_of_parts(self._terms), tf.unstack(values), strict=False)),
            "gradient_norm": norm,
        }

    def _forward_backward(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        valid: tf.Tensor,
        weights: list[tf.Tensor],
        scale: tf.Tensor,
    ) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = self._forward(images, training=True)
            partial = losses.partial_losses(
                self._terms,
                weights,
                labels,
                outputs,
                valid,
                self._class_weights,
                _over_replicas,
            )
            scaled = _total(self._terms, partial) * scale
        return [partial, *tape.gradient(scaled, self._variables)]

    def _weights(self, stride: Sequence[int], labels: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        labels, valid = losses.coarse(labels, valid, stride)
        return losses.weights(self._terms, labels, valid, self._class_weights)

    def _loss_scale(self) -> tf.Tensor:
        return tf.convert_to_tensor(self._optimizer.scale_loss(1.0), tf.float32)


def _over_replicas(value: tf.Tensor) -> tf.Tensor:
    """Returns the sum of what all replicas hold, with its gradient at this replica's.

    All of them go on to compute the same from it, so the gradients that they would send each other
    are alike, and need not be sent.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:  # then XLA can compile it
        return value

    @tf.custom_gradient
    def total(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return context.all_reduce(SUM, x), lambda upstream: replicas * upstream

    return total(value)


def _part(value: tf.Tensor, i: Any, number: int) -> tf.Tensor:
    """Returns the i-th of a number of equal parts of [B, ...]; i may be known at run time only."""
    size = value.shape[0] // number
    return tf.slice(value, [i * size] + [0] * (len(value.shape) - 1), [size, *value.shape[1:]])


def _meet_outside_loops(strategy: tf.distribute.Strategy, model: keras.Model) -> bool:
    """Returns whether replicas sum statistics and are threads, which cannot meet in a loop."""
    threads = not isinstance(strategy, tf.distribute.TPUStrategy)
    several = strategy.num_replicas_in_sync > 1
    layers = functional.layers_of(model)
    return threads and several and any(map(norms.is_synchronized, layers))


# AutoGraph is for Python loops over tensors, of which only the loop over steps is one; to rewrite
# all that is called takes seconds of every start, here as in the stream.


def _loop_within(
    strategy: tf.distribute.Strategy, whole: Callable[[Batch], dict[str, tf.Tensor]]
) -> Callable[[Batch, Sequence[tf.Tensor]], dict[str, tf.Tensor]]:
    """Returns the step of all replicas, (batch, what to wait for) → figures."""

    @tf.autograph.experimental.do_not_convert
    def step_of_replica(batch: Batch, after: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        return whole(_wait(batch, after))

    return lambda batch, after: strategy.run(step_of_replica, (batch, after))


def _loop_around(
    strategy: tf.distribute.Strategy, step: _StepOfReplica
) -> Callable[[Batch, Sequence[tf.Tensor]], dict[str, tf.Tensor]]:
    """Returns the same where replicas synchronise in each turn of the loop over parts.

    The sums are in variables: each replica's stay on its own device.

    Args:
        strategy: of the replicas.
        step: what each of them does.
    """
    with strategy.scope():
        sums = [
            tf.Variable(
                zero,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
            for zero in step.zeros()
        ]

    def begin(batch: Batch, after: Sequence[tf.Tensor]) -> tuple[Batch, list[tf.Tensor]]:
        for held, zero in zip(sums, step.zeros(), strict=True):
            held.assign(zero)
        batch = _wait(batch, after)
        return batch, step.begin(batch)

    def add(batch: Batch, weights: list[tf.Tensor], i: tf.Tensor) -> None:
        for held, value in zip(sums, step.part(batch, weights, i), strict=True):
            held.assign_add(value)

    @tf.autograph.experimental.do_not_convert
    def run(batch: Batch, after: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        batch, weights = strategy.run(begin, (batch, after))

        def turn(i: tf.Tensor) -> list[tf.Tensor]:
            strategy.run(add, (batch, weights, i))
            return [i + 1]

        tf.while_loop(lambda i: i < step.num_parts, turn, [tf.constant(0)], parallel_iterations=1)
        return strategy.run(lambda: step.end([held.read_value() for held in sums]))

    return run


def _wait(batch: Batch, after: Sequence[tf.Tensor]) -> Batch:
    """Returns a replica's batch once other tensors are there.

    Otherwise the only thread of a machine with one core runs the step before the clock.
    """
    with tf.control_dependencies(after):
        return {key: tf.identity(value) for key, value in batch.items()}


def _average_over_replicas(
    context: tf.distribute.ReplicaContext, variables: Sequence[keras.Variable]
) -> None:
    """Gives each replica the mean of what all of them hold.

    In each step, so that what is saved does not depend on when it is saved; the mean of averages
    that move alike is what one average of the replicas' means would be.
    """
    values = [tf.identity(v.value) for v in variables]  # of several workers, variables cannot go
    means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
    for variable, mean in zip(variables, means, strict=True):
        variable.assign(mean)


def warmed_up(decay: float, step: tf.Tensor) -> tf.Tensor:
    """Returns the decay of a moving average at a step, 1, 2, …: at first it follows fast.

    A decay of 0.999 would keep two thirds of the initial weights in the average of 400
    steps. As in TensorFlow's ExponentialMovingAverage, step t has min(decay, t / (9 + t)).
    """
    t = tf.cast(step, tf.float32)
    return tf.minimum(decay, t / (9.0 + t))


def _total(terms: Sequence[losses.Term], values: tf.Tensor) -> tf.Tensor:
    """Returns the loss that the values of its terms, [T], add up to."""
    return tf.reduce_sum(tf.constant([term.coefficient for term in terms], tf.float32) * values)


def _names_of_parts(terms: Sequence[losses.Term]) -> list[str]:
    """Returns the figures of a loss's terms; none if the term is the loss."""
    return [f"loss/{name}" for name in losses.parts(terms, terms)] if len(terms) > 1 else []


def _local(strategy: tf.distribute.Strategy, value: Any) -> tuple[tf.Tensor, ...]:
    return strategy.experimental_local_results(value)


def _sum_gradients_once(optimizer: keras.optimizers.Optimizer) -> None:
    """Keeps Keras from summing over the replicas gradients that the step has already summed.

    The step sums them itself in order to clip by the norm of the sum; Keras has no public way to
    say so.

    Raises:
        InputError: this Keras sums them in a place of another name, and would sum twice.
    """
    for layer in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        if layer is not None:
            if not callable(getattr(layer, "_all_reduce_sum_gradients", None)):
                raise InputError(
                    f"Keras {keras.__version__} sums gradients in another way than the releases "
                    f"tested here; install one of those: pip install 'keras{TESTED_KERAS}'."
                )
            layer._all_reduce_sum_gradients = lambda gradients_and_variables: (
                gradients_and_variables
            )


def _count_steps_on_each_replica(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes each replica count the optimizer's steps in its own copy, as it updates all else.

    Keras lets the first replica's count be sent to the others, which a compiled step cannot.
    """
    count = optimizer.iterations

    def assign_add(value: int) -> None:
        tf.__internal__.distribute.interim.maybe_merge_call(
            lambda strategy, variable: strategy.extended.update(
                variable, lambda copy: copy.assign_add(value), group=False
            ),
            tf.distribute.get_strategy(),
            count.value,
        )

    count.assign_add = assign_add


def _follow(pairs: Iterable[tuple[keras.Variable, keras.Variable]], decay: tf.Tensor) -> None:
    """Moves the first variable of each pair a step towards the second; called by each replica.

    As Keras' optimizers do it: each replica moves its own copies where the strategy allows it, so
    that a TPU has it in its program; else all of them are moved together.
    """

    def move(slow: tf.Variable, fast: tf.Tensor) -> None:
        slow.assign(decay * slow + (1.0 - decay) * tf.cast(fast, slow.dtype))

    def move_all(
        strategy: tf.distribute.Strategy, slow: list[tf.Variable], fast: list[tf.Variable]
    ) -> None:
        for target, source in zip(slow, fast, strict=True):
            strategy.extended.update(target, move, args=(source,), group=False)

    floating = [
        (slow.value, fast.value) for slow, fast in pairs if tf.as_dtype(slow.dtype).is_floating
    ]
    tf.__internal__.distribute.interim.maybe_merge_call(
        move_all,
        tf.distribute.get_strategy(),
        *(list(side) for side in zip(*floating, strict=True)),
    )
