"""Reads pictures and arrays as they are: no scaling, no loss, no more memory than one image takes.

Images are files (PNG, JPEG, BMP, TIFF, DICOM, or one `.npy` array each), the pages of a TIFF, or
the rows of one `.npy` or `.npz` array. They come as uint8, uint16 or float32: 1-bit pictures as 0
and 255, palettes as the colours they stand for, integers of other widths as float32. Masks come as
integers: 1-bit and boolean ones as 0 and 1, palettes as their indices, RGB with equal channels as
one of them.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import glob
import math
import os
import re
import struct
import tempfile
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from PIL import Image

from trainer import flags
from trainer.data import dicom, tiff
from trainer.errors import InputError
from trainer.stores import files, listing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ".npy")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # no other of Pillow's decoders meets foreign files
EXACT_IN_FLOAT32 = 2**24
MOST_SAMPLES = 4  # of a pixel of a picture

# What decoders and NumPy's headers raise on damaged files, seen by damaging some.
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, ArithmeticError),
    *(struct.error, zlib.error, tokenize.TokenError, zipfile.BadZipFile, *tiff.DAMAGE),
)


class UnreadableError(InputError):
    """A picture that is damaged, cut short or of an unknown format; others may be fine."""


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


@dataclasses.dataclass(frozen=True)
class Pixels:
    """An image as it was read.

    Attributes:
        values: uint8, uint16 or float32 [H, W, C].
        alpha: whether the last channel is transparency.
    """

    values: np.ndarray
    alpha: bool

    @property
    def colours(self) -> np.ndarray:
        """The channels but for alpha."""
        return self.values[..., :-1] if self.alpha else self.values

    @property
    def is_opaque(self) -> bool:
        """Whether alpha, if there is one, is full everywhere."""
        return not self.alpha or bool((self.values[..., -1] == _full(self.values.dtype)).all())

    @property
    def is_grey(self) -> bool:
        """Whether one channel says it all: a single one, or three equal ones."""
        colours = self.colours
        if colours.shape[2] == 3:
            return all(np.array_equal(colours[..., 0], colours[..., k]) for k in (1, 2))
        return colours.shape[2] == 1


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
        return _rows(where, shown(where), flag, scratch, max_pixels)
    if os.path.isdir(where):
        paths = [os.path.join(where, name) for name in _listed(where, flag)]
    else:
        paths = glob.glob(where, recursive=True)
        if not paths:
            raise InputError(
                f"--{flag}={where} does not exist; name a folder, a quoted glob, or a .npy or .npz "
                "file."
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


def _is_image(path: str) -> bool:
    return _has_image_name(path) and os.path.isfile(path)


def _has_image_name(path: str) -> bool:
    name = os.path.basename(path)
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _is_array(path: str) -> bool:
    return path.lower().endswith(".npy")


def _is_dicom(path: str) -> bool:
    return path.lower().endswith(".dcm")


def _file_source(path: str) -> Source:
    return Source(os.path.splitext(os.path.basename(path))[0], path, None, shown(path))


def shown(path: str) -> str:
    """Returns a path or name on one line: what cannot be printed is escaped, as are stray bytes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def sources_of(path: str) -> list[Source]:
    """Returns the images in a file: the file, or the pages of a TIFF that has several."""
    if _is_dicom(path):
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
    except DAMAGE:
        return None


def split_page(name: str) -> tuple[str, str]:
    """Returns the file's stem and "_p012" of a page's name; the latter is empty for others."""
    match = re.fullmatch(r"(.+)(_p\d{3,})", name)
    return (match[1], match[2]) if match else (name, "")


def _rows(path: str, where: str, flag: str, scratch: str, max_pixels: int | None) -> list[Source]:
    """Returns the rows of a local `.npy` or `.npz` file, which messages call `where`."""
    if path.lower().endswith(".npz"):
        path = _unpack(path, where, flag, scratch, max_pixels)
    else:
        with _reading(where), open(path, "rb") as file:
            _check_rows(_read_header(file, where), where, flag, max_pixels)
    count = _memory_map(path, where).shape[0]
    digits = max(5, len(str(count)))
    return [Source(f"{row:0{digits}}", path, row, f"{where}[{row}]") for row in range(count)]


def _check_rows(header: "_Header", where: str, flag: str, max_pixels: int | None) -> None:
    if len(header.shape) not in (3, 4) or 0 in header.shape:
        raise InputError(
            f"--{flag}={where} has shape {header.shape}; expected N×H×W or N×H×W×C, images first."
        )
    if max_pixels is not None:
        _check_array_size(f"Each image of {where}", header.shape[1:], max_pixels)


