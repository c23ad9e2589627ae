"""Models for use elsewhere: `python -m trainer.export --help`.

    OUTPUT/saved_model.pb, variables/    for TensorFlow Serving and Vertex AI, preprocessing inside
    OUTPUT/model.keras                   for plain Keras
    OUTPUT/model_float16.tflite, model_int8.tflite, model.onnx    where asked for
    OUTPUT/signature.json, model_card.md

From Python: `export.write("runs/demo", "exported")`.
"""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import logging

from trainer import config, flags
from trainer.errors import InputError
from trainer.stores import files


def write(run_dir: str, output: str, settings: config.Export | None = None) -> dict[str, Any]:
    """Exports the best weights of a run.

    Args:
        run_dir: the run folder, local or gs://.
        output: folder to write, local or gs://; files of the same names are replaced.
        settings: what else to write, and how; the flags' defaults if None.

    Returns:
        What signature.json says.

    Raises:
        InputError: the run cannot be loaded, an extra is missing, or the data are needed and gone.
    """
    with flags.importing():
        from trainer.export import exporting

    settings = dataclasses.replace(settings or config.Export(), run_dir=run_dir, output=output)
    if not files.is_remote(output) and os.path.isfile(output):
        raise InputError(f"--output={output} is a file; name a folder.")
    with _folder(output) as folder:
        found = exporting.export(folder, settings)
    if re.search(r"\[.*\]|\\", output):
        logging.warning(
            "TensorFlow cannot load a SavedModel from %s: it takes brackets and backslashes in a "
            "path for a pattern; give that folder another name before you serve it.",
            output,
        )
    return found


@contextlib.contextmanager
def _folder(output: str) -> Iterator[str]:
    """Yields a local folder whose files are then put in their place."""
    try:
        files.make_folder(output)
    except OSError as error:
        raise InputError(f"--output={output} cannot be made: {error.strerror}.") from None
    beside = None if files.is_remote(output) else output
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=beside) as folder:
        yield folder
        for parent, _, names in os.walk(folder):
            for name in names:
                local = os.path.join(parent, name)
                path = os.path.join(output, os.path.relpath(local, folder))
                if files.is_remote(output):
                    files.copy_to_store(local, path)
                else:
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    os.replace(local, path)
