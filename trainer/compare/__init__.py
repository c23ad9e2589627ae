"""Two runs on the same cases, and whether they differ: `python -m trainer.compare RUN_A RUN_B`."""
