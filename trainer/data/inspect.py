"""Prints what is in a data folder, checks its shards, draws its images.

python -m trainer.data.inspect DIR [--verify] [--sheet=FILE.png]
"""

import errno
import functools
import importlib
import io
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from absl import logging
from PIL import Image, PngImagePlugin

from trainer import cli, config, terminal, text_table
from trainer.data import demo
from trainer.data.dataset import case_index, schema, volume_examples
from trainer.drawing import captions, overlays, panels, volumes
from trainer.errors import InputError, one_line
from trainer.storage import files

MARK = "trainer.data.inspect"  # in every sheet
SIZES_SHOWN = 8
SHEET_COLUMNS = 6
VOLUME_COLUMNS = 2


def main(settings: config.Inspect) -> None:
    """Prints the tables, then does what else was asked for."""
    data_dir = settings.data_dir or demo.folder()
    if settings.sheet or files.is_remote(data_dir):  # which take TensorFlow
        with cli.importing():
            importlib.import_module("tensorflow")
    files.register_stores(data_dir, settings.sheet)
    if settings.sheet:
        files.check_replaceable("sheet", settings.sheet, [MARK])
    manifest = schema.read_manifest(data_dir)
    cli.show("\n".join(describe(manifest, data_dir)))
    if settings.verify:
        cli.show(f"\n{verify(manifest, data_dir)}")
    if settings.sheet:
        picture = Image.fromarray(draw_sheet(manifest, data_dir, settings.sheet_examples))
        _save(picture, settings.sheet)


def describe(manifest: schema.Manifest, data_dir: str) -> list[str]:
    """Returns the manifest as lines of text."""
    known = {
        "folder": data_dir,
        f"{_noun(manifest)}s": f"{_counted(manifest.channels, 'channel')}, {manifest.dtype}, "
        f"stored as {manifest.encoding}",
        "spacing": _spacing(manifest.volumes) if manifest.volumes else "",
        "blocks": _blocks(manifest.volumes) if manifest.volumes else "",
        "origin": manifest.origin,
        "licence": manifest.licence,
        "splits": _drawn(manifest.draw) if manifest.draw else "",
        "folds": _folds(manifest.folds) if manifest.folds else "",
        "seed": str(manifest.seed),
        "schema": str(manifest.schema),
        "fingerprint": schema.fingerprint(manifest),
    }
    lines = table([[name, text] for name, text in known.items() if text])
    tables = {
        "Splits": _split_rows(manifest),
        f"Classes, with their shares of the {_point(manifest)}s": _class_rows(manifest),
        "Channels, in stored units": _channel_rows(manifest),
    }
    if manifest.volumes is None:
        tables["Sizes, height × width"] = _size_rows(manifest)
    else:
        tables["Normalisation, in the units of the files"] = _scheme_rows(manifest.volumes)
        tables["Sizes, depth × height × width, along each axis"] = _extent_rows(manifest)
    for title, rows in tables.items():
        lines += ["", title, *table(rows, heading=True)]
    if manifest.leaks:
        lines += ["", "Leaks: identical pixels in two splits"]
        lines += [f"  {one_line(' = '.join(group))}" for group in manifest.leaks]
    if manifest.skipped:
        lines += [
            "",
            "Skipped as unreadable",
            *(f"  {one_line(name)}" for name in manifest.skipped),
        ]
    return lines


def table(rows: Sequence[Sequence[str]], heading: bool = False) -> list[str]:
    """Returns rows as aligned lines: the first column to the left, in headed ones others right."""
    right = range(1, len(rows[0])) if heading else ()
    return [f"  {line}" for line in text_table.aligned(rows, right, gap="   ", ruled=heading)]


def verify(manifest: schema.Manifest, data_dir: str) -> str:
    """Reads every shard and index, and returns a line that says how many there are.

    Raises:
        InputError: naming the first file that is not as it was written.
    """
    shards, indexes = manifest.shards, manifest.indexes or ()
    total = sum(shard.bytes for shard in shards) + sum(index.bytes for index in indexes)
    with terminal.Bar(len(shards) + len(indexes), "verifying", "files") as bar:
        for shard in shards:
            schema.verify_shard(data_dir, shard)
            bar.update()
        for index in indexes:
            case_index.read(data_dir, index)
            bar.update()
    also = f" and {_counted(len(indexes), 'index of cases', 'indexes of cases')}" if indexes else ""
    return (
        f"All {_counted(len(shards), 'shard')}{also} ({_megabytes(total)} MB) are as they were "
        "written."
    )


