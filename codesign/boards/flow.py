"""What a kind of board adds to its packages."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).parents[1] / "driver"


@dataclass(frozen=True)
class Flow:
    """What is written for one kind of board beside what all packages hold.

    Parameters
    ----------
    files:
        By name in the package.
    top:
        Module of ``rtl/<top>.v``, which is what is simulated.
    bitstream:
        Where it is, or will be once it is built. Another machine has another name, or PYNQ would take the one that it
        knows.
    notes:
        Markdown: the files, and what to do on the board.
    manifest:
        Further entries.
    """

    files: dict[str, bytes]
    top: str
    bitstream: str
    notes: str
    manifest: dict[str, Any] = field(default_factory=dict)
