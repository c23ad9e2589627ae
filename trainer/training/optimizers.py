"""Optimizers and learning-rate schedules, by name."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from trainer import config
from trainer.errors import InputError

# What Keras calls the shift and scale of its normalisations, and biases.
NOT_DECAYED = ["bias", "beta", "gamma"]

# From 1 at progress 0 to where the schedule ends at progress 1.
SCHEDULES = {
    "constant": tf.ones_like,
    # Half of 1 + cos(pi * progress), in a form that is exact near its end.
    "cosine": lambda progress: tf.sin(0.5 * math.pi * (1.0 - progress)) ** 2,
    # The power that segmentation uses since DeepLab.
    "polynomial": lambda progress: (1.0 - progress) ** 0.9,
}


# Rule → what a learning rate is multiplied by when the batch grows by a ratio.
LR_SCALINGS = {
    "none": lambda ratio: 1.0,
    "linear": lambda ratio: ratio,  # Goyal et al., 2017, for SGD
    "sqrt": math.sqrt,  # Malladi et al., 2022, for Adam
}


def scale_rate(rule, learning_rate, batch_size, reference_batch):
    """Returns the learning rate for a global batch, given that for a reference batch.

    Only the global batch counts: on how many replicas it is spread, or in how many parts it is
    accumulated, changes nothing.

    Args:
        rule: a row of LR_SCALINGS.
        learning_rate: the rate for `reference_batch` images per step.
        batch_size: images per step, over all replicas.
        reference_batch: images per step that the rate is meant for.
    """
    _check_choice("lr_scaling", rule, LR_SCALINGS)
    return learning_rate * LR_SCALINGS[rule](batch_size / reference_batch)


@keras.saving.register_keras_serializable("trainer")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up, then one of SCHEDULES until the last step."""

    def __init__(self, name, learning_rate, steps, warmup_steps=0):
        """Takes a row of SCHEDULES, the highest rate, and the steps of the run and its warm-up."""
        super().__init__()
        self.name = name
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        """Returns the rate of step 0, 1, … as float32 []."""
        step = tf.cast(step, tf.float32)
        # From 1/warmup_steps, because a first step at rate 0 would change nothing.
        warmup = tf.minimum((step + 1.0) / max(self.warmup_steps, 1), 1.0)
        progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        decay = SCHEDULES[self.name](tf.clip_by_value(progress, 0.0, 1.0))
        return self.learning_rate * warmup * decay

    def get_config(self):
        """Returns the arguments of `__init__`."""
        return {
            "name": self.name,
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
        }


OPTIMIZERS = {
    "adam": lambda schedule, weight_decay, momentum, nesterov: keras.optimizers.Adam(schedule),
    "adamw": lambda schedule, weight_decay, momentum, nesterov: keras.optimizers.AdamW(
        schedule, weight_decay=weight_decay
    ),
    "sgd": lambda schedule, weight_decay, momentum, nesterov: keras.optimizers.SGD(
        schedule, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay or None
    ),
}


def build_schedule(name, learning_rate, steps, warmup_steps=0):
    """Builds a learning-rate schedule.

    Args:
        name: "constant", "cosine" or "polynomial"; the last two reach exactly 0 after `steps`.
        learning_rate: the highest rate, reached at the end of the warm-up.
        steps: of the whole run.
        warmup_steps: during which the rate rises in a line; less than `steps`.

    Raises:
        InputError: an argument is out of its range.
    """
    _check_choice("schedule", name, SCHEDULES)
    if learning_rate <= 0:
        raise InputError(f"--learning_rate={learning_rate} must be greater than 0.")
    if not 0 <= warmup_steps < steps:
        raise InputError(
            f"--warmup_steps={warmup_steps} must be at least 0 and less than {steps}, the steps of "
            "the run."
        )
    return Schedule(name, learning_rate, steps, warmup_steps)


def build_optimizer(name, schedule, weight_decay=0.0, momentum=0.9, nesterov=False):
    """Builds an optimizer with decoupled weight decay of everything but biases and norms.

    Args:
        name: "adam" (without weight decay), "adamw" or "sgd".
        schedule: a learning rate, or a schedule of one.
        weight_decay: share of a weight, times the learning rate, taken off at each step.
        momentum: of sgd.
        nesterov: whether sgd looks ahead by its momentum (Sutskever et al., 2013).

    Raises:
        InputError: an argument is out of its range.
    """
    _check_choice("optimizer", name, OPTIMIZERS)
    if weight_decay < 0:
        raise InputError(f"--weight_decay={weight_decay} must be at least 0.")
    if not 0 <= momentum < 1:
        raise InputError(f"--momentum={momentum} must be at least 0 and less than 1.")
    if name == "adam" and weight_decay:
        raise InputError(f"--weight_decay={weight_decay} does nothing with adam; use adamw.")
    if nesterov and (name != "sgd" or not momentum):
        given = f"--optimizer={name}" if name != "sgd" else f"--momentum={momentum}"
        raise InputError(
            f"--nesterov does nothing with {given}; leave it out, or use --optimizer=sgd with a "
            "--momentum above 0."
        )
    optimizer = OPTIMIZERS[name](schedule, weight_decay, momentum, nesterov)
    optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    if isinstance(optimizer, keras.optimizers.Adam):
        _fuse(optimizer)
    return optimizer


