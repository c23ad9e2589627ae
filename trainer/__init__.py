"""Trains U-Nets with TensorFlow at any scale, from a folder of images to a TPU slice."""

__version__ = "0.1.0"
