"""The training batches of all replicas, from a step of the run on."""

import contextlib
import functools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from trainer import config
from trainer.data.dataset import schema, shard_cache
from trainer.data.input import pipeline, read_errors
from trainer.distributed import strategies


class TrainingBatches:
    """The batches from a step on; each iterator starts there again."""

    def __init__(
        self,
        settings: config.Data,
        strategy: tf.distribute.Strategy,
        data_dir: str,
        manifest: schema.Manifest,
        *,
        seed: int,
        num_streams: int,
        start_step: int = 0,
        cache: shard_cache.ShardCache | None = None,
    ):
        """Opens the streams of this worker.

        Args:
            settings: how images are batched.
            strategy: over whose replicas a batch is divided.
            data_dir: the data folder.
            manifest: of that folder.
            seed: of order, crops and augmentation.
            num_streams: see `pipeline.num_streams`.
            start_step: of the first batch, counted from 0.
            cache: of the shards, on this machine.
        """
        self._settings, self._strategy = settings, strategy
        self._data_dir, self._manifest, self._cache = data_dir, manifest, cache
        self._seed, self._num_streams, self._start_step = seed, num_streams, start_step
        self._shuffle_block = pipeline.examples_per_block(
            manifest, num_streams, settings.shuffle_block, settings.foreground
        )
        self._streams: list[tf.data.Dataset] = []  # that are read on this worker
        self._batches = strategy.distribute_datasets_from_function(self._stream_of_host)

    def __iter__(self) -> Iterator:
        """Returns an iterator over batches of all replicas."""
        return iter(self._batches)

    def first_examples(self, number: int) -> dict[str, np.ndarray]:
        """Returns examples of this worker's first batch, at most so many: name → values."""
        batch = next(iter(self._streams[0]))
        return {name: value[:number].numpy() for name, value in batch.items()}

    def translate_errors(self, step: int, stop: int) -> contextlib.AbstractContextManager[None]:
        """Names the damaged file or example where reading the steps from `step` to `stop` fails."""
        worker, num_workers = strategies.worker_of(self._strategy)
        batch_size = self._settings.batch_size
        places = functools.partial(
            read_errors.training_shards,
            self._manifest.splits["train"],
            range(step * batch_size, stop * batch_size),
            seed=self._seed,
            num_streams=self._num_streams,
            shuffle_block=self._shuffle_block,
            share=self._settings.foreground,
            balance=self._settings.balance_cases,
            worker=worker,
            num_workers=num_workers,
        )
        return read_errors.translate_errors(self._data_dir, self._manifest, "train", places)

    def _stream_of_host(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        stream = pipeline.training_stream(
            self._data_dir,
            self._manifest,
            batch_size=self._settings.batch_size,
            crop=self._settings.box(self._manifest.rank),
            seed=self._seed,
            augment=self._settings.augment,
            normalize=self._settings.normalize,
            share=self._settings.foreground,
            balance=self._settings.balance_cases,
            start_step=self._start_step,
            num_streams=self._num_streams,
            shuffle_block=self._shuffle_block,
            worker=context.input_pipeline_id,
            num_workers=context.num_input_pipelines,
            num_replicas=self._strategy.num_replicas_in_sync // context.num_input_pipelines,
            cache=self._cache,
        )
        self._streams.append(stream)
        return stream
