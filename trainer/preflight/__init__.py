"""Compiles the training step for an accelerator that is not here, and reports its properties."""
