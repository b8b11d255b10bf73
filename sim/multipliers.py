"""Registers beside multipliers become the ones inside: Yosys maps products to MULT18X18D, but leaves those empty.

A register in the fabric is 3 to 5 ns of wire away from the multiplier's columns, and the multiplier itself takes 3.9.
The vendor's tools pack them, too.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

MULTIPLIER, REGISTER = "MULT18X18D", "TRELLIS_FF"
INPUTS = {"A": 18, "B": 18}
OUTPUT_BITS = 36
Cell = dict[str, Any]
Bit = int | str


def pack_registers(module: dict[str, Any]) -> int:
    """Pack the registers before and behind multipliers into them.

    An operand is packed if all its bits come from registers that are always enabled and never reset, or are 0; a
    product if all its bits go to such registers and nowhere else. All that work on one clock edge. Registers that
    others need, too, stay for these.

    Parameters
    ----------
    module:
        A module of a netlist in Yosys' JSON, mapped to the ECP5; changed in place.

    Returns
    -------
    Operands and products that were packed, at most three for a multiplier.
    """
    cells = module["cells"]
    plain = {name: cell for name, cell in cells.items() if _is_plain(cell)}
    by_output = {cell["connections"]["Q"][0]: cell for cell in plain.values()}
    by_input: dict[Bit, list[str]] = {}
    for name, cell in plain.items():
        by_input.setdefault(cell["connections"]["DI"][0], []).append(name)
    loads = Counter(_read_bits(module))
    packed = 0
    for cell in list(cells.values()):
        if cell["type"] != MULTIPLIER:
            continue
        connections = cell["connections"]
        for operand, width in INPUTS.items():
            bits = {f"{operand}{i}": connections[f"{operand}{i}"][0] for i in range(width)}
            registers = {port: by_output[bit] for port, bit in bits.items() if bit in by_output}
            others = {bit for port, bit in bits.items() if port not in registers}
            if registers and others <= {"0"} and _clock(cell, list(registers.values())):
                for port, register in registers.items():
                    connections[port] = register["connections"]["DI"]
                    loads[connections[port][0]] += 1
                cell["parameters"][f"REG_INPUT{operand}_CLK"] = "CLK0"
                packed += 1
        product = {f"P{i}": connections.get(f"P{i}", ["x"])[0] for i in range(OUTPUT_BITS)}
        behind = {port: by_input.get(bit, []) for port, bit in product.items() if loads[bit]}
        alone = all(len(names) == 1 == loads[product[port]] for port, names in behind.items())
        if behind and alone and _clock(cell, [plain[names[0]] for names in behind.values()]):
            for port, (name,) in behind.items():
                connections[port] = cells.pop(name)["connections"]["Q"]
                del by_output[connections[port][0]]
            cell["parameters"]["REG_OUTPUT_CLK"] = "CLK0"
            packed += 1
    used = set(_read_bits(module))
    for name, cell in plain.items():
        if name in cells and cell["connections"]["Q"][0] not in used:
            del cells[name]
    return packed


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


def _clock(cell: Cell, registers: list[Cell]) -> bool:
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
