"""An iterable that is read ahead by a thread, so that reading and computing overlap."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


@contextlib.contextmanager
def reading(source: Iterable[T], count: int) -> Iterator[Iterator[T]]:
    """Yields an iterator over `source`, of which a thread takes up to `count` items ahead.

    What `source` raises is raised where its next item would be. The thread ends with the context.
    """
    items: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(count)
    stopping = threading.Event()

    def put(item: Any, error: Exception | None = None) -> bool:
        while not stopping.is_set():
            with contextlib.suppress(queue.Full):
                items.put((item, error), timeout=0.1)
                return True
        return False

    def read() -> None:
        try:
            for item in source:
                if not put(item):
                    return
            put(_END)
        except Exception as error:
            put(_END, error)

    def taken() -> Iterator[T]:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopping.set()
        thread.join()
