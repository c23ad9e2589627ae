"""Where images and masks are, and what they are called, before any is read.

Images are files (PNG, JPEG, BMP, TIFF, DICOM, or one `.npy` array each), the pages of a TIFF, or
the rows of one `.npy` or `.npz` array.
"""

import concurrent.futures
import dataclasses
import glob
import os
import re
import tempfile
from collections.abc import Sequence

from trainer.data import arrays, reading, tiff
from trainer.errors import InputError
from trainer.stores import files, listing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ".npy")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an image or mask is.

    Attributes:
        name: what pairs an image with its mask: the file's stem, with "_p012" for a page of a TIFF
            that has several; or the row of an array as "00012".
        path: the file to read.
        row: of the array in the file, or page of the TIFF; None if the whole file is the image.
        label: how messages call it.
        is_uncounted: whether the file is so damaged that its pages cannot be counted.
    """

    name: str
    path: str
    row: int | None
    label: str
    is_uncounted: bool = False


def find(where: str, flag: str, scratch: str, max_pixels: int | None = None) -> list[Source]:
    """Returns the images of a folder, a glob or an array, in the order of their names.

    Args:
        where: the folder, glob, `.npy` (N×H×W[×C]) or `.npz` file; a folder's or glob's own `.npy`
            files are one image each, as each page of a TIFF is.
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
        return _rows(where, reading.shown(where), flag, scratch, max_pixels)
    if os.path.isdir(where):
        paths = [os.path.join(where, name) for name in _listed(where, flag)]
    else:
        paths = glob.glob(where, recursive=True)
        if not paths:
            pattern = glob.has_magic(where)
            found = "matches no file where files may be listed" if pattern else "does not exist"
            raise InputError(
                f"--{flag}={where} {found}; name a folder, a quoted glob, or a .npy or .npz file."
            )
    paths = sorted(path for path in paths if _is_image(path))
    sources = [source for path in paths for source in sources_of(path)]
    if not sources:
        raise InputError(f"--{flag}={where} holds no images ({', '.join(SUFFIXES)}).")
    return sources


def _listed(folder: str, flag: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(
            f"--{flag}={folder} cannot be listed: {error.strerror}; name another folder, or change "
            "who may read it."
        ) from None


def _find_in_store(where: str, flag: str, scratch: str, max_pixels: int | None) -> list[Source]:
    """Returns what a folder, a glob or an array in an object store holds."""
    if where.lower().endswith((".npy", ".npz")) and not glob.has_magic(where):
        local = os.path.join(scratch, f"{flag}-{os.path.basename(where)}")
        files.copy_from_store(where, local)
        return _rows(local, where, flag, scratch, max_pixels)
    pattern = where if glob.has_magic(where) else f"{where.rstrip('/')}/*"
    found = [path for path in files.find_in_store(pattern) if _has_image_name(path)]
    if not found:
        raise InputError(f"--{flag}={where} holds no images ({', '.join(SUFFIXES)}).")
    return [_file_source(path) for path in found]


def _rows(path: str, where: str, flag: str, scratch: str, max_pixels: int | None) -> list[Source]:
    """Returns the rows of a local `.npy` or `.npz` file, which messages call `where`."""
    path, count = arrays.find_rows(path, where, flag, scratch, max_pixels)
    digits = max(5, len(str(count)))
    return [Source(f"{row:0{digits}}", path, row, f"{where}[{row}]") for row in range(count)]


def with_pages(sources: Sequence[Source], scratch: str) -> list[Source]:
    """Returns images of a store with the pages of each TIFF in the place of the file.

    One with several is copied once and for all: its pages are far apart in the order of the data.

    Args:
        sources: what was found.
        scratch: a folder for the copies.

    Raises:
        InputError: the store refuses a request, or cannot be reached.
    """
    if not any(files.is_remote(source.path) for source in sources):
        return list(sources)
    with concurrent.futures.ThreadPoolExecutor(listing.REQUESTS) as pool:
        counts = list(pool.map(_count_pages, [source.path for source in sources]))
    found = []
    for source, count in zip(sources, counts, strict=True):
        pages = _pages(source.path, count)
        if len(pages) > 1:
            local = os.path.join(tempfile.mkdtemp(dir=scratch), os.path.basename(source.path))
            files.copy_from_store(source.path, local)
            pages = [dataclasses.replace(page, path=local) for page in pages]
        found += pages
    return found


def sources_of(path: str) -> list[Source]:
    """Returns the images in a file: the file, or the pages of a TIFF that has several."""
    if is_dicom(path):
        files.import_tensorflow_io(path)  # what is missing is said before any work
    return _pages(path, _count_pages(path))


def _pages(path: str, count: int | None) -> list[Source]:
    whole = _file_source(path)
    if count is None or count == 1:
        return [dataclasses.replace(whole, is_uncounted=count is None)]
    digits = max(3, len(str(count - 1)))
    return [
        Source(f"{whole.name}_p{page:0{digits}}", path, page, f"{whole.label}[{page}]")
        for page in range(count)
    ]


def _count_pages(path: str) -> int | None:
    """Returns the pages of a TIFF, None if it is damaged: reading it will say how; 1 of others."""
    if not path.lower().endswith((".tif", ".tiff")):
        return 1
    try:
        with files.opened(path) as file:
            return tiff.count_pages(file)
    except InputError:  # of the store
        raise
    except reading.DAMAGE:
        return None


def split_page(name: str) -> tuple[str, str]:
    """Returns the file's stem and "_p012" of a page's name; the latter is empty for others."""
    match = re.fullmatch(r"(.+)(_p\d{3,})", name)
    return (match[1], match[2]) if match else (name, "")


def _file_source(path: str) -> Source:
    return Source(os.path.splitext(os.path.basename(path))[0], path, None, reading.shown(path))


def _is_image(path: str) -> bool:
    return _has_image_name(path) and os.path.isfile(path)


def _has_image_name(path: str) -> bool:
    name = os.path.basename(path)
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def is_array(path: str) -> bool:
    """Whether a file is NumPy's `.npy`, by its name."""
    return path.lower().endswith(".npy")


def is_dicom(path: str) -> bool:
    """Whether a file is of DICOM, by its name."""
    return path.lower().endswith(".dcm")
