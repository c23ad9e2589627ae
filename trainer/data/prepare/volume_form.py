"""How all volumes of a set are stored: decided when each was seen, by the training split alone."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from absl import logging

from trainer.data import preprocessing
from trainer.data.dataset.volume_examples import Channel, Volumes
from trainer.data.prepare import classes, intensities, labels
from trainer.data.prepare.pairs import Pair
from trainer.errors import InputError
from trainer.ignore_label import IGNORE

# Names of channels, in small letters, that have a scheme of their own; of nnU-Net.
CT, AS_STORED = "ct", "nonorm"
PLAN = (0.0, 0.0, 0.0)  # the spacing that the volumes themselves suggest
CROPPED = 0.75  # share of a volume that cropping leaves; below it, the zeros around say nothing


@dataclasses.dataclass(frozen=True)
class Survey:
    """What there is in a volume and its mask.

    Attributes:
        pair: of both, with their digest and the box that is not zero.
        mask: what there is in the mask.
        digest: of the voxels of the volume.
        shape: D, H, W of the files.
        channels: of the volume.
        spacing: mm along D, H, W.
        histograms: of each CT channel, by the value of the mask, or by class where classes were
            given; None of other channels.
        has_spacing: whether its file says the spacing; if not, it is 1 mm.
    """

    pair: Pair
    mask: labels.Seen
    digest: bytes
    shape: tuple[int, ...]
    channels: int
    spacing: tuple[float, ...]
    histograms: tuple[dict[int, intensities.Histogram] | None, ...]
    has_spacing: bool = True

    @property
    def box(self) -> np.ndarray:
        """First and last + 1 of what is not zero, int [3, 2]."""
        return np.array(self.pair.box)


@dataclasses.dataclass(frozen=True)
class Form:
    """How every volume is stored; see `Volumes`."""

    rule: labels.Rule
    volumes: Volumes
    dtype: str = "float32"
    encoding: str = "zlib"

    @property
    def channels(self) -> int:
        """Of every volume."""
        return len(self.volumes.channels)

    @property
    def preprocessing(self) -> preprocessing.Preprocessing:
        """What makes the voxels that are stored."""
        return preprocessing.Preprocessing(self.volumes.channels, self.volumes.spacing)

    def shape_of(self, one: Survey) -> tuple[int, ...]:
        """Returns the shape that a volume is stored with."""
        return self.preprocessing.shape_of(one.box, one.spacing)


def choose(
    rule: labels.Rule, training: Sequence[Survey], names: Sequence[str], spacing: str, side: int
) -> Form:
    """Returns the form of all volumes.

    Args:
        rule: of the masks.
        training: what is in the training split.
        names: of the channels; none if they have none.
        spacing: --spacing.
        side: of the blocks that larger training volumes are cut into.
    """
    unknown = [one.pair.image.label for one in training if not one.has_spacing]
    if unknown:
        logging.warning(
            "Warning: %d training volumes do not say how far their voxels are apart (%s, for one); "
            "1 mm along each axis is assumed.",
            len(unknown),
            unknown[0],
        )
    asked = parse_spacing(spacing)
    if asked == PLAN:
        asked = preprocessing.target_spacing(
            np.array([one.spacing for one in training]),
            np.array([preprocessing.sides_of(one.box) for one in training]),
        )
    channels = tuple(_channels(rule, training, names))
    form = Form(rule, Volumes(asked, channels))
    shapes = [form.shape_of(one) for one in training]
    block = (side, side, side) if any(max(shape) > side for shape in shapes) else None
    form = Form(rule, Volumes(asked, channels, block))
    for line in _told(form.volumes, shapes):
        logging.info("%s", line)
    return form


def parse_spacing(text: str) -> tuple[float, float, float] | None:
    """Returns what --spacing says: mm along D, H, W, PLAN, or None where each keeps its own.

    Raises:
        InputError: it is none of these.
    """
    if text in ("plan", "none"):
        return PLAN if text == "plan" else None
    try:
        depth, height, width = map(float, text.split(","))
    except ValueError:
        depth = height = width = math.nan
    if not all(0 < length < math.inf for length in (depth, height, width)):
        raise InputError(
            f"--spacing={text} is neither plan, none nor three lengths in mm; write for example "
            "--spacing=3,0.8,0.8, the distance of slices first."
        )
    return depth, height, width


def check_channels(surveys: Iterable[Survey], names: Sequence[str]) -> None:
    """Raises InputError unless all volumes have the same channels, and those that are named."""
    first: Survey | None = None
    for one in surveys:
        first = first or one
        label = one.pair.image.label
        if one.channels != first.channels:
            raise InputError(
                f"{first.pair.image.label} has {first.channels} channels and {label} has "
                f"{one.channels}; give volumes of one kind."
            )
        if names and one.channels != len(names):
            raise InputError(
                f"{label} has {one.channels} channels, and {','.join(names)} names {len(names)}; "
                "name each of them by --channel_names."
            )


def _channels(
    rule: labels.Rule, training: Sequence[Survey], names: Sequence[str]
) -> Iterator[Channel]:
    """Yields how each channel is normalised."""
    left = [math.prod(preprocessing.sides_of(s.box)) / math.prod(s.shape) for s in training]
    own = "nonzero" if np.median(left) < CROPPED else "zscore"
    for c, name in enumerate(names or map(str, range(training[0].channels))):
        if name.lower() == CT:
            found = [one.histograms[c] or {} for one in training]
            yield Channel(name, "ct", *intensities.figures(_foregrounds(found, rule), name))
        else:
            yield Channel(name, "none" if name.lower() == AS_STORED else own)


def _foregrounds(
    found: Iterable[dict[int, intensities.Histogram]], rule: labels.Rule
) -> list[intensities.Histogram]:
    """Returns the histograms of all but the background and what does not count."""
    others = {0, IGNORE, classes.UNKNOWN}
    if not rule.given.classes:
        others = {
            value for value in (rule.classes[0].value, rule.given.ignore) if value is not None
        }
    return [one for by_value in found for value, one in by_value.items() if value not in others]


def _told(form: Volumes, shapes: Sequence[tuple[int, ...]]) -> Iterator[str]:
    """Yields what is done to every volume, in words."""
    median = "×".join(str(round(side)) for side in np.median(shapes, axis=0))
    spacing = "each volume keeps its own spacing"
    if form.spacing is not None:
        spacing = f"all volumes get {'×'.join(f'{mm:.4g}' for mm in form.spacing)} mm"
    yield f"Spacing (depth × height × width): {spacing}; the median volume has {median} voxels."
    for channel in form.channels:
        yield f"Channel {channel.name}: {_scheme(channel)}."
    if form.block is not None:
        sides = "×".join(map(str, form.block))
        yield f"Training volumes larger than {sides} voxels are cut into blocks of that size."


def _scheme(channel: Channel) -> str:
    if channel.scheme == "ct":
        return (
            f"clipped to {channel.low:.6g} … {channel.high:.6g}, percentiles of the foreground, "
            f"then minus {channel.mean:.6g} and divided by {channel.std:.6g}"
        )
    return {
        "zscore": "zero mean and unit variance in each volume",
        "nonzero": "zero mean and unit variance of the nonzero voxels of each volume",
        "none": "as it is stored",
    }[channel.scheme]
