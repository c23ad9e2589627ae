"""The data folder: how an example is written, how it is read, and the manifest over all shards.

The only module that knows the schema. Examples are `tf.train.Example` in TFRecord files, as any
TensorFlow program reads them, but writing them needs no TensorFlow: the workers that prepare data
start in 0.3 s and 30 MB rather than 4 s and 540 MB.
"""

import collections
import dataclasses
import hashlib
import io
import json
import os
import re
import reprlib
import sys
import typing
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import IO, Any

import google_crc32c
import numpy as np
from PIL import Image

from trainer import json_text
from trainer.data.dataset import tfrecord, volume_examples
from trainer.data.dataset.volume_examples import Volumes
from trainer.errors import InputError
from trainer.ignore_label import IGNORE
from trainer.storage import files

SCHEMA = 2  # the newest: 1 has images, 2 has volumes, too
MAX_CLASSES = 255  # ids 0 … 254
MANIFEST = "manifest.json"
BIT_DEPTHS = {"uint8": 8, "uint16": 16, "float32": 32}
MAX_DIGITS = 18  # of a number in the manifest: 64 bits hold it
KINDS = {
    bool: "true or false",
    int: f"a whole number of at most {MAX_DIGITS} digits",
    float: "a finite number",
    str: "a text",
    list: "a list",
    dict: "an object",
}

# On the nuclei, level 3 takes 44 % of the time of zlib's default of 6 and 3 % more bytes.
PNG_LEVEL = 3


@dataclasses.dataclass(frozen=True)
class Class:
    """A class: its name, and what it is in masks.

    Attributes:
        name: for people.
        value: in the masks that were given; of several the first, of a colour the class's id.
            Predicted masks have it.
        last: of the values that it has in the masks that were given, if there are several.
        colour: #rrggbb that it has in the masks that were given, if that is what counts.
    """

    name: str
    value: int
    last: int | None = None
    colour: str | None = None

    def as_given(self) -> str:
        """Returns the class's value or colour in the given masks, in the form of --classes."""
        return self.colour or f"{self.value}" + ("" if self.last is None else f"-{self.last}")


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where the cases of a shard are: the file of an index, and the first of its lines, from 0."""

    index: str
    first: int


@dataclasses.dataclass(frozen=True)
class Index:
    """A file of cases, see `case_index`: its name in the data folder, and what it must hold.

    Attributes:
        name: plain, without a folder.
        lines: their number, one of each case.
        bytes: its size.
        crc32c: of the whole file, eight hexadecimal digits.
    """

    name: str
    lines: int
    bytes: int
    crc32c: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """A TFRecord file: its name in the data folder, and what it must hold.

    Attributes:
        name: plain, without a folder.
        examples: their number.
        bytes: its size.
        crc32c: of the whole file, eight hexadecimal digits.
        foreground: whether all of its examples (True) or none (False) have a class other than the
            background; None where that is not known.
        present: of each class, a text with a mark for each example: 1 if the example has a pixel
            of it, 0 if not; None where an index has them that was not read, or a version wrote it
            that did not know.
        rows: where its cases are; None where the manifest lists them.
    """

    name: str
    examples: int
    bytes: int
    crc32c: str
    foreground: bool | None = None
    present: tuple[str, ...] | None = None
    rows: Rows | None = None


@dataclasses.dataclass(frozen=True)
class Split:
    """One side of the data.

    Attributes:
        examples: number of images.
        shards: the files, in order.
        cases: the images' names, in the order of the shards; None where indexes have them that
            were not read, see `case_index`.
        sizes: (*S, count) of each size that occurs; *S is height and width, of volumes depth,
            height and width.
        pixels: number of pixels, or voxels, of each class.
        ignored_pixels: number of pixels that do not count.
        mean: of each channel's pixels, in stored units.
        std: of each channel's pixels, in stored units.
    """

    examples: int
    shards: tuple[Shard, ...]
    cases: Sequence[str] | None
    sizes: tuple[tuple[int, ...], ...]
    pixels: tuple[int, ...]
    ignored_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def is_sample(self) -> bool:
        """Whether the shards' files hold more examples than these, see `sample`."""
        return self.examples < sum(count for *_, count in self.sizes)

    @property
    def names(self) -> Sequence[str]:
        """The names of the cases, which are in the manifest or have been read."""
        assert self.cases is not None
        return self.cases


