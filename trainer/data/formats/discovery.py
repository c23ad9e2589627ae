"""Where images and masks are, and what they are called, before any is read.

Images are files (PNG, JPEG, BMP, GIF, WebP, TIFF, DICOM, or one `.npy` array each), the pages of a
TIFF, or the rows of one `.npy` or `.npz` array. What else matched is counted.
"""

import collections
import dataclasses
import functools
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from absl import logging

from trainer.data.formats import dicom, naming, npy, reading, stacks
from trainer.data.packed import Packed, reduce_to_fields
from trainer.errors import InputError, one_line
from trainer.storage import files, listing, parallel

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".dcm", ".npy"),
)
HIDDEN = ("thumbs.db", "desktop.ini")  # beside those whose names begin with a dot
COPIES = "reduced pages"


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Where an image or mask is.

    Attributes:
        name: what pairs an image with its mask, see `naming`, with "_p012" for an image of a TIFF
            that has several; or the row of an array as "00012".
        path: the file to read.
        row: of the array in the file, or number of the image in the TIFF; None if the whole file is
            the image.
        label: how messages call it.
        is_uncounted: whether the file is so damaged that its pages cannot be counted.
        planes: of an image of a TIFF that has several; None of any other.
        is_series: whether the path is a folder of DICOM slices, which make one volume.
    """

    name: str
    path: str
    row: int | None
    label: str
    is_uncounted: bool = False
    planes: stacks.Planes | None = None
    is_series: bool = False

    __reduce__ = reduce_to_fields


@dataclasses.dataclass(frozen=True)
class FileKind:
    """What files are looked for.

    Attributes:
        noun: what messages call them.
        suffixes: of their names.
        has_slices: whether DICOM files without a suffix are among them.
        remedy: a sentence for where there is none, but other files are.
    """

    noun: str
    suffixes: tuple[str, ...]
    has_slices: bool = False
    remedy: str = ""

    def has(self, path: str) -> bool:
        """Whether a file is of this kind."""
        if path.lower().endswith(self.suffixes):
            return True
        return self.has_slices and not files.is_remote(path) and dicom.is_slice(path)


IMAGES = FileKind("images", SUFFIXES)


@dataclasses.dataclass(frozen=True)
class Found:
    """What is at a place.

    Attributes:
        sources: the images, in the order of their names.
        left_out: what else matched, in the plural ("hidden files"), and how many.
    """

    sources: Sequence[Source]
    left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def find(where: str, flag: str, scratch: str, max_pixels: int | None = None) -> Found:
    """Returns the images of a folder, a glob or an array, and warns of other files.

    Args:
        where: the folder, glob, `.npy` (N×H×W[×C]) or `.npz` file; a folder's or glob's own `.npy`
            files are one image each, as each page of a TIFF is. Of a folder without images of its
            own, those of the folders in it, however deep.
        flag: that named it, for messages: "images" or "masks", also looked for in an `.npz`.
        scratch: a folder for the unpacked array of an `.npz`.
        max_pixels: the most pixels, height × width, of an array's rows; None if they need not be
            read as a whole.

    Raises:
        InputError: if there are none, or they cannot be listed or are too large.
    """
    if files.is_remote(where):
        return _find_in_store(where, flag, scratch, max_pixels)
    if where.lower().endswith((".npy", ".npz")) and os.path.isfile(where):
        return Found(_rows(where, one_line(where), flag, scratch, max_pixels))
    images, left_out = named_files(where, flag)
    return _joined((_images_of(path, name) for path, name in images), left_out)


def named_files(
    where: str, flag: str, kind: FileKind = IMAGES
) -> tuple[Iterator[tuple[str, str]], collections.Counter[str]]:
    """Returns the files of a kind at a place, (path, name), and counts and warns of other files.

    Args:
        where: a folder, or a glob; of a folder without such files those of the folders in it.
        flag: that named it, for messages.
        kind: of the files.

    Raises:
        InputError: there are none, or they cannot be listed.
    """
    paths, called = _listing(where, flag, kind)
    images, left_out = _sorted_out(paths, where, flag, kind)
    return ((path, called(path)) for path in images), left_out


def listed_files(where: str, flag: str, kind: FileKind) -> list[str]:
    """Returns all that `named_files` chooses from."""
    return _listing(where, flag, kind)[0]


def _listing(where: str, flag: str, kind: FileKind) -> tuple[list[str], Callable[[str], str]]:
    """Returns all that is at a place, and what names each."""
    is_remote = files.is_remote(where)
    if os.path.isdir(where) or (is_remote and not glob.has_magic(where)):
        folder = where.rstrip("/") if is_remote else where
        in_folder = _in_remote_folder(folder, kind) if is_remote else _in_folder(where, flag, kind)
        return in_folder, functools.partial(naming.below_folder, folder=folder)
    paths = files.find_in_store(where) if is_remote else glob.glob(where, recursive=True)
    if not paths and not is_remote:
        is_pattern = glob.has_magic(where)
        why = "matches no file where files may be listed" if is_pattern else "does not exist"
        raise InputError(
            f"--{flag}={where} {why}; name a folder, a quoted glob, or a .npy or .npz file."
        )
    if "**" in where and not is_remote:  # folders lead to the files
        paths = [path for path in paths if not os.path.isdir(path)]
    return paths, functools.partial(naming.by_glob, pattern=where)


def _in_remote_folder(folder: str, kind: FileKind) -> list[str]:
    paths = files.find_in_store(f"{folder}/*")
    if any(_kind_of_other(path, kind) is None for path in paths):
        return paths
    return files.find_below(folder)


def local_copy(source: Source, path: str) -> Source:
    """Returns a source on the local disk; what is in a store is copied.

    A series is copied slice by slice, and of a TIFF that has several images the one alone.

    Args:
        source: where it is.
        path: of the copy, without its suffix.
    """
    if not files.is_remote(source.path):
        return source
    if source.is_series:
        os.mkdir(path)
        for slice_path in files.find_in_store(f"{source.path}/*"):
            files.copy_from_store(slice_path, os.path.join(path, os.path.basename(slice_path)))
    else:
        path += naming.suffix(source.path)
        if source.planes and source.planes.ranges:
            _copy_parts(source.path, source.planes, path)
        else:
            files.copy_from_store(source.path, path)
    return dataclasses.replace(source, path=path)


def _copy_parts(path: str, planes: stacks.Planes, local: str) -> None:
    """Makes a file of one image of a TIFF; the disk keeps no blocks for the parts between."""
    with open(local, "wb") as file:
        for first, end in planes.ranges:
            file.seek(first)
            files.copy_part(path, first, end, file)
        file.seek(0)
        file.write(planes.start)


def told(left_out: Mapping[str, int]) -> str:
    """Returns the end of a command's last line, with what matched and is left out, if any."""
    others = ", ".join(f"{kind}: {count}" for kind, count in left_out.items() if count)
    return f" Left out: {others}." if others else ""


