"""Proofs that mutants change nothing: for every state and all inputs, the next state and the outputs are the same.

Registers and memories are cut out of the flattened machine; what they hold becomes inputs and what goes into them
outputs. Yosys' SAT solver then compares the combinational rest with and without the mutant. Bits of registers on which
no output of the machine depends, however late, are not compared. A mutant that changes nothing only in the states that
can be reached is not found.
"""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rtl.verilog import TOP
from sim.mutation import NUMBER_BITS, PLUSARG, Mutant, mutation_commands
from sim.yosys import run_yosys

SECONDS = 60
"""What one proof may take; a mutant for which that is not enough counts as not proved."""
STATE = {"$dff": "Q", "$mem_v2": "RD_DATA"}
"""Cells that hold state, after ``dffunmap``, and their outputs."""

COMPARE = f"""design -load parts
copy part_{{number}} gold
copy part_{{number}} gate
cd gold
connect -set {PLUSARG} {NUMBER_BITS}'d0
cd ..
cd gate
connect -set {PLUSARG} {NUMBER_BITS}'d{{number}}
cd ..
miter -equiv -flatten gold gate miter
hierarchy -top miter
opt -full
log mutant {{number}}
sat -prove trigger 0 -timeout {SECONDS} miter
"""


def proved_equivalent(verilog: str, mutants: Mapping[int, Mutant]) -> set[int]:
    """Numbers of the mutants that are proved to change nothing.

    Parameters
    ----------
    verilog:
        The machine, as it was given to `sim.mutation.draw_mutants`.
    mutants:
        By numbers from 1.
    """
    if not mutants:
        return set()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "machine.v").write_text(verilog, encoding="utf-8")
        prepare, *mutate = mutation_commands(mutants)
        plain = ["design -save whole", "dffunmap", "write_json plain.json", "design -load whole"]
        ports = [f"delete -input {TOP}/w:{PLUSARG}", "dffunmap", "write_json flat.json"]
        _run(work, [prepare, *plain, *mutate, *ports])
        flat = json.loads((work / "flat.json").read_text())
        _cut(flat["modules"][TOP], _observed(json.loads((work / "plain.json").read_text())["modules"][TOP]))
        parts = _parts(flat["modules"][TOP], mutants)
        (work / "parts.json").write_text(json.dumps({"modules": parts}))
        compare = "".join(COMPARE.format(number=number) for number in mutants)
        output = _run(work, ["read_json parts.json", "design -save parts", compare])
    proved = set()
    for part in re.split(r"^mutant (?=\d+$)", output, flags=re.MULTILINE)[1:]:
        if "no model found: SUCCESS!" in part:
            proved.add(int(part.split(maxsplit=1)[0]))
    return proved


def _run(work: Path, commands: Sequence[str]) -> str:
    (work / "script.ys").write_text("\n".join(commands), encoding="utf-8")
    return run_yosys(work, "script script.ys")


def _sources(cell: dict[str, Any]) -> Iterator[tuple[int | str, Sequence[int | str]]]:
    """Every bit that a cell drives, and those of its inputs on which it may depend."""
    ports, kind = cell["connections"], cell["type"]
    inputs = {name: bits for name, bits in ports.items() if _reads(cell, name)}
    for name, bits in ports.items():
        if _reads(cell, name):
            continue
        for place, bit in enumerate(bits):
            if kind == "$dff":
                yield bit, [inputs["D"][place]]
            elif kind in ("$and", "$or", "$xor", "$mux") and len({len(inputs["A"]), len(inputs["B"]), len(bits)}) == 1:
                yield bit, [inputs["A"][place], inputs["B"][place], *inputs.get("S", ())]
            elif kind in ("$add", "$sub"):  # carries go upwards; a shorter operand's last bit is its sign
                yield bit, [one for some in inputs.values() for one in some[: place + 1]]
            else:
                yield bit, [one for some in inputs.values() for one in some]


Sources = Mapping[int | str, Sequence[int | str]]


def _reach(begin: Iterable[int | str], sources: Sources) -> set[int | str]:
    """Bits that one comes to from others."""
    waiting = list(begin)
    found = set(waiting)
    while waiting:
        new = set(sources.get(waiting.pop(), ())) - found
        found |= new
        waiting.extend(new)
    return found


