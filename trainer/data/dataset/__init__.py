"""A data folder: its schema, its records, and whether they are whole."""