def draw_sheet(manifest: schema.Manifest, data_dir: str, num_examples: int) -> np.ndarray:
    """Returns a contact sheet: examples of every split and class, in stored order, with outlines.

    Of a volume it has a slice across each axis.

    Args:
        manifest: of the folder.
        data_dir: the folder.
        num_examples: images or volumes on the sheet; every split gets its share, at least one, and
            more where its classes need them.

    Returns:
        uint8 [H, W, 3].
    """
    draw, most, note = panels.draw_example, SHEET_COLUMNS, ""
    if manifest.volumes is not None:
        spacing = manifest.volumes.spacing or (1.0, 1.0, 1.0)
        note = "" if manifest.volumes.spacing else ", voxels as cubes"
        draw, most = functools.partial(volumes.draw_example, spacing=spacing), VOLUME_COLUMNS
    tiles: list[np.ndarray] = []
    unseen = set(range(1, manifest.num_classes))
    total = sum(split.examples for split in manifest.splits.values())
    for name, split in manifest.splits.items():
        count = min(split.examples, max(1, round(num_examples * split.examples / total)))
        for example in _chosen(_examples(manifest, data_dir, split), count, split, unseen):
            caption = f"{name}/{example['name'].numpy().decode()}{note}"
            image, mask = example["image"].numpy(), example["mask"].numpy()
            tiles.append(draw(image, mask, caption=caption))
    columns = min(most, math.ceil(math.sqrt(len(tiles))))
    sheet = panels.grid(tiles, columns)
    legend = [
        (entry.name, overlays.class_colour(index))
        for index, entry in enumerate(manifest.classes)
        if index
    ]
    return np.concatenate([sheet, captions.legend_lines(sheet.shape[1], legend)])


def _chosen(
    examples: Iterable[dict], count: int, split: schema.Split, unseen: set[int]
) -> list[dict]:
    """Returns the first examples of a split, and those with the first pixels of a class.

    Args:
        examples: of the split.
        count: how many; more only if classes need them.
        split: it says which classes there are, so that no more is read than that takes.
        unseen: classes that are not on the sheet yet; those that are now are removed.
    """
    needed: dict[int, dict] = {}
    others: dict[int, dict] = {}
    sought = {k for k in unseen if split.pixels[k]}
    for place, example in enumerate(examples):
        if len(needed) + len(others) >= count and not sought:
            break
        new = sought.intersection(np.unique(example["mask"].numpy()).tolist()) if sought else set()
        sought -= new
        unseen -= new
        if new:
            needed[place] = example
        elif len(others) < count:
            others[place] = example
    fill = dict(list(others.items())[: max(0, count - len(needed))])
    return [example for _, example in sorted((needed | fill).items())]


def _examples(manifest: schema.Manifest, data_dir: str, split: schema.Split) -> Iterator[dict]:
    for shard in split.shards:
        for serialized in schema.read_shard(data_dir, shard):
            yield schema.decode(serialized, manifest)


def _save(picture: Image.Image, path: str) -> None:
    buffer = io.BytesIO()
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", MARK)
    picture.save(buffer, "png", pnginfo=note)
    try:
        with files.writing(path, "wb") as file:
            file.write(buffer.getvalue())
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(
            f"--sheet={path} cannot be written: {error.strerror}; name another file."
        ) from None
    logging.info("Drew %s.", path)


def _folds(folds: Sequence[schema.Fold]) -> str:
    counts = ", ".join(str(fold.val.examples) for fold in folds)
    return f"{len(folds)}, of {counts} cases; the first is val"


def _drawn(draw: schema.Draw) -> str:
    shares = ", ".join(f"{side} {share:g}" for side, share in draw.shares.items())
    groups = f", groups {draw.group_by}" if draw.group_by else ""
    return f"drawn by {draw.rule}: {shares}{groups}"


def _noun(manifest: schema.Manifest) -> str:
    return "image" if manifest.volumes is None else "volume"


def _point(manifest: schema.Manifest) -> str:
    return "pixel" if manifest.volumes is None else "voxel"


def _spacing(kind: volume_examples.Volumes) -> str:
    if kind.spacing is None:
        return "each volume's own"
    return f"{_product(kind.spacing)} mm, to which all were resampled"


def _blocks(kind: volume_examples.Volumes) -> str:
    return f"of at most {_product(kind.block)} voxels in train" if kind.block else ""


def _product(numbers: Iterable[float]) -> str:
    return " × ".join(f"{number:g}" for number in numbers)


