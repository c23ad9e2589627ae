"""Makes a data folder from images and masks."""
