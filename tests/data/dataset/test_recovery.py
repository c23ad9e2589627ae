"""Tests of what is read of damaged shards: each record in its place, up to a lost length."""

import dataclasses
import io
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from trainer.data.dataset import recovery, schema, tfrecord, volume_examples
from trainer.errors import InputError

CASES = [f"case{n}" for n in range(5)]
MASK = np.zeros([4, 4], np.uint8)
MANIFEST = schema.Manifest(
    classes=(schema.Class("background", 0), schema.Class("odd", 1)),
    channels=1,
    bit_depth=8,
    dtype="uint8",
    encoding="png",
    splits={},
)


def example(n):
    return schema.encode(CASES[n], np.full([4, 4, 1], n, np.uint8), MASK, "png")


EXAMPLES = [example(n) for n in range(5)]
STARTS = [0, *itertools.accumulate(len(tfrecord.frame(one)) for one in EXAMPLES)]
BODY = 100  # a place behind the name within an example, counted from its record's start


@pytest.fixture
def shard(tmp_path):
    return schema.write_shard(str(tmp_path), "train-00000-of-00001.tfrecord", EXAMPLES)


def read(folder, shard, change):
    """Returns the numbers of the lost records, and (offset, reason) of each, after a change."""
    path = folder / shard.name
    path.write_bytes(change(path.read_bytes()))
    pieces = recovery.read_pieces(str(folder), shard, CASES, recovery.decoder(MANIFEST))
    assert len(pieces) == 5
    for piece, original in zip(pieces, EXAMPLES, strict=True):
        assert piece.example in (None, original)
    lost = [n for n, piece in enumerate(pieces) if piece.example is None]
    return lost, [(pieces[n].offset, pieces[n].reason) for n in lost]


def flip(*places):
    def change(data):
        data = bytearray(data)
        for place in places:
            data[place] ^= 1
        return bytes(data)

    return change


def test_a_sound_shard_is_read_as_it_is(tmp_path, shard):
    assert read(tmp_path, shard, lambda data: data) == ([], [])


@pytest.mark.parametrize("n", range(5))
def test_a_wrong_byte_costs_one_record(tmp_path, shard, n):
    reason = "the checksum of a record is wrong"
    assert read(tmp_path, shard, flip(STARTS[n] + BODY)) == ([n], [(STARTS[n], reason)])


@pytest.mark.parametrize("n", range(5))
def test_a_wrong_length_costs_its_record_and_all_behind_it(tmp_path, shard, n):
    lost, places = read(tmp_path, shard, flip(STARTS[n]))
    assert lost == list(range(n, 5))
    reason = "the checksum of a record's length is wrong"
    behind = f"lost with the one before: {reason}"
    assert places == [(STARTS[n], reason), *[(STARTS[n], behind)] * (4 - n)]


def test_each_of_several_damaged_records_is_named(tmp_path, shard):
    places = (STARTS[1] + BODY, STARTS[2] + BODY, STARTS[4] + BODY)
    lost, places = read(tmp_path, shard, flip(*places))
    assert lost == [1, 2, 4]
    assert [offset for offset, _ in places] == [STARTS[1], STARTS[2], STARTS[4]]


def test_a_cut_shard_lacks_its_tail(tmp_path, shard):
    at = STARTS[3] + BODY
    reason = "the file is cut short"
    behind = f"lost with the one before: {reason}"
    places = [(STARTS[3], reason), (STARTS[3], behind)]
    assert read(tmp_path, shard, lambda data: data[:at]) == ([3, 4], places)


def test_a_shard_cut_between_two_records_lacks_its_tail(tmp_path, shard):
    reason = (STARTS[3], "the file is cut short")
    assert read(tmp_path, shard, lambda data: data[: STARTS[3]]) == ([3, 4], [reason, reason])


def test_an_empty_shard_lacks_everything(tmp_path, shard):
    assert read(tmp_path, shard, lambda data: b"")[0] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("filled", [False, True])
def test_records_behind_missing_or_emptied_bytes_are_lost(tmp_path, shard, filled):
    start, stop = STARTS[1] + BODY, STARTS[3] + BODY
    hole = bytes(stop - start) if filled else b""
    lost, _ = read(tmp_path, shard, lambda data: data[:start] + hole + data[stop:])
    assert lost == [1, 2, 3, 4]


def test_behind_a_missing_record_the_others_are_lost(tmp_path, shard):
    lost, places = read(tmp_path, shard, lambda data: data[: STARTS[1]] + data[STARTS[2] :])
    reason = "bytes are missing: the file holds case2 where case1 belongs"
    assert (lost, places) == ([1, 2, 3, 4], [(STARTS[1], reason)] * 4)


