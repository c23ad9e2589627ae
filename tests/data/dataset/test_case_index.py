"""Tests of cases that are in files of their own."""

import dataclasses
import json

import pytest

from tests.data.dataset import test_schema
from tests.shards import index_cases, write_data, write_folds
from trainer.data.dataset import case_index, folds, integrity, sample, schema
from trainer.errors import InputError

NAMES = ["a/1", "two\nlines", 'a "quoted", b', "é\u2028", ""]


@pytest.fixture
def data(tmp_path):
    """Shards of three and two training cases, two of one validation case, with any names."""
    listed = write_data(tmp_path, {"train": [(9, 8)] * 5, "val": [(8, 8)] * 2})
    train = dataclasses.replace(listed.splits["train"], cases=tuple(NAMES))
    listed = dataclasses.replace(listed, splits={**listed.splits, "train": train})
    schema.write_manifest(listed, str(tmp_path))
    return tmp_path, listed, index_cases(tmp_path)


def test_a_line_of_an_index_is_json_that_a_person_can_read(tmp_path):
    index = case_index.write(str(tmp_path), "val-cases.jsonl", [("b\n", "10"), ("é", "11")])
    assert (tmp_path / index.name).read_text() == '["b\\n", "10"]\n["é", "11"]\n'
    assert index == schema.Index("val-cases.jsonl", 2, 27, index.crc32c)
    assert case_index.read(str(tmp_path), index) == (tmp_path / index.name).read_bytes()


def test_names_are_those_that_the_manifest_listed_and_are_read_where_they_are_needed(data):
    folder, listed, manifest = data
    assert "quoted" not in (folder / "manifest.json").read_text()
    assert schema.read_manifest(str(folder)) == manifest
    (folder / "train-cases.jsonl").rename(folder / "away")
    found = case_index.with_cases(str(folder), manifest, ["val"])
    assert found.splits["train"] == manifest.splits["train"]
    assert tuple(found.splits["val"].names) == listed.splits["val"].cases == ("val0", "val1")
    (folder / "away").rename(folder / "train-cases.jsonl")
    train = case_index.with_cases(str(folder), manifest, ["train"]).splits["train"]
    assert (list(train.names), len(train.names), train.names[1]) == (NAMES, 5, "two\nlines")
    assert train.names[1:4] == tuple(NAMES[1:4])
    with pytest.raises(IndexError):
        train.names[5]


def test_a_manifest_that_lists_its_cases_needs_no_index(tmp_path):
    listed = write_data(tmp_path, {"train": [(9, 8)] * 5, "val": [(8, 8)] * 2})
    assert case_index.with_cases("nowhere", listed, ["train", "val"]) == listed
    assert case_index.with_marks("nowhere", listed, "train") == listed


def test_marks_of_a_shard_say_which_of_its_examples_have_a_class(data):
    folder, _, manifest = data
    found = case_index.with_marks(str(folder), manifest, "train").splits["train"]
    for shard in found.shards:
        for place, example in enumerate(schema.read_shard(str(folder), shard)):
            mask = schema.decode(example, manifest)["mask"].numpy()
            expected = [str(int((mask == k).any())) for k in range(manifest.num_classes)]
            assert [marks[place] for marks in shard.present] == expected
    assert found.cases is None


def test_a_manifest_with_what_was_read_is_written_and_known_as_it_was(data):
    folder, _, manifest = data
    read = case_index.with_marks(str(folder), manifest, "train")
    read = case_index.with_cases(str(folder), read, ["train", "val"])
    assert read.to_json() == manifest.to_json()
    assert schema.fingerprint(read) == schema.fingerprint(manifest)
    first, *others = manifest.indexes
    other = dataclasses.replace(first, crc32c="00000000")
    changed = dataclasses.replace(manifest, indexes=(other, *others))
    assert schema.fingerprint(changed) != schema.fingerprint(manifest)


def test_a_sample_has_the_names_of_its_cases_where_they_have_been_read(tmp_path):
    listed = write_data(tmp_path, {"train": [(9, 8)], "val": [(8, 8)] * 7})
    manifest = index_cases(tmp_path)
    assert sample.of_validation(manifest, 4).splits["val"].cases is None
    read = case_index.with_cases(str(tmp_path), manifest, ["val"])
    expected = sample.of_validation(listed, 4).splits["val"].cases
    assert sample.of_validation(read, 4).splits["val"].cases == expected
    # And where they have not, as a run finds them that is told to skip what is damaged.
    later = case_index.with_cases(str(tmp_path), sample.of_validation(manifest, 4), ["val"])
    assert tuple(later.splits["val"].names) == expected