def root_of(where: str) -> str:
    """Returns the folder that all images are in: that of a glob without its wildcards."""
    parts = where.split("/")
    magic = next((k for k, part in enumerate(parts) if glob.has_magic(part)), None)
    return where if magic is None else "/".join(parts[:magic]) or ("/" if where[0] == "/" else ".")


def _sorted_out(
    paths: Sequence[str], where: str, flag: str, file_kind: FileKind
) -> tuple[list[str], collections.Counter[str]]:
    """Returns the paths that have an image's name, in order, and what the others are.

    Raises:
        InputError: there are no images; the message says what is there instead.
    """
    images, others = [], collections.defaultdict(list)
    for path in sorted(_without_voxels(paths)):
        kind = _kind_of_other(path, file_kind)
        if kind is None:
            images.append(path)
        else:
            others[kind].append(path)
    told = [_told(kind, one) for kind, one in others.items() if kind != "hidden files"]
    if not images:
        there = "".join(f" It has {one}." for one in told)
        there += f" {file_kind.remedy}" if told and file_kind.remedy else ""
        suffixes = ", ".join(file_kind.suffixes)
        raise InputError(f"--{flag}={where} holds no {file_kind.noun} ({suffixes}).{there}")
    for one in told:
        logging.warning("Left out of --%s: %s.", flag, one)
    return images, collections.Counter({kind: len(one) for kind, one in others.items()})


def _without_voxels(paths: Sequence[str]) -> list[str]:
    """Returns the paths but for the voxels of each MetaImage, which its `.mhd` is read with."""
    headers = {path.removesuffix(".mhd") for path in paths if path.endswith(".mhd")}
    return [
        path
        for path in paths
        if not (path.endswith((".raw", ".zraw")) and os.path.splitext(path)[0] in headers)
    ]


def _kind_of_other(path: str, kind: FileKind) -> str | None:
    """Returns what a path is, in the plural, None if it is of the kind that is looked for."""
    name = os.path.basename(path).lower()
    if name.startswith(".") or name in HIDDEN:
        return "hidden files"
    if files.is_remote(path):
        return None if kind.has(path) else _by_suffix(name)
    if os.path.isdir(path):
        return "folders"
    if not os.path.isfile(path):
        return "broken links" if os.path.islink(path) else "special files"
    return None if kind.has(path) else _by_suffix(name)


def _by_suffix(name: str) -> str:
    suffix = one_line(naming.suffix(name))
    return f"{suffix} files" if suffix else "files without a suffix"


def _told(kind: str, paths: Sequence[str]) -> str:
    """Returns how many there are of a kind, and what the first of them is."""
    first = one_line(paths[0])
    if os.path.isfile(paths[0]):
        with reading.translate_errors(first):
            first = f"{first} is {reading.kind_of(paths[0])}"
    return f"{kind}: {len(paths)} ({first})"


