"""Fills in the templates beside this module."""

import functools
import pathlib
from typing import Any

import jinja2
from markupsafe import Markup


def render(name: str, **values: Any) -> Markup:
    """Returns a template with its values; those that are no markup are escaped."""
    return Markup(_environment().get_template(name).render(**values))


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,  # what run folders say is anyone's: names, settings, scores, reasons
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
