"""The story of an export: load, build what is served, save in each form, measure, describe."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, terminal
from trainer.checkpointing import best_weights, run_metadata
from trainer.data import demo
from trainer.data.dataset import folds, schema
from trainer.data.dataset.volume_examples import Volumes
from trainer.data.input import normalization, padded_shapes
from trainer.errors import InputError
from trainer.evaluate import calibration, components, sliding_window
from trainer.export import lite, model_card, onnx_model, output_folder, serving, volume_serving
from trainer.models import plain_keras
from trainer.predict import masks
from trainer.storage import files

CALIBRATION_IMAGES = 100
ALWAYS = {"saved_model.pb": "TensorFlow Serving, Vertex AI", "model.keras": "Keras"}


def export(folder: str, settings: config.Export) -> dict[str, Any]:
    """Writes all files into a local folder and returns what signature.json says."""
    run = run_metadata.read(settings.run_dir)
    volumes = run_metadata.volumes_of(run)
    if volumes is not None:
        _check_for_volumes(settings)
    if settings.tflite:
        lite.check_installed()
    if settings.onnx:
        onnx_model.check_installed()
    data = run_metadata.data_of(run)
    kept = components.read(settings.run_dir, run["classes"])
    if kept:
        logging.warning(
            "Warning: %s in masks of %s, as its %s says, and no exported model does that; do it to "
            "its masks, or use trainer.predict.",
            kept.described(run["classes"]).capitalize(),
            settings.run_dir,
            components.NAME,
        )
    keras.mixed_precision.set_global_policy("float32")  # a job that trained may have another
    terminal.busy("loading the network")
    model, step = best_weights.best_model(settings.run_dir, run)
    weights = best_weights.weights_digest(model)
    described = {
        "run": run["fingerprint"],
        "step": step,
        "weights": weights,
        "temperature": calibration.read(settings.run_dir, weights),
        "channels": run["channels"],
        "dtype": data["dtype"],
        "classes": _classes(run, data),
    }
    if volumes is None:
        described |= _write_for_images(folder, settings, run, data, model, described["temperature"])
    else:
        described |= _write_for_volumes(folder, run, data, model, volumes, described["temperature"])
    card = model_card.write(settings.run_dir, run, data, described)
    files.write_whole(os.path.join(folder, "model_card.md"), card)
    output_folder.seal(folder, described)
    return described


def _write_for_images(
    folder: str,
    settings: config.Export,
    run: dict[str, Any],
    data: dict[str, Any],
    model: keras.Model,
    temperature: float | None,
) -> dict[str, Any]:
    """Writes a network of images in each form; returns what signature.json says of them."""
    job = config.from_dict(config.Job, run["settings"])
    stride = math.lcm(*job.model.stride(rank=2))
    multiple = padded_shapes.padded_to(stride)
    units = (job.data.normalize, data["mean"], data["std"])
    core = plain_keras.core(model, temperature)
    server = _server(core, job.model, settings.tile, run["channels"], data, units, multiple)
    signatures = server.signatures()
    terminal.busy("writing the SavedModel")
    tf.saved_model.save(server, folder, signatures=signatures)
    whole = plain_keras.plain(model, *units, data["dtype"], multiple, temperature)
    terminal.busy("writing model.keras")
    whole.save(os.path.join(folder, "model.keras"))
    written = dict(ALWAYS)
    differences: dict[str, dict[str, Any]] = {}
    if settings.tflite:
        size = settings.tflite_size or -(-max(job.data.box(2)) // stride) * stride
        differences |= _write_tflite(folder, settings, run, core, size, stride, units)
        written |= dict.fromkeys(
            differences, f"TensorFlow Lite, normalised images of {size}×{size}"
        )
    if settings.onnx:
        differences["model.onnx"] = _write_onnx(folder, settings, run, whole, server)
        written["model.onnx"] = "ONNX"
    for name, figures in differences.items():
        logging.info("%s: %s", name, model_card.difference_line(figures))
    return {
        "normalize": {"kind": units[0], "mean": list(units[1]), "std": list(units[2])},
        "tile": server.tile,
        "signatures": {name: _described(function) for name, function in signatures.items()},
        "files": written,
        "differences": differences,
        "examples": model_card.image_examples(signatures, data["dtype"]),
    }


def _write_for_volumes(
    folder: str,
    run: dict[str, Any],
    data: dict[str, Any],
    model: keras.Model,
    volumes: Volumes,
    temperature: float | None,
) -> dict[str, Any]:
    """Writes a network of volumes in each form; returns what signature.json says of them."""
    job = config.from_dict(config.Job, run["settings"])
    server = volume_serving.VolumeServer(
        plain_keras.network(model, temperature),
        channels=volumes.channels,
        values=data["class_values"],
        mask_dtype=masks.smallest_dtype(data["class_values"]).name,
        box=job.data.box(rank=3),
    )
    signatures = server.signatures()
    terminal.busy("writing the SavedModel")
    tf.saved_model.save(server, folder, signatures=signatures)
    # `none` of float32 leaves volumes as they are: normalised.
    stride = job.model.stride(rank=3)
    whole = plain_keras.plain(model, "none", (), (), "float32", stride, temperature)
    terminal.busy("writing model.keras")
    whole.save(os.path.join(folder, "model.keras"))
    return {
        "volumes": dataclasses.asdict(volumes),
        "window": list(job.data.box(rank=3)),
        "signatures": {name: _described(function) for name, function in signatures.items()},
        "files": {**ALWAYS, "model.keras": "Keras, normalised volumes"},
        "differences": {},
        "examples": model_card.volume_examples(signatures),
    }


def _check_for_volumes(settings: config.Export) -> None:
    """Raises InputError if something is asked for that only a network of images has."""
    of = f"--run_dir={settings.run_dir} was trained on volumes"
    if settings.tile:
        raise InputError(
            f"--tile={settings.tile} is for images, and {of}, which are predicted in windows of "
            "the training crop's size; leave it out."
        )
    for name in ("tflite", "onnx"):
        if getattr(settings, name):
            raise InputError(
                f"--{name} is for images, and {of}; leave it out: the SavedModel and model.keras "
                "are written for volumes, too."
            )


def _server(
    core: Any,
    network: config.Model,
    tile: int,
    channels: int,
    data: dict[str, Any],
    units: tuple[str, list[float], list[float]],
    multiple: int,
) -> serving.Server:
    """Returns what a SavedModel serves: preparing, the network, and masks of stored values."""
    stride = math.lcm(*network.stride(rank=2))
    halo = -(-max(sliding_window.halo_of(network.levels(rank=2))) // stride) * stride
    normalize, mean, std = units
    return serving.Server(
        core,
        channels=channels,
        dtype=data["dtype"],
        values=data["class_values"],
        mask_dtype=masks.smallest_dtype(data["class_values"]).name,
        normalize=normalize,
        mean=mean,
        std=std,
        multiple=multiple,
        tile=_checked_tile(tile, halo, multiple),
        halo=halo,
    )


def _write_tflite(
    folder: str,
    settings: config.Export,
    run: dict[str, Any],
    core: Callable[[np.ndarray], tf.Tensor],
    size: int,
    stride: int,
    units: tuple[str, list[float], list[float]],
) -> dict[str, dict[str, Any]]:
    """Writes the network for TensorFlow Lite; returns how far each file is from it.

    Raises:
        InputError: if the network's stride does not divide `size`.
    """
    if size % stride:
        raise InputError(
            f"--tflite_size={size} is not a multiple of {stride}, the network's stride."
        )
    windows = _windows(settings, run, "train", size, units, CALIBRATION_IMAGES)
    kinds = {"float16": None, "int8": [image for image, _ in windows]}
    differences = {}
    for kind, typical in kinds.items():
        content = lite.convert(core, size, typical)
        _write(folder, f"model_{kind}.tflite", content)
        differences[f"model_{kind}.tflite"] = _difference(
            lite.open_model(content),
            lambda image: core(image[np.newaxis])[0].numpy(),
            _windows(settings, run, "test", size, units),
        )
    return differences


def _write_onnx(
    folder: str,
    settings: config.Export,
    run: dict[str, Any],
    whole: keras.Model,
    server: serving.Server,
) -> dict[str, Any]:
    """Writes the whole network as ONNX; returns how far it is from what is served."""
    content = onnx_model.convert(whole)
    _write(folder, "model.onnx", content)

    def served(image: np.ndarray) -> np.ndarray:
        return server.predict(tf.constant(image[np.newaxis]))["probabilities"][0].numpy()

    return _difference(onnx_model.open_model(content), served, _images(settings, run, "test"))


def _classes(run: dict[str, Any], data: dict[str, Any]) -> list[dict[str, Any]]:
    pairs = zip(run["classes"], data["class_values"], strict=True)
    return [
        {"id": number, "name": name, "value": value} for number, (name, value) in enumerate(pairs)
    ]


def _checked_tile(tile: int, halo: int, multiple: int) -> int:
    """Returns the side of tiles, a multiple of what sides are rounded to."""
    rounded = tile // multiple * multiple
    if tile and rounded <= 2 * halo:
        least = (2 * halo // multiple + 1) * multiple
        raise InputError(
            f"--tile={tile} leaves nothing between halos of {halo} pixels; use at least {least}, "
            "or 0 for no tiles."
        )
    return rounded


def _write(folder: str, name: str, content: bytes) -> None:
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)


def _described(function: Any) -> dict[str, dict[str, Any]]:
    """Returns names, dtypes and shapes of what a signature takes and gives."""
    (given,) = function.input_signature
    taken = function.get_concrete_function().structured_outputs
    tensors = {"inputs": {given.name: given}, "outputs": taken}
    return {
        side: {
            name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
            for name, spec in sorted(specs.items())
        }
        for side, specs in tensors.items()
    }


# What converted models are calibrated with and measured on ----------------------------------------


def _images(
    settings: config.Export, run: dict[str, Any], side: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images, stored dtype [H, W, C], and masks, class ids [H, W], of a split."""
    data_dir = settings.data_dir or run["settings"]["data_dir"] or demo.folder()
    manifest = schema.read_manifest(data_dir)
    best_weights.check_same_kind(settings.run_dir, run, manifest)
    if schema.fingerprint(manifest) == run["data_fingerprint"]:
        manifest = folds.choose(manifest, run["settings"].get("fold"), data_dir)
    split = manifest.splits.get(side) or manifest.splits["val"]
    for shard in split.shards:
        for serialized in schema.read_shard(data_dir, shard):
            example = schema.decode(serialized, manifest)
            yield example["image"].numpy(), example["mask"].numpy()