@dataclasses.dataclass(frozen=True)
class Fold:
    """A part of the cases that are not tested, for cross-validation; see `folds`.

    Attributes:
        train: its examples to train on.
        val: its cases, whole.
    """

    train: Split
    val: Split


@dataclasses.dataclass(frozen=True)
class Grid:
    """Shape and spacing of cases in the files that were given.

    Attributes:
        shape: height and width; of volumes depth, height and width of the part that is not zero.
        spacing: of volumes, mm along the same axes.
        count: of the cases that have both.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    count: int


@dataclasses.dataclass(frozen=True)
class Draw:
    """How images were drawn to the splits, if no lists said where each goes.

    Attributes:
        rule: name and version of the rule, see `sides.draw`.
        seed: of the rule.
        shares: of each split, of 1.
        group_by: the expression that names an image's group; empty: each is its own.
        moved: groups that were put into a split that would have been empty by the rule alone.
    """

    rule: str
    seed: int
    shares: dict[str, float]
    group_by: str
    moved: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is in a data folder; written last, so that a folder that has one is complete.

    Attributes:
        classes: in the order of their ids; the first is the background.
        ignore_value: the value of masks, as given, that marked pixels not to count.
        ignore_colour: #rrggbb of masks that did, where classes are colours.
        threshold: the first value of masks, as given, of the second of two classes, whose own
            values then say nothing of those masks.
        channels: of every image.
        bit_depth: 8, 16 or 32, of `dtype`.
        dtype: "uint8", "uint16" or "float32", of stored images.
        encoding: "png" or "zlib", see `encode`.
        splits: "train", "val" and, if there is one, "test".
        seed: of the order; also of the split, where it was drawn.
        draw: how the splits were drawn; None: by lists, or by a version that did not write it.
        origin: where the data come from, in the words of the person who prepared them.
        licence: of the data.
        leaks: groups of images with equal pixels in two splits, each named split/case.
        skipped: unreadable images that were left out.
        volumes: how volumes were prepared; None: the data are images.
        folds: of what is not tested, if there are several; the first is the val split.
        grids: those of the training cases as they were given, from which `trainer.plan` plans; None
            where a version wrote it that did not know them.
        indexes: files that have the names of all cases, where the splits do not list them.
        schema: version of this layout, 1 for images and 2 for volumes.
    """

    classes: tuple[Class, ...]
    channels: int
    bit_depth: int
    dtype: str
    encoding: str
    splits: dict[str, Split]
    seed: int = 0
    draw: Draw | None = None
    ignore_value: int | None = None
    ignore_colour: str | None = None
    threshold: float | None = None
    origin: str = ""
    licence: str = ""
    leaks: tuple[tuple[str, ...], ...] = ()
    skipped: tuple[str, ...] = ()
    volumes: Volumes | None = None
    folds: tuple[Fold, ...] | None = None
    grids: tuple[Grid, ...] | None = None
    indexes: tuple[Index, ...] | None = None
    schema: int = 1

    @property
    def rank(self) -> int:
        """Number of spatial axes: 2 of images, 3 of volumes."""
        return 2 if self.volumes is None else 3

    @property
    def num_classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.classes)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Every file of the folder once, those of all folds among them."""
        splits = [*self.splits.values()]
        splits += [split for fold in self.folds or () for split in (fold.train, fold.val)]
        return tuple({shard.name: shard for split in splits for shard in split.shards}.values())

    def to_json(self) -> str:
        """Returns the text of manifest.json."""
        return json_text.dumps(_as_dict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, path: str = MANIFEST) -> "Manifest":
        """Returns the manifest of a text.

        Args:
            text: of manifest.json.
            path: where the text is from, for messages.

        Raises:
            InputError: if it is of a newer schema, not a manifest, or contradicts itself.
        """
        try:
            raw = json.loads(text, parse_int=_parse_int)
            if isinstance(raw, dict) and _checked(int, raw.get("schema"), "schema") > SCHEMA:
                raise InputError(
                    f"{path} has schema {raw['schema']}, newer than {SCHEMA}, the newest that this "
                    "version reads; upgrade this package or prepare the data again with it."
                )
            manifest = build(cls, raw, "")
        except (TypeError, json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                f"{path} is not a manifest of trainer.data.prepare ({_one_line(error)}); prepare "
                "the data again."
            ) from None
        for rule, holds in _rules(manifest):
            if not holds:
                raise InputError(f"{path} is damaged: {_one_line(rule)}; prepare the data again.")
        return manifest


def _as_dict(manifest: Manifest, without: Collection[str] = ()) -> dict[str, Any]:
    """Returns the manifest as JSON, without the fields of these names.

    What has been read from indexes is left out, too.
    """
    return as_json(manifest, {*without, *(("cases", "present") if manifest.indexes else ())})


def as_json(value: Any, without: Collection[str] = ()) -> Any:
    """Returns a manifest or a part of it as JSON, as its first version wrote it if it says no more.

    So data that were prepared before a field was added keep their fingerprint.

    Args:
        value: a dataclass, or what a field of one has.
        without: names of fields to leave out.
    """
    kept = {"ignore_value"}  # which the first version had
    if dataclasses.is_dataclass(value):
        fields = ((one.name, getattr(value, one.name)) for one in dataclasses.fields(value))
        return {
            name: as_json(entry, without)
            for name, entry in fields
            if name not in without and (entry is not None or name in kept)
        }
    if isinstance(value, dict):
        return {key: as_json(entry, without) for key, entry in value.items()}
    # The names of all cases are one tuple, and a million of them come here.
    if isinstance(value, tuple) and not all(isinstance(entry, str) for entry in value):
        return [as_json(entry, without) for entry in value]
    return value


def _one_line(said: object) -> str:
    return " ".join(str(said).split())


def _parse_int(digits: str) -> int | float:
    """Returns the number; as a float, which no count may be, if it has too many digits for one."""
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def build(kind: Any, value: Any, name: str) -> Any:
    """Returns a value of JSON as what a field of a dataclass is annotated with.

    Args:
        kind: the annotation: a dataclass, a tuple, a Sequence, a dict, a key of KINDS, or any of
            them | None.
        value: of JSON; None if it is missing.
        name: of the field, such as splits.train.mean[0]; empty for the whole.

    Raises:
        TypeError: naming the first field that holds something else.
    """
    if kind in KINDS:
        return _checked(kind, value, name)
    parts = typing.get_args(kind)
    if type(None) in parts:
        return None if value is None else build(parts[0], value, name)
    if dataclasses.is_dataclass(kind):
        _checked(dict, value, name)
        fields = {
            field.name: build(field.type, value.get(field.name), f"{name}.{field.name}".strip("."))
            for field in dataclasses.fields(kind)
        }
        return typing.cast(type, kind)(**fields)
    if typing.get_origin(kind) is dict:
        _checked(dict, value, name)
        return {key: build(parts[1], entry, f"{name}.{key}") for key, entry in value.items()}
    origin = typing.get_origin(kind)
    assert origin in (tuple, Sequence)
    _checked(list, value, name)
    kinds = parts[:1] * len(value) if origin is Sequence or parts[-1] is Ellipsis else parts
    if len(value) != len(kinds):
        raise TypeError(f"{name} is {reprlib.repr(value)}, not a list of {len(kinds)}")
    return tuple(
        build(kinds[index], entry, f"{name}[{index}]") for index, entry in enumerate(value)
    )


def _checked(kind: type, value: Any, name: str) -> Any:
    """Returns the value if it is of that kind, a key of KINDS; a float may be written as 3."""
    number = kind is float and type(value) in (int, float)
    if type(value) is not kind and not number or number and not abs(value) <= sys.float_info.max:
        shown = "missing" if value is None else reprlib.repr(value)
        raise TypeError(f"{name or 'it'} is {shown}, not {KINDS[kind]}")
    return value


def _rules(manifest: Manifest) -> Iterator[tuple[str, bool]]:
    """Yields (rule, whether it holds); what reads the data relies on each."""
    yield "the schema is not a positive number", manifest.schema >= 1
    yield "it has fewer than 2 or more than 255 classes", 2 <= manifest.num_classes <= MAX_CLASSES
    yield f"dtype {manifest.dtype!r} is unknown", manifest.dtype in BIT_DEPTHS
    yield f"{manifest.channels} channels are too few", manifest.channels >= 1
    encoding = choose_encoding(manifest.dtype, manifest.channels)
    if manifest.volumes is not None:
        encoding = "zlib"
        yield f"volumes are not of {manifest.dtype}", manifest.dtype == "float32"
        named = len(manifest.volumes.channels)
        yield f"{named} of {manifest.channels} channels are described", named == manifest.channels
    of = f"{manifest.channels} channels of {manifest.dtype}"
    rule = f"encoding {manifest.encoding!r} is not {encoding!r}, that of {of}"
    yield rule, manifest.encoding == encoding
    yield "it has no train split", "train" in manifest.splits
    for grid in manifest.grids or ():
        axes = {len(grid.shape), manifest.rank if grid.spacing is None else len(grid.spacing)}
        sound = axes == {manifest.rank} and min(grid.shape) > 0 and min(grid.spacing or (1,)) > 0
        yield f"the shape and spacing of a grid are not of {manifest.rank} axes", sound
        yield "a grid is that of no case", grid.count > 0
    yield "it has a single fold", manifest.folds is None or len(manifest.folds) > 1
    splits = dict(manifest.splits)
    for k, fold in enumerate(manifest.folds or ()):
        splits |= {f"fold {k} train": fold.train, f"fold {k} val": fold.val}
    lines = {index.name: index.lines for index in manifest.indexes or ()}
    for name in lines:
        yield f"index name {name!r} is not a plain file name", _is_plain(name)
    for name, split in splits.items():
        for shard in split.shards:
            yield f"shard name {shard.name!r} is not a plain file name", _is_plain(shard.name)
            sound = (shard.rows is None) == (manifest.indexes is None)
            if shard.rows is not None:
                end = shard.rows.first + shard.examples
                sound &= shard.rows.first >= 0 and end <= lines.get(shard.rows.index, 0)
            yield f"shard {shard.name} has its cases in no index, or without one", sound
            sound = shard.present is None or (
                len(shard.present) == manifest.num_classes
                and all(len(marks) == shard.examples for marks in shard.present)
                and not "".join(shard.present).strip("01")
            )
            yield f"shard {shard.name} has not a mark for each class and example", sound
        sound = (split.cases is None) == (manifest.indexes is not None)
        yield f"its {name} split has its cases nowhere, or twice", sound
        sound = all(len(size) == manifest.rank + 1 for size in split.sizes)
        yield f"the sizes of its {name} split are not of {manifest.rank} axes", sound
        counts = {split.examples, sum(shard.examples for shard in split.shards)}
        counts.add(sum(count for *_, count in split.sizes))
        counts.add(split.examples if split.cases is None else len(split.cases))
        yield f"the counts of its {name} split disagree", len(counts) == 1
        yield f"its {name} split is empty", split.examples > 0
        sound = len(split.pixels) == manifest.num_classes
        yield f"its {name} split does not count every class", sound
        sound = len(split.mean) == len(split.std) == manifest.channels
        yield f"its {name} split has not a mean and std for each channel", sound


def _is_plain(name: str) -> bool:
    """Whether a name is no other file's: one like ../x could be read, and removed by a clean-up."""
    return re.fullmatch(r"\w[\w.-]*", name) is not None


