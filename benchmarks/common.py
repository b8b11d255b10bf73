"""What the benchmarks share: the table they leave in docs, with the command that regenerates it."""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from hardware.files import write_text

torch.set_num_threads(1)  # as the command line does

TABLES = Path(__file__).parent.parent / "docs" / "benchmarks"


def add_options(parser: argparse.ArgumentParser, weights: bool = False, **defaults: Any) -> None:
    """Add options of these names, defaults and their types; a folder ``out`` is continued, if it is there.

    Parameters
    ----------
    weights:
        Begin with the network, ResNet-20 on CIFAR-10, and where its trained weights are.
    """
    if weights:
        add_options(parser, network="resnet20", data="cifar10")
        parser.add_argument("--weights", type=Path, required=True)
    for name, default in defaults.items():
        note = {"help": "Continued, if it is there."} if name == "out" else {}
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, **note)


def markdown(frame: pd.DataFrame) -> str:
    """A data frame as a Markdown table."""
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def write_report(name: str, title: str, text: Sequence[str], folder: Path = TABLES) -> None:
    """Write ``<name>.md``: title, paragraphs and tables, and how to make it again."""
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    versions = f"codesign {version('codesign')}, Python {platform.python_version()}, PyTorch {version('torch')}"
    machine = f"{versions}, {os.cpu_count()} cores"
    body = "\n\n".join([f"# {title}", *text, f"Made by `{command}` with {machine}."])
    write_text(folder / f"{name}.md", body + "\n")
    print(body)