@pytest.mark.slow
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(flips=st.lists(st.integers(0, STARTS[-1] - 1), max_size=3, unique=True))
def test_every_record_up_to_a_lost_length_that_no_damage_touches_is_read(tmp_path_factory, flips):
    folder = tmp_path_factory.mktemp("data")
    shard = schema.write_shard(str(folder), "a.tfrecord", EXAMPLES)
    lost, _ = read(folder, shard, flip(*flips))
    touched = {n for n in range(5) for place in flips if STARTS[n] <= place < STARTS[n + 1]}
    heads = [n for n in range(5) for place in flips if STARTS[n] <= place < STARTS[n] + 12]
    assert set(lost) == touched | set(range(min(heads, default=5), 5))


def rewritten(examples):
    return lambda data: b"".join(map(tfrecord.frame, examples))


def test_an_example_that_cannot_be_decoded_is_lost(tmp_path, shard):
    png = EXAMPLES[2].index(b"IDAT")
    broken = EXAMPLES[2][: png + 6] + b"??????" + EXAMPLES[2][png + 12 :]
    change = rewritten([*EXAMPLES[:2], broken, *EXAMPLES[3:]])
    reason = "its image or mask cannot be decoded"
    assert read(tmp_path, shard, change) == ([2], [(STARTS[2], reason)])


def test_what_is_no_example_is_lost(tmp_path, shard):
    change = rewritten([*EXAMPLES[:2], b"?", *EXAMPLES[3:]])
    reason = "not an example with a name (DecodeError)"
    assert read(tmp_path, shard, change) == ([2], [(STARTS[2], reason)])


def decoding_errors(dtype, encoding, image, *changes):
    manifest = dataclasses.replace(MANIFEST, dtype=dtype, encoding=encoding)
    decoding_error = recovery.decoder(manifest)
    sound = schema.encode("a", image, MASK, encoding)
    return [decoding_error(change(sound)) for change in changes]


def test_values_that_do_not_decompress_are_found():
    image = np.random.default_rng(0).random((4, 4, 1), np.float32)

    def break_values(data):
        start = data.index(b"\x78\x5e") + 2  # zlib's header
        return data[:start] + b"????" + data[start + 4 :]

    def break_structure(data):
        return data.replace(b"image", b"\xff\xff\xff\xff\xff")

    errors = decoding_errors("float32", "zlib", image, bytes, break_values, break_structure)
    assert errors == ["", *["its image or mask cannot be decoded"] * 2]


def test_an_image_and_a_mask_of_different_sizes_are_found():
    image, taller = np.zeros([4, 4, 1], np.uint8), np.zeros([5, 4, 1], np.uint8)

    def make_taller(data):  # the PNG of the image, which comes first, for one of equal length
        return data.replace(png_of(image), png_of(taller), 1)

    assert decoding_errors("uint8", "png", image, make_taller) == [
        "its image and mask differ in size"
    ]


def png_of(image):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "png", compress_level=schema.PNG_LEVEL)
    return buffer.getvalue()


def test_a_sound_volume_is_kept_and_an_image_among_volumes_found():
    volumes = volume_examples.Volumes((1.0, 1.0, 1.0), (volume_examples.Channel("MR", "zscore"),))
    manifest = dataclasses.replace(
        MANIFEST, volumes=volumes, schema=2, dtype="float32", encoding="zlib"
    )
    mask = np.ones([2, 3, 4], np.uint8)
    sound = volume_examples.encode("case0", mask[..., None].astype("f4"), mask, np.zeros([0, 4]))
    decoding_error = recovery.decoder(manifest)
    assert not decoding_error(sound)
    assert not decoding_error(schema.blank_example(manifest))
    assert "cannot be decoded" in decoding_error(EXAMPLES[0])


def test_a_missing_shard_stops(tmp_path, shard):
    (tmp_path / shard.name).unlink()
    with pytest.raises(InputError, match="is missing, though the manifest lists it"):
        recovery.read_pieces(str(tmp_path), shard, CASES, recovery.decoder(MANIFEST))


def test_a_shard_of_other_images_stops(tmp_path, shard):
    other = schema.encode("stranger", np.zeros([4, 4, 1], np.uint8), MASK, "png")
    with pytest.raises(InputError) as error:
        read(tmp_path, shard, rewritten([EXAMPLES[0], other]))
    assert str(error.value) == (
        f"{tmp_path / shard.name} holds 'stranger' at byte {STARTS[1]}, which the manifest does "
        "not list there: it is another shard; copy it again or prepare the data again."
    )


def test_a_shard_of_the_same_names_but_other_images_stops(tmp_path, shard):
    other = schema.encode(CASES[2], np.full([4, 4, 1], 77, np.uint8), MASK, "png")
    with pytest.raises(InputError, match="is not the shard of the manifest: "):
        read(tmp_path, shard, rewritten([*EXAMPLES[:2], other, *EXAMPLES[3:]]))
