"""Tensors on disk: written by renaming, and equal content gives equal bytes."""

from pathlib import Path
from typing import Any

import torch

from hardware.files import replacing


def save_tensors(content: Any, path: Path) -> None:
    """``torch.save`` to a temporary file that is then renamed."""
    # To an open file: given a path, torch.save writes the temporary name into the archive.
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
