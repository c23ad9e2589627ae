"""Exact evaluation: sliding windows, metrics per image, scores of a split."""
