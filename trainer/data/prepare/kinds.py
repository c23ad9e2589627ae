"""What preparation asks of a kind of data, images or volumes, and the kind that images are."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from absl import logging

from trainer import config
from trainer.data.dataset import schema
from trainer.data.formats import images
from trainer.data.planning import auto_rules, tiling
from trainer.data.prepare import classes, labels, mask_agreement, pixel_counts, statistics
from trainer.data.prepare.pairs import Example, Pair, Part, cut

Encoded = tuple[bytes, pixel_counts.Tally]
# What is done, the task, the pairs → the result of each pair; `engines.Engine.each`.
Each = Callable[[str, Callable[[Pair], Any], Sequence[Pair]], Iterable[Any]]


class Kind(Protocol):
    """A kind of data; the processes that prepare it get a copy each.

    A survey says what there is in a pair (its `mask` and `digest`, and its
    `pair` with a digest of the content), a form how
    every example is stored (its `rule`, `channels`, `dtype` and `encoding`).
    """

    @property
    def given(self) -> classes.Given:
        """What is known of the classes before any mask is read."""

    def examine(self, pair: Pair) -> Any:
        """Reads a pair and returns its survey.

        Raises:
            UnreadableError: a file is damaged.
            InputError: a file is too large, the two do not fit, or the mask has no classes.
        """

    def planned(self, training: Iterable[Any]) -> "Kind":
        """Returns the kind that cuts its examples by the rules of planning, and says what they are.

        Args:
            training: the surveys of the training split.
        """

    def settle(self, found: Sequence[Any], train: Iterable[int]) -> Any:
        """Returns the form of all examples, and logs what it does to the data.

        Args:
            found: the survey of each pair.
            train: the places of the training split.

        Raises:
            InputError: the pairs do not fit together.
        """

    def grid(self, survey: Any) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
        """Returns shape and spacing of a pair as it was given, see `schema.Grid`."""

    def parts(self, survey: Any, form: Any, side: str) -> list[Part]:
        """Returns the examples that a pair gives in a split."""

    def groups(
        self, each: Each, form: Any, train: Sequence[Example]
    ) -> Mapping[bool | None, Sequence[Example]]:
        """Returns the training examples by what their shards say, see `schema.Shard.foreground`."""

    def encode(self, form: Any, pair: Pair) -> list[Encoded]:
        """Reads a pair again and returns an example of each of its parts.

        Raises:
            InputError: it is not what was seen before.
        """

    def entries(self, form: Any) -> dict[str, Any]:
        """Returns the fields of the manifest that only this kind has."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Images, each with its mask."""

    settings: config.Prepare
    given: classes.Given

    def examine(self, pair: Pair) -> statistics.Survey:
        """See `Kind`."""
        return statistics.examine(pair, self.settings.max_pixels, self.given)

    def planned(self, training: Iterable[statistics.Survey]) -> "Images":
        """See `Kind`; a --tile that is set stays."""
        side = self.settings.tile or tiling.tile([(one.height, one.width) for one in training])
        if side == self.settings.tile:
            return self
        logging.info(
            "Training images are cut into tiles of about %d pixels (--plan), for the largest has "
            "%g times the pixels of the median one, or more.",
            side,
            auto_rules.MIXED,
        )
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, tile=side))

    def settle(self, found: Sequence[statistics.Survey], train: Iterable[int]) -> statistics.Format:
        """See `Kind`; images do not depend on their split."""
        rule = settle_masks((one.mask for one in found), self.given)
        surveys = statistics.alike(found)
        asked = statistics.parse_channels(self.settings.channels)
        channels, channel_notes = statistics.choose_channels(surveys, asked)
        dtype, dtype_notes = statistics.choose_dtype(surveys)
        for note in (*channel_notes, *dtype_notes):
            logging.info("%s", note)
        return statistics.Format(rule, channels, dtype)

    def grid(self, survey: statistics.Survey) -> tuple[tuple[int, ...], None]:
        """See `Kind`: pixels have no spacing."""
        return (survey.height, survey.width), None

    def parts(self, survey: statistics.Survey, form: statistics.Format, side: str) -> list[Part]:
        """See `Kind`: training images may be cut into tiles."""
        shape = (survey.height, survey.width)
        return cut(survey.pair.name, shape, self.settings.tile if side == "train" else 0)

    def groups(
        self, each: Each, form: statistics.Format, train: Sequence[Example]
    ) -> Mapping[bool | None, Sequence[Example]]:
        """See `Kind`: it is not known which images have a foreground."""
        return {None: train}

    def encode(self, form: statistics.Format, pair: Pair) -> list[Encoded]:
        """See `Kind`."""
        pixels, given_mask = statistics.read(pair, self.settings.max_pixels)
        image = images.convert(pixels, form.channels, form.dtype, pair.image.label)
        mask = labels.class_ids(given_mask, form.rule, pair.mask.label)
        examples = []
        for part in pair.parts:
            values, ids = image[part.box], mask[part.box]
            example = schema.encode(part.name, values, ids, form.encoding)
            examples.append((example, pixel_counts.of_example(values, ids, len(form.rule.classes))))
        return examples

    def entries(self, form: statistics.Format) -> dict[str, Any]:
        """See `Kind`."""
        return {}


def settle_masks(seen: Iterable[labels.Seen], given: classes.Given) -> labels.Rule:
    """Returns the rule for all masks, see `mask_agreement.settle`, and logs what it says."""
    rule, notes, warnings = mask_agreement.settle(seen, given)
    for note in notes:
        logging.info("%s", note)
    for warning in warnings:
        logging.warning("%s", warning)
    return rule