def _unpack(path: str, where: str, flag: str, scratch: str, max_pixels: int | None) -> str:
    """Copies the array of an `.npz` to `scratch`, so that it can be read row by row.

    No more is copied than its header says, which is read and checked before.
    """
    unpacked = os.path.join(scratch, f"{flag}.npy")
    with _reading(where), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        chosen = f"{flag}.npy" if f"{flag}.npy" in names else names[0] if names else ""
        if chosen != f"{flag}.npy" and len(names) != 1:
            arrays = ", ".join(shown(name.removesuffix(".npy")) for name in names)
            raise InputError(
                f"{where} holds the arrays {arrays or '(none)'}; name the one to use {flag!r}."
            )
        with archive.open(chosen) as member:
            header = _read_header(member, where)
            _check_rows(header, where, flag, max_pixels)
        with archive.open(chosen) as member, open(unpacked, "wb") as file:
            left = header.file_bytes
            while left and (block := member.read(min(left, files.BLOCK))):
                file.write(block)
                left -= len(block)
    return unpacked


@dataclasses.dataclass(frozen=True)
class _Header:
    """What a `.npy` file says of its array, and how many bytes it has if that is true."""

    shape: tuple[int, ...]
    file_bytes: int


def _memory_map(path: str, label: str) -> np.ndarray:
    """Returns the array of a `.npy` file, read from disk where it is touched; never unpickles."""
    with _reading(label):
        with open(path, "rb") as file:
            header = _read_header(file, label)
        if os.path.getsize(path) < header.file_bytes:  # else NumPy counts on, and warns of that
            raise EOFError(f"it has {os.path.getsize(path)} of its {header.file_bytes} bytes")
        return np.lib.format.open_memmap(path, mode="r")


def _read_header(file: IO[bytes], label: str) -> _Header:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"its format has version {version}")
    shape, _, dtype = readers[version](file)
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    if dtype.hasobject:
        raise InputError(
            f"{label} holds pickled Python objects, which could run any code and are never "
            "unpickled; save numbers: numpy.save(path, numpy.stack(images))."
        )
    if dtype.kind not in "buif":
        raise InputError(f"{label} holds {dtype}; expected integers, floats or booleans.")
    return _Header(shape, file.tell() + math.prod(shape) * dtype.itemsize)


