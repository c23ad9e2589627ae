"""What the devices compute for a tile or window: the mean over networks and turned images."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer import config, models
from trainer.checkpointing import best_weights, run_metadata
from trainer.config import network_levels
from trainer.data.input import normalization
from trainer.errors import InputError
from trainer.evaluate import calibration, components, sliding_window, symmetries
from trainer.models import channel_packing, partial_images


@dataclasses.dataclass(frozen=True)
class Member:
    """A network of the ensemble and how its images are normalised.

    Attributes:
        model: normalised images → logits.
        normalize: a key of `normalization.NORMALIZATIONS`.
        mean: of each channel of its training split.
        std: as `mean`.
        weights: which these are: the run's folder and fingerprint, their step and checksum.
        job: settings of the run.
        temperature: by which its logits are divided; None if none was fitted.
        tta: see `symmetries.turns`.
    """

    model: keras.Model
    normalize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: dict[str, Any]
    job: config.Job
    temperature: float | None
    tta: str

    def logits(self, normalised: tf.Tensor, training: bool, **inside: tf.Tensor) -> tf.Tensor:
        """Returns calibrated logits, which stand for the mean over turned images.

        Args:
            normalised: float32 [B, *S, C].
            training: False.
            inside: bool [B, *S, 1], if images are a part of them, see `partial_images`.

        Returns:
            float32 [B, *S, K]; of two classes K is 1.
        """
        averaged = symmetries.averaging(self._of_one_turn, self.tta)
        logits = averaged(normalised, training=training, **inside)
        return logits if self.temperature is None else logits / self.temperature

    def _of_one_turn(
        self, normalised: tf.Tensor, training: bool = False, **inside: tf.Tensor
    ) -> tf.Tensor:
        network = channel_packing.predicting(self.model)
        return tf.cast(network(normalised, training=training, **inside), tf.float32)


class Ensemble:
    """Networks that agree on channels and classes.

    Attributes:
        channels: of the images.
        dtype: of the images, as stored.
        classes: their names, the background first.
        values: of the classes in masks.
        volumes: how the volumes were prepared that they are trained on; None of images.
        members: the networks.
        kept: which components of a mask are kept.
    """

    def __init__(self, run_dirs: Sequence[str], tta: str = "none", *, calibrated: bool = True):
        """Reads the best weights of every run; call it in the scope of a strategy.

        Args:
            run_dirs: folders of runs, or of cross-validations, which are the runs of their folds.
            tta: see `symmetries.turns`.
            calibrated: whether logits are divided by the temperatures of the runs.

        Raises:
            InputError: if a folder holds no run, or the runs have not the same kind of data.
        """
        folders = run_metadata.with_folds(run_dirs)
        runs = [run_metadata.read(folder) for folder in folders]
        data = [run_metadata.data_of(run) for run in runs]
        _check_alike(folders, runs, data)
        self.channels: int = runs[0]["channels"]
        self.dtype: str = data[0]["dtype"]
        self.classes: list[str] = runs[0]["classes"]
        self.values: list[int] = data[0]["class_values"]
        self.volumes = run_metadata.volumes_of(runs[0])
        symmetries.turns(tta, rank=2 if self.volumes is None else 3)  # refuses before it reads
        self.members = [
            _member(*entries, tta, calibrated) for entries in zip(folders, runs, data, strict=True)
        ]
        self.kept = components.of_ensemble([*map(run_metadata.chosen, run_dirs)], self.classes)

    @functools.cached_property
    def stride(self) -> int:
        """A multiple of the stride of the deepest level of any network, along any axis."""
        levels = [member.job.model.levels(rank=2) for member in self.members]
        return math.lcm(*(stride for one in levels for stride in network_levels.total_stride(one)))

    @functools.cached_property
    def halo(self) -> int:
        """How far any network looks, a multiple of `stride`."""
        levels = [member.job.model.levels(rank=2) for member in self.members]
        farthest = max(halo for one in levels for halo in sliding_window.halo_of(one))
        return -(-farthest // self.stride) * self.stride

    @property
    def box(self) -> tuple[int, ...]:
        """Sides of the crops that networks of volumes were trained on."""
        return self.members[0].job.data.box(rank=3)

    @property
    def normalize(self) -> str:
        """How images are normalised for `logits`, which does the rest where figures differ."""
        kind = self.members[0].normalize
        return "none" if kind == "dataset" else kind

    @property
    def temperatures(self) -> list[float] | None:
        """The temperature of each network; None if none was fitted for any."""
        found = [member.temperature for member in self.members]
        return None if found == [None] * len(found) else [one or 1.0 for one in found]

    @property
    def uses_statistics(self) -> bool:
        """Whether any network needs mean and deviation of the whole image."""
        return any(member.normalize == "image" for member in self.members)

    def __call__(self, inputs: Any, training: bool = False) -> tf.Tensor:
        """Returns the probabilities of tiles.

        Args:
            inputs: images, `dtype` [B, H, W, C], H and W multiples of `stride`, and the whole
                images' mean and standard deviation, float32 [B, 2, C]; and sizes of the images,
                int32 [B, 2], if they are a part of their tensor, see `partial_images`.
            training: False.

        Returns:
            float32 [B, H, W, K]; of two classes only the second's, K = 1.
        """
        images, statistics, *sizes = inputs
        inside = {"inside": partial_images.inside(images, *sizes)} if sizes else {}
        parts = [
            probabilities(
                member.logits(_normalised(member, images, statistics), training, **inside)
            )
            for member in self.members
        ]
        return tf.add_n(parts) / len(parts) if len(parts) > 1 else parts[0]

    def logits(self, inputs: tf.Tensor, training: bool = False, **inside: tf.Tensor) -> tf.Tensor:
        """Returns logits, which stand for the mean of the probabilities if there are several.

        Args:
            inputs: windows of prepared volumes, or images that are normalised by `normalize`,
                float32 [B, *S, C]; all members must then be normalised by the same kind.
            training: False.
            inside: see `Member.logits`.

        Returns:
            float32 [B, *S, K]; of two classes K is 1.
        """
        parts = [
            member.logits(self._prepared(member, inputs), training, **inside)
            for member in self.members
        ]
        return symmetries.mean_logits(parts) if len(parts) > 1 else parts[0]

    def _prepared(self, member: Member, inputs: tf.Tensor) -> tf.Tensor:
        """Returns inputs of `logits` as a member takes them: by the figures of its own data."""
        if self.volumes is not None or member.normalize != "dataset":
            return inputs
        dtype = tf.as_dtype(self.dtype)
        highest = float(dtype.max) if dtype.is_integer else 1.0
        return normalization.normalize(inputs * highest, "dataset", member.mean, member.std)


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Returns the probability of each class, or, of one logit, of the foreground."""
    return tf.sigmoid(logits) if logits.shape[-1] == 1 else tf.nn.softmax(logits)


