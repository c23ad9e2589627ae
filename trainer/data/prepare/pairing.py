"""Which mask belongs to which image, by their names."""

import collections
import dataclasses
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from trainer import config
from trainer.data.formats import discovery
from trainer.data.formats.discovery import Source
from trainer.data.packed import Packed
from trainer.data.prepare import classes
from trainer.data.prepare.pairs import Pair
from trainer.errors import InputError, one_line


def find_pairs(
    settings: config.Prepare, scratch: str
) -> tuple[Packed[Pair], collections.Counter[str]]:
    """Returns images with their masks, in the order of their names, and what else matched.

    Args:
        settings: say where they are, and how their names differ.
        scratch: folder for temporary files, to be kept as long as the pairs are used.

    Raises:
        InputError: naming the first file without a partner or with an ambiguous name.
    """

    def find(where: str, flag: str) -> discovery.Found:
        found = discovery.find(where, flag, scratch, settings.max_pixels)
        return discovery.with_pages(found)

    return pair(settings, find, lambda images, masks: [])


def pair(
    settings: config.Prepare,
    find: Callable[[str, str], discovery.Found],
    group: Callable[[Sequence[Source], Sequence[Source]], Sequence[tuple[Source, ...]]],
) -> tuple[Packed[Pair], collections.Counter[str]]:
    """Returns images with their masks, see `find_pairs`.

    Args:
        settings: say where they are, and how their names differ.
        find: (where, flag) → the files there.
        group: (images, masks) → the images that have a file for each channel, each file with the
            image's name; none if each file is an image.
    """
    found, masks, left_out = _files(settings, find)
    suffix = _composed(settings.mask_suffix)
    if suffix:  # both may be in one folder
        others = set[str]() if masks is found else _others(found, masks, suffix)
        found, masks = _told_apart(found, masks, suffix)
        for source in itertools.chain(found, masks) if others else ():
            others.discard(source.label)
        left_out["images or masks by --mask_suffix"] += len(others)
    channels = {one[0].name: one for one in group(found, masks)}
    found = Packed(one[0] for one in channels.values()) if channels else found
    uncounted = {one.name for one in itertools.chain(found, masks) if one.is_uncounted}
    found, masks = (_first_pages(one, uncounted) for one in (found, masks))
    order, mask_order = _by_name(found, "images"), _by_name(masks, "masks")
    pairs = Packed[Pair]()
    for k, m in zip(order, mask_order, strict=False):
        image, mask = found[k], masks[m]
        if image.name != mask.name:
            break
        pairs.append(Pair(channels.get(image.name, (image,)), mask))
    if not len(pairs) == len(found) == len(masks):
        raise _without_partner(found, masks, settings)
    _check_apart(pairs)
    return pairs, left_out


def _files(
    settings: config.Prepare, find: Callable[[str, str], discovery.Found]
) -> tuple[Packed[Source], Packed[Source], collections.Counter[str]]:
    """Returns the files of images and of masks, by composed names, and what else is there."""
    places = [find(settings.images, "images")]
    # One folder is listed once; an .npz holds an array for each.
    if settings.images != settings.masks or settings.masks.lower().endswith(".npz"):
        places.append(find(settings.masks, "masks"))
    found = [Packed(map(_with_composed_name, one.sources)) for one in places]
    left_out = collections.Counter[str]()
    for one in places:
        left_out.update(one.left_out)
    return found[0], found[-1], left_out


def _others(found: Iterable[Source], masks: Iterable[Source], suffix: str) -> set[str]:
    """Returns what `_told_apart` leaves out of each side, by labels."""
    named = {one.label for one in found if _image_name(one.name, suffix) is not None}
    return named | {one.label for one in masks if _image_name(one.name, suffix) is None}


