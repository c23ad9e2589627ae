"""What a step sees: the stream of batches, their augmentation and normalization."""
