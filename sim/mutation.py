"""Mutants of a machine: Yosys changes one bit of one cell's port, and one simulator holds all mutants.

The machine is flattened and optimized first, so that whatever nothing depends on is gone and no mutant can be made of
it. ``mutate`` draws evenly over cells, wires and bits and puts every mutant behind a comparison with the signal
``mutant``, which the Verilog reads once, from ``+mutant=N``; 0 is the machine as it was.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hardware.errors import InputError
from rtl.verilog import TOP
from sim.yosys import run_yosys

GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "bit_serial": {
        "array": ("array", "lhs_buffer", "rhs_buffer", "vector"),
        "fetch": ("fetch",),
        "execute": ("execute",),
        "result": ("result",),
    },
    "serial_weight": {"masked sums": ("array.unit", "array.column"), "array": ("array",)},
    "bit_fusion": {
        "fusion units": ("array.unit",),
        "routers": ("array.row", "array.column"),
        "array": ("array",),
        "steps": ("execute.matrix",),
    },
}
"""By the array's kind, how the names of the engine's parts begin, by the stage that they count for; a part within
another stage's part is not of that stage.

Of the kinds that came later, only what no other machine is made of.
"""

PLUSARG = "mutant"
NUMBER_BITS = 16
PREPARE = "hierarchy -check -top {top}; proc; flatten; opt; wreduce; opt; memory_collect; opt_clean"
CLOCKING = re.compile(r"CLK|RD_CLK|WR_CLK|RD_ARST|RD_SRST")
"""Ports that are no logic: clocks, and resets of memories, which these memories do not have."""
SPARE = 3  # so many times more are drawn than needed, because some change nothing


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Parameters
    ----------
    group:
        The stage, one of `GROUPS` of the machine's kind.
    mode:
        ``inv``, ``const0``, ``const1``: what the bit becomes; ``cnot0``, ``cnot1``: inverted while bit ``ctrlbit`` of
        the same port is 0, or 1.
    cell, port, portbit:
        Where, in the flattened machine.
    wire:
        ``name[bit]`` that the bit has in the gateware, if it has a name there.
    """

    group: str
    mode: str
    cell: str
    port: str
    portbit: int
    ctrlbit: int | None = None
    wire: str = ""

    @property
    def command(self) -> str:
        """Yosys' options for it."""
        control = "" if self.ctrlbit is None else f" -ctrlbit {self.ctrlbit}"
        return (
            f"mutate -mode {self.mode} -module {TOP} -cell {self.cell} -port {self.port} "
            f"-portbit {self.portbit}{control}"
        )

    def __str__(self) -> str:
        control = "" if self.ctrlbit is None else f" by bit {self.ctrlbit}"
        cell = re.sub(r"^\$flatten\\|\\(?=[a-z])|(?<=\$)[^$]*\.v:", "", self.cell)
        return f"{self.mode}{control}: {cell} {self.port}[{self.portbit}] {self.wire}".rstrip()


def draw_mutants(verilog: str, groups: Mapping[str, Sequence[str]], count: int, seed: int) -> list[Mutant]:
    """Mutants of a machine, equally many of every group; the same ones for the same arguments.

    Parameters
    ----------
    groups:
        Beginnings of the names of instances in ``engine``, as in `GROUPS` for a kind.
    count:
        At least one per group; rounded down to a multiple of them.

    Raises
    ------
    InputError
        ``count`` is too small, or a group has no such instances or not enough logic.
    """
    each = count // len(groups)
    if each < 1 or count >= 1 << NUMBER_BITS:
        raise InputError(f"expected {len(groups)} to {(1 << NUMBER_BITS) - 1} mutants, got {count}: change the number.")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "machine.v").write_text(verilog, encoding="utf-8")
        lines = [f"read_verilog machine.v; {PREPARE.format(top=TOP)}; write_json flat.json"]
        lines += [f"select -set {_label(group)} {' '.join(map(_cells, some))}" for group, some in groups.items()]
        for group, some in groups.items():
            within = [
                f"@{_label(other)} %d"
                for other, parts in groups.items()
                if any(part.startswith(f"{one}.") for part in parts for one in some)
            ]
            lines.append(
                f"select @{_label(group)} {' '.join(within)} t:$scopeinfo %d; "
                f"mutate -list {SPARE * each} -seed {seed} -o {_label(group)}.txt; select -clear"
            )
        run_yosys(work, "; ".join(lines))
        module = json.loads((work / "flat.json").read_text())["modules"][TOP]
        used, mutants = _used_bits(module), []
        for group in groups:
            found = [one for one in _read(work / f"{_label(group)}.txt", group) if _changes(one, module, used)]
            if len(found) < each:
                raise InputError(f"group {group!r} has only {len(found)} mutants, not {each}: ask for fewer.")
            mutants += found[:each]
    return mutants