def read_manifest(data_dir: str) -> Manifest:
    """Returns the manifest of a data folder, local or gs://.

    Raises:
        InputError: if there is none, or this version cannot read it.
    """
    path = f"{data_dir}/{MANIFEST}"
    if not files.exists(path):
        raise InputError(
            f"{data_dir} has no {MANIFEST}: it is not a folder that trainer.data.prepare finished; "
            "prepare the data, or name another --data_dir."
        )
    with files.open_file(path, "rb") as file:
        text = _decoded(file.read())
    return Manifest.from_json(text, path)


def _decoded(data: bytes) -> str:
    return data.decode(json.detect_encoding(data), "replace")  # an editor may have changed it


def write_manifest(manifest: Manifest, data_dir: str) -> None:
    """Writes the manifest, which appears only when it is complete."""
    files.write_whole(f"{data_dir}/{MANIFEST}", manifest.to_json())


def fingerprint(manifest: Manifest) -> str:
    """Returns the sha256 of the manifest's canonical JSON, in hexadecimal digits.

    It holds the checksum of every shard, so equal fingerprints mean equal data. What the files were
    like before, and what follows from the examples, changes none of them: data that are prepared
    again keep their fingerprint.
    """
    whole = _as_dict(manifest, without=("grids", "present"))
    canonical = json_text.dumps(whole, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def shard_name(split: str, index: int, count: int) -> str:
    """Returns the file name of shard `index` of `count`."""
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def is_shard(path: str) -> bool:
    """Whether a file begins with an example as `encode` makes it."""
    try:
        with files.opened(path) as file:
            example = tfrecord.read(file)
    except tfrecord.DamageError:
        return False
    return example is not None and all(name in example for name in FEATURES)


def shard_path(data_dir: str, shard: Shard) -> str:
    """Returns where a shard is: in the data folder, unless its name is a whole path.

    Only `damage.leave_out` gives such a name, to the repaired copy of a shard; a manifest that is
    read from a file cannot.
    """
    return os.path.join(data_dir, shard.name)


def choose_encoding(dtype: str, channels: int) -> str:
    """Returns "png" for what Pillow writes as PNG and TensorFlow reads, "zlib" for the rest."""
    return "png" if (dtype, channels) in _PNG_MODES else "zlib"


_PNG_MODES = {("uint8", 1): "L", ("uint8", 3): "RGB", ("uint8", 4): "RGBA", ("uint16", 1): "I;16"}


FEATURES = (b"name", b"image", b"mask", b"height", b"width")


def encode(name: str, image: np.ndarray, mask: np.ndarray, encoding: str) -> bytes:
    """Returns a serialized `tf.train.Example`, equal for equal arguments.

    Args:
        name: the case's name.
        image: uint8, uint16 or float32 [H, W, C].
        mask: uint8 [H, W], class ids; IGNORE where a pixel does not count.
        encoding: "png" (see `choose_encoding`), or "zlib": little-endian values in C order.
    """
    height, width = mask.shape
    assert image.shape[:2] == mask.shape
    return tfrecord.serialize(
        {
            "name": name.encode(),
            "image": _png(image) if encoding == "png" else _deflated(image),
            "mask": _png(mask[..., None]),
            "height": height,
            "width": width,
        }
    )


def blank_example(manifest: Manifest) -> bytes:
    """Returns the replacement of an unreadable example: one nameless pixel that does not count."""
    if manifest.rank == 3:
        return volume_examples.blank(manifest.channels)
    image = np.zeros([1, 1, manifest.channels], manifest.dtype)
    return encode("", image, np.full([1, 1], IGNORE, np.uint8), manifest.encoding)


def _png(image: np.ndarray) -> bytes:
    assert (image.dtype.name, image.shape[2]) in _PNG_MODES
    buffer = io.BytesIO()
    values = image[..., 0] if image.shape[2] == 1 else image
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, "png", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def _deflated(image: np.ndarray) -> bytes:
    return zlib.compress(image.astype(image.dtype.newbyteorder("<")).tobytes(), PNG_LEVEL)


def name_of(serialized: bytes) -> str:
    """Returns the case's name of a serialized example.

    Raises:
        ValueError: if it is not an example with a name.
    """
    import tensorflow as tf  # see the module's docstring
    from google.protobuf import message

    try:
        example = tf.train.Example.FromString(serialized)
        return example.features.feature["name"].bytes_list.value[0].decode()
    except (message.DecodeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not an example with a name ({type(error).__name__})") from None


def decode_size(serialized):
    """Returns the height and width of an image's example, int64 [] each."""
    import tensorflow as tf  # see the module's docstring

    feature = tf.io.FixedLenFeature([], tf.int64)
    example = tf.io.parse_single_example(serialized, {"height": feature, "width": feature})
    return example["height"], example["width"]


def decode(serialized, manifest: Manifest) -> dict[str, Any]:
    """Returns an example as tensors; for use inside `tf.data`.

    Args:
        serialized: string [], a record of a shard.
        manifest: of the shard's folder.

    Returns:
        name: string []; image: `manifest.dtype` [*S, C], with C static; mask: uint8 [*S]; of
        volumes also places, see `volume_examples`.
    """
    if manifest.rank == 3:
        return volume_examples.decode(serialized, manifest.channels)
    import tensorflow as tf  # see the module's docstring

    example = tf.io.parse_single_example(
        serialized,
        {
            "name": tf.io.FixedLenFeature([], tf.string),
            "image": tf.io.FixedLenFeature([], tf.string),
            "mask": tf.io.FixedLenFeature([], tf.string),
            "height": tf.io.FixedLenFeature([], tf.int64),
            "width": tf.io.FixedLenFeature([], tf.int64),
        },
    )
    dtype = tf.as_dtype(manifest.dtype)
    if manifest.encoding == "png":
        image = tf.io.decode_png(example["image"], manifest.channels, dtype)
    else:
        values = tf.io.decode_compressed(example["image"], "ZLIB")
        shape = [example["height"], example["width"], manifest.channels]
        image = tf.reshape(tf.io.decode_raw(values, dtype), shape)
    mask = tf.io.decode_png(example["mask"], 1)[..., 0]
    return {"name": example["name"], "image": image, "mask": mask}


def write_shard(data_dir: str, name: str, examples: Iterable[bytes]) -> Shard:
    """Writes serialized examples as a shard, which appears only when it is complete.

    Args:
        data_dir: the data folder, local or gs://; it exists.
        name: the shard's file name.
        examples: taken one after the other; nothing is left if they raise.
    """
    count = size = crc = 0
    with files.writing(f"{data_dir}/{name}", "wb") as file:
        for example in examples:
            record = tfrecord.frame(example)
            file.write(record)
            count, size = count + 1, size + len(record)
            crc = google_crc32c.extend(crc, record)
    return Shard(name, count, size, f"{crc:08x}")


def read_shard(data_dir: str, shard: Shard) -> Iterator[bytes]:
    """Yields the serialized examples of a shard, checking every record and then the whole.

    Raises:
        InputError: with the byte offset of the first record that is damaged, or if the file is not
            the one that the manifest describes.
    """
    path = shard_path(data_dir, shard)
    if not files.exists(path):
        raise InputError(
            f"{path} is missing, though the manifest lists it; copy the folder again or prepare "
            "the data again."
        )
    count = crc = offset = 0
    with files.open_file(path, "rb") as file:
        while (example := _read_record(file, path, offset)) is not None:
            yield example
            record = tfrecord.frame(example)
            count, crc = count + 1, google_crc32c.extend(crc, record)
            offset += len(record)
    found = dataclasses.replace(shard, examples=count, bytes=offset, crc32c=f"{crc:08x}")
    if found != shard:
        raise InputError(
            f"{path} ends at byte {offset} and is not the shard of the manifest: "
            f"{differences(found, shard)}; copy it again or prepare the data again."
        )


def differences(found: Shard | Index, listed: Shard | Index) -> str:
    """Returns in which figures a file differs from what the manifest says of it."""
    pairs = {name: (value, getattr(listed, name)) for name, value in vars(found).items()}
    return ", ".join(
        f"{name} {ours} instead of {theirs}"
        for name, (ours, theirs) in pairs.items()
        if ours != theirs
    )


def _read_record(file: IO[bytes], path: str, offset: int) -> bytes | None:
    try:
        return tfrecord.read(file)
    except tfrecord.DamageError as damage:
        raise InputError(
            f"{path} is damaged at byte {offset}: {damage}; copy it again or prepare the data "
            "again."
        ) from None


def verify_shard(data_dir: str, shard: Shard) -> None:
    """Reads a whole shard and raises `read_shard`'s InputError if it is not as it was written."""
    collections.deque(read_shard(data_dir, shard), maxlen=0)
