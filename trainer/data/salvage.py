"""What can still be read of a damaged shard, each record in its place."""

import concurrent.futures
import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence

import google_crc32c
import numpy as np
import tensorflow as tf

from trainer.data import records, tfrecord
from trainer.errors import InputError
from trainer.stores import files


@dataclasses.dataclass(frozen=True)
class Piece:
    """A record as it was found: where it starts, and its example, or why there is none."""

    offset: int
    example: bytes | None
    reason: str = ""


def read_pieces(
    data_dir: str,
    shard: records.Shard,
    cases: Sequence[str],
    decoding_error: Callable[[bytes], str],
) -> list[Piece]:
    """Returns a shard's records, each in its place, whatever can be read of it.

    Args:
        data_dir: the shard's folder.
        shard: as the manifest describes it.
        cases: the names of its examples, in order.
        decoding_error: says why an example cannot be decoded; nothing where it can.

    Raises:
        InputError: if the shard is missing, or another one than the manifest's.
    """
    path = records.shard_path(data_dir, shard)
    if not files.exists(path):
        records.verify_shard(data_dir, shard)  # says so
    with files.open_file(path, "rb") as file:
        data = file.read()
    pieces = list(_pieces(data))
    checksum = f"{google_crc32c.value(data):08x}"
    whole = checksum == shard.crc32c and len(pieces) == len(cases)
    if not whole:
        pieces = _place(pieces, cases, path, len(data))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pieces = list(pool.map(lambda piece: _decoded(piece, decoding_error), pieces))
    if not whole and all(piece.example is not None for piece in pieces):
        records.verify_shard(data_dir, shard)  # nothing is lost, so it was replaced: says so
    return pieces


def _pieces(data: bytes) -> Iterator[Piece]:
    """Yields what a file holds, damaged places included; reads on after each."""
    file = io.BytesIO(data)
    offset = 0
    while offset < len(data):
        file.seek(offset)
        try:
            yield Piece(offset, tfrecord.read(file))
            offset = file.tell()
        except tfrecord.DamageError as damage:
            yield Piece(offset, None, str(damage))
            offset = tfrecord.find_next(data, offset)


def _place(pieces: Sequence[Piece], cases: Sequence[str], path: str, size: int) -> list[Piece]:
    """Returns one piece for each case, by the names of those that can be read.

    Of several records lost in a row, those whose own place in the file is unknown get the last
    known one.
    """
    placed: list[Piece] = []
    damaged: list[Piece] = []

    def fill(number: int, absent: Piece) -> None:
        known = damaged or [absent]
        while len(placed) < number:
            placed.append(known.pop(0) if len(known) > 1 else known[0])
        damaged.clear()

    for piece in pieces:
        if piece.example is None:
            damaged.append(piece)
            continue
        try:
            name = records.name_of(piece.example)
        except ValueError as error:
            damaged.append(Piece(piece.offset, None, str(error)))
            continue
        if name not in cases[len(placed) :]:
            raise InputError(
                f"{path} holds {name!r} at byte {piece.offset}, where the manifest does not list "
                "it: it is another shard; copy it again or prepare the data again."
            )
        number = cases.index(name, len(placed))
        fill(number, Piece(piece.offset, None, "a record is missing before it"))
        placed.append(piece)
    fill(len(cases), Piece(size, None, "the file is cut short"))
    return placed


def _decoded(piece: Piece, decoding_error: Callable[[bytes], str]) -> Piece:
    """Returns the piece, without its example if that cannot be decoded."""
    reason = "" if piece.example is None else decoding_error(piece.example)
    return Piece(piece.offset, None, reason) if reason else piece


def decoder(manifest: records.Manifest) -> Callable[[bytes], str]:
    """Returns a function that says why an example cannot be decoded; nothing where it can."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decode(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = records.decode(serialized, manifest)
        return tf.shape(example["image"]), tf.shape(example["mask"])

    decode.get_concrete_function()  # once, before several threads call it

    def decoding_error(serialized: bytes) -> str:
        try:
            image, mask = decode(serialized)
        # TensorFlow's message may quote the example, whose bytes Python takes for text.
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeDecodeError):
            return "its image or mask cannot be decoded"
        same = np.array_equal(image[:2], mask)
        return "" if same else "its image and mask differ in size"

    return decoding_error