def _label(group: str) -> str:
    return group.replace(" ", "_")


def _cells(part: str) -> str:
    """Patterns for the cells in parts of the engine that begin so, in Yosys' language."""
    # In names that Yosys made there is a backslash before each instance's name.
    return " ".join(f"{TOP}/c:*engine.{mark}{part.replace('.', f'.{mark}')}*" for mark in ("", "?"))


def _read(path: Path, group: str) -> Iterator[Mutant]:
    for line in path.read_text().splitlines():
        options = dict(re.findall(r"-(mode|cell|port|portbit|ctrlbit|wire|wirebit) (\S+)", line))
        wire = f"{options['wire']}[{options['wirebit']}]" if "wire" in options else ""
        control = int(options["ctrlbit"]) if "ctrlbit" in options else None
        yield Mutant(
            group,
            options["mode"],
            options["cell"],
            options["port"].lstrip("\\"),
            int(options["portbit"]),
            control,
            wire,
        )


def _used_bits(module: dict[str, Any]) -> set[int | str]:
    """Bits of a flat module, in Yosys' JSON, that a cell or a port of the module reads."""
    used: set[int | str] = set()
    for port in module["ports"].values():
        used.update(port["bits"] if port["direction"] == "output" else ())
    for cell in module["cells"].values():
        for name, bits in cell["connections"].items():
            used.update(bits if cell["port_directions"][name] == "input" else ())
    return used


def _changes(mutant: Mutant, module: dict[str, Any], used: set[int | str]) -> bool:
    """Whether it is logic, and not a bit that nothing reads or that is already what it would become."""
    cell = module["cells"][mutant.cell.removeprefix("\\")]
    bits = cell["connections"][mutant.port]
    bit = bits[mutant.portbit]
    if CLOCKING.fullmatch(mutant.port) or bit == "x":
        return False
    if cell["port_directions"][mutant.port] == "output":
        return bit in used
    control = None if mutant.ctrlbit is None else bits[mutant.ctrlbit]
    return (mutant.mode, bit) not in {("const0", "0"), ("const1", "1")} and (mutant.mode, control) not in {
        ("cnot0", "1"),
        ("cnot1", "0"),
    }


def mutation_commands(mutants: Mapping[int, Mutant]) -> list[str]:
    """Yosys' commands that read ``machine.v`` and put mutants in it, each acting while ``mutant`` is its number."""
    return [
        f"read_verilog machine.v\n{PREPARE.format(top=TOP)}".replace("; ", "\n"),
        *(f"{one.command} -ctrl {PLUSARG} {NUMBER_BITS} {number}" for number, one in mutants.items()),
    ]


def mutated_verilog(verilog: str, mutants: Sequence[Mutant]) -> str:
    """The machine with all mutants in it: the ``N``-th, from 1, acts when the simulator is given ``+mutant=N``."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "machine.v").write_text(verilog, encoding="utf-8")
        commands = [
            *mutation_commands(dict(enumerate(mutants, 1))),
            f"delete -input {TOP}/w:{PLUSARG}\nwrite_verilog -noattr mutated.v\n",
        ]
        (work / "mutate.ys").write_text("\n".join(commands), encoding="utf-8")
        run_yosys(work, "script mutate.ys")
        text = (work / "mutated.v").read_text(encoding="utf-8")
    wire = f"wire [{NUMBER_BITS - 1}:0] {PLUSARG};"
    if text.count(wire) != 1:
        raise InputError(f"Yosys wrote no wire {PLUSARG!r}: pass at least one mutant.")
    read = f'initial if (!$value$plusargs("{PLUSARG}=%d", {PLUSARG})) {PLUSARG} = 0;'
    return text.replace(wire, f"reg [{NUMBER_BITS - 1}:0] {PLUSARG};\n  {read}")


@contextmanager
def acting(mutated: str, number: int) -> Iterator[None]:
    """Inside, `sim.run.simulate_jobs` runs the Verilog of `mutated_verilog` with this mutant, 0 for none.

    It takes the place of the machine of every accelerator, so simulate only the one that was mutated.
    """
    with mock.patch.multiple("sim.run", engine_verilog=lambda _: mutated, PLUSARGS=(f"+{PLUSARG}={number}",)):
        yield