def _observed(module: dict[str, Any]) -> dict[str, list[bool]]:
    """Of every register's bits, whether an output of the module, in Yosys' JSON, may depend on them, however late."""
    sources = {bit: some for cell in module["cells"].values() for bit, some in _sources(cell)}
    outputs = (port["bits"] for port in module["ports"].values() if port["direction"] == "output")
    found = _reach(chain.from_iterable(outputs), sources)
    registers = {name: cell["connections"]["Q"] for name, cell in module["cells"].items() if cell["type"] == "$dff"}
    return {name: [bit in found for bit in bits] for name, bits in registers.items()}


def _parts(module: dict[str, Any], numbers: Iterable[int]) -> dict[str, Any]:
    """For every mutant the part of a cut module, in Yosys' JSON, with the outputs that may depend on it."""
    chosen = module["netnames"][PLUSARG]
    starts, dependents, drivers = {}, defaultdict(list), {}
    for name, cell in module["cells"].items():
        for bit, some in _sources(cell):
            drivers[bit] = name
            for one in some:
                dependents[one].append(bit)
        if cell["type"] == "$eq" and cell["connections"]["A"] == chosen["bits"]:
            starts[int("".join(reversed(cell["connections"]["B"])), 2)] = cell["connections"]["Y"]
    inputs = {
        name: [bit for port, bits in cell["connections"].items() for bit in bits if _reads(cell, port)]
        for name, cell in module["cells"].items()
    }
    sources = {bit: inputs[name] for bit, name in drivers.items()}
    parts = {}
    for number in numbers:
        touched = _reach(starts[number], dependents)
        ports = {name: port for name, port in module["ports"].items() if port["direction"] == "input"}
        for name, port in module["ports"].items():
            bits = [bit for bit in port["bits"] if bit in touched]
            if bits and port["direction"] == "output":
                ports[name] = {"direction": "output", "bits": bits}
        ends = (port["bits"] for port in ports.values() if port["direction"] == "output")
        needed = {drivers[bit] for bit in _reach(chain.from_iterable(ends), sources) if bit in drivers}
        cells = {name: cell for name, cell in module["cells"].items() if name in needed}
        parts[f"part_{number}"] = {"ports": ports, "cells": cells, "netnames": {PLUSARG: chosen}}
    return parts


def _reads(cell: dict[str, Any], port: str) -> bool:
    return cell["port_directions"][port] == "input"


def _cut(module: dict[str, Any], observed: Mapping[str, list[bool]]) -> None:
    """Replace registers and memories by ports of a module in Yosys' JSON.

    What would be written to a memory counts only where it is enabled, what goes into a register only where it is
    observed without a mutant: the other bits may come to differ, but what is compared never depended on them.
    """
    for net in module["netnames"].values():
        net["attributes"].pop("init", None)  # of the registers; what they hold is free now
    new_bit = 1 + max(bit for net in module["netnames"].values() for bit in net["bits"] if isinstance(bit, int))
    for number, (name, cell) in enumerate(list(module["cells"].items())):
        if cell["type"] not in STATE:
            continue
        del module["cells"][name]
        for port, bits in cell["connections"].items():
            if port == "WR_DATA":
                written = list(range(new_bit, new_bit + len(bits)))
                new_bit += len(bits)
                module["cells"][f"written_{number}"] = _and(bits, cell["connections"]["WR_EN"], written)
                bits = written
            if port == "D":
                bits = [bit for bit, one in zip(bits, observed[name], strict=True) if one]
            direction = "input" if port == STATE[cell["type"]] else "output"
            if bits:
                module["ports"][f"state_{number}_{port}"] = {"direction": direction, "bits": bits}


def _and(one: list, other: list, result: list) -> dict[str, Any]:
    """A cell that combines bits with bits."""
    return {
        "type": "$and",
        "parameters": {"A_SIGNED": 0, "B_SIGNED": 0} | {f"{port}_WIDTH": len(one) for port in "ABY"},
        "port_directions": {"A": "input", "B": "input", "Y": "output"},
        "connections": {"A": one, "B": other, "Y": result},
    }