def _told_apart(
    found: Iterable[Source], masks: Iterable[Source], suffix: str
) -> tuple[Packed[Source], Packed[Source]]:
    """Returns the images, whose names lack the suffix, and the masks, by the images' names."""
    named = ((source, _image_name(source.name, suffix)) for source in masks)
    return (
        Packed(source for source in found if _image_name(source.name, suffix) is None),
        Packed(dataclasses.replace(one, name=name) for one, name in named if name is not None),
    )


def _without_partner(
    found: Iterable[Source], masks: Iterable[Source], settings: config.Prepare
) -> InputError:
    """Returns what says which image has no mask or, if each has one, which mask no image."""
    named = {source.name for source in masks}
    for source in found:
        if source.name not in named:
            return InputError(
                f"{source.label} has no mask: there is no {one_line(source.name)}"
                f"{_composed(settings.mask_suffix)} in --masks={settings.masks}; add it, remove "
                "the image, or see --mask_suffix."
            )
    named = {source.name for source in found}
    mask = next(source for source in masks if source.name not in named)
    return InputError(
        f"{mask.label} has no image: there is no {one_line(mask.name)} in --images="
        f"{settings.images}; add it, remove the mask, or see --mask_suffix."
    )


def _check_apart(pairs: Iterable[Pair]) -> None:
    """Raises InputError if an image is its own mask."""
    for pair in pairs:
        if (pair.image.path, pair.image.row) == (pair.mask.path, pair.mask.row):
            raise InputError(
                f"{pair.image.label} would be an image and its own mask; give another --masks, or "
                "what masks have in their names: --mask_suffix=_mask."
            )


def _with_composed_name(source: Source) -> Source:
    name = _composed(source.name)
    return source if name == source.name else dataclasses.replace(source, name=name)


def _composed(name: str) -> str:
    """Returns a name in the one of Unicode's ways to write it that names are compared in."""
    return unicodedata.normalize("NFC", name)


def _image_name(mask: str, suffix: str) -> str | None:
    """Returns the name of the image of a mask, or None if the suffix makes it none.

    The masks of the pages of x are those of x_mask, or files x_p000_mask …
    """
    stem, page = discovery.split_page(mask)
    return stem.removesuffix(suffix) + page if stem.endswith(suffix) else None


def _first_pages(found: Packed[Source], stems: set[str]) -> Packed[Source]:
    """Makes one case of the pages of each of some files.

    So it pairs with its partner, whose pages cannot be counted: reading it gives the reason.
    """
    if not stems:
        return found
    kept = Packed[Source]()
    for source in found:
        stem, page = discovery.split_page(source.name)
        if not page or stem not in stems:
            kept.append(source)
        elif int(page.removeprefix("_p")) == 0:
            kept.append(dataclasses.replace(source, name=stem))
    return kept


def _by_name(found: Sequence[Source], flag: str) -> np.ndarray:
    """Returns the places of files in the order of their names, int64 [N].

    Raises:
        InputError: two have one name, or a name cannot be a case's.
    """
    names = np.array([source.name for source in found], object)
    order = np.argsort(names, kind="stable")
    twins = order[1:][names[order[1:]] == names[order[:-1]]]
    if twins.size:
        second = twins.min()
        other, label = found[np.flatnonzero(names == names[second])[0]].label, found[second].label
        same = (
            "are one name to Unicode, in two spellings"
            if _composed(other) == _composed(label)
            else "have the same stem"
        )
        raise InputError(
            f"{other} and {label} {same}, which names a case; rename one, or narrow --{flag}."
        )
    check_names(found)
    return order


def check_names(found: Iterable[Source]) -> None:
    """Raises InputError if a name cannot be a case's."""
    for source in found:
        if any(unicodedata.category(letter) in classes.LINE_BREAKING for letter in source.name):
            raise InputError(
                f"{source.label} has a line break or another control character in its name, which "
                "names a case; rename it."
            )
        try:
            source.name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{source.label} has a name that is not UTF-8, as a case's must be; rename it."
            ) from None
