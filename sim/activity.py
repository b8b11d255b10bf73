"""What switches inside the machine while it runs: toggles of every net, of the mapped one weighted by pins driven.

No delays are simulated, so no glitches are seen: a net toggles at most once per cycle.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardware.accelerator import Accelerator
from hardware.errors import InputError
from rtl.verilog import TOP
from sim.job import Job, Outcome
from sim.netlist import Netlist, mapped_machine, unit_of
from sim.run import simulate_jobs

CLOCK_PERIOD = 10
"""Time units of a cycle in bench.sv."""
UNTRACED = 0.001
"""Share of nets that may be missing: some are merged with others after they were listed."""
REST = "rest"
_INSTANCE = re.compile(r"\s*\(INSTANCE (?:\"[^\"]*\" )?(\S+)")
_NET = re.compile(r"\s*\((\S+) \(T0 \d+\).*\(TC (\d+)\)")


@dataclass(frozen=True)
class Activity:
    """One job's switching.

    Parameters
    ----------
    outcome:
        Of the job, which ran on the mapped machine.
    cycles:
        Simulated clock cycles, before and after the program included.
    pins:
        By unit (`sim.netlist.UNITS` and ``rest``): toggles of nets times the pins of cells they drive, clocks not
        included.
    """

    outcome: Outcome
    cycles: int
    pins: dict[str, int]


def measure_activity(
    jobs: Sequence[Job], accelerator: Accelerator, progress: Callable[[int], None] | None = None
) -> Iterator[Activity]:
    """Run jobs on the mapped machine, each in a process of its own, and count what switches.

    Raises
    ------
    InputError
        A tool failed, or a net of the netlist was not traced.
    MachineError
        As in `sim.run.simulate_jobs`.
    """
    netlist = mapped_machine(accelerator)
    for number, job in enumerate(jobs):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "activity.saif"
            (outcome,) = simulate_jobs([job], accelerator, waves=path, verilog=netlist.verilog).outcomes
            with path.open(encoding="utf-8") as lines:
                duration, pins = _count(lines, netlist)
        if progress:
            progress(number + 1)
        yield Activity(outcome, duration // CLOCK_PERIOD, pins)


def rtl_toggles(waves: Path) -> dict[str, int]:
    """Toggles of all nets of the machine as it was described, by unit (`sim.netlist.UNITS` and ``rest``).

    A net counts once in every module that it passes through, and block RAMs count by their ports only.

    Parameters
    ----------
    waves:
        The .saif file of a simulation of the generated Verilog, see `sim.run.simulate_jobs`.
    """
    toggles: Counter[str] = Counter()
    path: list[str] = []
    machine, unit = False, REST
    with waves.open(encoding="utf-8") as lines:
        for line in lines:
            if match := _NET.match(line):
                if machine:
                    toggles[unit] += int(match[2])
            elif match := _INSTANCE.match(line):  # indented by its depth, below the bench
                path[len(line) - len(line.lstrip()) - 1 :] = [match[1]]
                machine, inside = path[1:2] == ["machine"], path[2:]
                names = (unit_of(".".join([TOP, *inside[:depth]])) for depth in range(1, len(inside) + 1))
                unit = next(filter(None, names), REST)
    return dict(toggles)


def _count(lines: Iterator[str], netlist: Netlist) -> tuple[int, dict[str, int]]:
    """Duration, and toggles by unit, from a SAIF file: ``(INSTANCE name (NET (net .. (TC toggles)) ..) ..)``."""
    duration, module, counted = 0, "", Counter[str]()
    pins: Counter[str] = Counter()
    for line in lines:
        if match := _NET.match(line):
            weight = netlist.pins.get(module, {}).get(match[1].replace("\\", ""), 0)
            if weight:
                counted[module] += 1
                pins[netlist.units.get(module, REST)] += weight * int(match[2])
        elif match := _INSTANCE.match(line):
            module = _module(match[1].replace("\\", ""), netlist)
        elif "(DURATION" in line:
            duration = int(line.split()[1].rstrip(")"))
    nets = sum(map(len, netlist.pins.values()))
    missing = nets - sum(counted.values())
    if missing > UNTRACED * nets:
        raise InputError(
            f"the simulator did not trace {missing} of {nets} nets of the mapped machine: this is a defect."
        )
    return duration, dict(pins)


def _module(instance: str, netlist: Netlist) -> str:
    """The module of an instance: Amaranth makes one for each, and Yosys names the instance by its path."""
    return TOP if instance == "machine" else next((n for n in netlist.units if n == f"{TOP}.{instance}"), "")
