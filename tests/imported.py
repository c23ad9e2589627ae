"""What every command imports, before it is forked; see `forks`."""

import importlib

from absl import logging

from trainer import cli, native_log

logging.use_absl_handler()  # before TensorFlow looks for one, as in every command
cli.prepare_environment()
with cli.importing():
    for name in ("trainer.loop", "trainer.export", "trainer.predict.predict_images"):
        importlib.import_module(name)
native_log.end()  # gives standard error back, to those that are forked
