"""Texts of a package, with ``$names`` to fill in."""

from pathlib import Path
from string import Template


def filled(name: str, values: dict[str, str]) -> bytes:
    """A file of this folder with its names filled in."""
    return Template((Path(__file__).parent / name).read_text(encoding="utf-8")).substitute(values).encode()
