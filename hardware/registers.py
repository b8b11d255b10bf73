"""The register map of the machine on its AXI4-Lite port: one description, read by gateware, driver and documentation.

`rtl.registers` builds the port from `REGISTERS`; `register_table`, `driver_constants` and `register_json` print it.
``python -m hardware.registers`` prints the table that is kept in ``docs/registers.md``.
"""

import json
from dataclasses import dataclass
from enum import Enum, IntEnum

REGISTER_BITS = 32
ADDRESS_BITS = 12
"""Byte address of a register: the smallest segment that an AXI interconnect maps, 4 KB."""

INTERRUPT_ENABLE = "control_interrupt_enable"
"""Port of the field that lets the events raise the interrupt line."""

MAGIC = 0x4344534E
"""``CDSN``, the first letter in the most significant byte."""

FORMAT = 1
"""Version of this map; a driver refuses a machine with another one."""

COUNTER_BITS = 48
LIMIT_BITS = 30
"""Bits of a memory size in 64-bit words: up to 2**29, the whole 32-bit address space."""


class ErrorCode(IntEnum):
    """Why a program stopped; `hardware.instruction` names the code that the instruction decoder gives."""

    NONE = 0
    ILLEGAL_INSTRUCTION = 1
    READ_ERROR = 2
    WRITE_ERROR = 3
    ADDRESS_RANGE = 4
    TIMEOUT = 5
    START_WHILE_BUSY = 6


class Access(Enum):
    """What software may do with a field, and which ports the gateware has for it."""

    CONSTANT = "constant"  # reads `Field.reset`; no port
    READ = "RO"  # reads the input port
    READ_WRITE = "RW"  # holds what was written; output port
    STROBE = "W1"  # a written one is one cycle of one on the output port; reads 0
    EVENT = "W1C"  # one on the input port sets it, a written one clears it; raises the interrupt while it is set
    INTERRUPT = "RO, the line"  # reads the interrupt line; no port


WRITABLE = (Access.READ_WRITE, Access.STROBE, Access.EVENT)


@dataclass(frozen=True)
class Field:
    """Bits ``low`` to ``low + bits - 1`` of a register."""

    name: str
    low: int
    bits: int
    access: Access
    text: str
    reset: int = 0

    @property
    def mask(self) -> int:
        """The field's bits within its register."""
        return ((1 << self.bits) - 1) << self.low


