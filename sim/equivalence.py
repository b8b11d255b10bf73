"""Proofs that mutants change nothing: for every state and all inputs, the next state and the outputs are the same.

Registers and memories are cut out of the flattened machine; what they hold becomes inputs and what goes into them
outputs. Yosys' SAT solver then compares the combinational rest with and without the mutant. A mutant that changes
nothing only in the states that can be reached is not found.
"""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rtl.verilog import TOP
from sim.mutation import NUMBER_BITS, PLUSARG, Mutant, mutation_commands
from sim.yosys import run_yosys

SECONDS = 60
"""What one proof may take; a mutant for which that is not enough counts as not proved."""
STATE = {"$dff": "Q", "$mem_v2": "RD_DATA"}
"""Cells that hold state, after ``dffunmap``, and their outputs."""

COMPARE = f"""design -load cut
copy {TOP} gate
cd {TOP}
connect -set {PLUSARG} {NUMBER_BITS}'d0
cd gate
connect -set {PLUSARG} {NUMBER_BITS}'d{{number}}
cd ..
miter -equiv -flatten {TOP} gate miter
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
        commands = [*mutation_commands(mutants), f"delete -input {TOP}/w:{PLUSARG}", "dffunmap", "write_json flat.json"]
        _run(work, commands)
        flat = json.loads((work / "flat.json").read_text())
        _cut(flat["modules"][TOP])
        (work / "cut.json").write_text(json.dumps(flat))
        compare = "".join(COMPARE.format(number=number) for number in mutants)
        output = _run(work, ["read_json cut.json", "design -save cut", compare])
    proved = set()
    for part in re.split(r"^mutant (?=\d+$)", output, flags=re.MULTILINE)[1:]:
        if "no model found: SUCCESS!" in part:
            proved.add(int(part.split(maxsplit=1)[0]))
    return proved


def _run(work: Path, commands: Sequence[str]) -> str:
    (work / "script.ys").write_text("\n".join(commands), encoding="utf-8")
    return run_yosys(work, "script script.ys")


def _cut(module: dict[str, Any]) -> None:
    """Replace registers and memories by ports of a module in Yosys' JSON.

    What would be written to a memory counts only where it is enabled.
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
            direction = "input" if port == STATE[cell["type"]] else "output"
            module["ports"][f"state_{number}_{port}"] = {"direction": direction, "bits": bits}


def _and(one: list, other: list, result: list) -> dict[str, Any]:
    """A cell that combines bits with bits."""
    return {
        "type": "$and",
        "parameters": {"A_SIGNED": 0, "B_SIGNED": 0} | {f"{port}_WIDTH": len(one) for port in "ABY"},
        "port_directions": {"A": "input", "B": "input", "Y": "output"},
        "connections": {"A": one, "B": other, "Y": result},
    }