@contextlib.contextmanager
def _reading(label: str) -> Iterator[None]:
    """Makes damage that is met within an UnreadableError, without the warnings on the way there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except DAMAGE as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # of the disk that is copied to
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= 200 else reason[:197] + "…"
        raise UnreadableError(f"{label} cannot be read: {reason}.") from None


def read_image(source: Source, max_pixels: int) -> Pixels:
    """Returns an image as it is stored.

    Args:
        source: where it is.
        max_pixels: the most pixels, height × width, that are decoded.

    Raises:
        UnreadableError: if the file is damaged.
        InputError: if it is too large, or of a kind that is not read.
    """
    if _is_array(source.path):
        values, alpha = _array(source, max_pixels), False
        if values.dtype == bool:
            values = values * np.uint8(255)
    elif _is_dicom(source.path):
        values, alpha = _dicom(source, max_pixels, dicom.check_image), False
    else:
        values, alpha = _decode(source, max_pixels, _picture_values)
    values = as_stored(values, source.label)
    return Pixels(values if values.ndim == 3 else values[..., None], alpha)


def read_mask(source: Source, max_pixels: int) -> np.ndarray:
    """Returns the class values of a mask, integers [H, W], as they are stored.

    Args:
        source: where it is.
        max_pixels: the most pixels, height × width, that are decoded.

    Raises:
        UnreadableError: if the file is damaged.
        InputError: if it is too large, or does not have one exact value a pixel.
    """
    if _is_array(source.path):
        values, alpha = _array(source, max_pixels), False
    elif _is_dicom(source.path):
        values, alpha = _dicom(source, max_pixels, dicom.check_mask), False
    else:
        values, alpha = _decode(source, max_pixels, _mask_values)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.ndim == 3:
        values = _single_channel(Pixels(values, alpha), source.label)
    if values.dtype.kind == "f":
        values = _whole_numbers(values, source.label)
    return values


def convert(pixels: Pixels, channels: int, dtype: str, label: str) -> np.ndarray:
    """Returns an image with the channels and dtype of a data set.

    Grey is repeated for 3 channels; colours become luminance (ITU-R 601) for 1; alpha is dropped
    unless `channels` is one more than the colours, and is full where there is none. 8-bit values
    are scaled by 257 for 16 bits, which maps full to full.

    Args:
        pixels: the image.
        channels: wanted.
        dtype: wanted: "uint8", "uint16" or "float32".
        label: the image's name, for messages.

    Returns:
        `dtype` [H, W, channels].

    Raises:
        InputError: if no rule leads there.
    """
    values = _with_channels(pixels, channels, label)
    if values.dtype == dtype:
        return values
    if values.dtype == np.uint8 and dtype == "uint16":
        return values.astype(np.uint16) * np.uint16(257)
    raise InputError(
        f"{label} has {values.dtype} pixels and the data are {dtype}; no rule makes them "
        "comparable: convert the image."
    )


def check_convertible(colours: int, channels: int, label: str) -> None:
    """Raises InputError if `convert` has no rule from so many colours to so many channels."""
    if channels != colours and not (colours in (1, 3) and channels in (1, 2, 3, 4)):
        raise InputError(
            f"{label} has {colours} channels, which cannot become {channels}; give images of one "
            "kind, or another --channels."
        )


def _with_channels(pixels: Pixels, channels: int, label: str) -> np.ndarray:
    colours = pixels.colours
    count = colours.shape[2]
    check_convertible(count, channels, label)
    if channels == count:
        return colours
    if channels == 3:
        return np.repeat(colours, 3, axis=2)
    if channels == 1:
        return colours[..., :1] if pixels.is_grey else _luminance(colours)
    opaque = np.full((*colours.shape[:2], 1), _full(colours.dtype), colours.dtype)
    alpha = pixels.values[..., -1:] if pixels.alpha else opaque
    return np.concatenate([_with_channels(pixels, channels - 1, label), alpha], axis=2)


def _luminance(colours: np.ndarray) -> np.ndarray:
    """Returns [H, W, 1]: 0.299 R + 0.587 G + 0.114 B, rounded as Pillow rounds it."""
    if colours.dtype == np.float32:
        return colours @ np.array([[0.299], [0.587], [0.114]], np.float32)
    red, green, blue = (colours[..., k : k + 1].astype(np.uint64) for k in range(3))
    grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return grey.astype(colours.dtype)


def _full(dtype: np.dtype) -> int:
    return 1 if dtype.kind == "f" else int(np.iinfo(dtype).max)


def map_array(source: Source) -> np.ndarray:
    """Returns the array of a `.npy` source, read from disk where it is touched."""
    array = _memory_map(source.path, source.label)
    return array if source.row is None else array[source.row]


def _array(source: Source, max_pixels: int) -> np.ndarray:
    array = map_array(source)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(f"{source.label} has shape {array.shape}; expected H×W or H×W×C.")
    _check_array_size(source.label, array.shape, max_pixels)
    # The one copy: what was mapped is let go.
    return np.array(array, array.dtype.newbyteorder("="))


def _dicom(
    source: Source, max_pixels: int, check: Callable[[dicom.Header, str], None]
) -> np.ndarray:
    with _reading(source.label), open(source.path, "rb") as file:
        data = file.read()
        header = dicom.read_header(data, source.label)
        check(header, source.label)
        _check_size(source.label, header.rows, header.columns, max_pixels)
        return dicom.decode(data, header, source.label)


def _decode(source: Source, max_pixels: int, values_of: Any) -> tuple[np.ndarray, bool]:
    """Opens a picture, checks its header and returns `values_of` it and whether it has alpha."""
    with _reading(source.label):
        found = _tiff(source, max_pixels)
        if found is not None:
            return found
        with _open(source.path) as picture:
            if source.row is not None:
                picture.seek(source.row)
            width, height = picture.size
            _check_size(source.label, height, width, max_pixels)
            if picture.mode[0] != "I" and picture.format == "PNG" and _png_bits(source.path) == 16:
                return _sixteen_bit_png(source)
            return values_of(picture, source)


def _tiff(source: Source, max_pixels: int) -> tuple[np.ndarray, bool] | None:
    """Returns the values of a TIFF that Pillow would not read right, None of any other file."""
    if not tiff.is_tiff(source.path):
        return None
    if source.row is None:
        with open(source.path, "rb") as file:
            count = tiff.count_pages(file)
        if count > 1:
            raise InputError(
                f"{source.label} is a TIFF of {count} pages; give it a name that ends in .tif, and "
                "each page is an image."
            )
    with tiff.open_page(source.path, source.row or 0) as page:
        if not tiff.is_beyond_pillow(page):
            return None
        tiff.check(page, source.label)
        _check_size(source.label, page.imagelength, page.imagewidth, max_pixels)
        if page.is_tiled:  # tiles of a small image may be large
            _check_size(f"A tile of {source.label}", page.tilelength, page.tilewidth, max_pixels)
        return tiff.read(page)


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    """Opens a picture without Pillow's own limit of pixels: ours is checked next, with its flag.

    Pillow is given the file and not its name: by name it maps plain TIFFs into memory, and those
    that lie on their side with rows of the wrong length.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
            yield picture
    except Image.UnidentifiedImageError:
        if tiff.is_tiff(path):
            raise ValueError("it is damaged, or a TIFF of a kind that is not read") from None
        raise ValueError(f"it is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(label: str, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise InputError(
            f"{label} has {height}×{width} = {height * width} pixels, more than --max_pixels="
            f"{max_pixels}; if it is what it should be, raise --max_pixels, else remove it."
        )