@dataclass(frozen=True)
class Register:
    """A register at byte ``offset``; one wider than 32 bits takes two places, the low half first."""

    name: str
    offset: int
    text: str
    fields: tuple[Field, ...]

    @property
    def places(self) -> int:
        """How many 32-bit places it takes."""
        return -(-max(field.low + field.bits for field in self.fields) // REGISTER_BITS)

    @property
    def writable(self) -> bool:
        """Whether a write may have an effect; a write to any other register is answered with an error."""
        return any(field.access in WRITABLE for field in self.fields)

    def port(self, field: Field) -> str:
        """Name of a field's port and of its constants; a field that is the whole register has the register's name."""
        return self.name if field.name == "value" else f"{self.name}_{field.name}"


def _whole(name: str, offset: int, bits: int, access: Access, text: str, reset: int = 0, low: int = 0) -> Register:
    return Register(name, offset, text, (Field("value", low, bits, access, "", reset),))


def _counter(name: str, offset: int, text: str) -> Register:
    return _whole(name, offset, COUNTER_BITS, Access.READ, text)


REGISTERS: tuple[Register, ...] = (
    _whole("magic", 0x00, 32, Access.CONSTANT, 'The letters "CDSN".', MAGIC),
    _whole("format", 0x04, 16, Access.CONSTANT, "Version of this register map.", FORMAT),
    _whole("build_hash", 0x08, 64, Access.READ, "Names the gateware: the 16 hexadecimal digits of `rtl_hash`."),
    Register(
        "control",
        0x10,
        "What the machine shall do.",
        (
            Field("start", 0, 1, Access.STROBE, "Run the program at `program`."),
            Field(
                "soft_reset", 1, 1, Access.STROBE, "Stop the program, finish what the bus is owed, clear the errors."
            ),
            Field("interrupt_enable", 8, 1, Access.READ_WRITE, "Let `done` and `error` raise the interrupt line."),
        ),
    ),
    Register(
        "status",
        0x14,
        "What the machine does.",
        (
            Field("busy", 0, 1, Access.READ, "A program runs or is being stopped."),
            Field(
                "done",
                1,
                1,
                Access.EVENT,
                "The program has ended: its results are in memory, or an error or a soft reset has stopped it.",
            ),
            Field("error", 2, 1, Access.EVENT, "Something went wrong; see `error_code`."),
            Field("interrupt_pending", 3, 1, Access.INTERRUPT, "The interrupt line."),
            Field(
                "resetting",
                4,
                1,
                Access.READ,
                "An error or a soft reset stops the machine and waits for the bus; start nothing.",
            ),
        ),
    ),
    _whole(
        "error_code",
        0x18,
        4,
        Access.READ,
        "What stopped the last program, see the table below. A start while busy does not stop it, and any other code "
        "takes the place of that one.",
    ),
    _whole("error_address", 0x1C, 32, Access.READ, "Word address of the request refused with ADDRESS_RANGE."),
    _whole(
        "error_instruction",
        0x20,
        32,
        Access.READ,
        "Index in the program of the instruction that ran or was read when it was stopped.",
    ),
    _whole("program", 0x24, 32, Access.READ_WRITE, "Word address of the first instruction, from `memory_base`."),
    _whole(
        "memory_base",
        0x28,
        20,
        Access.READ_WRITE,
        "Byte address that word address 0 stands for; bits 0 to 11 read 0 (4 KB aligned). Write it only while idle.",
        low=12,
    ),
    _whole(
        "memory_words",
        0x2C,
        LIMIT_BITS,
        Access.READ_WRITE,
        "64-bit words from `memory_base` that the machine may touch; the memory must end within 2**32 bytes. "
        "Write it only while idle.",
    ),
    _whole(
        "watchdog",
        0x30,
        32,
        Access.READ_WRITE,
        "Cycles without a transfer on a memory port and without a step after which the program is stopped with "
        "TIMEOUT; 0 is never. Give it more than the memory's latency and 100.",
    ),
    _counter("cycles", 0x40, "Cycles the current or last program has been busy."),
    _counter("fetch_busy", 0x48, "Cycles in which fetch had work."),
    _counter("execute_busy", 0x50, "Cycles in which execute worked on a tile."),
    _counter("array_steps", 0x58, "Cycles in which the array took a step."),
    _counter("result_busy", 0x60, "Cycles in which result had words to write or that were not in memory."),
    _counter("read_stall", 0x68, "Cycles in which some port waited for a word or with a request, and none came."),
    _counter("write_stall", 0x70, "Cycles in which a word on the bus was not accepted."),
)


def register_table() -> str:
    """The map as Markdown, as it is kept in ``docs/registers.md``."""
    lines = [
        "# Registers",
        "",
        "<!-- written by `python -m hardware.registers`; change `hardware/registers.py` instead -->",
        "",
        "AXI4-Lite, 32 data bits, byte offsets. A read of an offset that is not listed, a write to one, and a write to",
        "a register with nothing to write are answered with SLVERR. Byte strobes are honoured. A register wider than",
        "32 bits takes two places, the low half first: reading it keeps the high half for the read that follows.",
        "",
        "RO: read. RW: read and write. W1: a written one acts once, reads 0. W1C: read, a written one clears the bit.",
        "",
        "| offset | register | bits | field | access | reset | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    for register in REGISTERS:
        single = len(register.fields) == 1
        if not single:
            lines.append(f"| 0x{register.offset:02x} | `{register.name}` | | | | | {register.text} |")
        for field in register.fields:
            bits = f"{field.low}" if field.bits == 1 else f"{field.low + field.bits - 1}:{field.low}"
            reset = "" if field.access in (Access.READ, Access.INTERRUPT) else f"0x{field.reset:x}"
            place = (
                f"0x{register.offset:02x} | `{register.name}` | {bits} | "
                if single
                else f" | | {bits} | `{field.name}`"
            )
            lines.append(f"| {place} | {field.access.value} | {reset} | {register.text if single else field.text} |")
    lines += ["", "## Error codes", "", "| code | name |", "|---|---|"]
    lines += [f"| {code.value} | {code.name} |" for code in ErrorCode]
    return "\n".join(lines) + "\n"


def driver_constants() -> str:
    """The map as a Python module: ``NAME`` is a byte offset, ``NAME_FIELD`` a mask, ``ERRORS`` code to name."""
    lines = ['"""Register offsets, field masks and error codes, written by hardware.registers."""', ""]
    lines += [f"MAGIC_VALUE = 0x{MAGIC:08x}", f"FORMAT_VALUE = {FORMAT}", ""]
    for register in REGISTERS:
        lines.append(f"{register.name.upper()} = 0x{register.offset:02x}")
        if register.places > 1:
            lines.append(f"{register.name.upper()}_HIGH = 0x{register.offset + 4:02x}")
        if len(register.fields) > 1:
            lines += [f"{register.port(field).upper()} = 0x{field.mask:x}" for field in register.fields]
    lines += ["", "ERRORS = {"]
    lines += [f'    {code.value}: "{code.name}",' for code in ErrorCode]
    return "\n".join([*lines, "}"]) + "\n"


def register_json() -> str:
    """The map as JSON: ``magic``, ``format``, ``errors``, and ``registers`` with the members of `Register`, `Field`."""
    registers = [
        {
            "name": register.name,
            "offset": register.offset,
            "text": register.text,
            "fields": [vars(field) | {"access": field.access.value} for field in register.fields],
        }
        for register in REGISTERS
    ]
    errors = {code.name: code.value for code in ErrorCode}
    return json.dumps({"magic": MAGIC, "format": FORMAT, "registers": registers, "errors": errors}, indent=2) + "\n"


if __name__ == "__main__":
    print(register_table(), end="")
