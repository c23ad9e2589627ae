"""Which mask belongs to which volume: by their names, or by a data set's `dataset.json`."""

import collections
import dataclasses
from collections.abc import Sequence

from trainer import config
from trainer.data.formats import discovery, volume_discovery
from trainer.data.formats.discovery import Source
from trainer.data.prepare import pairing
from trainer.data.prepare.pairs import Pair
from trainer.errors import InputError


@dataclasses.dataclass(frozen=True)
class Found:
    """Volumes with their masks, and what is said of them all.

    Attributes:
        pairs: in the order of their names.
        left_out: what else matched, and how many.
        channel_names: in the order of the channels; none if they are not named.
        classes: as --classes takes them; empty: the values that occur.
        ignore: as --ignore takes it; empty: none.
    """

    pairs: Sequence[Pair]
    left_out: collections.Counter[str]
    channel_names: tuple[str, ...]
    classes: str
    ignore: str


def are_volumes(settings: config.Prepare) -> bool:
    """Whether volumes are to be prepared: a data set, a place with files of them, or --volumes."""
    places = {"images": settings.images, "masks": settings.masks}
    return any(
        volume_discovery.are_volumes(where, flag, settings.volumes)
        for flag, where in places.items()
        if where
    )


def find(settings: config.Prepare) -> Found:
    """Returns the volumes that settings name.

    Raises:
        InputError: naming the first file without a partner or with an ambiguous name, or what
            settings and a data set say differently.
    """
    names = parse_channel_names(settings.channel_names)
    if volume_discovery.is_dataset(settings.images):
        return _of_dataset(settings, names)
    if not settings.masks:
        raise InputError("--masks is missing; give --images, --masks and --output.")

    def files_at(where: str, flag: str) -> discovery.Found:
        return volume_discovery.find_files(where, flag, settings.volumes)

    def channels(images: Sequence[Source], masks: Sequence[Source]) -> list[tuple[Source, ...]]:
        cases = volume_discovery.group_channels(
            images, len(names) or None, {mask.name for mask in masks}
        )
        return [case.images for case in cases]

    pairs, left_out = pairing.pair(settings, files_at, channels)
    return Found(pairs, left_out, names, settings.classes, settings.ignore)


def _of_dataset(settings: config.Prepare, names: tuple[str, ...]) -> Found:
    dataset = volume_discovery.read_dataset(settings.images)
    if settings.masks:
        raise InputError(
            f"--masks={settings.masks} is given beside --images={settings.images}, whose "
            "dataset.json says where the masks are; drop --masks."
        )
    if names and len(names) != len(dataset.channel_names):
        raise InputError(
            f"--channel_names={settings.channel_names} names {len(names)} channels, and "
            f"{dataset.label} {len(dataset.channel_names)}; name as many, or drop the flag."
        )
    classes, ignore = settings.classes, settings.ignore
    if not classes:
        classes, told = volume_discovery.classes_of(dataset)
        ignore = ignore or told
    pairs = {case.name: Pair(case.images, case.mask) for case in dataset.cases if case.mask}
    pairing.check_names(pair.image for pair in pairs.values())
    return Found(
        list(pairs.values()), dataset.left_out, names or dataset.channel_names, classes, ignore
    )


def parse_channel_names(text: str) -> tuple[str, ...]:
    """Returns what --channel_names gives.

    Raises:
        InputError: a name is empty, or given twice.
    """
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if not all(names) or len(set(names)) < len(names):
        raise InputError(
            f"--channel_names={text} names a channel twice, or not at all; write CT, or "
            "T1,T2,FLAIR."
        )
    return names
