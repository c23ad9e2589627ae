"""The files that people have: one module a format."""
