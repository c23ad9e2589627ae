"""Counts how often requests to gs:// were sent again, so that a slow command can say why."""

import contextlib
from collections.abc import Iterator

from absl import logging

from trainer import native_log
from trainer.storage import gcs


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Says at the end how many requests were sent again; to be entered before TensorFlow is loaded.

    Whoever has set a level of TensorFlow's log sees it there, and the line counts only the requests
    of google-cloud-storage.
    """
    before = gcs.retries()
    with native_log.counting() as tensorflows:
        yield
    total = gcs.retries() - before + tensorflows[0]
    logging.info("gs://: %d requests were sent again.", total)
