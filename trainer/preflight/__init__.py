"""Compiles the training step for an accelerator that is not here, and says what it will be like."""
