"""The story of a prediction: find the images, leave out what is done, predict, write."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

import keras
import tqdm
from absl import logging

from trainer import cluster, config
from trainer.data import reading, sources
from trainer.errors import InputError
from trainer.predict import instances, outputs, predictor
from trainer.stores import files

DOWNLOADS = 8  # files of a bucket that are copied ahead
WRITES = 2  # images that wait for the disk while the devices go on


def predict(settings: config.Predict) -> None:
    """Writes the masks of all images that have none yet.

    Raises:
        InputError: a setting, a run or an image breaks a rule; with --skip_bad, unreadable images
            are named and left out.
    """
    started = time.monotonic()
    run_dirs = _check(settings)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        found = sources.find(settings.images, "images", scratch).sources
        strategy = cluster.connect(settings.strategy, settings.tpu, settings.virtual_devices)
        keras.mixed_precision.set_global_policy(cluster.POLICIES[settings.precision])
        networks = predictor.Predictor(
            run_dirs,
            strategy,
            tta=settings.tta,
            tile=settings.tile,
            batch_size=settings.batch_size,
        )
        folder = outputs.Folder(settings, _facts(settings, networks))
        stack.callback(folder.close)
        _check_names(found, folder)
        work = Work(settings, networks, folder, found, scratch)
        with tqdm.tqdm(total=len(found), desc="predicting", unit=" images", disable=None) as bar:
            for done in work.run():
                bar.total = work.known
                bar.update(done)
    logging.info("%s", work.closing_line(time.monotonic() - started))


class Work:
    """The images on their way."""

    def __init__(
        self,
        settings: config.Predict,
        networks: predictor.Predictor,
        folder: outputs.Folder,
        found: Sequence[sources.Source],
        scratch: str,
    ):
        """Begins with nothing done."""
        self._settings, self._networks, self._folder = settings, networks, folder
        self._found, self._scratch = found, scratch
        self.known = len(found)
        self._written = self._there = self._pixels = 0
        self._bad: set[int] = set()
        self._copies: collections.Counter[str] = collections.Counter()  # path → pages still to do
        self._lock = threading.Lock()  # of the copies: three threads deal with them

    def run(self) -> Iterator[int]:
        """Predicts and writes; yields how many images have been dealt with since it last did."""
        pages: dict[int, outputs.Page] = {}
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
            stack.callback(writer.shutdown, cancel_futures=True)
            writing: collections.deque[concurrent.futures.Future] = collections.deque()
            there = 0
            for found in self._networks.stream(self._openers(pages)):
                if self._there > there:
                    yield self._there - there
                    there = self._there
                if isinstance(found, predictor.Failure):
                    self._fail(found, pages)
                    yield 1
                    continue
                if found.key in self._bad:
                    continue
                page = pages[found.key]
                page.add(found)
                if found.are_last:
                    self._written += 1
                    self._pixels += found.size[0] * found.size[1]
                    writing.append(writer.submit(self._finish, pages.pop(found.key)))
                    while len(writing) > WRITES:
                        writing.popleft().result()
                        yield 1
            yield self._there - there
            while writing:
                writing.popleft().result()
                yield 1

    def closing_line(self, seconds: float) -> str:
        """Returns what the command says last."""
        parts = [f"Wrote {self._written} masks to {self._settings.output} in {seconds:.1f} s"]
        if self._written:
            parts[0] += f" ({self._pixels / 1e6 / seconds:.2f} megapixels/s, start included)"
        if self._there:
            parts.append(f"{self._there} were there already")
        if self._bad:
            parts.append(f"{len(self._bad)} could not be read and were left out")
        return "; ".join(parts) + "."

    def _openers(self, pages: dict[int, outputs.Page]) -> Iterator[tuple[int, predictor.Opener]]:
        """Yields the number of every image that is not done yet, and what opens it."""
        numbers = itertools.count()
        for source in self._local_sources():
            names = self._folder.names(source.name, source.path)
            if self._folder.has(names):
                self._there += 1
                self._let_go(source)
                continue
            number = next(numbers)
            pages[number] = outputs.Page(self._folder, self._networks, source, names)
            yield number, functools.partial(pages[number].open, self._settings.max_pixels)

    def _local_sources(self) -> Iterator[sources.Source]:
        """Yields images on the local disk; those in a bucket are copied shortly before."""
        remote = [source for source in self._found if files.is_remote(source.path)]
        if not remote:
            yield from self._found
            return
        with concurrent.futures.ThreadPoolExecutor(DOWNLOADS) as pool:
            pending: collections.deque[concurrent.futures.Future] = collections.deque()
            queue = iter(remote)
            for source in itertools.islice(queue, DOWNLOADS):
                pending.append(pool.submit(self._copied, source))
            while pending:
                copies = pending.popleft().result()
                for source in itertools.islice(queue, 1):
                    pending.append(pool.submit(self._copied, source))
                self.known += len(copies) - 1
                self._copies[copies[0].path] = len(copies)
                yield from copies

    def _copied(self, source: sources.Source) -> list[sources.Source]:
        """Copies a file, unless its one image is done, and returns the images in it."""
        if self._folder.has(self._folder.names(source.name, source.path)):
            return [source]
        folder = tempfile.mkdtemp(dir=self._scratch)
        local = os.path.join(folder, os.path.basename(source.path))
        files.copy_from_store(source.path, local)
        return [
            dataclasses.replace(copy, label=copy.label.replace(local, source.path))
            for copy in sources.sources_of(local)
        ]

    def _finish(self, page: outputs.Page) -> None:
        page.finish()
        self._let_go(page.source)

    def _let_go(self, source: sources.Source) -> None:
        """Removes the copy of a remote file once its last page is done."""
        with self._lock:
            self._copies[source.path] -= 1
            if self._copies[source.path] == 0 and source.path.startswith(self._scratch):
                os.remove(source.path)

    def _fail(self, failure: predictor.Failure, pages: dict[int, outputs.Page]) -> None:
        """Leaves an unreadable image out, or stops.

        Raises:
            InputError: unless it is unreadable and --skip_bad is given.
        """
        if not isinstance(failure.error, reading.UnreadableError):
            raise failure.error
        if not self._settings.skip_bad:
            raise InputError(f"{failure.error} Mend or remove it, or go on without it: --skip_bad.")
        logging.warning("Skipped: %s", failure.error)
        self._bad.add(failure.key)
        page = pages.pop(failure.key)
        page.discard()
        self._let_go(page.source)


def _check(settings: config.Predict) -> list[str]:
    """Returns the run folders; raises InputError for settings that do not go together."""
    for name in ("run_dir", "images", "output"):
        if not getattr(settings, name):
            raise InputError(f"--{name} is missing; give --run_dir, --images and --output.")
    if not files.is_remote(settings.output) and os.path.isfile(settings.output):
        raise InputError(f"--output={settings.output} is a file; name a folder.")
    if os.path.abspath(settings.output) == os.path.abspath(settings.images):
        raise InputError(
            f"--output={settings.output} is where the images are; masks would take their names: "
            "name another folder."
        )
    if settings.instances:
        instances.check_installed()
    return [run_dir.strip() for run_dir in settings.run_dir.split(",") if run_dir.strip()]


def _facts(settings: config.Predict, networks: predictor.Predictor) -> dict[str, object]:
    """Returns what the masks depend on."""
    names = ("tta", "tile", "precision", "format")
    return {
        "weights": [member.label for member in networks.networks.members],
        **{name: getattr(settings, name) for name in names},
        "classes": dict(zip(networks.networks.classes, networks.networks.values, strict=True)),
    }


def _check_names(found: Sequence[sources.Source], folder: outputs.Folder) -> None:
    """Raises InputError if two images would be written to the same file."""
    labels: dict[str, str] = {}
    for source in found:
        name = folder.names(source.name, source.path)[-1]
        if name in labels:
            raise InputError(
                f"{labels[name]} and {source.label} would both be written to {name}; rename one, "
                "or narrow --images."
            )
        labels[name] = source.label
