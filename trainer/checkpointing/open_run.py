"""Whether a job may begin or resume the run of its run folder, and with which choices."""

import hashlib
import math
import os
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, json_text
from trainer.checkpointing import checkpoint, init_from, run_metadata
from trainer.data.dataset import schema
from trainer.data.input import pipeline
from trainer.distributed import arithmetic, strategies
from trainer.errors import InputError
from trainer.models import norms
from trainer.storage import files
from trainer.training import losses, optimizers, xla_trial

EVALUATIONS = 10  # in a run, where --eval_every is unset
WHOLE_BATCH = "sync_batch"
MOST_VOXELS = 128**3  # of a crop that is proposed


def open_run(
    job: config.Job,
    strategy: tf.distribute.Strategy,
    manifest: schema.Manifest,
    data_fingerprint: str,
) -> dict[str, Any]:
    """Returns the content of run.json: new or, where the run resumes, as its start chose.

    Args:
        job: the settings.
        strategy: the devices.
        manifest: of the data, with the splits of the job's fold.
        data_fingerprint: of the data folder, whatever the fold.

    Raises:
        InputError: the devices do not divide the batch, there is no val split, the crop does not
            go with the data, or the run folder holds another run.
    """
    num_replicas, train_split = strategy.num_replicas_in_sync, manifest.splits["train"]
    _check_job(job, num_replicas, manifest)
    old = _find_begun(job.run.run_dir)
    total_steps = job.optimization.total_steps(train_split.examples, job.data.batch_size)
    if old:
        check_same_run(old, job, data_fingerprint, num_replicas)
        check_length(old, job, total_steps)
        check_same_replicas(old, job, num_replicas)
    origin = init_from.origin(job.run, old, manifest.rank)
    chosen = old or {}
    norm = norms.choose(job.model.norm, num_replicas)
    norm_of_any = norms.of_encoder(norm, num_replicas) if job.model.has_encoder else norm
    precision, precision_reason = _choose_precision(job, strategy, chosen, manifest.rank)
    return run_metadata.describe(
        job,
        strategy,
        channels=manifest.channels,
        classes=[entry.name for entry in manifest.classes],
        data=run_metadata.describe_data(manifest),
        data_fingerprint=data_fingerprint,
        # Of a run that is the same, though another release may compute another fingerprint.
        fingerprint=chosen.get("fingerprint")
        or fingerprint(job, data_fingerprint, num_replicas, origin),
        init_from=origin,
        streams=pipeline.num_streams(
            train_split,
            strategies.num_input_hosts(strategy),
            chosen.get("streams") or job.data.streams,
            job.data.foreground,
            job.data.balance_cases,
        ),
        begun_with_steps=chosen.get("begun_with_steps", chosen.get("total_steps", total_steps)),
        total_steps=total_steps,
        eval_every=job.run.eval_every
        or chosen.get("eval_every")  # also where the run has more steps now
        or max(1, total_steps // EVALUATIONS),
        peak_learning_rate=optimizers.scale_rate(
            job.optimization.lr_scaling,
            job.optimization.learning_rate,
            job.data.batch_size,
            job.optimization.lr_reference_batch,
        ),
        norm=norm,
        precision=precision,
        precision_reason=precision_reason,
        **_choose_xla(job, strategy, chosen, norm_of_any, precision, manifest),
    )


def _check_job(job: config.Job, num_replicas: int, manifest: schema.Manifest) -> None:
    """Raises InputError where settings, devices and data do not go together."""
    parts = num_replicas * job.optimization.accumulate_steps
    if job.data.batch_size % parts:
        raise InputError(
            f"--batch_size={job.data.batch_size} does not divide among {num_replicas} replicas × "
            f"--accumulate_steps={job.optimization.accumulate_steps}; use a multiple of {parts}."
        )
    if "val" not in manifest.splits:
        raise InputError(
            f"--data_dir={job.data.data_dir} has no val split, which picks the best checkpoint; "
            "prepare the data with one."
        )
    _check_crop(job, manifest)
    if manifest.rank == 3 and job.data.normalize != config.Data().normalize:
        raise InputError(
            f"--normalize={job.data.normalize} is for images; volumes were normalised when they "
            "were prepared, by the names of their channels: drop it."
        )
    if job.data.foreground and not any(manifest.splits["train"].pixels[1:]):
        raise InputError(
            f"--foreground={job.data.foreground} needs a class other than the background, and the "
            "training split has none; use --foreground=0, or prepare the data again."
        )


def _check_crop(job: config.Job, manifest: schema.Manifest) -> None:
    """Raises InputError for a crop of another rank than the data, or larger than all volumes.

    A volume is continued up to the next multiple of the stride, and up to the largest; images are
    continued as far as it takes, as they always were.
    """
    box, strides = job.data.box(manifest.rank), job.model.stride(manifest.rank)
    if manifest.volumes is None:
        return
    *sides, counts = np.array(manifest.splits["train"].sizes).T
    largest = [int(side.max()) for side in sides]
    limits = zip(box, largest, strides, strict=True)
    if all(side < most + stride for side, most, stride in limits):
        return
    medians = [int(np.median(np.repeat(of_axis, counts))) for of_axis in sides]
    fitting = [
        max(side // stride, 1) * stride for side, stride in zip(medians, strides, strict=True)
    ]
    while math.prod(fitting) > MOST_VOXELS and fitting != list(strides):
        longest = max(range(len(fitting)), key=lambda n: fitting[n] - strides[n])
        fitting[longest] -= strides[longest]
    raise InputError(
        f"--crop={config.as_text(job.data.crop)} is larger than every training example, whose "
        f"sides are at most {'×'.join(map(str, largest))} voxels; use "
        f"--crop={config.as_text(tuple(fitting))}."
    )


def _find_begun(run_dir: str) -> dict[str, Any] | None:
    """Returns the run.json of a run that has checkpoints; None if there is nothing to resume.

    Raises:
        InputError: if the folder holds results without a run.json, which a run would replace.
    """
    old = run_metadata.find(run_dir)
    kinds = (os.path.join(run_dir, name) for name in ("checkpoints", "best"))
    begun = any(checkpoint.Checkpoints(folder, {}).steps() for folder in kinds)
    if not (old or begun):
        for name in ("metrics.jsonl", "evaluation"):
            path = os.path.join(run_dir, name)
            if files.exists(path):
                raise InputError(
                    f"{path} exists, but there is no run.json that it belongs to; move it away, or "
                    "name another --run_dir."
                )
    return old if begun else None


def _choose_precision(
    job: config.Job, strategy: tf.distribute.Strategy, chosen: dict[str, Any], rank: int
) -> tuple[str, str]:
    """Returns the precision, if it is auto that of the run's start, and why it was chosen."""
    precision, reason = job.device.precision, ""
    if precision == "auto" and "precision" in chosen:
        precision, reason = chosen["precision"], chosen.get("precision_reason", "")
    precision, new_reason = arithmetic.choose_precision(
        precision,
        strategy,
        deterministic=job.device.deterministic,
        rank=rank,
    )
    before = chosen.get("precision", precision)
    if before != precision:
        logging.info("The run began in %s and resumes in %s.", before, precision)
    return precision, reason or new_reason


def _choose_xla(
    job: config.Job,
    strategy: tf.distribute.Strategy,
    chosen: dict[str, Any],
    norm: str,
    precision: str,
    manifest: schema.Manifest,
) -> dict[str, Any]:
    """Returns what XLA compiles; if that is auto, as at the run's start.

    Returns:
        `jit_compile`: whether it compiles the step; `collectives_in_xla`: with the sums of several
        replicas in it; `xla_trial`: the verdict of a trial of that, if there was one.
    """
    collective, accumulate_steps = "", job.optimization.accumulate_steps
    if strategy.num_replicas_in_sync > 1:
        collective = _collective(norm, job.optimization.loss)
    inside = strategies.compiles_collectives(strategy)
    if inside and norm == WHOLE_BATCH and accumulate_steps > 1:  # XLA would number some sums twice
        inside, collective = False, f"{collective} and --accumulate_steps={accumulate_steps}"
    trial = chosen.get("xla_trial") or {}
    jit_compile = job.device.jit_compile
    # The run may have begun on one replica, with XLA, or without it by a trial of other devices.
    if jit_compile == "auto" and not trial and (inside or not collective):
        jit_compile = str(chosen.get("jit_compile", "auto")).lower()
    use_xla = arithmetic.choose_xla(
        jit_compile,
        strategy,
        deterministic=job.device.deterministic,
        collective="" if inside else collective,
    )
    inside = inside and use_xla
    if inside and job.device.jit_compile == "auto":
        step = xla_trial.small_step(
            job, norm, precision, manifest.channels, manifest.num_classes, manifest.rank
        )
        trial = xla_trial.verdict(step, strategy, trial)
        inside = trial["passed"]
        use_xla = inside or not collective
        if not inside:
            logging.warning(
                "XLA does not compile the sums of these devices (%s): it compiles %s.",
                trial["reason"],
                "what is between them" if use_xla else "nothing of the step",
            )
    return {
        "jit_compile": use_xla,
        "collectives_in_xla": inside,
        "xla_trial": trial or None,
    }


def _collective(norm: str, loss: str) -> str:
    """Returns the flag by which replicas exchange sums in the forward pass, if there is one."""
    if norm == WHOLE_BATCH:
        return f"--norm={norm}"
    return f"--loss={loss}" if losses.of_whole_batch(losses.LOSSES[loss]) else ""


def check_same_run(
    old: dict[str, Any], job: config.Job, data_fingerprint: str, num_replicas: int = 1
) -> None:
    """Raises InputError unless `job` on that data resumes the run of `old`, its run.json."""
    settings = dict(old["settings"])
    if _old_statistics(old) == _statistics(job.model.norm, num_replicas):
        settings["norm"] = job.model.norm  # another name of the same function
    changes = config.differences(settings, job)
    if changes:
        raise InputError(
            f"--run_dir={job.run.run_dir} holds a run with other settings: {', '.join(changes)}; "
            "give the same flags to resume it, or another --run_dir."
        )
    if old["data_fingerprint"] != data_fingerprint:
        raise InputError(
            f"--run_dir={job.run.run_dir} holds a run on other data: the manifest of "
            f"--data_dir={job.data.data_dir} has fingerprint {data_fingerprint[:12]}, the run's "
            f"had {old['data_fingerprint'][:12]}; name the same data, or another --run_dir."
        )


def check_length(old: dict[str, Any], job: config.Job, total_steps: int) -> None:
    """Raises InputError if `job` has fewer steps than the run of `old` was to have."""
    if total_steps < old["total_steps"]:
        raise InputError(
            f"--run_dir={job.run.run_dir} holds a run of {old['total_steps']} steps, and this is "
            f"one of {total_steps}; give --steps={old['total_steps']} to resume it, more steps to "
            "train further, or another --run_dir."
        )


def check_same_replicas(old: dict[str, Any], job: config.Job, num_replicas: int) -> None:
    """Raises InputError if another number of replicas would make it another run."""
    if old["num_replicas"] == num_replicas:
        return
    before, now = _old_statistics(old), _statistics(job.model.norm, num_replicas)
    remedy = "begin a run with --norm=auto, group or instance, which any number may resume"
    if before == WHOLE_BATCH:
        remedy = "resume it with --norm=auto, whose statistics are the whole batch's on any number"
    if "batch" in (before, now):
        raise InputError(
            f"--run_dir={job.run.run_dir} was begun on {old['num_replicas']} replicas and this job "
            f"has {num_replicas}, but --norm=batch takes its statistics from each replica's part "
            f"of the batch; resume it on as many replicas, or {remedy}."
        )


def _statistics(norm: str, num_replicas: int) -> str:
    """Returns a norm by what it computes: `batch` on one replica is `sync_batch` on several."""
    alone = norm == "batch" and num_replicas == 1
    return WHOLE_BATCH if alone or norm == "auto" else norm


def _old_statistics(old: dict[str, Any]) -> str:
    return _statistics(old["settings"]["norm"], old["num_replicas"])


def fingerprint(
    job: config.Job,
    data_fingerprint: str,
    num_replicas: int = 1,
    origin: dict[str, Any] | None = None,
) -> str:
    """Returns a checksum of all that changes the result.

    Args:
        job: the settings.
        data_fingerprint: of the data.
        num_replicas: on which the run begins.
        origin: of its first weights, see `init_from.describe`; None if they are random.
    """
    settings = config.identifying(job)
    if origin is not None:
        settings["init_from"] = origin["weights"]
    settings["norm"] = _statistics(job.model.norm, num_replicas)
    text = json_text.dumps({"data": data_fingerprint, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