def _joined(found: Iterable[Found], others: collections.Counter[str]) -> Found:
    """Returns what is in several files, beside others; warns of pages that are left out."""
    sources, left_out, first = Packed[Source](), collections.Counter[str](), ""
    for one in found:
        for source in one.sources:
            sources.append(source)
        left_out.update(one.left_out)
        first = first or (one.sources[0].path if one.left_out[COPIES] else "")
    if first:
        logging.warning(
            "Left out: %d pages of TIFFs that are reduced copies, thumbnails or masks of others "
            "(of %s, for one).",
            left_out[COPIES],
            one_line(first),
        )
    return Found(sources, others + left_out)


def _in_folder(folder: str, flag: str, kind: FileKind) -> list[str]:
    """Returns what is in a folder or, if no file of the kind is, in the folders in it."""
    paths = [os.path.join(folder, name) for name in _listed(folder, flag)]
    if any(_kind_of_other(path, kind) is None for path in paths):
        return paths
    found, seen = [], set()
    while paths:
        path = paths.pop()
        if not os.path.isdir(path) or os.path.basename(path).startswith("."):
            found.append(path)
        elif os.path.realpath(path) not in seen:  # links may lead back
            seen.add(os.path.realpath(path))
            paths += [os.path.join(path, name) for name in _listed(path, flag)]
    return found


def _listed(folder: str, flag: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(
            f"--{flag}={folder} cannot be listed: {error.strerror}; name another folder, or change "
            "who may read it."
        ) from None


def _find_in_store(where: str, flag: str, scratch: str, max_pixels: int | None) -> Found:
    """Returns what a folder, a glob or an array in an object store holds."""
    if where.lower().endswith((".npy", ".npz")) and not glob.has_magic(where):
        local = os.path.join(scratch, f"{flag}-{os.path.basename(where)}")
        files.copy_from_store(where, local)
        return Found(_rows(local, where, flag, scratch, max_pixels))
    images, left_out = named_files(where, flag)
    return Found(Packed(_file_source(path, name) for path, name in images), left_out)


def _rows(
    path: str, where: str, flag: str, scratch: str, max_pixels: int | None
) -> Sequence[Source]:
    """Returns the rows of a local `.npy` or `.npz` file, which messages call `where`."""
    path, count = npy.find_rows(path, where, flag, scratch, max_pixels)
    digits = max(5, len(str(count)))
    return Packed(Source(f"{row:0{digits}}", path, row, f"{where}[{row}]") for row in range(count))


def with_pages(found: Found) -> Found:
    """Returns images of a store with those of each TIFF in the place of the file.

    Raises:
        InputError: the store refuses a request, or cannot be reached.
    """
    if not files.is_remote(found.sources[0].path):  # all are at one place
        return found
    opened = parallel.each(_reopened, found.sources, listing.REQUESTS)
    return _joined(opened, found.left_out)


def _reopened(source: Source) -> Found:
    return _images_of(source.path, source.name)


def _images_of(path: str, name: str) -> Found:
    if is_dicom(path):
        dicom.import_pydicom(path)  # missing packages are reported before any work
    whole = _file_source(path, name)
    if not path.lower().endswith((".tif", ".tiff")):
        return Found([whole])
    found = _opened(whole)
    if found is None:
        return Found([dataclasses.replace(whole, is_uncounted=True)])
    left_out = collections.Counter({COPIES: found.copies} if found.copies else {})
    if len(found.images) == 1:
        return Found([whole], left_out)
    digits = max(3, len(str(len(found.images) - 1)))
    images = [
        Source(
            name=f"{whole.name}_p{number:0{digits}}",
            path=path,
            row=number,
            label=f"{whole.label}[{number}]",
            planes=planes,
        )
        for number, planes in enumerate(found.images)
    ]
    return Found(images, left_out)


def _opened(source: Source) -> stacks.Found | None:
    """Returns what a TIFF holds, None if it is damaged: reading it raises the error."""
    try:
        with reading.translate_errors(source.label), files.opened(source.path) as file:
            return stacks.find(file, source.label)
    except reading.UnreadableError:
        return None


def split_page(name: str) -> tuple[str, str]:
    """Returns the file's stem and "_p012" of a page's name; the latter is empty for others."""
    match = re.fullmatch(r"(.+)(_p\d{3,})", name)
    return (match[1], match[2]) if match else (name, "")


def _file_source(path: str, name: str) -> Source:
    return Source(name, path, None, one_line(path))


def is_array(path: str) -> bool:
    """Whether a file is NumPy's `.npy`, by its name."""
    return path.lower().endswith(".npy")


def is_dicom(path: str) -> bool:
    """Whether a file is of DICOM, by its name."""
    return path.lower().endswith(".dcm")
