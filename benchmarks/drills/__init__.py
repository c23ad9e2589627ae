"""Drills: what is promised when things go wrong, tried many times over."""
