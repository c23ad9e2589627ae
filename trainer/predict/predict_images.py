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
from collections.abc import Callable, Generator, Iterator, Sequence

import keras
from absl import logging

from trainer import config, terminal
from trainer.data.formats import discovery, mask_writer, reading, volume_discovery
from trainer.data.packed import Packed
from trainer.distributed import arithmetic, strategies
from trainer.errors import InputError
from trainer.predict import bands, command, outputs, parts, predictor, record
from trainer.storage import files

DOWNLOADS = 8  # files of a bucket that are copied ahead
FORMATS = ("auto", *mask_writer.FORMATS)
WRITES = 2  # images that wait for the disk while the devices continue


def load(run_dirs: tuple[str, ...], settings: config.Predict) -> predictor.Predictor:
    """Returns the networks of some runs on the devices that are asked for."""
    strategy = strategies.connect_alone(
        settings.strategy, settings.tpu, settings.virtual_devices, settings.require
    )
    keras.mixed_precision.set_global_policy(arithmetic.POLICIES[settings.precision])
    return predictor.Predictor(
        run_dirs,
        strategy,
        tta=settings.tta,
        tile=settings.tile,
        batch_size=settings.batch_size,
    )


def predict(
    settings: config.Predict, load_networks: Callable[..., predictor.Predictor] = load
) -> None:
    """Writes the masks of all images that have none yet.

    Args:
        settings: the user's.
        load_networks: as `load`, which may have them already.

    Raises:
        InputError: a setting, a run or an image breaks a rule; with --skip_bad, unreadable images
            are named and left out.
    """
    started = time.monotonic()
    run_dirs = tuple(command.check(settings))
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        terminal.busy("finding the images")
        there, origins = _checked(settings, scratch)
        terminal.busy("loading the network")
        networks = load_networks(run_dirs, dataclasses.replace(settings, part=""))
        folder, tasks = stack.enter_context(
            outputs.opened(settings, _facts(settings, networks), there.sources, origins)
        )
        work = Work(settings, networks, folder, tasks, scratch)
        with terminal.Bar(len(tasks), "predicting", "images") as bar:
            # Closed before the folder is: a thread of it may be writing.
            for done in stack.enter_context(contextlib.closing(work.run())):
                bar.update(done)
    if not settings.part:
        bands.remove(settings.output)
    closing = work.closing_line(time.monotonic() - started)
    logging.info("%s%s", closing, discovery.told(there.left_out))
    if folder.to_look_at():
        logging.info("%s", folder.to_look_at())


def items(settings: config.Predict) -> tuple[int, list[str]]:
    """Returns the number of images, and the keys of the bands of those that have some to do.

    Raises:
        InputError: as `predict` does.
    """
    command.check(settings)
    with tempfile.TemporaryDirectory() as scratch:
        there, origins = _checked(settings, scratch)
    keys: list[str] = []
    for source, origin in zip(there.sources, origins, strict=True):
        of_image = bands.of_image(settings, source, origin)
        mask = f"{source.name}.{outputs.kind_of_mask(settings, source.path)}"
        if of_image and not files.exists(os.path.join(settings.output, mask)):
            keys += [band.to_key() for band in of_image]
    return len(there.sources), keys


def predict_band(
    settings: config.Predict, load_networks: Callable[..., predictor.Predictor], key: str
) -> None:
    """Predicts a band of an image, which `predict` then finds.

    Args:
        settings: the user's.
        load_networks: as `load`.
        key: of `items`.

    Raises:
        InputError: the folder holds other predictions, or the image is another than it was.
    """
    band = bands.Band.of_key(key)
    networks = load_networks(tuple(command.check(settings)), settings)
    facts = _facts(settings, networks)
    outputs.check_facts(settings.output, facts)
    unread = contextlib.suppress(reading.UnreadableError)  # `predict` says so, or leaves it out
    with unread, tempfile.TemporaryDirectory() as scratch:
        bands.write(settings, band, networks, facts, _local(band.source, band.origin, scratch))


