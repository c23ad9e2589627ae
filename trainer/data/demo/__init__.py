"""The data that come with the package: 256×256 crops of 120 microscope images of nuclei.

ORIGIN.md beside this file says where they are from, how they were picked, and their licence (CC0).
"""

import os


def folder() -> str:
    """Returns the path of the data folder."""
    return os.path.dirname(os.path.abspath(__file__))
