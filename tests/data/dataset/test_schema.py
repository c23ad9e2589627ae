"""Tests of the data folder's schema."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import demo
from trainer.data.dataset import schema
from trainer.errors import InputError

SPLIT = schema.Split(
    examples=2,
    shards=(schema.Shard("train-00000-of-00001.tfrecord", 2, 100, "0000abcd"),),
    cases=("b", "a"),
    sizes=((4, 5, 2),),
    pixels=(30, 8),
    ignored_pixels=2,
    mean=(1.5,),
    std=(0.5,),
)
MANIFEST = schema.Manifest(
    classes=(schema.Class("background", 0), schema.Class("nucleus", 255)),
    channels=1,
    bit_depth=8,
    dtype="uint8",
    encoding="png",
    splits={"train": SPLIT},
    leaks=(("train/a", "test/c"),),
)
MASK = np.array([[0, 1, 255], [1, 0, 0]], np.uint8)


def _manifest(dtype, channels):
    return dataclasses.replace(
        MANIFEST,
        dtype=dtype,
        channels=channels,
        encoding=schema.choose_encoding(dtype, channels),
    )


@pytest.mark.parametrize(
    ("dtype", "channels", "encoding"),
    [
        ("uint8", 1, "png"),
        ("uint8", 3, "png"),
        ("uint8", 4, "png"),
        ("uint8", 2, "zlib"),
        ("uint16", 1, "png"),
        ("uint16", 3, "zlib"),
        ("float32", 1, "zlib"),
        ("float32", 5, "zlib"),
    ],
)
def test_what_is_encoded_is_decoded_inside_tf_data(dtype, channels, encoding):
    manifest = _manifest(dtype, channels)
    assert manifest.encoding == encoding
    values = np.random.default_rng(0).integers(0, 65536, (2, 3, channels))
    image = values.astype(dtype)
    serialized = schema.encode("à", image, MASK, encoding)
    data = tf.data.Dataset.from_tensors(serialized).map(lambda x: schema.decode(x, manifest))
    assert data.element_spec["image"].shape.as_list()[2] == channels
    example = next(data.as_numpy_iterator())
    assert example["name"].decode() == "à"
    assert example["image"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["mask"], MASK)


def test_an_example_is_what_tensorflow_itself_parses():
    image = np.full((200, 300, 1), 7, np.uint8)
    serialized = schema.encode("x", image, image[..., 0], "zlib")
    features = tf.train.Example.FromString(serialized).features.feature
    assert sorted(features) == ["height", "image", "mask", "name", "width"]
    assert features["name"].bytes_list.value == [b"x"]
    assert features["height"].int64_list.value == [200]
    assert features["width"].int64_list.value == [300]


def test_tensorflow_reads_a_shard_and_its_checksum_is_that_of_the_file(tmp_path):
    examples = [b"", b"one", b"x" * 1000]
    shard = schema.write_shard(str(tmp_path), "train-00000-of-00001.tfrecord", examples)
    path = tmp_path / shard.name
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == examples
    assert list(schema.read_shard(str(tmp_path), shard)) == examples
    assert (shard.examples, shard.bytes) == (3, path.stat().st_size)
    assert [file.name for file in tmp_path.iterdir()] == [shard.name]


def test_crc32c_is_the_one_of_the_standard_check_value(tmp_path):
    shard = schema.write_shard(str(tmp_path), "a.tfrecord", [])
    assert shard == schema.Shard("a.tfrecord", 0, 0, "00000000")
    assert schema.google_crc32c.value(b"123456789") == 0xE3069283


def test_a_shard_whose_examples_raise_leaves_nothing(tmp_path):
    def examples():
        yield b"one"
        raise InputError("a.png cannot be read.")

    with pytest.raises(InputError, match="a.png"):
        schema.write_shard(str(tmp_path), "train-00000-of-00001.tfrecord", examples())
    assert list(tmp_path.iterdir()) == []


# Three records of 12 + n + 4 bytes: at 0 (10 bytes of example), 26 (20) and 62 (30), ending at 108.
@pytest.fixture
def shard(tmp_path):
    examples = [b"a" * 10, b"b" * 20, b"c" * 30]
    return schema.write_shard(str(tmp_path), "val-00000-of-00001.tfrecord", examples)


def _message_after(tmp_path, shard, change):
    path = tmp_path / shard.name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as error:
        schema.verify_shard(str(tmp_path), shard)
    return str(error.value).replace(str(path), "SHARD")


def test_a_whole_shard_passes(tmp_path, shard):
    schema.verify_shard(str(tmp_path), shard)


@pytest.mark.parametrize(
    ("change", "offset", "reason"),
    [
        (lambda data: data[:40], 26, "the file is cut short"),
        (lambda data: data[:30], 26, "the file is cut short"),
        (lambda data: data[:-1], 62, "the file is cut short"),
        (lambda data: data[:45] + b"!" + data[46:], 26, "the checksum of a record is wrong"),
        (lambda data: data[:-1] + b"!", 62, "the checksum of a record is wrong"),
        (
            lambda data: data[:33] + b"\x7f" + data[34:],
            26,
            "the checksum of a record's length is wrong",
        ),
    ],
)
def test_a_damaged_shard_is_named_with_the_offset_of_the_bad_record(
    tmp_path, shard, change, offset, reason
):
    assert _message_after(tmp_path, shard, change) == (
        f"SHARD is damaged at byte {offset}: {reason}; copy it again or prepare the data again."
    )


def test_a_shard_cut_between_two_records_is_noticed(tmp_path, shard):
    message = _message_after(tmp_path, shard, lambda data: data[:62])
    assert message.startswith(
        "SHARD ends at byte 62 and is not the shard of the manifest: examples 2 instead of 3, "
        "bytes 62 instead of 108, crc32c "
    )
    assert message.endswith("; copy it again or prepare the data again.")


def test_a_missing_shard_is_named(tmp_path, shard):
    (tmp_path / shard.name).unlink()
    with pytest.raises(InputError) as error:
        schema.verify_shard(str(tmp_path), shard)
    assert str(error.value) == (
        f"{tmp_path}/{shard.name} is missing, though the manifest lists it; copy the folder again "
        "or prepare the data again."
    )


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    schema.write_manifest(MANIFEST, str(tmp_path))
    assert schema.read_manifest(str(tmp_path)) == MANIFEST
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]
    assert MANIFEST.num_classes == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_manifest_that_an_editor_saved_again_is_read(tmp_path, encoding):
    (tmp_path / "manifest.json").write_text(MANIFEST.to_json(), encoding=encoding)
    assert schema.read_manifest(str(tmp_path)) == MANIFEST


def test_manifest_and_shards_go_through_tensorflow_on_remote_paths():
    folder = "ram://records"
    shard = schema.write_shard(folder, "train-00000-of-00001.tfrecord", [b"one", b"two"])
    schema.write_manifest(MANIFEST, folder)
    assert schema.read_manifest(folder) == MANIFEST
    assert list(schema.read_shard(folder, shard)) == [b"one", b"two"]
    assert sorted(tf.io.gfile.listdir(folder)) == ["manifest.json", shard.name]


def test_the_fingerprint_follows_the_content():
    assert schema.fingerprint(MANIFEST) == schema.fingerprint(dataclasses.replace(MANIFEST))
    other = dataclasses.replace(SPLIT.shards[0], crc32c="0000abce")
    split = dataclasses.replace(SPLIT, shards=(other,))
    changed = dataclasses.replace(MANIFEST, splits={"train": split})
    assert schema.fingerprint(changed) != schema.fingerprint(MANIFEST)
    assert len(schema.fingerprint(MANIFEST)) == 64


def test_the_fingerprint_is_of_the_examples_not_of_the_files_that_they_were_made_of():
    known = dataclasses.replace(MANIFEST, grids=(schema.Grid((4, 5), None, 2),))
    assert schema.fingerprint(known) == schema.fingerprint(MANIFEST)
    marked = dataclasses.replace(SPLIT.shards[0], present=("11", "01"))  # as the examples say, too
    split = dataclasses.replace(SPLIT, shards=(marked,))
    known = dataclasses.replace(MANIFEST, splits={"train": split})
    assert schema.fingerprint(known) == schema.fingerprint(MANIFEST)
    assert schema.Manifest.from_json(known.to_json()) == known


def test_data_that_an_older_version_prepared_keep_their_fingerprint():
    # As version 1 of the schema computed it, before draws, ranges, colours and thresholds.
    found = schema.read_manifest(demo.folder())
    assert schema.fingerprint(found) == (
        "a73a7abed0480ca8fed0ac9442b740f5a1dd2c6e24ec3ac6ac0c04cb629de06c"
    )
    with open(f"{demo.folder()}/manifest.json", encoding="utf-8") as file:
        assert found.to_json() == file.read()


def test_a_class_is_told_as_it_was_given():
    classes = (
        schema.Class("a", 0),
        schema.Class("b", 1, 65535),
        schema.Class("c", 2, colour="#ff0000"),
    )
    assert [entry.as_given() for entry in classes] == ["0", "1-65535", "#ff0000"]


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(InputError) as error:
        schema.read_manifest(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path} has no manifest.json: it is not a folder that trainer.data.prepare finished; "
        "prepare the data, or name another --data_dir."
    )


def _refusal(change):
    raw = json.loads(MANIFEST.to_json())
    change(raw)
    with pytest.raises(InputError) as error:
        schema.Manifest.from_json(json.dumps(raw), "DIR/manifest.json")
    return str(error.value)


def test_a_newer_schema_is_refused():
    def change(raw):
        raw.update(schema=3, unheard_of=1)

    assert _refusal(change) == (
        "DIR/manifest.json has schema 3, newer than 2, the newest that this version reads; upgrade "
        "this package or prepare the data again with it."
    )


@pytest.mark.parametrize("name", ["../x.tfrecord", "/etc/passwd", "a/b", "..", "", "a\\b", ".x"])
def test_a_shard_name_that_leaves_its_folder_is_refused(name):
    assert _refusal(lambda raw: raw["splits"]["train"]["shards"][0].update(name=name)) == (
        f"DIR/manifest.json is damaged: shard name {name!r} is not a plain file name; prepare the "
        "data again."
    )


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda raw: raw["classes"].pop(), "it has fewer than 2 or more than 255 classes"),
        (lambda raw: raw.update(dtype="int7"), "dtype 'int7' is unknown"),
        (
            lambda raw: raw.update(encoding="gif"),
            "encoding 'gif' is not 'png', that of 1 channels of uint8",
        ),
        (
            lambda raw: raw.update(dtype="float32"),
            "encoding 'png' is not 'zlib', that of 1 channels of float32",
        ),
        (lambda raw: raw.update(channels=0), "0 channels are too few"),
        (lambda raw: raw["splits"].clear(), "it has no train split"),
        (
            lambda raw: raw["splits"]["train"].update(sizes=[[4, 5]]),
            "the sizes of its train split are not of 2 axes",
        ),
        (
            lambda raw: raw["splits"]["train"].update(examples=3),
            "the counts of its train split disagree",
        ),
        (
            lambda raw: raw["splits"]["train"].update(
                examples=0, shards=[], cases=[], sizes=[], pixels=[0, 0]
            ),
            "its train split is empty",
        ),
        (
            lambda raw: raw["splits"]["train"].update(pixels=[1]),
            "its train split does not count every class",
        ),
        (
            lambda raw: raw.update(grids=[{"shape": [4, 5], "spacing": [1.0], "count": 1}]),
            "the shape and spacing of a grid are not of 2 axes",
        ),
        (
            lambda raw: raw.update(grids=[{"shape": [4, 5], "count": 0}]),
            "a grid is that of no case",
        ),
        *(
            (
                lambda raw, marks=marks: raw["splits"]["train"]["shards"][0].update(present=marks),
                "shard train-00000-of-00001.tfrecord has not a mark for each class and example",
            )
            for marks in (["11"], ["11", "1"], ["11", "1x"])
        ),
        (
            lambda raw: raw["splits"]["train"].update(mean=[]),
            "its train split has not a mean and std for each channel",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change, rule):
    assert _refusal(change) == f"DIR/manifest.json is damaged: {rule}; prepare the data again."


def test_a_message_is_one_line_whatever_a_split_is_called():
    def change(raw):
        raw["splits"]["a\nb"] = {**raw["splits"]["train"], "examples": 3}

    assert _refusal(change) == (
        "DIR/manifest.json is damaged: the counts of its a b split disagree; prepare the data "
        "again."
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "it is [], not an object"),
        ("3", "it is 3, not an object"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
        ("{}", "schema is missing, not a whole number of at most 18 digits"),
        ('{"schema": "x"}', "schema is 'x', not a whole number of at most 18 digits"),
        ('{"schema": true}', "schema is True, not a whole number of at most 18 digits"),
        (
            f'{{"schema": {"1" * 5000}}}',
            "schema is inf, not a whole number of at most 18 digits",
        ),
        ('{"schema": 1}', "classes is missing, not a list"),
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(text, reason):
    with pytest.raises(InputError) as error:
        schema.Manifest.from_json(text, "x")
    message = str(error.value)
    assert message.startswith(f"x is not a manifest of trainer.data.prepare ({reason}")
    assert message.endswith("); prepare the data again.")
    assert "\n" not in message


WHOLE = "a whole number of at most 18 digits"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("sizes", [["4", 5, 2]], f"sizes[0][0] is '4', not {WHOLE}"),
        ("sizes", [7], "sizes[0] is 7, not a list"),
        ("pixels", [30, None], f"pixels[1] is missing, not {WHOLE}"),
        ("pixels", [30, 8.5], f"pixels[1] is 8.5, not {WHOLE}"),
        ("pixels", [30, 10**18], f"pixels[1] is 1e+18, not {WHOLE}"),
        ("ignored_pixels", "2", f"ignored_pixels is '2', not {WHOLE}"),
        ("mean", ["x"], "mean[0] is 'x', not a finite number"),
        ("mean", [float("nan")], "mean[0] is nan, not a finite number"),
        ("std", [float("inf")], "std[0] is inf, not a finite number"),
        ("std", None, "std is missing, not a list"),
        ("cases", ["b", 1], "cases[1] is 1, not a text"),
        ("shards", ["x"], "shards[0] is 'x', not an object"),
        ("shards", [{"name": None}], "shards[0].name is missing, not a text"),
        ("shards", [{"name": "x", "examples": "two"}], f"shards[0].examples is 'two', not {WHOLE}"),
    ],
)
def test_a_field_of_another_type_is_named(name, value, reason):
    assert _refusal(lambda raw: raw["splits"]["train"].update({name: value})) == (
        f"DIR/manifest.json is not a manifest of trainer.data.prepare (splits.train.{reason}); "
        "prepare the data again."
    )


def test_a_missing_ignore_value_and_a_mean_without_fraction_are_no_damage():
    split = dataclasses.replace(SPLIT, mean=(2,))
    manifest = dataclasses.replace(MANIFEST, splits={"train": split}, ignore_value=7)
    assert schema.Manifest.from_json(manifest.to_json()) == manifest
    raw = json.loads(manifest.to_json())
    del raw["ignore_value"]
    assert schema.Manifest.from_json(json.dumps(raw)).ignore_value is None


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a manifest of trainer"):
        schema.read_manifest(str(tmp_path))
