"""Registers beside multipliers and block RAMs become the ones inside, which Yosys leaves empty.

A register in the fabric is 3 to 5 ns of wire away from a block's column, and the block itself takes its time: a
MULT18X18D 3.9 ns, a DP16KD 5.8. The vendor's tools pack them, too.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

MULTIPLIER, MEMORY, REGISTER = "MULT18X18D", "DP16KD", "TRELLIS_FF"
OPERANDS = {"A": 18, "B": 18}
PRODUCT_BITS = 36
WORD_BITS = 18
Cell = dict[str, Any]
Bit = int | str


def pack_registers(module: dict[str, Any]) -> int:
    """Pack the registers before and behind multipliers and behind block RAMs into them.

    A multiplier's operands are packed if all their bits come from registers, or are 0: both or none, as nextpnr times
    a multiplier with one of them as if it had neither. A product, and a word that is read, is packed if all its bits
    go to registers and nowhere else. These are always enabled, never reset, and work on the block's clock. Registers
    that others need, too, stay for these.

    Parameters
    ----------
    module:
        A module of a netlist in Yosys' JSON, mapped to the ECP5; changed in place.

    Returns
    -------
    Operands, products and words that were packed.
    """
    packing = _Packing(module)
    blocks = [cell for cell in module["cells"].values() if cell["type"] in (MULTIPLIER, MEMORY)]
    packed = sum(packing.multiplier(cell) if cell["type"] == MULTIPLIER else packing.memory(cell) for cell in blocks)
    packing.drop_unused()
    return packed


class _Packing:
    """A module's registers, and who reads what, while they are packed."""

    def __init__(self, module: dict[str, Any]):
        self._module, self._cells = module, module["cells"]
        self._plain = {name: cell for name, cell in self._cells.items() if _is_plain(cell)}
        self._by_output = {cell["connections"]["Q"][0]: cell for cell in self._plain.values()}
        self._by_input: dict[Bit, list[str]] = {}
        for name, cell in self._plain.items():
            self._by_input.setdefault(cell["connections"]["DI"][0], []).append(name)
        self._loads = Counter(_read_bits(module))

    def multiplier(self, cell: Cell) -> int:
        connections, parameters = cell["connections"], cell["parameters"]
        before: dict[str, Cell] = {}
        registered = []
        for operand, width in OPERANDS.items():
            bits = {port: connections[port][0] for port in (f"{operand}{i}" for i in range(width))}
            registers = {port: self._by_output[bit] for port, bit in bits.items() if bit in self._by_output}
            others = {bit for port, bit in bits.items() if port not in registers}
            registered.append(bool(registers) and others <= {"0"})
            before |= registers
        packed = 0
        if all(registered) and _clock(cell, before.values()):
            for port, register in before.items():
                connections[port] = register["connections"]["DI"]
                self._loads[connections[port][0]] += 1
            parameters |= {f"REG_INPUT{operand}_CLK": "CLK0" for operand in OPERANDS}
            packed += len(OPERANDS)
        ports = [f"P{i}" for i in range(PRODUCT_BITS)]
        if (behind := self._behind(cell, ports)) and _clock(cell, [self._plain[name] for name in behind.values()]):
            self._take(cell, behind)
            parameters["REG_OUTPUT_CLK"] = "CLK0"
            packed += 1
        return packed

    def memory(self, cell: Cell) -> int:
        connections, parameters = cell["connections"], cell["parameters"]
        whole = int(parameters["DATA_WIDTH_B"], 2) > WORD_BITS  # written through A, read through both at B's clock
        packed = 0
        for sides in ("AB",) if whole else ("A", "B"):
            behind = self._behind(cell, [f"DO{side}{i}" for side in sides for i in range(WORD_BITS)])
            clocks = {bit for side in sides for bit in connections[f"CLK{side}"]}
            clocks |= {self._plain[name]["connections"]["CLK"][0] for name in behind.values()}
            always = connections[f"OCE{sides[-1]}"] == ["1"] and all(connections[f"RST{s}"] == ["0"] for s in sides)
            if behind and always and len(clocks) == 1:
                self._take(cell, behind)
                parameters |= {f"REGMODE_{side}": "OUTREG" for side in sides}
                connections |= {f"OCE{side}": ["1"] for side in sides}
                packed += 1
        return packed

    def _behind(self, cell: Cell, ports: Iterable[str]) -> dict[str, str]:
        """Names of the registers behind some outputs, if each that is read is read by one alone; else none."""
        bits = {port: cell["connections"].get(port, ["x"])[0] for port in ports}
        names = {port: self._by_input.get(bit, []) for port, bit in bits.items() if self._loads[bit]}
        alone = all(len(found) == 1 == self._loads[bits[port]] for port, found in names.items())
        return {port: name for port, (name,) in names.items()} if alone else {}

    def _take(self, cell: Cell, behind: dict[str, str]) -> None:
        """Registers' outputs become a block's."""
        for port, name in behind.items():
            cell["connections"][port] = self._cells.pop(name)["connections"]["Q"]
            del self._by_output[cell["connections"][port][0]]

    def drop_unused(self) -> None:
        used = set(_read_bits(self._module))
        for name, cell in self._plain.items():
            if name in self._cells and cell["connections"]["Q"][0] not in used:
                del self._cells[name]


def _is_plain(cell: Cell) -> bool:
    """A register at the rising edge without enable and reset, which starts with 0."""
    if cell["type"] != REGISTER:
        return False
    parameters, connections = cell["parameters"], cell["connections"]
    return (
        parameters["CEMUX"].strip() == "1"
        and connections.get("LSR", ["0"]) == ["0"]
        and (parameters["CLKMUX"], parameters["REGSET"], parameters["GSR"]) == ("CLK", "RESET", "DISABLED")
        and len(connections["DI"]) == 1
        and isinstance(connections["DI"][0], int)
    )


def _clock(cell: Cell, registers: Iterable[Cell]) -> bool:
    """Give a multiplier the registers' clock, if they have one in common that it may have."""
    clocks = {register["connections"]["CLK"][0] for register in registers} | {*cell["connections"].get("CLK0", ())}
    if len(clocks) != 1:
        return False
    cell["connections"] |= {"CLK0": list(clocks), "CE0": ["1"], "RST0": ["0"]}
    cell["port_directions"] |= {"CLK0": "input", "CE0": "input", "RST0": "input"}
    return True


def _read_bits(module: dict[str, Any]) -> Iterator[Bit]:
    """Bits that cells and outputs of the module read, as often as they do."""
    for port in module["ports"].values():
        if port["direction"] != "input":
            yield from port["bits"]
    for cell in module["cells"].values():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] != "output":
                yield from bits
