"""Masks of images from the weights of a run."""
