"""Measurements, never run by the tests: each prints a table, and JSON with --json=FILE."""