def _windows(
    settings: config.Export,
    run: dict[str, Any],
    side: str,
    size: int,
    units: tuple[str, list[float], list[float]],
    limit: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the middle of normalised images, [size, size, C], mirrored where it is beyond them."""
    for count, (image, mask) in enumerate(_images(settings, run, side)):
        if count == limit:
            return
        kind, mean, std = units
        values = normalization.normalize(image, kind, mean, std).numpy()
        rows, columns = (
            sliding_window.mirror(np.arange(size) + max(0, (length - size) // 2), length)
            for length in mask.shape
        )
        place = np.ix_(rows, columns)
        yield values[place], mask[place]


def _difference(
    converted: Callable[[np.ndarray], np.ndarray],
    original: Callable[[np.ndarray], np.ndarray],
    examples: Iterator[tuple[np.ndarray, np.ndarray]],
) -> dict[str, Any]:
    """Returns how far a converted model is from the original, and from the truth.

    Dice is that of all foreground pixels together, over all images.
    """
    counts = np.zeros((2, 3), np.int64)
    images = pixels = other = 0
    largest = total = 0.0
    for image, mask in examples:
        found, expected = converted(image), original(image)
        beyond = np.abs(found - expected)
        largest, total = max(largest, float(beyond.max())), total + float(beyond.mean())
        known, truth = mask != schema.IGNORE, mask > 0
        classes = [masks.class_ids(values) for values in (found, expected)]
        other += int((classes[0] != classes[1]).sum())
        images, pixels = images + 1, pixels + mask.size
        for row, ids in enumerate(classes):
            hit = (ids > 0) & (ids == mask) & known
            counts[row] += [hit.sum(), ((ids > 0) & known).sum(), (truth & known).sum()]
    dice = [2 * hit / max(1, found + truth) for hit, found, truth in counts.tolist()]
    return {
        "images": images,
        "largest_probability_difference": largest,
        "mean_probability_difference": total / max(1, images),
        "pixels_of_another_class": other / max(1, pixels),
        "dice": dice[0],
        "dice_of_original": dice[1],
    }