def _check_array_size(label: str, shape: tuple[int, ...], max_pixels: int) -> None:
    """Holds an array to the pixels of a picture, and to as many values as its pixels can have."""
    _check_size(label, shape[0], shape[1], max_pixels)
    if math.prod(shape) > MOST_SAMPLES * max_pixels:
        raise InputError(
            f"{label} has {'×'.join(map(str, shape))} = {math.prod(shape)} values, more than "
            f"{MOST_SAMPLES} for each pixel of --max_pixels={max_pixels}; if it is what it should "
            "be, raise --max_pixels, else remove it."
        )


def _picture_values(picture: Any, source: Source) -> tuple[np.ndarray, bool]:
    if picture.mode in ("P", "PA"):
        transparent = picture.mode == "PA" or picture.has_transparency_data
        picture = picture.convert("RGBA" if transparent else "RGB")
    elif picture.mode in ("CMYK", "YCbCr"):
        picture = picture.convert("RGB")
    elif picture.mode == "La":  # multiplied by alpha
        picture = picture.convert("LA")
    elif picture.mode == "1":
        picture = picture.convert("L")
    _check_mode(picture.mode, ("L", "LA", "RGB", "RGBA"), source.label)
    return _values(picture), picture.mode in ("LA", "RGBA")


def _mask_values(picture: Any, source: Source) -> tuple[np.ndarray, bool]:
    if picture.format == "JPEG":
        raise InputError(
            f"{source.label} is a JPEG, whose compression changes class values; save masks as PNG."
        )
    _check_mode(picture.mode, ("1", "P", "L", "LA", "RGB", "RGBA"), source.label)
    return _values(picture), picture.mode in ("LA", "RGBA")


def _check_mode(mode: str, modes: tuple[str, ...], label: str) -> None:
    if mode not in (*modes, "F") and not mode.startswith("I"):
        raise InputError(f"{label} has mode {mode}, which is not read; convert it to RGB or grey.")


def _values(picture: Any) -> np.ndarray:
    """Returns the decoded values in native byte order."""
    values = np.asarray(picture)
    if picture.mode == "I" and picture.format == "PNG":
        values = values.astype(np.uint16)  # PNG has no more bits; older Pillows say "I"
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _png_bits(path: str) -> int:
    with open(path, "rb") as file:
        return file.read(25)[24]  # the header's bit depth


def _sixteen_bit_png(source: Source) -> tuple[np.ndarray, bool]:
    """Decodes colours and alpha that Pillow would silently cut to 8 bits."""
    with flags.quiet_import():
        import tensorflow as tf  # rare, and takes seconds; see the docstring of `records`

    with open(source.path, "rb") as file:
        data = file.read()
    try:
        values = tf.io.decode_png(data, dtype=tf.uint16).numpy()
    except tf.errors.InvalidArgumentError:
        raise UnreadableError(f"{source.label} cannot be read: its PNG data are damaged.") from None
    return values, values.shape[2] in (2, 4)


def as_stored(values: np.ndarray, label: str) -> np.ndarray:
    """Returns uint8 and uint16 as they are, all else as float32."""
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype.kind in "iu" and values.size:
        largest = max(abs(int(values.min())), abs(int(values.max())))
        if largest > EXACT_IN_FLOAT32:
            raise InputError(
                f"{label} has the value {largest}, beyond {EXACT_IN_FLOAT32}, the last up to "
                "which float32 holds every integer; scale the image."
            )
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is refused
        stored = values.astype(np.float32)
    if not np.isfinite(stored).all():
        raise InputError(
            f"{label} has pixels that are not finite in float32 (NaN, infinite or too large); "
            "replace them, and mark them in the mask with --ignore."
        )
    return stored


def _single_channel(pixels: Pixels, label: str) -> np.ndarray:
    if not (pixels.is_opaque and pixels.is_grey):
        raise InputError(
            f"{label} is in colour; a mask has one class value a pixel: save it as a grey or "
            "palette PNG."
        )
    return pixels.colours[..., 0]


def _whole_numbers(values: np.ndarray, label: str) -> np.ndarray:
    whole = np.rint(values)
    if not np.array_equal(whole, values) or np.abs(whole).max(initial=0) > EXACT_IN_FLOAT32:
        raise InputError(f"{label} has values that are not whole numbers; a mask has class values.")
    return whole.astype(np.int32)
