"""Every setting of every command: default, help line and rule, each written once.

A command's settings are a frozen dataclass, of which `trainer.config.flags` derives its flags.
Building the dataclass checks it, so every instance is valid.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.config import network_levels
from trainer.distributed import rendezvous, required_devices
from trainer.errors import InputError

# Those of Keras that suit a hidden layer.
ACTIVATIONS = (
    *("relu", "leaky_relu", "relu6", "elu", "selu", "celu", "gelu", "silu", "swish", "hard_silu"),
    *("mish", "softplus", "softsign", "tanh", "sigmoid", "linear"),
)
ENCODERS = (
    *("resnet50", "resnet50v2", "efficientnetb0", "efficientnetv2b0", "efficientnetv2s"),
    *("mobilenetv2", "densenet121", "convnexttiny"),
)
ENCODER_DEPTH = 5  # how often each of them halves the resolution
PerAxis = int | tuple[int, ...]  # one for all spatial axes, or one for each
DEFAULT_STEPS = 1000  # when neither --steps nor --epochs is given
ACCELERATORS = (
    *("v2", "v3", "v4", "v5e", "v5p", "v6e"),
    *("t4", "v100", "a100-40", "a100-80", "l4", "h100", "h200", "b200"),
)
COMPILED = (
    *("data_dir", "batch_size", "crop", "model", "filters", "depth", "norm", "loss", "optimizer"),
    *("accumulate_steps", "precision"),
)
EACH_FOLD = (
    *("data_dir", "batch_size", "crop", "augment", "model", "filters", "loss", "learning_rate"),
    *("steps", "epochs", "strategy", "run_dir", "seed"),
)


def setting(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    changes_result: bool = True,
    compared: bool = True,
    common: bool = False,
) -> Any:
    """Returns a dataclass field for one setting.

    Args:
        default: the value when the flag is unset.
        text: the `--help` line.
        choices: the values allowed, if they are few.
        low: the smallest value allowed.
        high: the largest value allowed.
        changes_result: whether another value makes another run, which must not resume from this
            one's checkpoints.
        compared: whether the value itself is compared; otherwise what it refers to, such as the
            data in a folder, which may have moved.
        common: whether `--help` shows it, for commands with more flags than fit there.
    """
    rule = {
        "text": text,
        "choices": list(choices),
        "low": low,
        "high": high,
        "changes_result": changes_result,
        "compared": compared,
        "common": common,
    }
    return dataclasses.field(default=default, metadata=rule)


def add_choice(cls: type, name: str, choice: str) -> None:
    """Allows one more value of a setting: the name of a row that a program adds to a table."""
    (field,) = (field for field in dataclasses.fields(cls) if field.name == name)
    field.metadata["choices"].append(choice)


class Settings:
    """Base of all settings: checks every field against its own rule when built."""

    def __post_init__(self) -> None:
        """Raises InputError at the first field that breaks its rule."""
        for field in dataclasses.fields(typing.cast(Any, self)):
            if field.metadata:
                _check(field.name, getattr(self, field.name), field.metadata)


def _check(name: str, value: Any, rule: Mapping[str, Any]) -> None:
    if value is None:
        return
    if isinstance(value, tuple):
        for number in value:
            _check(name, number, rule)
        return
    choices, low, high = rule["choices"], rule["low"], rule["high"]
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        remedy = f"; did you mean {near[0]}?" if near else "."
        raise InputError(f"--{name}={value} is not one of {', '.join(choices)}{remedy}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"--{name}={value} is not finite; give a number.")
    if low is not None and value < low:
        raise InputError(f"--{name}={value} is below {low}, its smallest value.")
    if high is not None and value > high:
        raise InputError(f"--{name}={value} is above {high}, its largest value.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Settings):
    """Where images come from and how they are batched."""

    data_dir: str = setting(
        "",
        "Folder that `trainer.data.prepare` wrote, local or gs://; the demo data if empty.",
        compared=False,
        common=True,
    )
    batch_size: int = setting(8, "Images per step, over all replicas.", low=1, common=True)
    crop: PerAxis = setting(
        256,
        "Sides of the training crop: one for a square or cube, or one for each axis with commas, "
        "such as 40,56,40 (depth, height, width).",
        low=1,
        common=True,
    )
    foreground: float = setting(
        0.0,
        "Share of a batch's examples that are cropped about a place of a class other than the "
        "background, drawn among those that the example has.",
        low=0,
        high=1,
    )
    balance_cases: float = setting(
        0.0,
        "Shows training examples with rare classes more often, up to 10 times in a pass: 0: all "
        "alike; 0.5: by the square root of how rare they are; 1: in proportion.",
        low=0,
        high=1,
    )
    augment: str = setting(
        "standard",
        "Random changes of the training images.",
        choices=("none", "flip", "standard", "strong"),
        common=True,
    )
    fold: int | None = setting(
        None,
        "Fold of the data that validates while the others train, from 0 (trainer.data.prepare "
        "--folds); unset: the train and val splits.",
        low=0,
    )
    normalize: str = setting(
        "image",
        "Images: scale to zero mean and unit variance, by the pixels of each image or of the data "
        "set; or not at all. Volumes were normalised when they were prepared.",
        choices=("dataset", "image", "none"),
    )
    shuffle_block: int = setting(
        64, "Examples that are shuffled together, in memory; fewer of large volumes.", low=1
    )
    streams: int = setting(
        0,
        "Logical input streams, a power of two; 0: as many as the shards allow, at most 16 or the "
        "number of workers.",
    )
    skip_bad_records: int = setting(
        0,
        "Leaves out up to this many unreadable records and names each in a warning; 0: stops at "
        "the first.",
        low=0,
        changes_result=False,
    )
    cache_dir: str = setting(
        "",
        "Local folder for copies of the shards of a data folder in a store, which later passes and "
        "runs read; several jobs may share it; empty: none.",
        changes_result=False,
    )
    cache_gb: float = setting(
        100.0,
        "Most that may be in --cache_dir, in 10^9 bytes; shards beyond it are read from the store.",
        low=0,
        changes_result=False,
    )

    def __post_init__(self) -> None:
        """Checks each field, and the number of the crop's sides."""
        super().__post_init__()
        if isinstance(self.crop, tuple) and len(self.crop) not in (2, 3):
            raise InputError(
                f"--crop={as_text(self.crop)} has {len(self.crop)} sides; give one for all axes, "
                "or 2 for images and 3 for volumes."
            )

    def box(self, rank: int) -> tuple[int, ...]:
        """Returns the sides of the training crop of images (rank 2) or volumes (3).

        Raises:
            InputError: if the crop has another number of sides.
        """
        if isinstance(self.crop, int):
            return (self.crop,) * rank
        if len(self.crop) != rank:
            data = {2: "images, which have 2 axes", 3: "volumes, which have 3"}[rank]
            raise InputError(
                f"--crop={as_text(self.crop)} has {len(self.crop)} sides, but the data are {data}; "
                "give one for each, or one number for all."
            )
        return self.crop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Settings):
    """The network."""

    model: str = setting(
        "unet",
        "Architecture.",
        choices=(
            *("unet", "residual_unet", "attention_unet", "residual_encoder_unet"),
            "unet_plus_plus",
        ),
        common=True,
    )
    filters: int = setting(
        16, "Channels of the first level; each level below doubles them.", low=1, common=True
    )
    max_filters: int = setting(0, "Most channels of any level; 0: no limit.", low=0)
    depth: int = setting(4, "How often the resolution is reduced, by --strides.", low=1, high=10)
    strides: str = setting(
        "",
        "By how much each level's resolution is higher than the next one's, from the top, with "
        "commas between axes: 1,2,2/2/2; empty: 2 everywhere.",
    )
    kernel_size: int = setting(3, "Side of the convolution kernels.", low=1)
    kernels: str = setting(
        "",
        "Sides of each level's kernels, the bottom's last, as in 1,3,3/3/3/3; empty: "
        "--kernel_size everywhere.",
    )
    activation: str = setting(
        "relu",
        "Activation, by its Keras name; leaky_relu has the slope 0.2 below 0.",
        choices=ACTIVATIONS,
    )
    norm: str = setting(
        "auto",
        "Normalisation after each convolution; auto: by the statistics of the whole batch "
        "(sync_batch on several replicas, batch on one).",
        choices=("auto", "batch", "sync_batch", "group", "instance", "none"),
    )
    dropout: float = setting(0.0, "Fraction of features dropped in training.", low=0, high=0.95)
    upsampling: str = setting(
        "transpose", "How the decoder raises the resolution.", choices=("transpose", "bilinear")
    )
    deep_supervision: bool = setting(
        False,
        "Trains every level of the decoder but the lowest by the labels at its resolution; --depth "
        "3 or more.",
    )
    encoder: str = setting(
        "none",
        "Network of keras.applications whose features take the place of the lower levels of the "
        "contracting path, for images; the resolution is then reduced five times.",
        choices=("none", *ENCODERS),
    )
    encoder_weights: str = setting(
        "imagenet",
        "Weights that the encoder begins with: imagenet, which Keras downloads; a file that Keras "
        "wrote of that network (.weights.h5, .keras or .h5), local or gs://; none: random weights.",
    )

    def __post_init__(self) -> None:
        """Checks each field, and that filters, strides and kernels go with each other."""
        super().__post_init__()
        if 0 < self.max_filters < self.filters:
            raise InputError(
                f"--max_filters={self.max_filters} is less than --filters={self.filters}, the "
                "channels of the first level; use 0 for no limit."
            )
        self._check_encoder()
        strides, kernels = map(network_levels.axes_of, self._numbers())
        if strides and kernels and strides != kernels:
            raise InputError(
                f"--strides={self.strides} is for {strides} axes and --kernels={self.kernels} for "
                f"{kernels}; give both as many, or a number alone for all axes."
            )

    def _check_encoder(self) -> None:
        """Raises InputError for settings that the encoder leaves without effect, or its absence."""
        if not self.has_encoder:
            if self.encoder_weights not in ("imagenet", "none"):
                raise InputError(
                    f"--encoder_weights={self.encoder_weights} has no effect without an encoder; "
                    f"add --encoder, one of {', '.join(ENCODERS)}, or leave it out."
                )
            return
        for name in ("depth", "strides", "kernels"):
            default = next(one.default for one in dataclasses.fields(self) if one.name == name)
            if getattr(self, name) != default:
                raise InputError(
                    f"--{name}={getattr(self, name)} has no effect with --encoder={self.encoder}, "
                    f"which reduces the resolution {ENCODER_DEPTH} times, by 2; leave it out."
                )

    @property
    def has_encoder(self) -> bool:
        """Whether an encoder takes the place of the lower levels."""
        return self.encoder != "none"

    @property
    def title(self) -> str:
        """The names of the network and its encoder."""
        return f"{self.model} on {self.encoder}" if self.has_encoder else self.model

    def axes(self) -> int | None:
        """Returns for how many axes the settings have a number each; None: one for all axes."""
        strides, kernels = self._numbers()
        return network_levels.axes_of((*strides, *kernels))

    def levels(self, rank: int) -> tuple[network_levels.Level, ...]:
        """Returns stride and kernel of each level along each axis, the bottom's last.

        Args:
            rank: number of axes: 2 for images, 3 for volumes.

        Raises:
            InputError: the settings are for another number of axes.
        """
        if self.has_encoder and rank != 2:
            raise InputError(
                f"--encoder={self.encoder} is for images, and the data are volumes; leave it out."
            )
        axes = self.axes()
        if axes not in (None, rank):
            name = "strides" if network_levels.axes_of(self._numbers()[0]) else "kernels"
            raise InputError(
                f"--{name}={getattr(self, name)} is for {axes} axes and the data have {rank}; give "
                f"{rank} numbers a level, or one for all axes."
            )
        strides, kernels = self._numbers()
        depth = len(strides)
        each = zip(
            (*strides, (1,)), kernels, network_levels.numbers(self.model, depth), strict=True
        )
        return tuple(
            network_levels.Level(
                network_levels.along(stride, rank), network_levels.along(kernel, rank), number
            )
            for stride, kernel, number in each
        )

    def stride(self, rank: int) -> tuple[int, ...]:
        """Returns by how much the bottom's resolution is lower than the image's; see `levels`."""
        return network_levels.total_stride(self.levels(rank))

    def _numbers(self) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """Returns strides and kernels of each level, one for all axes or one for each."""
        depth = ENCODER_DEPTH if self.has_encoder else self.depth
        strides: tuple[tuple[int, ...], ...] = ((2,),) * depth
        kernels: tuple[tuple[int, ...], ...] = ((self.kernel_size,),) * (depth + 1)
        if self.strides:
            strides = network_levels.parse("strides", self.strides, depth, depth)
        if self.kernels:
            kernels = network_levels.parse("kernels", self.kernels, depth + 1, depth)
        return strides, kernels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization(Settings):
    """The loss and how it is minimised."""

    loss: str = setting(
        "ce_dice",
        "Loss; ce_dice is cross-entropy + soft Dice. nnU-Net's Dice, of the foreground alone, is "
        "ce_linear_dice (each image, for volumes) and ce_batch_dice (all of a step, for images); "
        "top_k takes the hardest tenth of the pixels.",
        choices=(
            *("ce_dice", "ce_linear_dice", "ce_batch_dice", "ce_dice_boundary", "cross_entropy"),
            *("dice", "focal", "top_k", "top_k_dice", "tversky"),
        ),
        common=True,
    )
    class_weights: str = setting(
        "none",
        "Weights of the classes: of their pixels, and in Dice's mean over the classes of an image.",
        choices=("none", "balanced"),
    )
    optimizer: str = setting("adamw", "Optimizer.", choices=("adam", "adamw", "sgd"))
    learning_rate: float = setting(
        1e-3, "Highest learning rate; see --lr_scaling.", low=0, common=True
    )
    lr_scaling: str = setting(
        "none",
        "How --learning_rate, given for --lr_reference_batch images per step, is scaled to "
        "--batch_size: not at all, by the ratio of the two, or by its square root.",
        choices=("none", "linear", "sqrt"),
    )
    lr_reference_batch: int = setting(
        8, "Images per step for which --learning_rate is given (--lr_scaling).", low=1
    )
    schedule: str = setting(
        "cosine",
        "How the learning rate falls after the warm-up.",
        choices=("constant", "cosine", "polynomial"),
    )
    warmup_steps: int = setting(0, "Steps of linear warm-up.", low=0)
    weight_decay: float | None = setting(
        None, "Decoupled weight decay; unset: 1e-4 with adamw, none with the others.", low=0
    )
    momentum: float = setting(0.9, "Momentum (sgd).", low=0, high=1)
    nesterov: bool = setting(False, "Nesterov's momentum (sgd).")
    encoder_rate: float = setting(
        1.0, "Share of the learning rate that the encoder's weights take.", low=0, high=1
    )
    freeze_until: int = setting(
        0,
        "Step until which the encoder's weights and statistics stay as they are; 0: they are "
        "trained from the start.",
        low=0,
    )
    clip_norm: float = setting(1.0, "Largest norm of the whole gradient; 0: unlimited.", low=0)
    accumulate_steps: int = setting(
        1, "Parts in which a step's batch is computed, one after the other, to save memory.", low=1
    )
    ema: float = setting(
        0.0,
        "Decay of the moving average of the weights, used for evaluation and warmed up; 0: none.",
        low=0,
        high=0.99999,
    )
    steps: int | None = setting(
        None,
        f"Training steps (this or --epochs; {DEFAULT_STEPS} if neither is given); with more steps "
        "than before, a run trains further.",
        low=1,
        compared=False,
        common=True,
    )
    epochs: int | None = setting(
        None,
        "Passes over the training images (this or --steps).",
        low=1,
        compared=False,
        common=True,
    )

    def __post_init__(self) -> None:
        """Checks each field, and that the length is given once."""
        super().__post_init__()
        if self.steps is not None and self.epochs is not None:
            raise InputError(
                f"--steps={self.steps} and --epochs={self.epochs} both give the length; "
                "drop one of them."
            )

    def total_steps(self, num_examples: int, batch_size: int) -> int:
        """Returns the number of training steps for a training split of `num_examples`."""
        if self.epochs is not None:
            return max(1, self.epochs * num_examples // batch_size)
        return self.steps if self.steps is not None else DEFAULT_STEPS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device(Settings):
    """What computes, and how."""

    strategy: str = setting(
        "auto",
        "How the devices work together; auto: by the devices that are found.",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        changes_result=False,
        common=True,
    )
    tpu: str = setting(
        "", "The TPU: local, a name, or grpc://host:port (--strategy=tpu).", changes_result=False
    )
    require: str = setting(
        "",
        "Devices that each worker must have, or the job does not start: gpu, gpu:8 (exactly "
        "eight), tpu:4 or cpu; empty: any.",
        changes_result=False,
    )
    virtual_devices: int = setting(
        0,
        "Splits the CPU into this many devices, to try several replicas; 0: does not.",
        low=0,
        changes_result=False,
    )
    precision: str = setting(
        "auto",
        "Arithmetic of the layers; auto: bfloat16 where the hardware has it and it is faster; on "
        "CPUs by a table.",
        choices=("auto", "float32", "bfloat16", "float16"),
        changes_result=False,
        common=True,
    )
    jit_compile: str = setting(
        "auto",
        "Compiles the step with XLA; auto: on GPU and TPU, not on CPU; on several GPUs after "
        "a trial of two minutes at most.",
        choices=("auto", "true", "false"),
        changes_result=False,
    )
    steps_per_loop: int = setting(
        0, "Steps per call of the compiled loop; 0: automatic.", low=0, changes_result=False
    )
    collectives: str = setting(
        "auto",
        "How workers exchange sums: nccl is NVIDIA's library, for GPUs; ring is TensorFlow's, over "
        "gRPC; auto: nccl where workers have GPUs.",
        choices=("auto", "nccl", "ring"),
        changes_result=False,
    )
    join_timeout: float = setting(
        rendezvous.Timeouts.join_seconds,
        "Seconds for which the workers of a job wait until all have joined.",
        low=1,
        changes_result=False,
    )
    worker_timeout: float = setting(
        rendezvous.Timeouts.heartbeat_seconds,
        "Seconds without a heartbeat after which another worker counts as lost.",
        low=1,
        changes_result=False,
    )
    deterministic: bool = setting(
        False, "Refuses operations whose result may vary from run to run.", changes_result=False
    )

    def __post_init__(self) -> None:
        """Checks each field, and that the strategy can use the devices that are required."""
        super().__post_init__()
        _check_required(self)


def _check_required(device: "Device | Predict") -> None:
    """Raises InputError if the strategy cannot use the devices that are required."""
    asked = required_devices.parse(device.require)
    if asked is None:
        return
    uses_tpu = device.strategy == "tpu" or (device.strategy == "auto" and bool(device.tpu))
    if (asked.kind == "tpu") != uses_tpu:
        remedy = "drop --tpu" if uses_tpu else "add --strategy=tpu --tpu=local"
        raise InputError(
            f"--require={device.require} does not go with --strategy={device.strategy} "
            f"--tpu={device.tpu}; {remedy}, or require another device."
        )
    if device.virtual_devices and asked.kind != "cpu":
        raise InputError(
            f"--require={device.require} does not go with --virtual_devices="
            f"{device.virtual_devices}, which are parts of the CPU; drop one of them."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Settings):
    """Where the run is written, and how often it is evaluated and saved."""

    run_dir: str = setting(
        "runs/demo",
        "Folder of the run, local or gs://; a run that is there resumes.",
        changes_result=False,
        common=True,
    )
    init_from: str = setting(
        "",
        "Run folder whose best weights the run starts from, layer by layer where they fit; empty: "
        "random weights.",
        compared=False,
    )
    tensorboard_dir: str = setting(
        "", "Folder of TensorBoard's files; RUN/tensorboard if empty.", changes_result=False
    )
    model_dir: str = setting(
        "",
        "Folder to which the best model is exported at the end, as by trainer.export; empty: no "
        "export.",
        changes_result=False,
    )
    seed: int = setting(0, "Seed of weights, data order and augmentation.", low=0, common=True)
    eval_every: int = setting(
        0,
        "Steps between evaluations of the val split; 0: ten in the run.",
        low=0,
    )
    eval_images: int = setting(
        2500,
        "Cases of the val split, always the same ones, that are evaluated while training; 0: all. "
        "With 2500, a mean Dice is within 0.002 of that of all (a standard error, of cases that "
        "differ by 0.1).",
        low=0,
    )
    checkpoint_every: int = setting(
        0, "Steps between checkpoints; 0: at each evaluation.", low=0, changes_result=False
    )
    checkpoint_patience: int = setting(
        5,
        "Failed attempts in a row to write a checkpoint after which the run stops.",
        low=1,
        changes_result=False,
    )
    lease_seconds: float = setting(
        60.0,
        "Seconds after which the lock of a run folder expires if its job no longer renews it.",
        low=1,
        changes_result=False,
    )
    keep_checkpoints: int = setting(2, "Newest checkpoints kept.", low=1, changes_result=False)
    best_metric: str = setting(
        "dice",
        "Metric of the val split that selects the best checkpoint.",
        choices=("dice", "iou", "loss"),
    )
    patience: int = setting(
        0,
        "Evaluations without a better --best_metric after which to stop; 0: never.",
        low=0,
        common=True,
    )
    eval_batch_size: int = setting(
        0, "Images per evaluation step; 0: --batch_size.", low=0, changes_result=False
    )
    tile: int = setting(
        1024,
        "Images longer than this are evaluated in overlapping tiles of this side; the result is "
        "that of the whole image, except with --norm=group or instance, or an --encoder.",
        low=64,
        changes_result=False,
    )
    panels: int = setting(
        4, "Validation cases drawn in TensorBoard at each evaluation.", low=0, changes_result=False
    )
    worst_panels: int = setting(
        2, "Worst validation cases drawn in TensorBoard, too.", low=0, changes_result=False
    )
    histograms: bool = setting(
        False, "Histograms of all weights in TensorBoard at each evaluation.", changes_result=False
    )
    worst_cases: int = setting(
        8, "Worst cases of the final evaluation drawn as PNG.", low=0, changes_result=False
    )
    best_cases: int = setting(
        4, "Best cases of the final evaluation drawn as PNG.", low=0, changes_result=False
    )
    tolerance_mm: float = setting(
        1.0,
        "Distance up to which two surfaces agree, for the metric nsd: mm of volumes, pixels of "
        "images.",
        low=0,
        changes_result=False,
    )
    profile: str = setting(
        "",
        "First and last step to trace for TensorBoard's profile tab, such as 10,20; none if empty.",
        changes_result=False,
    )
    verbosity: str = setting(
        "info",
        "Level of the log on stderr; debug: TensorFlow's own notices, too.",
        choices=("error", "warning", "info", "debug"),
        changes_result=False,
    )

    def __post_init__(self) -> None:
        """Checks each field, and the steps to trace."""
        super().__post_init__()
        self.traced_steps()

    def traced_steps(self) -> tuple[int, int] | None:
        """Returns the first and last step to trace, if any."""
        if not self.profile:
            return None
        first, _, last = self.profile.partition(",")
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise InputError(
                f"--profile={self.profile} is not a first and a last step, counted from 1; write "
                "for example --profile=10,20."
            )
        return int(first), int(last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Trains a U-Net, resumes where it stopped, and evaluates the best checkpoint."""

    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
    device: Device = dataclasses.field(default_factory=Device)
    run: Run = dataclasses.field(default_factory=Run)

    def __post_init__(self) -> None:
        """Checks the rules that concern several settings."""
        self._check_stride()
        self._check_encoder()
        if self.data.batch_size % self.optimization.accumulate_steps:
            raise InputError(
                f"--batch_size={self.data.batch_size} is not a multiple of --accumulate_steps="
                f"{self.optimization.accumulate_steps}; change one of them."
            )

    def _check_encoder(self) -> None:
        """Raises InputError for what is set for an encoder where there is none."""
        if self.model.has_encoder:
            return
        for name, default in (("encoder_rate", 1.0), ("freeze_until", 0)):
            value = getattr(self.optimization, name)
            if value != default:
                raise InputError(
                    f"--{name}={as_text(value)} has no effect without an encoder; add --encoder, "
                    "or leave it out."
                )

    def _check_stride(self) -> None:
        """Raises InputError if the deepest layer does not divide a side of the crop."""
        crop = self.data.crop
        if isinstance(crop, int):
            # Of how many axes is known with the data, or where the strides differ among them.
            strides = self.model.stride(self.model.axes() or 2)
            sides = (crop,) * len(strides)
        else:
            strides, sides = self.model.stride(len(crop)), crop
        for side, stride in zip(sides, strides, strict=True):
            if side % stride:
                below = side // stride * stride
                options = f"{below} or {below + stride}" if below else f"{stride}"
                place = "" if isinstance(crop, int) else f": {side}"
                raise InputError(
                    f"--crop={as_text(crop)}{place} is not a multiple of {stride}, the stride of "
                    f"the deepest layer; use {options}."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target(Settings):
    """The accelerator, and what to find out about it."""

    accelerator: str = setting(
        "v5e",
        "Chip to compile for; v2 to v6e are TPUs; for v6e see docs/tpu.md.",
        choices=ACCELERATORS,
        common=True,
    )
    chips: int = setting(1, "Chips among which --batch_size is divided.", low=1, common=True)
    find_batch: bool = setting(
        False, "Doubles or halves --batch_size to the largest that fits.", common=True
    )
    json: str = setting("", "Also writes the figures to this file.", common=True)
    export: str = setting(
        "",
        "Also writes the step to this file, as StableHLO with its inputs' shapes, which `python "
        "benchmarks/run_exported.py FILE` runs by jax alone; the chip's compiler may be missing.",
    )
    compiled_dir: str = setting(
        "", "Folder of compiled programs; empty: unet-trainer/preflight in the user's cache."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preflight:
    """Compiles the training step for a chip you do not have: fits (status 3: no)? How fast?

    The flags of trainer.task say what would be trained.
    """

    target: Target = dataclasses.field(default_factory=Target)
    # Those that make the compiled step, in place of those that are common in trainer.task.
    job: Job = dataclasses.field(default_factory=Job, metadata={"common": COMPILED})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Settings):
    """Chooses the settings of trainer.task for a data folder, each with its reason."""

    data_dir: str = setting(
        "",
        "Folder that `trainer.data.prepare` wrote, local or gs://; the demo data if empty.",
    )
    rules: str = setting(
        "auto",
        "auto: what suits the data, the device and the time; nnunet: patch, batch and network as "
        "nnU-Net plans them, and its recipe.",
        choices=("auto", "nnunet"),
    )
    memory_gb: float = setting(
        8.0, "Memory of the GPU that --rules=nnunet plans for, by its estimate.", low=1
    )
    accelerator: str = setting(
        "",
        "Chip to train on, by whose compiler the batch is chosen (--rules=auto); empty: this "
        "machine.",
        choices=("", *ACCELERATORS),
    )
    chips: int = setting(1, "Chips among which the batch is divided (--accelerator).", low=1)
    minutes: float = setting(
        0.0,
        "Minutes that trainer.task may take (--rules=auto), for which steps are measured on this "
        "machine; 0: not limited.",
        low=0,
    )
    output: str = setting("", "File to write; plan.cfg in the data folder if empty.")

    def __post_init__(self) -> None:
        """Checks each field, and that no flag is given that the rules do not look at."""
        super().__post_init__()
        default = {field.name: field.default for field in dataclasses.fields(self)}
        ignored = ("accelerator", "chips", "minutes") if self.rules == "nnunet" else ("memory_gb",)
        for name in ignored:
            if getattr(self, name) != default[name]:
                other = {"auto": "nnunet", "nnunet": "auto"}[self.rules]
                raise InputError(
                    f"--{name}={as_text(getattr(self, name))} is for --rules={other}, and --rules="
                    f"{self.rules} does not look at it; drop one of them."
                )
        if self.chips > 1 and not self.accelerator:
            raise InputError(f"--chips={self.chips} needs --accelerator; name the chip.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folds(Settings):
    """The cross-validation."""

    folds: int = setting(
        5, "Folds of the data, as trainer.data.prepare --folds made them.", low=2, common=True
    )
    configurations: str = setting(
        "",
        "Flag files of trainer.task, separated by commas, to choose the best of: each is added to "
        "the flags that are given, and trained in RUN_DIR/NAME, NAME being the file's.",
        common=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """Trains and evaluates once for each fold, one after the other; resumes where it stopped.

    The flags of trainer.task say what is trained.
    """

    cross: Folds = dataclasses.field(default_factory=Folds)
    # The common ones of trainer.task but for two, whose places the flags above take.
    job: Job = dataclasses.field(default_factory=Job, metadata={"common": EACH_FOLD})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Settings):
    """Evaluates the best checkpoint of a run, exactly, case by case."""

    run_dir: str = setting(
        "runs/demo",
        "Folder of the run, local or gs://; of a cross-validation, whose ensemble is evaluated.",
        common=True,
    )
    data_dir: str = setting(
        "", "Another data folder with the same classes; the run's if empty.", common=True
    )
    split: str = setting(
        "test", "Split to evaluate.", choices=("train", "val", "test"), common=True
    )
    batch_size: int = setting(8, "Images per step.", low=1, common=True)
    tta: str = setting(
        "none",
        "Averages over mirrored images (flips: 4, of volumes 8), or mirrored and rotated ones (d4: "
        "8).",
        choices=("none", "flips", "d4"),
        common=True,
    )
    components: str = setting(
        "apply",
        "Keeps the largest components as was decided for the run (apply), or all of them (none). "
        "decide: finds out on val which of them to keep, and stores that in the run.",
        choices=("apply", "none", "decide"),
        common=True,
    )
    calibration: str = setting(
        "apply",
        "Divides logits by the temperature that was fitted for the run where calibration is "
        "measured (apply), or not (none). decide: fits it on val, and stores it in the run for "
        "predict and export.",
        choices=("apply", "none", "decide"),
        common=True,
    )
    tile: int = setting(
        1024,
        "Images longer than this are cut into overlapping tiles of this side.",
        low=64,
        common=True,
    )
    worst_cases: int = setting(8, "Worst cases drawn as PNG.", low=0, common=True)
    best_cases: int = setting(4, "Best cases drawn as PNG.", low=0, common=True)
    tolerance_mm: float = setting(
        1.0,
        "Distance up to which two surfaces agree, for the metric nsd: mm of volumes, pixels of "
        "images.",
        low=0,
        common=True,
    )
    skip_bad_records: int = setting(
        0,
        "Leaves out up to this many unreadable records and names each in a warning; 0: stops at "
        "the first.",
        low=0,
        common=True,
    )
    strategy: str = setting(
        "auto",
        "How the devices work together.",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        common=True,
    )
    tpu: str = setting("", "The TPU: local, a name, or grpc://host:port.")
    virtual_devices: int = setting(0, "Splits the CPU into this many devices.", low=0)
    cache_dir: str = setting(
        "", "Local folder for copies of the shards of a data folder in a store; empty: none."
    )
    cache_gb: float = setting(100.0, "Most that may be in --cache_dir, in 10^9 bytes.", low=0)
    output: str = setting(
        "",
        "Folder to write, local or gs://; RUN/evaluation/SPLIT, with --tta's name, if empty.",
        common=True,
    )
    json: str = setting("", "Also writes the summary to this file.", common=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(Settings):
    """Writes masks of new images, of any size, by the best checkpoint of a run."""

    run_dir: str = setting(
        "runs/demo",
        "Folder of the run, local or gs://; several, separated by commas, are averaged, as are the "
        "folds of a cross-validation.",
        common=True,
    )
    images: str = setting(
        "",
        "Images: a folder, a quoted glob, or a .npy or .npz array, as for trainer.data.prepare; "
        "volumes, for a run on volumes.",
        common=True,
    )
    output: str = setting(
        "", "Folder to write, local or gs://; a second start resumes in it.", common=True
    )
    format: str = setting(
        "auto",
        "Format of the masks; auto: that of the image where it is TIFF, .npy, NRRD or MetaImage, "
        "else PNG, and NIfTI of volumes.",
        choices=("auto", "png", "tif", "npy", "nii.gz", "nrrd", "mha"),
        common=True,
    )
    probabilities: bool = setting(
        False, "Also writes probabilities, as float32 arrays.", common=True
    )
    uncertainty: bool = setting(
        False,
        "Also writes how uncertain each pixel is, from 0 to 1: the entropy of its probabilities.",
        common=True,
    )
    review: bool = setting(
        False,
        "Also lists the masks in review.csv by the Dice that their probabilities let expect, the "
        "lowest first.",
        common=True,
    )
    overlays: bool = setting(
        False,
        "Also writes the images with classes in colour, as PNG; of volumes a strip of slices.",
        common=True,
    )
    overlay_opacity: float = setting(
        0.3,
        "How much colour classes have in overlays: 0 for outlines alone, 1 for nothing but colour.",
        low=0.0,
        high=1.0,
    )
    previews: bool = setting(
        False,
        "Also writes the masks in the colours of their classes, as PNG; of volumes a strip of "
        "slices.",
    )
    instances: bool = setting(
        False,
        "Also numbers the connected regions and measures them.",
        common=True,
    )
    tta: str = setting(
        "none",
        "Averages over mirrored images (flips: 4, of volumes 8), or mirrored and rotated ones (d4: "
        "8).",
        choices=("none", "flips", "d4"),
        common=True,
    )
    tile: int = setting(
        1024,
        "Images longer than this are cut into overlapping tiles of this side; volumes into windows "
        "of the training crop's size.",
        low=64,
        common=True,
    )
    batch_size: int = setting(
        0,
        "Full tiles, or windows of volumes, per step; 0: one on a CPU, four on each accelerator.",
        low=0,
        common=True,
    )
    precision: str = setting(
        "float32", "Arithmetic.", choices=("float32", "bfloat16", "float16"), common=True
    )
    max_pixels: int = setting(
        2**28,
        "Most pixels of an image that can only be decoded as a whole, or voxels of a volume.",
        low=1,
    )
    skip_bad: bool = setting(False, "Leaves unreadable images out and names them.", common=True)
    part: str = setting(
        "",
        "The images of this machine, such as 2/8: the second of eight parts, by their names. "
        "Machines with different parts of as many may write into one --output. auto: that of this "
        "replica of a Vertex AI job, the first of which joins the parts.",
    )
    runner: str = setting(
        "local",
        "What predicts: this process, or Apache Beam on this machine, Dataflow, Flink or Spark "
        "(docs/beam.md).",
        choices=("local", "direct", "dataflow", "flink", "spark"),
    )
    runner_options: str = setting("", "Beam's own options, as of trainer.data.prepare.")
    band_megabytes: int = setting(
        256,
        "With --runner: images whose files are larger are predicted in bands of rows, one for each "
        "so many megabytes, at most 100, by as many workers.",
        low=1,
    )
    dry_run: bool = setting(False, "Prints what --runner would be given, and does nothing.")
    strategy: str = setting(
        "auto",
        "How the devices work together.",
        choices=("auto", "one_device", "mirrored", "tpu"),
        common=True,
    )
    tpu: str = setting("", "The TPU: local, a name, or grpc://host:port.")
    require: str = setting(
        "",
        "Devices that must be there, or nothing is predicted: gpu, gpu:8 (exactly eight), tpu:4 or "
        "cpu; empty: any.",
    )
    virtual_devices: int = setting(0, "Splits the CPU into this many devices.", low=0)

    def __post_init__(self) -> None:
        """Checks each field, and that the strategy can use the devices that are required."""
        super().__post_init__()
        _check_required(self)

    def check_given(self) -> None:
        """Raises InputError if a folder that has no default is not given."""
        for name in ("run_dir", "images", "output"):
            if not getattr(self, name):
                raise InputError(f"--{name} is missing; give --run_dir, --images and --output.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Settings):
    """Writes a run's best weights as SavedModel and .keras, with a model card."""

    run_dir: str = setting("runs/demo", "Folder of the run, local or gs://.")
    output: str = setting("", "Folder to write, local or gs://; RUN/export if empty.")
    tile: int = setting(
        0, "Side of tiles inside the SavedModel, for large images; 0: whole images.", low=0
    )
    tflite: bool = setting(
        False, "Also writes TensorFlow Lite, float16 and int8; needs the extra [tflite]."
    )
    tflite_size: int = setting(
        0, "Side of the images that TensorFlow Lite takes; 0: the training crop.", low=0
    )
    onnx: bool = setting(False, "Also writes ONNX; needs the extra [onnx].")
    data_dir: str = setting(
        "",
        "Data that TensorFlow Lite and ONNX are calibrated and measured with; the run's if empty.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(Settings):
    """Runs trainer.task as several workers on this machine; its flags follow after `--`."""

    workers: int = setting(2, "Worker processes.", low=1)
    restart: int = setting(
        0, "How often all of them are restarted after a failure; the run resumes.", low=0
    )
    grace: float = setting(
        20.0, "Seconds within which the other workers must end once one has failed.", low=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfCheck(Settings):
    """Proves on these devices that several replicas train like one; exit status 1 if not."""

    strategy: str = setting(
        "auto",
        "How the devices work together; auto: by the devices that are found, else two parts of the "
        "CPU.",
        choices=("auto", "mirrored", "multi_worker", "tpu"),
    )
    tpu: str = setting("", "The TPU: local, a name, or grpc://host:port.")
    virtual_devices: int = setting(0, "Splits the CPU into this many devices.", low=0)
    only: str = setting(
        "", "Only cases whose names contain one of these words, separated by commas."
    )
    json: str = setting("", "Also writes the figures to this file.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint(Settings):
    """Shows the checkpoints of a run: `python -m trainer.checkpointing list|verify RUN`."""

    action: str = setting(
        "list", "list compares sizes, verify reads every byte.", choices=("list", "verify")
    )
    run_dir: str = setting("runs/demo", "Folder of the run, local or gs://.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Settings):
    """Writes runs as one page that opens offline: `python -m trainer.report RUN [RUN …]`."""

    runs: str = setting("", "Run folders, local or gs://, separated by commas.")
    output: str = setting(
        "",
        "HTML file to write. If empty, report.html, results.png and confusion.png in the folder of "
        "a single run; of several compared.html in the first one's.",
    )
    cases: int = setting(4, "Worst cases shown for each run, and as many of the best.", low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Settings):
    """Compares two runs on the same cases: `python -m trainer.compare RUN_A RUN_B`."""

    runs: str = setting("", "Two run folders, local or gs://, separated by a comma.")
    split: str = setting(
        "test", "Evaluation to compare, by its folder in both runs: test, val, test-flips …"
    )
    metric: str = setting("dice", "Metric of each case, a column of the tables of cases.")
    group_by: str = setting(
        "",
        "Regular expression that finds the patient or slide in a case's name, by its first group "
        "or its match; the interval is over these, whose cases are alike. Empty: over cases.",
    )
    samples: int = setting(10_000, "Bootstrap samples.", low=100, high=1_000_000)
    seed: int = setting(0, "Seed of the bootstrap.", low=0)
    json: str = setting("", "Also writes the figures to this file.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare(Settings):
    """Writes a data folder from images and their masks: sharded TFRecords and a manifest."""

    images: str = setting(
        "",
        "Images: a folder or quoted glob of image files, TIFF stacks or DICOM slices, or a .npy or "
        ".npz array (N×H×W or N×H×W×C). Volumes: NIfTI, NRRD or MetaImage files in the same way, "
        "or the folder of a dataset.json.",
        common=True,
    )
    masks: str = setting("", "Masks, in the same forms; paired by name, page or row.", common=True)
    output: str = setting("", "Folder to write, local or gs://.", common=True)
    volumes: bool = setting(
        False,
        "Takes each TIFF, .npy array (D×H×W or D×H×W×C) and folder of DICOM slices as a volume.",
        common=True,
    )
    channel_names: str = setting(
        "",
        "What the channels of volumes are, in their order: CT, or T1,T2,FLAIR; empty: as "
        "dataset.json has them, else numbers.",
        common=True,
    )
    mask_suffix: str = setting(
        "",
        "Ending of a mask's name after its image's: _mask pairs x.png with x_mask.png.",
        common=True,
    )
    classes: str = setting(
        "",
        "Values of the masks, with names if you like, background first: 0,255 or "
        "background:0,nucleus:255, or ranges, background:0,cell:1-65535, or the colours shown, "
        "background:#000000,tumour:#ff0000; empty: the values that occur.",
        common=True,
    )
    ignore: str = setting("", "Mask value or colour of pixels that do not count.", common=True)
    threshold: float | None = setting(
        None,
        "First value of the foreground, for masks of two classes without exact values, such as "
        "smoothed ones and JPEG; unset: values are exact.",
    )
    channels: str = setting(
        "auto",
        "Channels of every image; auto: 1 if all are grey, 3 if some are in colour.",
        common=True,
    )
    splits: str = setting(
        "",
        'JSON file with the names of each split: {"train": […], "val": […], "test": […]}.',
        common=True,
    )
    split: str = setting(
        "0.7,0.15,0.15",
        "Fractions of train, val and test, drawn by a hash of seed and name; without --splits.",
        common=True,
    )
    folds: int = setting(
        0,
        "Folds of all that is not tested, for cross-validation: the val split is the first, and "
        "the train split is divided into the others, by groups; 0: none.",
        low=0,
        high=100,
    )
    group_by: str = setting(
        "",
        "Regular expression that finds the patient or slide in an image's name, by its first group "
        "or its match; each goes to one split as a whole.",
        common=True,
    )
    seed: int = setting(0, "Seed of the drawn split and of the order.", low=0)
    tile: int = setting(
        0,
        "Cuts training images into tiles of about this side, each an example, so that every pixel "
        "of a set of mixed sizes is equally likely to be trained on; 0: keeps them whole.",
        low=0,
        common=True,
    )
    spacing: str = setting(
        "plan",
        "Volumes: mm between voxels along depth, height and width, such as 3,0.8,0.8, to which all "
        "are resampled; plan: the median of the training volumes; none: each keeps its own.",
        common=True,
    )
    block: int = setting(
        160,
        "Volumes: side of the overlapping blocks that larger training volumes are cut into, in "
        "voxels; larger than any crop.",
        low=8,
    )
    plan: bool = setting(
        False,
        "Cuts images of very different sizes into tiles, and large volumes into blocks that no "
        "patch exceeds, and writes plan.cfg into the folder, as trainer.plan does.",
    )
    shard_mb: float = setting(
        128.0, "Largest uncompressed size of a shard, in MB; at least 8 shards.", low=0.001
    )
    max_pixels: int = setting(
        2**28,
        "Most pixels (height × width) of an image, or voxels of a volume; larger files are not "
        "decoded.",
        low=1,
    )
    skip_bad: bool = setting(False, "Leaves unreadable images out and lists them.", common=True)
    workers: int = setting(0, "Processes; 0: one for each core.", low=0)
    downloads: int = setting(
        32, "Files of a store that are copied to the local disk at the same time.", low=1
    )
    runner: str = setting(
        "local",
        "What does the work: this machine's processes, or Apache Beam on this machine, Dataflow, "
        "Flink or Spark (docs/beam.md); the bytes are the same.",
        choices=("local", "direct", "dataflow", "flink", "spark"),
    )
    runner_options: str = setting(
        "",
        "Beam's own options, such as '--project=P --region=R --temp_location=gs://B/tmp "
        "--sdk_container_image=IMAGE'.",
    )
    dry_run: bool = setting(False, "Prints what --runner would be given, and does nothing.")
    origin: str = setting("", "Where the data come from, for the manifest.")
    licence: str = setting("", "Licence of the data, for the manifest.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic(Settings):
    """Writes made-up volumes or images with their truth, to try everything without data."""

    output: str = setting("", "Folder to write, local or gs://.")
    kind: str = setting(
        "volumes",
        "What to make: volumes in nnU-Net's layout, or images as PNG.",
        choices=("volumes", "images"),
    )
    cases: int = setting(
        24, "How many, of which every eighth is new: its mask is kept apart.", low=1, high=1000
    )
    seed: int = setting(0, "Seed of all that is drawn.", low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect(Settings):
    """Prints what is in a data folder: `python -m trainer.data.inspect DIR`."""

    data_dir: str = setting("", "The folder, local or gs://; the demo data if empty.")
    verify: bool = setting(False, "Reads every shard and checks every checksum.")
    sheet: str = setting("", "Draws images with the outlines of their masks into this PNG.")
    sheet_examples: int = setting(24, "Images on the sheet.", low=1, high=1000)


def walk(settings: Any) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yields (name, value, rule) of every setting, those of nested groups included."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from walk(value)
        else:
            yield field.name, value, field.metadata


def as_text(value: Any) -> str:
    """Returns a setting's value as its flag takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def to_dict(settings: Any) -> dict[str, Any]:
    """Returns the settings as one flat dict, name → value."""
    return {name: value for name, value, _ in walk(settings)}


def from_dict(cls: type, values: Mapping[str, Any]) -> Any:
    """Builds settings of class `cls` from a flat dict; what is missing keeps its default.

    Raises:
        InputError: a value is of another type than its field, or breaks a rule.
    """
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            fields[field.name] = from_dict(field.type, values)
        elif field.name in values:
            value = fields[field.name] = _of_json(values[field.name])
            if not _is_of(field.type, value):
                kinds = typing.get_args(field.type) or (field.type,)
                names = " or ".join(kind.__name__ for kind in kinds)
                raise InputError(f"--{field.name}={value!r} is not of type {names}.")
    return cls(**fields)


def _of_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a value is of an annotation's type; a whole number is also a float."""
    if isinstance(kind, types.UnionType):
        return any(_is_of(option, value) for option in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return type(value) is tuple and all(type(entry) is int for entry in value)
    return type(value) is kind or (kind is float and type(value) is int)


def differences(old: Mapping[str, Any], new: Any) -> list[str]:
    """Returns `--name=new (was old)` for each setting that makes `new` another run than `old`.

    A setting that `old` does not know had its default.
    """
    known = {**to_dict(type(new)()), **{name: _of_json(value) for name, value in old.items()}}
    return [
        f"--{name}={as_text(value)} (was {as_text(known[name])})"
        for name, value in identifying(new).items()
        if known[name] != value
    ]


def identifying(settings: Any) -> dict[str, Any]:
    """Returns the settings, by name, of which another value makes another run."""
    return {
        name: value
        for name, value, rule in walk(settings)
        if rule["changes_result"] and rule["compared"]
    }
