"""What can still be read of a damaged shard, each record in its place."""

import concurrent.futures
import dataclasses
import io
from collections.abc import Callable, Sequence

import google_crc32c
import numpy as np
import tensorflow as tf

from trainer.data.dataset import schema, tfrecord
from trainer.errors import InputError
from trainer.storage import files


@dataclasses.dataclass(frozen=True)
class Piece:
    """A record as it was found: where it starts, and its example, or why there is none."""

    offset: int
    example: bytes | None
    reason: str = ""


def read_pieces(
    data_dir: str,
    shard: schema.Shard,
    cases: Sequence[str],
    decoding_error: Callable[[bytes], str],
) -> list[Piece]:
    """Returns a shard's records, each in its place, as far as they can be read.

    Args:
        data_dir: the shard's folder.
        shard: as the manifest describes it.
        cases: the names of its examples, in order.
        decoding_error: says why an example cannot be decoded; nothing where it can.

    Raises:
        InputError: if the shard is missing, or another one than the manifest's.
    """
    path = schema.shard_path(data_dir, shard)
    if not files.exists(path):
        schema.verify_shard(data_dir, shard)  # says so
    with files.open_file(path, "rb") as file:
        data = file.read()
    pieces = _pieces(data, len(cases))
    is_whole = f"{google_crc32c.value(data):08x}" == shard.crc32c
    if not is_whole:
        pieces = _in_place(pieces, cases, path)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pieces = list(pool.map(lambda piece: _decoded(piece, decoding_error), pieces))
    if not is_whole and all(piece.example is not None for piece in pieces):
        schema.verify_shard(data_dir, shard)  # nothing is lost, so it was replaced: raises that
    return pieces


def _pieces(data: bytes, count: int) -> list[Piece]:
    """Returns so many records of a file; a record is not sought behind one without a length."""
    file, pieces = io.BytesIO(data), list[Piece]()
    while len(pieces) < count:
        offset = file.tell()
        try:
            example = tfrecord.read(file)
            reason = "" if example is not None else "the file is cut short"
            pieces.append(Piece(offset, example, reason))
        except tfrecord.LostPlaceError as damage:
            pieces.append(Piece(offset, None, str(damage)))
            behind = Piece(offset, None, f"lost with the one before: {damage}")
            pieces += [behind] * (count - len(pieces))
        except tfrecord.DamageError as damage:
            pieces.append(Piece(offset, None, str(damage)))
    return pieces


def _in_place(pieces: list[Piece], cases: Sequence[str], path: str) -> list[Piece]:
    """Returns the pieces without those that have no name, or another than the manifest lists.

    Raises:
        InputError: a name is of another shard.
    """
    pieces = list(pieces)
    for number, (piece, case) in enumerate(zip(pieces, cases, strict=True)):
        if piece.example is None:
            continue
        try:
            name = schema.name_of(piece.example)
        except ValueError as error:
            pieces[number] = Piece(piece.offset, None, str(error))
            continue
        if name not in cases:
            raise InputError(
                f"{path} holds {name!r} at byte {piece.offset}, which the manifest does not list "
                "there: it is another shard; copy it again or prepare the data again."
            )
        if name != case:
            reason = f"bytes are missing: the file holds {name} where {case} belongs"
            lost = Piece(piece.offset, None, reason)
            return [*pieces[:number], *[lost] * (len(cases) - number)]
    return pieces


def _decoded(piece: Piece, decoding_error: Callable[[bytes], str]) -> Piece:
    """Returns the piece, without its example if that cannot be decoded."""
    reason = "" if piece.example is None else decoding_error(piece.example)
    return Piece(piece.offset, None, reason) if reason else piece


def decoder(manifest: schema.Manifest) -> Callable[[bytes], str]:
    """Returns a function that says why an example cannot be decoded; empty if it can."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decode(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = schema.decode(serialized, manifest)
        return tf.shape(example["image"]), tf.shape(example["mask"])

    decode.get_concrete_function()  # once, before several threads call it

    def decoding_error(serialized: bytes) -> str:
        try:
            image, mask = decode(serialized)
        # TensorFlow's message may quote the example, whose bytes Python takes for text.
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeDecodeError):
            return "its image or mask cannot be decoded"
        same = np.array_equal(image[:-1], mask)
        return "" if same else "its image and mask differ in size"

    return decoding_error
