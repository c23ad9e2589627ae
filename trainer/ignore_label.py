"""What a pixel of a mask says besides its class id."""

IGNORE = 255  # does not count, neither in the loss nor in a metric