def test_cases_of_a_fold_are_in_several_indexes(tmp_path):
    listed = write_folds(tmp_path)  # fold0, fold1, fold2 and test, of four each
    splits = {f"fold{k}": fold.val for k, fold in enumerate(listed.folds)}
    splits["train"] = splits["fold0"]  # which a manifest must have
    plain = dataclasses.replace(listed, splits=splits, folds=None)
    schema.write_manifest(plain, str(tmp_path))
    indexed = index_cases(tmp_path)
    parts = tuple(schema.Fold(*[indexed.splits[f"fold{k}"]] * 2) for k in range(3))
    whole = dataclasses.replace(indexed, splits=folds.splits(parts, 0), folds=parts)
    schema.write_manifest(whole, str(tmp_path))
    for fold in range(3):
        chosen = folds.choose(schema.read_manifest(str(tmp_path)), fold, str(tmp_path))
        found = case_index.with_cases(str(tmp_path), chosen, ["train", "val"])
        expected = folds.choose(listed, fold, str(tmp_path))
        for name in ("train", "val"):
            assert tuple(found.splits[name].names) == expected.splits[name].cases
        marked = case_index.with_marks(str(tmp_path), chosen, "train").splits["train"].shards
        assert [len(shard.present[0]) for shard in marked] == [2, 2, 2, 2]


def _refusal(call, folder):
    with pytest.raises(InputError) as error:
        call()
    return str(error.value).replace(str(folder), "DIR")


@pytest.mark.parametrize("what", ["missing", "cut", "changed", "of other data"])
def test_an_index_that_is_not_the_manifests_is_refused_by_name(data, what):
    folder, _, manifest = data
    path = folder / "val-cases.jsonl"
    content = path.read_bytes()
    assert content == b'["val0", "11"]\n["val1", "11"]\n'
    remedy = "; copy it again or prepare the data again."
    if what == "missing":
        path.unlink()
        begin = (
            "DIR/val-cases.jsonl is missing, though the manifest lists it; copy the folder again"
        )
        remedy = " or prepare the data again."
    elif what == "cut":
        path.write_bytes(content[:20])
        figures = "lines 1 instead of 2, bytes 20 instead of 30, crc32c "
        begin = f"DIR/val-cases.jsonl is not the index of the manifest: {figures}"
    else:
        other = content.replace(b"val1", b"val2") if what == "changed" else content.upper()
        path.write_bytes(other)
        begin = "DIR/val-cases.jsonl is not the index of the manifest: crc32c "
    calls = [
        lambda: case_index.with_cases(str(folder), manifest, ["val"]),
        lambda: integrity.check(str(folder), manifest, ["train", "val"]),
        lambda: integrity.check(str(folder), manifest, ["val"], skip_bad_records=1),
    ]
    for call in calls:
        said = _refusal(call, folder)
        assert said.startswith(begin)
        assert remedy in said
        assert "\n" not in said
    integrity.check(str(folder), manifest, ["train"])


@pytest.mark.parametrize(
    ("content", "is_ours"),
    [
        ('["a", "01"]\n', True),
        ('["a", "01"]\n["b"', True),  # only the first line is looked at
        ("", False),
        ('["a"]\n', False),
        ('["a", 1]\n', False),
        ('{"a": "01"}\n', False),
        ("a,01\n", False),
        ("\udcff", False),
        ("[" * 100_000, False),
    ],
)
def test_a_file_of_another_is_not_taken_for_an_index(tmp_path, content, is_ours):
    path = tmp_path / "train-cases.jsonl"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert case_index.is_index(str(path)) == is_ours


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            lambda raw: raw["splits"]["train"].pop("cases"),
            "its train split has its cases nowhere, or twice",
        ),
        (
            lambda raw: raw.update(indexes=[]),
            "shard train-00000-of-00001.tfrecord has its cases in no index, or without one",
        ),
    ],
)
def test_a_manifest_with_its_cases_nowhere_is_refused(change, rule):
    assert test_schema._refusal(change) == (
        f"DIR/manifest.json is damaged: {rule}; prepare the data again."
    )


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            lambda raw: raw["splits"]["val"]["shards"][1]["rows"].update(first=2),
            "shard val-00001-of-00002.tfrecord has its cases in no index, or without one",
        ),
        (
            lambda raw: raw["splits"]["val"]["shards"][1]["rows"].update(first=-1),
            "shard val-00001-of-00002.tfrecord has its cases in no index, or without one",
        ),
        (
            lambda raw: raw["splits"]["val"]["shards"][1]["rows"].update(index="other"),
            "shard val-00001-of-00002.tfrecord has its cases in no index, or without one",
        ),
        (
            lambda raw: raw["splits"]["train"].update(cases=["a"] * 5),
            "its train split has its cases nowhere, or twice",
        ),
        (
            lambda raw: raw["indexes"][0].update(name="../x"),
            "index name '../x' is not a plain file name",
        ),
    ],
)
def test_a_manifest_whose_indexes_contradict_it_is_refused(data, change, rule):
    folder, _, manifest = data
    raw = json.loads(manifest.to_json())
    change(raw)
    said = _refusal(lambda: schema.Manifest.from_json(json.dumps(raw), f"{folder}/x"), folder)
    assert said == f"DIR/x is damaged: {rule}; prepare the data again."
