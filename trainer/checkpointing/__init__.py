"""Checkpoints, the best weights and run.json: what a run folder holds."""
