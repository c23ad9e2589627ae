"""The compiled training step, its losses and optimizers."""