class Work:
    """The images on their way."""

    def __init__(
        self,
        settings: config.Predict,
        networks: predictor.Predictor,
        folder: outputs.Folder,
        tasks: Sequence[outputs.Task],
        scratch: str,
    ):
        """Begins with nothing done."""
        self._settings, self._networks, self._folder = settings, networks, folder
        self._tasks, self._scratch = tasks, scratch
        self._written = self._there = self._pixels = 0
        self._bad: set[int] = set()
        self._copies: collections.Counter[str] = collections.Counter()  # path → pages still to do
        self._lock = threading.Lock()  # of the copies: three threads deal with them

    def run(self) -> Generator[int]:
        """Predicts and writes; yields how many images have been dealt with since it last did."""
        yield from self._joined()
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
                    self._count(found.size)
                    writing.append(writer.submit(self._finish, pages.pop(found.key)))
                    while len(writing) > WRITES:
                        writing.popleft().result()
                        yield 1
            yield self._there - there
            while writing:
                writing.popleft().result()
                yield 1

    def _joined(self) -> Iterator[int]:
        """Writes the images whose bands have been predicted; yields 1 for each."""
        output = self._settings.output
        there, left = bands.there(output), Packed[outputs.Task]()
        if not there:
            return
        facts = _facts(self._settings, self._networks)
        for task in self._tasks:
            page = outputs.Page(self._folder, self._networks, task, task.source)
            is_wanted = bands.folder_of(task.source.name) in there and not task.is_done
            paths = bands.find(output, task, facts, page.needs) if is_wanted else []
            if not paths:
                left.append(task)
                continue
            ((_, page.source),) = self._copied([task])
            raster = page.open(self._settings.max_pixels)
            size = raster.height, raster.width
            for path in paths:
                for values in bands.read(path, self._scratch):
                    page.add_values(size, values)
            self._count(size)
            self._finish(page)
            yield 1
        self._tasks = left

    def _count(self, size: Sequence[int]) -> None:
        self._written += 1
        self._pixels += size[0] * size[1]

    def closing_line(self, seconds: float) -> str:
        """Returns the last line of the command."""
        return command.closing_line(
            self._settings.output,
            written=self._written,
            speed=f"{self._pixels / 1e6 / seconds:.2f} megapixels/s",
            there=self._there,
            bad=len(self._bad),
            seconds=seconds,
        )

    def _openers(self, pages: dict[int, outputs.Page]) -> Iterator[tuple[int, predictor.Opener]]:
        """Yields the number of every image that is not done yet, and what opens it."""
        numbers = itertools.count()
        for task, source in self._local_sources():
            if task.is_done:
                self._there += 1
                self._let_go(source)
                continue
            number = next(numbers)
            pages[number] = outputs.Page(self._folder, self._networks, task, source)
            yield number, functools.partial(pages[number].open, self._settings.max_pixels)

    def _local_sources(self) -> Iterator[tuple[outputs.Task, discovery.Source]]:
        """Yields images on the local disk; those in a bucket are copied shortly before."""
        by_file = itertools.groupby(self._tasks, lambda task: task.source.path)
        queue = (list(tasks) for _, tasks in by_file)
        with concurrent.futures.ThreadPoolExecutor(DOWNLOADS) as pool:
            pending = collections.deque(
                pool.submit(self._copied, tasks) for tasks in itertools.islice(queue, DOWNLOADS)
            )
            while pending:
                copies = pending.popleft().result()
                for tasks in itertools.islice(queue, 1):
                    pending.append(pool.submit(self._copied, tasks))
                yield from copies

    def _copied(self, tasks: Sequence[outputs.Task]) -> list[tuple[outputs.Task, discovery.Source]]:
        """Returns the images of a file where they can be read; copies it if any is needed.

        Raises:
            InputError: the file is another than it was.
        """
        path = tasks[0].source.path
        if not files.is_remote(path) or all(task.is_done for task in tasks):
            return [(task, task.source) for task in tasks]
        local = _local(tasks[0].source, tasks[0].origin, self._scratch).path
        self._copies[local] = len(tasks)
        return [(task, dataclasses.replace(task.source, path=local)) for task in tasks]

    def _finish(self, page: outputs.Page) -> None:
        page.finish()
        self._let_go(page.source)

    def _let_go(self, source: discovery.Source) -> None:
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
        command.skip(failure.error, self._settings.skip_bad)
        self._bad.add(failure.key)
        page = pages.pop(failure.key)
        page.discard()
        self._let_go(page.source)


def _local(source: discovery.Source, origin: record.Origin, scratch: str) -> discovery.Source:
    """Returns an image on the local disk; it copies that of a store.

    Raises:
        InputError: the file is another than it was.
    """
    if not files.is_remote(source.path):
        return source
    local = os.path.join(tempfile.mkdtemp(dir=scratch), os.path.basename(source.path))
    files.copy_from_store(source.path, local)
    if os.path.getsize(local) != origin.bytes:
        raise InputError(f"{source.path} was written again meanwhile; start again.")
    return dataclasses.replace(source, path=local)


def _checked(
    settings: config.Predict, scratch: str
) -> tuple[discovery.Found, Sequence[record.Origin]]:
    """Returns the images of this start, and what tells them from others.

    Raises:
        InputError: there are none, or their masks cannot have this format or place.
    """
    if settings.format not in FORMATS:
        raise InputError(
            f"--format={settings.format} is for volumes, and --run_dir={settings.run_dir} was "
            f"trained on images; use {', '.join(FORMATS[1:])}."
        )
    there = discovery.with_pages(_find(settings, scratch))
    part = parts.parse(settings.part)
    if part.count > 1:
        own = Packed(source for source in there.sources if part.has(source.name))
        there = dataclasses.replace(there, sources=own)
    origins = record.origins(there.sources, settings.images)
    folders = {os.path.dirname(origin.path) for origin in origins if not _is_row(origin)}
    command.check_place(settings, (source.name for source in there.sources), folders)
    return there, origins


def _find(settings: config.Predict, scratch: str) -> discovery.Found:
    """Returns the images; raises InputError if there are none, or volumes in their place."""
    try:
        return discovery.find(settings.images, "images", scratch)
    except InputError:
        if volume_discovery.are_volumes(settings.images, "images", stacks=False):
            raise InputError(
                f"--images={settings.images} holds volumes, and --run_dir={settings.run_dir} was "
                "trained on images; name a run on volumes, or images."
            ) from None
        raise


def _is_row(origin: record.Origin) -> bool:
    return origin.row is not None and origin.path.lower().endswith((".npy", ".npz"))


def _facts(settings: config.Predict, networks: predictor.Predictor) -> dict[str, object]:
    """Returns what the masks depend on."""
    names = ("tta", "tile", "precision", "format")
    return command.facts(settings, networks.networks, names)
