"""FPGA devices and the boards that carry them."""

from typing import Annotated

from pydantic import Field

from hardware.specification import Name, Specification, built_in, find


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
    """Part number with package and speed grade, as Vivado names it."""
    vendor_board: str | None = None
    """Vivado board file, applied when it is installed."""
    fabric_clock_mhz: Annotated[float, Field(gt=0)]
    """Clock the processing system gives the fabric."""


def load_board(name_or_path: str) -> Board:
    """A built-in board by its name, or any YAML file by its path."""
    return Board.from_yaml(find("board", "boards", name_or_path))


def board_names() -> list[str]:
    """The built-in boards."""
    return built_in("boards")
