"""Chooses the settings of a training from the data, the device and the time at hand."""
