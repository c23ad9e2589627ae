"""Which mask belongs to which image, by their names."""

import collections
import dataclasses
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from trainer import config
from trainer.data.formats import discovery
from trainer.data.formats.discovery import Source
from trainer.data.prepare import classes
from trainer.data.prepare.pairs import Pair
from trainer.errors import InputError, one_line


def find_pairs(
    settings: config.Prepare, scratch: str
) -> tuple[list[Pair], collections.Counter[str]]:
    """Returns images with their masks, in the order of their names, and what else matched.

    Args:
        settings: say where they are, and how their names differ.
        scratch: folder for temporary files, to be kept as long as the pairs are used.

    Raises:
        InputError: naming the first file without a partner or with an ambiguous name.
    """

    def find(where: str, flag: str) -> discovery.Found:
        found = discovery.find(where, flag, scratch, settings.max_pixels)
        return discovery.with_pages(found, scratch)

    return pair(settings, find, lambda images, masks: [])


def pair(
    settings: config.Prepare,
    find: Callable[[str, str], discovery.Found],
    group: Callable[[Sequence[Source], Sequence[Source]], Sequence[tuple[Source, ...]]],
) -> tuple[list[Pair], collections.Counter[str]]:
    """Returns images with their masks, see `find_pairs`.

    Args:
        settings: say where they are, and how their names differ.
        find: (where, flag) → the files there.
        group: (images, masks) → the images that have a file for each channel, each file with the
            image's name; none if each file is an image.
    """
    at = {"images": find(settings.images, "images")}
    # One folder is listed once; an .npz holds an array for each.
    if settings.images == settings.masks and not settings.masks.lower().endswith(".npz"):
        at["masks"] = at["images"]
    else:
        at["masks"] = find(settings.masks, "masks")
    left_out = collections.Counter[str]()
    for one in {id(one): one for one in at.values()}.values():
        left_out.update(one.left_out)
    found, masks = (
        [dataclasses.replace(source, name=_composed(source.name)) for source in one.sources]
        for one in at.values()
    )
    suffix = _composed(settings.mask_suffix)
    if suffix:  # both may be in one folder
        there = {source.label for source in (*found, *masks)}
        found, masks = _told_apart(found, masks, suffix)
        used = {source.label for source in (*found, *masks)}
        left_out["images or masks by --mask_suffix"] += len(there - used)
    channels = {one[0].name: one for one in group(found, masks)}
    found = [one[0] for one in channels.values()] or found
    uncounted = {source.name for source in (*found, *masks) if source.is_uncounted}
    image_of = _by_name(_first_pages(found, uncounted), "images")
    mask_of = _by_name(_first_pages(masks, uncounted), "masks")
    _check_partners(image_of, mask_of, settings)
    pairs = [
        Pair(channels.get(name, (image_of[name],)), mask_of[name]) for name in sorted(image_of)
    ]
    _check_apart(pairs)
    return pairs, left_out


def _told_apart(
    found: Sequence[Source], masks: Sequence[Source], suffix: str
) -> tuple[list[Source], list[Source]]:
    """Returns the images, whose names lack the suffix, and the masks, by the images' names."""
    named = [(source, _image_name(source.name, suffix)) for source in masks]
    return (
        [source for source in found if _image_name(source.name, suffix) is None],
        [dataclasses.replace(source, name=name) for source, name in named if name is not None],
    )


def _check_partners(
    image_of: Mapping[str, Source],
    mask_of: Mapping[str, Source],
    settings: config.Prepare,
) -> None:
    for name, source in image_of.items():
        if name not in mask_of:
            raise InputError(
                f"{source.label} has no mask: there is no {one_line(name)}"
                f"{_composed(settings.mask_suffix)} in --masks={settings.masks}; add it, remove "
                "the image, or see --mask_suffix."
            )
    for name, source in mask_of.items():
        if name not in image_of:
            raise InputError(
                f"{source.label} has no image: there is no {one_line(name)} in --images="
                f"{settings.images}; add it, remove the mask, or see --mask_suffix."
            )


def _check_apart(pairs: Sequence[Pair]) -> None:
    """Raises InputError if an image is its own mask."""
    for pair in pairs:
        if (pair.image.path, pair.image.row) == (pair.mask.path, pair.mask.row):
            raise InputError(
                f"{pair.image.label} would be an image and its own mask; give another --masks, or "
                "what masks have in their names: --mask_suffix=_mask."
            )


def _composed(name: str) -> str:
    """Returns a name in the one of Unicode's ways to write it that names are compared in."""
    return unicodedata.normalize("NFC", name)


def _image_name(mask: str, suffix: str) -> str | None:
    """Returns the name of the image of a mask, or None if the suffix makes it none.

    The masks of the pages of x are those of x_mask, or files x_p000_mask …
    """
    stem, page = discovery.split_page(mask)
    return stem.removesuffix(suffix) + page if stem.endswith(suffix) else None


def _first_pages(found: Sequence[Source], stems: set[str]) -> list[Source]:
    """Makes one case of the pages of each of some files.

    So it pairs with its partner, whose pages cannot be counted: reading it gives the reason.
    """
    kept = []
    for source in found:
        stem, page = discovery.split_page(source.name)
        if not page or stem not in stems:
            kept.append(source)
        elif int(page.removeprefix("_p")) == 0:
            kept.append(dataclasses.replace(source, name=stem))
    return kept


def _by_name(found: Sequence[Source], flag: str) -> dict[str, Source]:
    named: dict[str, Source] = {}
    for source in found:
        if source.name in named:
            other = named[source.name].label
            same = (
                "are one name to Unicode, in two spellings"
                if _composed(other) == _composed(source.label)
                else "have the same stem"
            )
            raise InputError(
                f"{other} and {source.label} {same}, which names a case; rename one, or narrow "
                f"--{flag}."
            )
        named[source.name] = source
    check_names(found)
    return named


def check_names(found: Sequence[Source]) -> None:
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
