"""Drills: promises about failures, tested many times."""
