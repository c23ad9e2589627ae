"""A training job that holds its run folder, from connecting to why it ended."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainer import config
from trainer.checkpointing import run_metadata
from trainer.checkpointing.open_run import open_run
from trainer.data import demo
from trainer.data.dataset import case_index, folds, integrity, schema, shard_cache
from trainer.distributed import heartbeat, preemption, rendezvous, strategies
from trainer.storage import files, lock


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """What a job has before it builds a network.

    Attributes:
        job: the settings.
        strategy: the devices.
        data_dir: the data folder.
        manifest: of that folder, without records that are unreadable, with the names of the cases
            that are evaluated.
        cache: of the shards, on this machine; None: they are read where they are.
        metadata: the content of run.json.
        run_lock: of the run folder.
        request: whether this worker was asked to stop.
        ending: takes the reason why the run ended.
    """

    job: config.Job
    strategy: tf.distribute.Strategy
    data_dir: str
    manifest: schema.Manifest
    cache: shard_cache.ShardCache | None
    metadata: dict[str, Any]
    run_lock: lock.Lease
    request: preemption.Request
    ending: run_metadata.Ending

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes."""
        return strategies.worker_of(self.strategy)[0] == 0

    @property
    def final_split(self) -> str:
        """The split that is evaluated at the end: test, where there is one."""
        return "test" if "test" in self.manifest.splits else "val"

    def is_cancelled(self) -> bool:
        """Returns whether this worker was asked to stop."""
        return bool(self.request)


@contextlib.contextmanager
def open_session(job: config.Job) -> Iterator[Session]:
    """Connects to the devices, locks the run folder, and checks settings and data against both.

    Writes into run.json why the job ended, if there is a reason.

    Raises:
        InputError: settings, data and devices do not go together, or another job writes into the
            run folder.
        rendezvous.LostWorkerError: a worker does not come, or is lost.
    """
    strategy = strategies.connect(
        job.device.strategy,
        job.device.tpu,
        job.device.virtual_devices,
        rendezvous.Timeouts(job.device.join_timeout, job.device.worker_timeout),
        job.device.collectives,
        job.device.require,
    )
    strategies.seed_everything(job.run.seed, job.device.deterministic)
    for name in ("tensorboard_dir", "model_dir"):
        if path := getattr(job.run, name):
            files.check_folder(name, path)
    data_dir = job.data.data_dir or demo.folder()
    prepared = schema.read_manifest(data_dir)
    manifest = folds.choose(prepared, job.data.fold, data_dir)
    fingerprint = schema.fingerprint(prepared)
    if job.data.balance_cases:
        manifest = case_index.with_marks(data_dir, manifest, "train")
    settings = job.data.cache_dir, job.data.cache_gb
    cache = shard_cache.open_cache(*settings, data_dir, manifest, fingerprint, job.device.tpu)
    chief = strategies.worker_of(strategy)[0] == 0
    with (
        preemption.listening() as request,
        lock.held(job.run.run_dir, job.run.lease_seconds, chief) as run_lock,
    ):
        metadata = open_run(job, strategy, manifest, fingerprint)
        with (
            run_metadata.ending(job.run.run_dir, metadata, chief) as ending,
            heartbeat.translate_errors(),
        ):
            manifest, metadata["unreadable_records"] = _check_data(
                job, strategy, data_dir, manifest
            )
            yield Session(
                job=job,
                strategy=strategy,
                data_dir=data_dir,
                manifest=manifest,
                cache=cache,
                metadata=metadata,
                run_lock=run_lock,
                request=request,
                ending=ending,
            )


def _check_data(
    job: config.Job, strategy: tf.distribute.Strategy, data_dir: str, manifest: schema.Manifest
) -> tuple[schema.Manifest, list[str]]:
    """Returns the manifest of the session, and which records are left out as unreadable.

    Raises:
        InputError: shards are not the manifest's, or damaged beyond what was allowed.
    """
    worker, num_workers = strategies.worker_of(strategy)
    manifest, lost = integrity.check(
        data_dir,
        manifest,
        [split for split in ("train", "val", "test") if split in manifest.splits],
        skip_bad_records=job.data.skip_bad_records,
        worker=worker,
        num_workers=num_workers,
        sum_over_workers=functools.partial(strategies.sum_over_workers, strategy),
    )
    evaluated = [split for split in ("val", "test") if split in manifest.splits]
    manifest = case_index.with_cases(data_dir, manifest, evaluated)
    return manifest, [str(record) for record in lost]
