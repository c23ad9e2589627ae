"""What is in a folder."""

import pathlib


def content(folder):
    """Returns the bytes of each file of a folder, however deep, by its path below it."""
    folder = pathlib.Path(folder)
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
