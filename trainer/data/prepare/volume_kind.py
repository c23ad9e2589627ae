"""The kind that volumes are: cropped, normalised and resampled when they are prepared."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from trainer import config
from trainer.data import geometry, preprocessing
from trainer.data.dataset import volume_examples
from trainer.data.dataset.volume_examples import Original
from trainer.data.formats import images, volumes
from trainer.data.formats.volume_header import Header
from trainer.data.planning import fingerprint, tiling
from trainer.data.prepare import (
    classes,
    intensities,
    labels,
    pixel_counts,
    statistics,
    volume_form,
)
from trainer.data.prepare.intensities import Histogram
from trainer.data.prepare.kinds import Each, Encoded, settle_masks
from trainer.data.prepare.pairs import Example, Pair, Part, by_pair, cut_blocks
from trainer.data.prepare.volume_form import Form, Survey
from trainer.errors import InputError
from trainer.ignore_label import IGNORE

MOST_PLACES = 10_000  # of a class in an example, from which training draws


@dataclasses.dataclass(frozen=True)
class VolumeKind:
    """Volumes, each with its mask.

    Attributes:
        settings: the user's.
        given: what is known of the classes.
        names: of the channels; empty if they have none.
    """

    settings: config.Prepare
    given: classes.Given
    names: tuple[str, ...]

    def examine(self, pair: Pair) -> Survey:
        """See `Kind`."""
        values, header, mask = self._read(pair)
        box = preprocessing.nonzero_box(values)
        if not values.any():
            raise InputError(
                f"{pair.image.label} is zero everywhere; there is nothing to learn from it: remove "
                "it, or list the others with --splits."
            )
        found = labels.look(_as_image(mask), self.given, pair.mask.label)
        content = _content(values, mask, header.grid)
        return Survey(
            pair=dataclasses.replace(pair, content=content, box=tuple(map(tuple, box.tolist()))),
            mask=found,
            digest=statistics.digest(values),
            shape=values.shape[:3],
            channels=values.shape[3],
            spacing=header.grid.spacing,
            has_spacing=header.has_spacing,
            histograms=tuple(
                self._histograms(values[..., c], mask) if name.lower() == volume_form.CT else None
                for c, name in enumerate(self.names)
            ),
        )

    def planned(self, training: Iterable[Survey]) -> "VolumeKind":
        """See `Kind`; a larger --block stays."""
        asked = volume_form.parse_spacing(self.settings.spacing)
        shapes, given = zip(*map(self.grid, training), strict=True)
        spacings = fingerprint.as_they_are(shapes, given) if asked is None else given
        side = tiling.block(shapes, spacings, None if asked == volume_form.PLAN else asked)
        block = max(self.settings.block, side)
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, block=block))

    def settle(self, found: Sequence[Survey], train: Iterable[int]) -> Form:
        """See `Kind`; figures are of the training split alone."""
        rule = settle_masks((one.mask for one in found), self.given)
        volume_form.check_channels(found, self.names)
        training = [found[place] for place in train]
        form = volume_form.choose(
            rule, training, self.names, self.settings.spacing, self.settings.block
        )
        for one in found:
            form.preprocessing.check_size(
                one.pair.image.label, one.box, one.spacing, self.settings.max_pixels
            )
        return form

    def grid(self, survey: Survey) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """See `Kind`: that of the part which is not zero."""
        return preprocessing.sides_of(survey.box), survey.spacing

    def parts(self, survey: Survey, form: Form, side: str) -> list[Part]:
        """See `Kind`: large training volumes are cut into blocks."""
        shape = form.shape_of(survey)
        block = form.volumes.block if side == "train" else None
        return cut_blocks(survey.pair.name, shape, block or shape)

    def groups(
        self, each: Each, form: Form, train: Sequence[Example]
    ) -> Mapping[bool | None, Sequence[Example]]:
        """See `Kind`: blocks with a foreground come first, those without it after them."""
        pairs = list(by_pair(train))
        task = functools.partial(self.foreground_of, form)
        found = [has for one in each("masks", task, pairs) for has in one]
        chosen: dict[bool | None, list[Example]] = {True: [], False: []}
        for example, has_foreground in zip(train, found, strict=True):
            chosen[has_foreground].append(example)
        return {flag: examples for flag, examples in chosen.items() if examples}

    def encode(self, form: Form, pair: Pair) -> list[Encoded]:
        """See `Kind`."""
        values, header, mask = self._read(pair)
        grid = header.grid
        if _content(values, mask, grid) != pair.content:
            raise InputError(
                f"{pair.image.label} or its mask {pair.mask.label} changed while the data were "
                "prepared; prepare them again when nothing writes there."
            )
        ids = self._ids(mask, form, pair)
        prepared = form.preprocessing.apply(values, grid.spacing)
        del values
        small = form.preprocessing.apply_to_mask(ids, prepared.box, grid.spacing)
        original = Original(ids, prepared.box, grid.to_array())
        examples = []
        for part in pair.parts:
            image, classes_of = prepared.values[part.box], small[part.box]
            places = draw_places(classes_of, f"{self.settings.seed}:{part.name}")
            is_whole = image.shape == prepared.values.shape
            example = volume_examples.encode(
                part.name, image, classes_of, places, original if is_whole else None
            )
            tally = pixel_counts.of_example(image, classes_of, len(form.rule.classes))
            examples.append((example, tally))
        return examples

    def entries(self, form: Form) -> dict[str, Any]:
        """See `Kind`."""
        return {"volumes": form.volumes, "schema": 2}

    def foreground_of(self, form: Form, pair: Pair) -> list[bool]:
        """Returns whether each part of a pair has a voxel of a class other than the background."""
        mask, _ = volumes.read_volume_mask(pair.mask, self.settings.max_pixels)
        several = len(pair.images) > 1
        grid = volumes.read_header(pair.image, 1 if several else len(self.names) or None).grid
        small = form.preprocessing.apply_to_mask(
            self._ids(mask, form, pair), np.array(pair.box), grid.spacing
        )
        is_foreground = (small > 0) & (small != IGNORE)
        return [bool(is_foreground[part.box].any()) for part in pair.parts]

    def _read(self, pair: Pair) -> tuple[np.ndarray, Header, np.ndarray]:
        """Returns a volume [D, H, W, C], its header, and its mask [D, H, W]."""
        most = self.settings.max_pixels
        values, header = volumes.read_volume(pair.images, most, len(self.names) or None)
        mask, of_mask = volumes.read_volume_mask(pair.mask, most)
        volumes.check_same_grid(pair.image.label, header, pair.mask.label, of_mask)
        return values, header, mask

    def _ids(self, mask: np.ndarray, form: Form, pair: Pair) -> np.ndarray:
        """Returns the class of each voxel, uint8 [D, H, W]."""
        return labels.class_ids(_as_image(mask), form.rule, pair.mask.label).reshape(mask.shape)

    def _histograms(self, values: np.ndarray, mask: np.ndarray) -> dict[int, Histogram]:
        """Returns the histogram of a CT channel by the value of the mask, or by class."""
        if self.given.classes:
            mask = classes.places(mask, self.given.classes, self.given.ignore)
        found = (int(value) for value in np.unique(mask))
        return {value: intensities.histogram(values[mask == value]) for value in found}


def draw_places(ids: np.ndarray, seed: str) -> np.ndarray:
    """Returns voxels of each class other than the background, at most MOST_PLACES of each.

    Args:
        ids: uint8 [D, H, W], class ids; IGNORE where a voxel does not count.
        seed: of the draw; a text of its own for each example.

    Returns:
        int64 [N, 4]: class, depth, row, column.
    """
    found = []
    for value in np.unique(ids):
        if value in (0, IGNORE):
            continue
        places = np.flatnonzero(ids == value)
        if len(places) > MOST_PLACES:
            key = hashlib.sha256(f"{seed}:{value}".encode()).digest()
            rng = np.random.default_rng(int.from_bytes(key, "little"))
            places = np.sort(rng.choice(places, MOST_PLACES, replace=False))
        axes = np.unravel_index(places, ids.shape)
        found.append(np.stack([np.full(len(places), value, np.int64), *axes], axis=1))
    return np.concatenate([np.zeros((0, 4), np.int64), *found])


def _as_image(mask: np.ndarray) -> images.Mask:
    """Returns the mask of a volume as that of an image, its slices below each other."""
    return images.Mask(mask.reshape(-1, mask.shape[-1]), 8 * mask.dtype.itemsize)


def _content(values: np.ndarray, mask: np.ndarray, grid: geometry.Geometry) -> bytes:
    digests = (statistics.digest(values), statistics.digest(mask), grid.to_array().tobytes())
    return hashlib.blake2b(b"".join(digests), digest_size=16).digest()