def _fuse(optimizer: keras.optimizers.Adam) -> None:
    """Makes Adam update a variable by TensorFlow's one operation, in place of Keras' thirty.

    Variables and results are the same, but for rounding. Of a U-Net's step they would be half of
    the operations to trace, some seconds of a run's start.
    """
    decay, optimizer.weight_decay = optimizer.weight_decay, None  # or Keras would do it, too

    def update_step(gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        rate = tf.cast(learning_rate, tf.float32)
        if decay and optimizer._use_weight_decay(variable):
            variable.assign_sub(variable * decay * rate)
        steps = tf.cast(optimizer.iterations + 1, tf.float32)
        number = optimizer._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=optimizer._momentums[number].value.handle,
            v=optimizer._velocities[number].value.handle,
            beta1_power=optimizer.beta_1**steps,
            beta2_power=optimizer.beta_2**steps,
            lr=rate,
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            grad=gradient,
        )

    optimizer.update_step = update_step


def optimizer_of(
    settings: config.Optimization,
    total_steps: int,
    precision: str,
    encoder: Sequence[keras.Variable] = (),
) -> keras.optimizers.Optimizer:
    """Builds the optimizer of the settings with its schedule, and loss scaling for float16.

    Args:
        settings: its rate is the highest of the schedule, whatever the batch.
        total_steps: of the run.
        precision: that the layers compute in.
        encoder: the encoder's variables, which may take a share of the rate, and later.
    """
    schedule = build_schedule(
        settings.schedule, settings.learning_rate, total_steps, settings.warmup_steps
    )
    decay = settings.weight_decay
    if decay is None:
        decay = 1e-4 if settings.optimizer == "adamw" else 0.0
    optimizer = build_optimizer(
        settings.optimizer, schedule, decay, settings.momentum, settings.nesterov
    )
    if settings.encoder_rate != 1 or settings.freeze_until:
        _share_rate(optimizer, encoder, settings.encoder_rate, settings.freeze_until, decay)
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "float16" else optimizer


def _share_rate(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[keras.Variable],
    share: float,
    begin: int,
    decay: float,
) -> None:
    """Makes some variables take a share of the learning rate, also in their weight decay.

    Args:
        optimizer: not built yet.
        variables: which.
        share: of the rate.
        begin: steps after which they are first updated.
        decay: the weight decay, of kernels only.
    """
    whole_step = optimizer.update_step
    kernels = {optimizer._var_key(v): len(v.shape) > 1 for v in variables}
    optimizer.exclude_from_weight_decay(var_list=list(variables), var_names=NOT_DECAYED)

    def update_step(gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        is_kernel = kernels.get(optimizer._var_key(variable))
        if is_kernel is None:
            whole_step(gradient, variable, learning_rate)
            return
        rate = tf.cast(learning_rate, tf.float32) * share
        if is_kernel and decay:
            optimizer.assign_sub(variable, variable * decay * rate)
        whole_step(gradient, variable, rate * _correction(optimizer, begin))

    optimizer.update_step = update_step


def _correction(optimizer: keras.optimizers.Optimizer, begin: int) -> tf.Tensor:
    """Returns by what the rate of variables is multiplied that are updated from `begin` on.

    Adam's averages of their gradients begin at 0 then. It corrects averages for that by the number
    of steps of the run, and would take steps of up to six times the rate.
    """
    if not begin or not isinstance(optimizer, keras.optimizers.Adam):
        return tf.ones(())
    steps = tf.cast(optimizer.iterations + 1, tf.float32)

    def factor(number: tf.Tensor) -> tf.Tensor:
        return tf.sqrt(1.0 - optimizer.beta_2**number) / (1.0 - optimizer.beta_1**number)

    return factor(tf.maximum(steps - begin, 1.0)) / factor(steps)


def _check_choice(argument, value, choices):
    """Raises InputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"--{argument}={value} is not a choice; use one of: {', '.join(choices)}.")
