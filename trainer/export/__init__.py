"""Models for use elsewhere: `python -m trainer.export --help`.

    OUTPUT/saved_model.pb, variables/    for TensorFlow Serving and Vertex AI, preprocessing inside
    OUTPUT/model.keras                   for plain Keras
    OUTPUT/model_float16.tflite, model_int8.tflite, model.onnx    where asked for
    OUTPUT/signature.json, model_card.md

From Python: `export.write("runs/demo", "exported")`.
"""

import dataclasses
import re
from typing import Any

from absl import logging

from trainer import cli, config
from trainer.export import output_folder


def write(
    run_dir: str, output: str, settings: config.Export | None = None, flag: str = "output"
) -> dict[str, Any]:
    """Exports the best weights of a run.

    Args:
        run_dir: the run folder, local or gs://.
        output: folder to write, local or gs://; on a disk, an earlier export in it is replaced.
        settings: what else to write, and how; the flags' defaults if None.
        flag: that named `output`, for messages.

    Returns:
        What signature.json says.

    Raises:
        InputError: the run cannot be loaded, an extra is missing, the data are needed and gone, or
            there is something in `output` that no export wrote.
    """
    with cli.importing():
        from trainer.export import export_run

    settings = dataclasses.replace(settings or config.Export(), run_dir=run_dir, output=output)
    with output_folder.opened(flag, output) as folder:
        found = export_run.export(folder, settings)
    if re.search(r"\[.*\]|\\", output):
        logging.warning(
            "TensorFlow cannot load a SavedModel from %s: it reads brackets and backslashes in a "
            "path as a pattern; give that folder another name before you serve it.",
            output,
        )
    return found
