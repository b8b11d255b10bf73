"""What an accelerator is: kind and shape of its array, buffers, memory port, clock."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hardware.kinds import KINDS, Kind
from hardware.specification import Name, Specification, built_in, find


class Array(Specification):
    """``dm x dn`` dot-product units, each ``dk`` bits of a weight plane (or of packed weights) wide.

    In one cycle it multiplies ``dm`` rows of one weight bit plane by ``dn`` columns of as many activation bit planes as
    its `hardware.kinds.Kind` says over ``dk`` positions. Of packed operands a unit is ``dk / 32`` fusion units.
    """

    dm: Annotated[int, Field(ge=2, le=64)]
    """Rows (output channels) at a time: a power of two, because their bits fill a part of a memory word."""
    dk: Annotated[int, Field(ge=64, le=512)]
    """Positions of a dot product per cycle: 64, 128, 256 or 512."""
    dn: Annotated[int, Field(ge=1, le=64)]
    """Columns (output pixels) at a time."""

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        if self.dk & (self.dk - 1):
            raise ValueError("dk must be a power of two, 64 to 512")
        if self.dm & (self.dm - 1):
            raise ValueError("dm must be a power of two, 2 to 64")
        return self


class Buffers(Specification):
    """On-chip buffers; depths are powers of two, because buffers are rings whose addresses wrap.

    One operand entry is ``dk`` bits of every row (left), or of every column and every activation plane that is taken
    side by side (right).
    """

    lhs_entries: Annotated[int, Field(ge=16, le=32768)]
    """Weight buffer depth in entries; size ``lhs_entries * dm * dk`` bits."""
    rhs_entries: Annotated[int, Field(ge=16, le=32768)]
    """Activation buffer depth in entries; size ``rhs_entries * dn * dk * planes`` bits."""
    plane_words: Annotated[int, Field(ge=16, le=8192)] = 512
    """Depth of the buffer that gathers output bit planes, in words of each of the 8 planes."""

    @model_validator(mode="after")
    def _powers_of_two(self) -> Self:
        for name, depth in self:
            if depth & (depth - 1):
                raise ValueError(f"{name} must be a power of two")
        return self


class Memory(Specification):
    """The memory behind the 64-bit ports; reads and writes have a channel each, as on AXI."""

    ports: Literal[1, 2, 4] = 1
    """Ports that read; each feeds its own rows and columns. The first one also writes."""

    latency: Annotated[int, Field(ge=0, le=1000)]
    """Cycles added between an accepted read and its first word. 0: the word comes in the next cycle."""
    cycles_per_word: Annotated[int, Field(ge=1, le=64)]
    """Cycles one 64-bit word occupies a channel; 1 is 8 bytes per cycle."""


class Accelerator(Specification):
    """One machine: everything that generating, scheduling and pricing it needs."""

    name: Name
    kind: Literal["bit_serial", "serial_weight", "bit_fusion"]
    array: Array
    buffers: Buffers
    memory: Memory
    clock_mhz: Annotated[float, Field(gt=0, le=2000)]
    """Clock that turns cycles into seconds. Assumed, not measured, until `codesign synth` exists."""
    device: str
    """The FPGA it is meant for."""

    @model_validator(mode="after")
    def _ports_divide_array(self) -> Self:
        if self.array.dm % self.memory.ports or self.array.dn % self.memory.ports:
            raise ValueError(f"memory.ports ({self.memory.ports}) must divide array.dm and array.dn")
        return self

    @property
    def peak_binary_macs(self) -> int:
        """Binary multiply-accumulates per cycle."""
        return self.array.dm * self.array.dk * self.array.dn * self.traits.products

    @property
    def traits(self) -> Kind:
        """What its array's kind means for others."""
        return KINDS[self.kind]

    @property
    def planes(self) -> int:
        """Activation bit planes side by side in an activation buffer entry."""
        return self.traits.planes

    @property
    def lanes(self) -> int:
        """64-bit memory words in the ``dk`` bits of one plane in a buffer entry."""
        return self.array.dk // 64


def load_accelerator(name_or_path: str) -> Accelerator:
    """A preset by its name (see `accelerator_names`), or any YAML file by its path."""
    return Accelerator.from_yaml(find("hardware", "presets", name_or_path))


def accelerator_names() -> list[str]:
    """The built-in accelerators."""
    return built_in("presets")