def _split_rows(manifest: schema.Manifest) -> list[list[str]]:
    noun, point = _noun(manifest), _point(manifest)
    rows = [["split", f"{noun}s", "shards", f"{noun}s/shard", "MB", f"mega{point}s", "ignored"]]
    for name, split in manifest.splits.items():
        counts = [shard.examples for shard in split.shards]
        pixels = sum(math.prod(size) for size in split.sizes)  # sides and how often
        rows.append(
            [
                name,
                str(split.examples),
                str(len(counts)),
                "–".join(str(count) for count in sorted({min(counts), max(counts)})),
                _megabytes(sum(shard.bytes for shard in split.shards)),
                f"{pixels / 1e6:.2f}",
                _percent(split.ignored_pixels, pixels),
            ]
        )
    return rows


def _class_rows(manifest: schema.Manifest) -> list[list[str]]:
    rows = [["class", "id", "mask value", *manifest.splits]]
    for index, entry in enumerate(manifest.classes):
        shares = [
            _percent(split.pixels[index], sum(split.pixels)) for split in manifest.splits.values()
        ]
        given = entry.as_given()
        if manifest.threshold is not None:
            given = f"{'≥' if index else '<'} {manifest.threshold:g}"
        rows.append([entry.name, str(index), given, *shares])
    ignored = manifest.ignore_colour or manifest.ignore_value
    if ignored is not None:
        blanks = ["" for _ in manifest.splits]
        rows.append(["(ignored)", str(schema.IGNORE), str(ignored), *blanks])
    return rows


def _channel_rows(manifest: schema.Manifest) -> list[list[str]]:
    rows = [
        ["channel", *(f"{name} {what}" for name in manifest.splits for what in ("mean", "std"))]
    ]
    named = [entry.name for entry in manifest.volumes.channels] if manifest.volumes else ()
    for channel in range(manifest.channels):
        figures = [
            f"{values[channel]:.5g}"
            for split in manifest.splits.values()
            for values in (split.mean, split.std)
        ]
        rows.append([named[channel] if named else str(channel), *figures])
    return rows


def _scheme_rows(kind: volume_examples.Volumes) -> list[list[str]]:
    rows = [["channel", "scheme", "mean", "std", "0.5 %", "99.5 %"]]
    for entry in kind.channels:
        figures = (entry.mean, entry.std, entry.low, entry.high)
        shown = ("–" if value is None else f"{value:.5g}" for value in figures)
        rows.append([entry.name, entry.scheme, *shown])
    return rows


def _size_rows(manifest: schema.Manifest) -> list[list[str]]:
    counts = {
        name: {tuple(sides): count for *sides, count in split.sizes}
        for name, split in manifest.splits.items()
    }
    totals = {
        size: sum(split.get(size, 0) for split in counts.values())
        for size in sorted(set(itertools.chain.from_iterable(counts.values())))
    }
    common = sorted(totals, key=lambda size: -totals[size])
    rows = [["size", *counts]]
    for size in common[:SIZES_SHOWN]:
        shown = [str(split.get(size, 0)) for split in counts.values()]
        rows.append([_product(size), *shown])
    rare = common[SIZES_SHOWN:]
    if rare:
        sums = [sum(split.get(size, 0) for size in rare) for split in counts.values()]
        rows.append([f"{_counted(len(rare), 'other')}", *(str(count) for count in sums)])
    return rows


def _extent_rows(manifest: schema.Manifest) -> list[list[str]]:
    """Returns how long the volumes are along each axis, which seldom are of one size."""
    spacing = manifest.volumes.spacing if manifest.volumes else None
    sides = [
        np.repeat([size[:-1] for size in split.sizes], [size[-1] for size in split.sizes], axis=0)
        for split in manifest.splits.values()
    ]
    rows = [["size", *manifest.splits]]
    for unit, factor in {"voxels": (1, 1, 1), "mm": spacing}.items():
        for name, share in (("smallest", 0), ("median", 50), ("largest", 100)):
            if factor is not None:
                found = (np.percentile(x, share, axis=0) * factor for x in sides)
                rows.append([f"{name}, {unit}", *(_product(x.round(1)) for x in found)])
    return rows


def _counted(count: int, noun: str, plural: str = "") -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.2f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "–"


def _with_flag(argv: Sequence[str]) -> list[str]:
    """Returns the command line with the folder, which may come first, as a flag."""
    if len(argv) > 1 and not argv[1].startswith("-"):
        return [argv[0], f"--data_dir={argv[1]}", *argv[2:]]
    return list(argv)


if __name__ == "__main__":
    cli.run(config.Inspect, main, _with_flag(sys.argv))