def _normalised(member: Member, images: tf.Tensor, statistics: tf.Tensor) -> tf.Tensor:
    if member.normalize != "image":
        return normalization.normalize(images, member.normalize, member.mean, member.std)
    offset, scale = (statistics[:, k, tf.newaxis, tf.newaxis] for k in range(2))
    return normalization.rescale(tf.cast(images, tf.float32), offset, scale)


def _member(
    run_dir: str, run: dict[str, Any], data: dict[str, Any], tta: str, calibrated: bool
) -> Member:
    model, step = best_weights.best_model(run_dir, run)
    job = config.from_dict(config.Job, run["settings"])
    mean, std = tuple(data["mean"]), tuple(data["std"])
    weights = {
        "run_dir": run_dir,
        "run": run["fingerprint"],
        "step": step,
        "sha256": best_weights.weights_digest(model),
    }
    predicting = models.fold(models.prediction_model(model))
    temperature = calibration.read(run_dir, weights["sha256"], tta) if calibrated else None
    return Member(predicting, job.data.normalize, mean, std, weights, job, temperature, tta)


def _check_alike(
    run_dirs: Sequence[str], runs: Sequence[dict[str, Any]], data: Sequence[dict[str, Any]]
) -> None:
    """Raises InputError unless images and masks mean the same to all runs."""
    kinds = [
        {
            "channels": run["channels"],
            "classes": ", ".join(run["classes"]),
            "mask values": ", ".join(map(str, facts["class_values"])),
            "pixels": facts["dtype"],
            **_kind_of_volumes(run),
        }
        for run, facts in zip(runs, data, strict=True)
    ]
    for run_dir, kind in zip(run_dirs, kinds, strict=True):
        for name, value in kind.items():
            if value != kinds[0][name]:
                raise InputError(
                    f"--run_dir: {run_dir} has the {name} {value} and {run_dirs[0]} has "
                    f"{kinds[0][name]}; an ensemble takes runs on the same kind of data."
                )


def _kind_of_volumes(run: dict[str, Any]) -> dict[str, str]:
    """Returns what volumes must have in common to be prepared, and cut into windows, together."""
    volumes = run_metadata.volumes_of(run)
    if volumes is None:
        return {"axes": "height, width"}
    figures = ((one.mean, one.std, one.low, one.high) for one in volumes.channels)
    schemes = (
        one.scheme if None in numbers else f"{one.scheme} ({_joined(numbers, ', ')})"
        for one, numbers in zip(volumes.channels, figures, strict=True)
    )
    box = config.from_dict(config.Job, run["settings"]).data.box(rank=3)
    return {
        "axes": "depth, height, width",
        "spacing": "of each volume" if volumes.spacing is None else _joined(volumes.spacing),
        "normalisation": ", ".join(schemes),
        "crop": _joined(box),
    }


def _joined(numbers: Iterable[float | None], between: str = "×") -> str:
    return between.join(f"{number:g}" for number in numbers)
