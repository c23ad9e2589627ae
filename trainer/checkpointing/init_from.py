"""The best weights of another run, with which a run begins: `--init_from=RUN`."""

import hashlib
import os
from typing import Any

import keras
from absl import logging

from trainer import config, json_text
from trainer.checkpointing import best_weights, checkpoint, run_metadata
from trainer.errors import InputError
from trainer.models import functional, initialization, layers

FLAG = "init_from"


def describe(run_dir: str) -> dict[str, Any]:
    """Returns what run.json records of the run whose weights it begins with.

    Raises:
        InputError: if the folder holds no run with best weights.
    """
    run = run_metadata.read(run_dir, FLAG)
    folder = os.path.join(run_dir, "best")
    steps = checkpoint.Checkpoints(folder, {}).steps()
    commit = checkpoint.read_commit(os.path.join(folder, f"{steps[-1]:08d}")) if steps else None
    if commit is None:
        raise best_weights.no_weights(run_dir, FLAG)
    described = json_text.dumps(commit["files"], sort_keys=True)
    return {
        "run_dir": run_dir,
        "fingerprint": run["fingerprint"],
        "step": commit["step"],
        "weights": hashlib.sha256(described.encode()).hexdigest(),
    }


def origin(run: config.Run, old: dict[str, Any] | None, rank: int) -> dict[str, Any] | None:
    """Returns whose weights a run begins or began with, as `describe`; None if they are random.

    A run that resumes does not need them, and its flag may be left out.

    Args:
        run: the settings.
        old: the content of its run.json where it resumes; None if it begins.
        rank: 2 of a run on images, 3 on volumes.

    Raises:
        InputError: if there are no such weights, those of a network of the other rank, or a run
            that resumes began with others.
    """
    given = run.init_from
    if old is None:
        if not given:
            return None
        described, theirs = describe(given), run_metadata.rank_of(run_metadata.read(given, FLAG))
        if theirs != rank:
            kinds = {2: "images", 3: "volumes"}
            raise InputError(
                f"--init_from={given} was trained on {kinds[theirs]}, and the data are "
                f"{kinds[rank]}, whose kernels have other axes; name a run on {kinds[rank]}, or "
                "leave it out."
            )
        return described
    known = old.get("init_from")
    if not given or known and given == known["run_dir"]:
        return known
    if known and describe(given)["weights"] == known["weights"]:
        return known
    began = (
        f"with the weights of {known['run_dir']}, step {known['step']}" if known else "at random"
    )
    raise InputError(
        f"--run_dir={run.run_dir} holds a run that began {began}; leave --init_from={given} out to "
        "resume it, or name another --run_dir."
    )


def begin(model: keras.Model, origin: dict[str, Any], job: config.Job) -> None:
    """Gives a network the weights of another run where they fit, layer by layer, and lists them.

    Layers are paired by their places, so that the networks must be of as many; a layer fits if it
    has the same kinds of weights in the same shapes. Where only one is trained by coarser outputs,
    too, those of the prediction are paired.

    Args:
        model: with its first weights, random or its own, which stay where those of the other do
            not fit.
        origin: what `describe` returned.
        job: the settings.

    Raises:
        InputError: if the weights are no longer those described, or none fits.
    """
    run_dir = origin["run_dir"]
    run = run_metadata.read(run_dir, FLAG)
    source, step = best_weights.best_model(run_dir, run, FLAG)
    if describe(run_dir)["weights"] != origin["weights"] or step != origin["step"]:
        raise InputError(
            f"--init_from={run_dir} has other weights than step {origin['step']} of run "
            f"{origin['fingerprint'][:12]}, with which this run began; restore them."
        )
    ours, theirs = _pairs(model, source)
    settings = ", ".join(config.differences(run["settings"], job.model)) or "the same settings"
    if len(ours) != len(theirs):
        raise InputError(
            f"--init_from={run_dir} is a network of {len(theirs)} layers with weights, and this is "
            f"one of {len(ours)}: {settings}. Give the settings of that run, or leave it out."
        )
    fits = [_kind(mine) == _kind(other) for mine, other in zip(ours, theirs, strict=True)]
    if not any(fits):
        raise InputError(
            f"--init_from={run_dir} has no layer that fits this network: {settings}. Give the "
            "settings of that run, or leave it out."
        )
    lines = [f"Weights of {run_dir}, step {step}: {sum(fits)} of {len(fits)} layers."]
    for place, (mine, other, fit) in enumerate(zip(ours, theirs, fits, strict=True)):
        if fit:
            mine.set_weights(other.get_weights())
        own = "its own" if initialization.brings_weights(mine) else "at random"
        what = "transferred" if fit else f"{own}; there {_shapes(other)}"
        lines.append(f"  {place:3d}  {_shapes(mine)}  {what}")
    logging.info("%s", "\n".join(lines))
    if run["settings"]["normalize"] != job.data.normalize:
        logging.warning(
            "The weights are those of images with --normalize=%s, and this run has --normalize=%s.",
            *(run["settings"]["normalize"], job.data.normalize),
        )


def _pairs(
    model: keras.Model, source: keras.Model
) -> tuple[list[keras.layers.Layer], list[keras.layers.Layer]]:
    """Returns the layers with weights of both networks, those of the prediction if need be."""
    networks = (model, source)
    if len({len(network.outputs) for network in networks}) > 1:
        networks = (functional.prediction_model(model), functional.prediction_model(source))
    ours, theirs = ([layer for layer in m.layers if layer.weights] for m in networks)
    return ours, theirs


def _kind(layer: keras.layers.Layer) -> tuple[Any, ...]:
    """Returns what must be equal for one layer's weights to fit another."""
    weights = tuple((weight.name, tuple(weight.shape)) for weight in layer.weights)
    is_transposed = isinstance(layer, layers.TRANSPOSED)  # whose channels are exchanged
    return (*weights, is_transposed)


def _shapes(layer: keras.layers.Layer) -> str:
    """Returns a layer's weights as in Conv2D kernel 3x3x1x16, bias 16; of a network, how many."""
    if isinstance(layer, keras.Model):
        return f"{type(layer).__name__} of {len(layer.weights)} weights"
    weights = (f"{weight.name} {'x'.join(map(str, weight.shape))}" for weight in layer.weights)
    return f"{type(layer).__name__} {', '.join(weights)}"
