"""FPGA devices and the boards that carry them."""

from typing import Annotated

from pydantic import Field

from hardware.specification import Name, Specification, built_in, find, read_yaml

Megahertz = Annotated[float, Field(gt=0)]
Site = Annotated[str, Field(pattern=r"^[A-Z]+[0-9]+$")]
"""Ball of a package."""


class Device(Specification):
    """Logic resources of an FPGA."""

    part: str
    lut: int
    ff: int
    bram36: int
    dsp: int


class Board(Specification):
    """A board the exporter can write a project for."""

    name: Name
    device: Device
    vendor_part: Name
    """Part number with package and speed grade, as the vendor's tools name it."""


class ZynqBoard(Board):
    """A board whose processor shares its memory with the machine."""

    vendor_board: str | None = None
    """Vivado board file, applied when it is installed."""
    fabric_clock_mhz: Megahertz
    """Clock the processing system gives the fabric."""


class Pins(Specification):
    """Balls of an ECP5 that lead to the oscillator, to the serial line's two ends, and to what must be high."""

    clock: Site
    rx: Site
    """From the host."""
    tx: Site
    high: tuple[Site, ...] = ()


class Ecp5Board(Board):
    """A board that a serial line alone connects with the host: memory is on the chip."""

    package: Name
    """As nextpnr names it."""
    speed: Annotated[int, Field(ge=6, le=8)]
    """Grade; the larger, the faster."""
    oscillator_mhz: Megahertz
    baud: Annotated[int, Field(gt=0)]
    """Of the serial line."""
    memory_words: Annotated[int, Field(gt=0)]
    """64-bit words of block RAM for programs and data; the machine has the rest."""
    loader: Name
    """The board's name in openFPGALoader."""
    pins: Pins


def load_board(name_or_path: str) -> ZynqBoard | Ecp5Board:
    """A built-in board by its name, or any YAML file by its path."""
    path = find("board", "boards", name_or_path)
    data = read_yaml(path)
    kind = Ecp5Board if isinstance(data, dict) and "pins" in data else ZynqBoard
    return kind.from_mapping(data, str(path))


def board_names() -> list[str]:
    """The built-in boards."""
    return built_in("boards")
