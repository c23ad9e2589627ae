"""The names of images and masks: their path below the given folder, without the suffix.

So patient folders may hold files of equal names. Of a glob only the parts with wildcards count, and
`images/*/scan/*.png` pairs with `masks/*/label/*.png`.
"""

import glob
import os

ANY = "**"  # matches any number of folders


def below_folder(path: str, folder: str) -> str:
    """Returns the name of a file in a folder, or in a folder in it."""
    parts, root = _parts(path), _parts(folder)
    return "/".join([*parts[len(root) : -1], stem(parts[-1])])


def by_glob(path: str, pattern: str) -> str:
    """Returns the name of a file that matches a glob; its stem if there are no wildcards."""
    parts, wanted = _parts(path), _parts(pattern)
    if ANY in wanted:  # it matches as many folders as make the rest fit
        first, last = wanted.index(ANY), len(wanted) - wanted[::-1].index(ANY)
        wide = len(parts) - first - (len(wanted) - last)
        wanted = [*wanted[:first], *[ANY] * wide, *wanted[last:]]
    kept = [
        stem(part) if place == len(parts) else part
        for place, (part, want) in enumerate(zip(parts, wanted, strict=True), 1)
        if glob.has_magic(want)
    ]
    return "/".join(kept) or stem(parts[-1])


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def stem(path: str) -> str:
    """Returns the name of a file by itself."""
    name = os.path.basename(path)
    return name.removesuffix(suffix(name))


def suffix(path: str) -> str:
    """Returns how the name of a file ends: of "scan.nii.gz" all of ".nii.gz"."""
    rest, last = os.path.splitext(os.path.basename(path))
    inner = os.path.splitext(rest)[1] if last.lower() == ".gz" else ""
    return inner + last if inner.lower() == ".nii" else last
