"""Where volumes are and what they are called, before any is read.

They are files, folders of DICOM slices, or a data set with a `dataset.json`: nnU-Net's, with a file
for each channel, or the Decathlon's, with all channels in one.
"""

import collections
import dataclasses
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import logging

from trainer.data.formats import discovery, medical, naming, reading, volumes
from trainer.data.formats.discovery import FileKind, Source
from trainer.errors import InputError, one_line
from trainer.storage import files

DESCRIPTION = "dataset.json"
CHANNEL = re.compile(r"(.+)_(\d{4})")  # a case and its channel, by nnU-Net's names
PLAIN = FileKind(
    "volumes",
    medical.SUFFIXES,
    remedy="Add --volumes if TIFFs, .npy arrays or folders of DICOM slices are volumes, too.",
)
ALL = FileKind("volumes", (*medical.SUFFIXES, *volumes.STACKS, ".dcm"), has_slices=True)
EITHER = FileKind("images", (*discovery.SUFFIXES, *medical.SUFFIXES))


@dataclasses.dataclass(frozen=True)
class VolumeCase:
    """A volume.

    Attributes:
        images: its file, or those of its channels in their order; each has the case's name.
        mask: where its mask is, if it is to have one.
    """

    images: tuple[Source, ...]
    mask: Source | None = None

    @property
    def name(self) -> str:
        """The case's name."""
        return self.images[0].name


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a `dataset.json` says.

    Attributes:
        cases: with their masks, in the order of their names.
        channel_names: in the order of the channels.
        labels: as they are in the file; see `classes_of`.
        label: what messages call the file.
        left_out: what else is in its folders.
    """

    cases: list[VolumeCase]
    channel_names: tuple[str, ...]
    labels: Mapping[str, Any]
    label: str
    left_out: collections.Counter[str]


def are_volumes(where: str, flag: str, stacks: bool) -> bool:
    """Whether a place that a flag names holds volumes: any file of them, or a data set.

    Args:
        where: a folder or a glob.
        flag: that named it, for messages.
        stacks: whether `--volumes` says that everything is one.
    """
    if stacks or is_dataset(where):
        return True
    if where.lower().endswith((".npy", ".npz")):
        return False
    return any(
        path.lower().endswith(medical.SUFFIXES)
        for path in discovery.listed_files(where, flag, EITHER)
    )


def find_images(
    where: str, flag: str, stacks: bool, num_channels: int | None = None
) -> tuple[list[VolumeCase], collections.Counter[str]]:
    """Returns the volumes at a place, without masks, in the order of their names.

    Args:
        where: a folder or a glob; of a data set its `imagesTs`.
        flag: that named it, for messages.
        stacks: whether TIFFs, `.npy` arrays and folders of DICOM slices are volumes, too.
        num_channels: of a volume; None if that is not known.

    Raises:
        InputError: there are none, or they cannot be listed.
    """
    if is_dataset(where):
        stacks = _described(where).get("file_ending", ".nii").lower().endswith(volumes.STACKS)
        where = f"{where.rstrip('/')}/imagesTs"
    found = find_files(where, flag, stacks)
    cases = group_channels(found.sources, num_channels) or [
        VolumeCase((source,)) for source in found.sources
    ]
    return sorted(cases, key=lambda case: case.name), found.left_out


def find_files(where: str, flag: str, stacks: bool) -> discovery.Found:
    """Returns the files, and folders of DICOM slices, at a place; see `find_images`."""
    named, left_out = discovery.named_files(where, flag, ALL if stacks else PLAIN)
    found: dict[str, Source] = {}
    for path, name in named:
        suffix = naming.suffix(path).lower()
        if suffix == ".mhd" and files.is_remote(path):
            raise InputError(
                f"{one_line(path)} has its voxels in another file; save it as .mha, or copy both "
                "to a local disk."
            )
        if suffix in (*medical.SUFFIXES, *volumes.STACKS):
            found[path] = Source(name, path, None, one_line(path))
        else:
            folder = os.path.dirname(path)
            name = os.path.dirname(name) or os.path.basename(os.path.abspath(folder))
            found.setdefault(folder, Source(name, folder, None, one_line(folder), is_series=True))
    if any(one.path.lower().endswith(medical.SUFFIXES) for one in found.values()):
        for package in ("SimpleITK", "nibabel"):
            reading.import_medical(package, f"--{flag}={where}")  # reported before any work
    return discovery.Found(list(found.values()), left_out)


def group_channels(
    sources: Sequence[Source], num_channels: int | None, but: Collection[str] = ()
) -> list[VolumeCase]:
    """Returns the cases of files named by nnU-Net's rule: `CASE_0000`, `CASE_0001` and so on.

    They are if all are, and each case has the same channels, from the first on.

    Args:
        sources: the files.
        num_channels: of a volume; None if that is not known.
        but: names that are cases by themselves, such as those of masks.

    Returns:
        Nothing, if the names are others.
    """
    cases: dict[str, dict[int, Source]] = collections.defaultdict(dict)
    for source in sources:
        match = CHANNEL.fullmatch(source.name)
        if match is None or source.name in but:
            return []
        cases[match[1]][int(match[2])] = dataclasses.replace(source, name=match[1])
    lengths = {len(channels) for channels in cases.values()}
    wanted = num_channels or max(lengths, default=0)
    if lengths != {wanted} or any(max(channels) >= wanted for channels in cases.values()):
        return []
    return [VolumeCase(tuple(channels[k] for k in range(wanted))) for channels in cases.values()]


def is_dataset(where: str) -> bool:
    """Whether a folder is a data set with a `dataset.json`, and not only images beside one."""
    folder = where.rstrip("/")
    if not files.is_remote(where) and not os.path.isdir(where):
        return False
    return files.exists(f"{folder}/{DESCRIPTION}") and bool(files.list_folder(f"{folder}/imagesTr"))


def read_dataset(where: str) -> Dataset:
    """Returns the training cases of a data set.

    Raises:
        InputError: its description is of another form, or a file that it names is missing.
    """
    folder, described = where.rstrip("/"), _described(where)
    label = one_line(f"{folder}/{DESCRIPTION}")
    channels = described.get("channel_names", described.get("modality"))
    if not isinstance(channels, dict) or not all(key.isdecimal() for key in channels):
        raise InputError(
            f'{label} has no channel_names; write what each channel is: {{"0": "CT"}} or the like.'
        )
    names = tuple(str(channels[key]) for key in sorted(channels, key=int))
    ending = described.get("file_ending", ".nii.gz")
    if not str(ending).lower().endswith((*medical.SUFFIXES, *volumes.STACKS)):
        raise InputError(
            f"{label} describes pictures (file_ending {ending}); name --images={folder}/imagesTr "
            f"and --masks={folder}/labelsTr."
        )
    listed = described.get("training") if "file_ending" not in described else None
    images = _listed(folder, "imagesTr")
    left_out: collections.Counter[str] = collections.Counter()
    if listed and os.path.basename(_path_of(listed[0], "image", label)) in images:
        cases = _decathlon(folder, listed, label)
    else:
        cases, left_out = _nnunet(folder, images, len(names), ending, label)
    told = described.get("numTraining", len(cases))
    if told != len(cases):
        logging.warning(
            "Warning: %s speaks of %s training cases, and %d are there.", label, told, len(cases)
        )
    if not cases:
        raise InputError(f"{label} describes no cases that are in imagesTr; check its file_ending.")
    labels = described.get("labels", {})
    cases.sort(key=lambda case: case.name)
    return Dataset(cases, names, labels if isinstance(labels, dict) else {}, label, left_out)


def classes_of(dataset: Dataset) -> tuple[str, str]:
    """Returns the classes of a data set, and the value that does not count, as flags take them.

    Raises:
        InputError: a class is not one value.
    """
    labels = dataset.labels
    if labels and all(key.isdecimal() and isinstance(labels[key], str) for key in labels):
        labels = {name: int(value) for value, name in labels.items()}  # the Decathlon's form
    for name, value in labels.items():
        if isinstance(value, list):
            raise InputError(
                f"{dataset.label} makes the class {one_line(name)} of the values {value} (regions "
                "that overlap), which is not read; give --classes with one value or range each."
            )
        if type(value) is not int:
            raise InputError(
                f"{dataset.label} gives the class {one_line(name)} the value {value!r}; write a "
                "whole number, or give --classes."
            )
    ignore = labels.get("ignore")
    ordered = sorted((value, name) for name, value in labels.items() if name != "ignore")
    text = ",".join(f"{name.replace(',', ' ')}:{value}" for value, name in ordered)
    return text, "" if ignore is None else str(ignore)


def _described(where: str) -> dict[str, Any]:
    path = f"{where.rstrip('/')}/{DESCRIPTION}"
    try:
        described = json.loads(files.read_text(path))
    except ValueError as error:
        raise InputError(f"{one_line(path)} is not JSON: {error}; correct it.") from None
    if not isinstance(described, dict):
        raise InputError(f"{one_line(path)} is no JSON object; see nnU-Net's dataset format.")
    return described


def _listed(folder: str, name: str) -> set[str]:
    return {one for one in files.list_folder(f"{folder}/{name}") if not one.startswith(".")}


def _nnunet(
    folder: str, images: Collection[str], num_channels: int, ending: str, label: str
) -> tuple[list[VolumeCase], collections.Counter[str]]:
    """Returns the cases of files `imagesTr/CASE_0000` and `labelsTr/CASE`, and counts others."""
    masks = _listed(folder, "labelsTr")
    channels: dict[str, set[int]] = collections.defaultdict(set)
    others = 0
    for image in images:
        match = CHANNEL.fullmatch(image.removesuffix(ending)) if image.endswith(ending) else None
        if match is None:
            others += 1
        else:
            channels[match[1]].add(int(match[2]))
    cases = []
    for name, there in channels.items():
        if there != set(range(num_channels)):
            has = ", ".join(f"_{number:04}" for number in sorted(there))
            raise InputError(
                f"{folder}/imagesTr/{one_line(name)} has the channels {has}, where {label} names "
                f"{num_channels}; add what is missing, or remove the case."
            )
        if name + ending not in masks:
            raise InputError(
                f"{folder}/imagesTr/{one_line(name)}_0000{ending} has no mask: there is no "
                f"labelsTr/{one_line(name)}{ending}; add it, or remove the image."
            )
        paths = [f"{folder}/imagesTr/{name}_{k:04}{ending}" for k in range(num_channels)]
        cases.append(_case(name, paths, f"{folder}/labelsTr/{name}{ending}"))
    for mask in sorted(masks):
        if mask.endswith(ending) and mask.removesuffix(ending) not in channels:
            raise InputError(
                f"{folder}/labelsTr/{one_line(mask)} has no image in imagesTr; add it, or remove "
                "the mask."
            )
    return cases, collections.Counter({"other files": others})


def _decathlon(folder: str, listed: Sequence[Any], label: str) -> list[VolumeCase]:
    """Returns the cases of a list of {"image": …, "label": …}."""
    cases = []
    for entry in listed:
        image, mask = (f"{folder}/{_path_of(entry, key, label)}" for key in ("image", "label"))
        for path in (image, mask):
            if not files.exists(path):
                raise InputError(f"{label} lists {one_line(path)}, which does not exist; add it.")
        cases.append(_case(naming.stem(image), [image], mask))
    return cases


def _path_of(entry: Any, key: str, label: str) -> str:
    path = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(path, str) or ".." in path.split("/"):
        raise InputError(
            f'{label} has {entry!r} in its list "training"; write {{"image": "./imagesTr/…", '
            '"label": "./labelsTr/…"}.'
        )
    return path.removeprefix("./")


def _case(name: str, images: Sequence[str], mask: str) -> VolumeCase:
    sources = [Source(name, path, None, one_line(path)) for path in (*images, mask)]
    return VolumeCase(tuple(sources[:-1]), sources[-1])
