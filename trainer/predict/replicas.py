"""The replicas of a Vertex AI job that predict one set of images: each its part of them.

The job has succeeded when its first replica ends with 0, and the others are stopped then. So the
first waits until every part is finished, and joins them. Each replica that has finished says so in
a file of the job's own folder:

    JOB/parts/ID/2-of-8

A replica that is started again after that ends at once. Files of earlier jobs do not count: since
then images may have come.
"""

import dataclasses
import datetime
import os
import time
from collections.abc import Callable, Mapping

from absl import logging

from trainer import config
from trainer.distributed import membership, vertex
from trainer.errors import InputError
from trainer.predict import parts
from trainer.storage import files

PAUSE_SECONDS = 5.0  # between two looks for the parts of others


def predict(
    settings: config.Predict,
    predict_part: Callable[[config.Predict], None],
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Predicts the part of this replica; the first then waits for the others and joins all parts.

    Args:
        settings: the user's, with `--part=auto`.
        predict_part: what predicts by settings whose `part` is I/N, or empty for all images.
        environment: by Vertex AI.

    Raises:
        InputError: this is no replica of a job that has a folder, or from `predict_part`.
    """
    members, folder = membership.read(environment), vertex.job_folder(environment)
    if members is None or not folder or not vertex.is_here(environment):
        raise InputError(
            f"--part={settings.part} finds no Vertex AI job with replicas and a base output "
            "directory here; write --part=1/8 to --part=8/8 for eight machines."
        )
    files.register_stores(folder)
    number, count = members.index + 1, len(members.addresses)
    marks = [
        os.path.join(folder, parts.FOLDER, environment["CLOUD_ML_JOB_ID"], f"{n}-of-{count}")
        for n in range(1, count + 1)
    ]
    if not files.exists(marks[number - 1]):
        predict_part(dataclasses.replace(settings, part=f"{number}/{count}"))
        # The lock of the part has been given back: the first replica may join it.
        now = datetime.datetime.now(datetime.timezone.utc)
        files.make_folder(os.path.dirname(marks[number - 1]))
        files.write_whole(marks[number - 1], f"{now.isoformat(timespec='seconds')}\n")
    if number > 1:
        return
    for other, mark in enumerate(marks, 1):
        if not files.exists(mark):
            logging.info("Waiting for part %d of %d.", other, count)
        while not files.exists(mark):
            time.sleep(PAUSE_SECONDS)
    logging.info("All %d parts are finished; joining them.", count)
    predict_part(dataclasses.replace(settings, part=""))
