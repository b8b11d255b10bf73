"""Static timing of a placed design: the slowest path between any two units, from nextpnr's SDF.

nextpnr reports one path per clock. Who shortens paths wants to see all that are too long at once: a run takes minutes.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hardware.errors import InputError
from sim.harness import INSTANCE

_CELL_SUFFIX = re.compile(
    r"(_(TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|DP16KD|PDPW16KD|TRELLIS_DPR16X4|MULT18X18D)([_$].*)?"
    r"|(\.\d+)+|\$CCU2_COMB[01])$"
)
_CLOCK_PINS = ("CLK", "WCK", "SCLK")
_LINE = re.compile(
    r"\(INSTANCE (?P<instance>\S*)\)"
    r"|\(IOPATH (?P<input>\S+) (?P<output>\S+) \((?P<through>[\d:]+)\)"
    r"|\(SETUPHOLD \(posedge (?P<pin>\S+)\) \(posedge \S+\) \((?P<setup>[\d:]+)\)"
    r"|\(INTERCONNECT (?P<driver>\S+) (?P<load>\S+) \((?P<wire>[\d:]+)\)"
)
Pin = tuple[str, str]  # cell, pin


@dataclass(frozen=True)
class TimingPath:
    """Register to register: worst-case delay in ns with clock-to-output and setup, cells on the way, and their names.

    ``signals`` are those that the cells were derived from, see `signal_name`, without repetitions.
    """

    delay_ns: float
    cells: int
    signals: tuple[str, ...]

    @property
    def mhz(self) -> float:
        """The clock that it allows."""
        return 1000 / self.delay_ns


class Timing:
    """Arrival times in a placed design.

    Parameters
    ----------
    sdf:
        What nextpnr writes with ``--sdf``: delays in ps, one clock.

    Raises
    ------
    InputError
        The text holds no path.
    """

    def __init__(self, sdf: str) -> None:
        arcs, starts, setups = _read(sdf)
        self._arrival, self._before = _arrivals(arcs, starts)
        self._delays = {end: self._arrival[end] + setup for end, setup in setups.items() if end in self._arrival}
        if not self._delays:
            raise InputError("expected an SDF file of nextpnr with paths from register to register, got none.")

    def input_delays(self) -> list[float]:
        """Worst-case delays in ns of the slowest paths to all register inputs, as of `TimingPath`, slowest first."""
        return sorted((delay / 1000 for delay in self._delays.values()), reverse=True)

    def slowest_steps(self) -> list[dict[str, Any]]:
        """The slowest path of all as nextpnr's report has it, for `sim.place.critical_path`."""
        end = max(self._delays, key=lambda pin: self._delays[pin])
        pins = _pins(end, self._before)
        steps, before = [], 0.0
        for pin, previous in zip(pins, [None, *pins], strict=False):
            kind = "clk-to-q" if previous is None else "logic" if previous[0] == pin[0] else "routing"
            steps.append({"type": kind, "delay": (self._arrival[pin] - before) / 1000, "to": {"cell": pin[0]}})
            before = self._arrival[pin]
        return [*steps, {"type": "setup", "delay": (self._delays[end] - before) / 1000, "to": {"cell": end[0]}}]

    def slowest_paths(self, depth: int = 3) -> list[TimingPath]:
        """The slowest path for each pair of units at its ends, slowest first.

        Parameters
        ----------
        depth:
            A unit is named by so many parts of a signal's hierarchical name.
        """
        slowest: dict[tuple[str, str], tuple[float, Pin]] = {}
        for end, delay in self._delays.items():
            pair = _unit(_pins(end, self._before)[0], depth), _unit(end, depth)
            slowest[pair] = max(slowest.get(pair, (0.0, end)), (delay, end))
        return [_path(delay, end, self._before) for delay, end in sorted(slowest.values(), reverse=True)]


def _read(sdf: str) -> tuple[dict[Pin, list[tuple[Pin, float]]], dict[Pin, float], dict[Pin, float]]:
    """Delays from pin to pin, from the clock to an output, and of set-up at an input."""
    arcs: dict[Pin, list[tuple[Pin, float]]] = defaultdict(list)
    starts, setups, cell = {}, {}, ""
    for found in _LINE.finditer(sdf):
        match found.lastgroup:
            case "instance":
                cell = _plain(found["instance"])
            case "through" if found["input"].startswith(_CLOCK_PINS):
                starts[cell, _plain(found["output"])] = _worst(found["through"])
            case "through":
                arcs[cell, _plain(found["input"])].append(((cell, _plain(found["output"])), _worst(found["through"])))
            case "setup":
                setups[cell, _plain(found["pin"])] = _worst(found["setup"])
            case _:
                arcs[_pin(found["driver"])].append((_pin(found["load"]), _worst(found["wire"])))
    return arcs, starts, setups


def _arrivals(
    arcs: dict[Pin, list[tuple[Pin, float]]], starts: dict[Pin, float]
) -> tuple[dict[Pin, float], dict[Pin, Pin]]:
    """When the last change reaches each pin, and the pin that it comes from."""
    arrival, before = dict(starts), dict[Pin, Pin]()
    for pin in _in_order(arcs, starts):
        for following, delay in arcs.get(pin, ()):
            if arrival[pin] + delay > arrival.get(following, -1.0):
                arrival[following], before[following] = arrival[pin] + delay, pin
    return arrival, before


def _in_order(arcs: dict[Pin, list[tuple[Pin, float]]], starts: dict[Pin, float]) -> Iterator[Pin]:
    """All pins that can be reached, each behind those that lead to it."""
    sources: dict[Pin, int] = defaultdict(int)
    seen, stack = set(starts), list(starts)
    while stack:
        for following, _ in arcs.get(stack.pop(), ()):
            sources[following] += 1
            if following not in seen:
                seen.add(following)
                stack.append(following)
    ready = [pin for pin in starts if not sources[pin]]
    while ready:
        pin = ready.pop()
        yield pin
        for following, _ in arcs.get(pin, ()):
            sources[following] -= 1
            if not sources[following]:
                ready.append(following)


def _path(delay: float, end: Pin, before: dict[Pin, Pin]) -> TimingPath:
    cells = list(dict.fromkeys(cell for cell, _ in _pins(end, before)))
    return TimingPath(delay / 1000, len(cells), tuple(dict.fromkeys(signal_name(cell) for cell in cells)))


def _pins(end: Pin, before: dict[Pin, Pin]) -> list[Pin]:
    """The slowest path to a pin, from its start."""
    pins = [end]
    while pins[-1] in before:
        pins.append(before[pins[-1]])
    return pins[::-1]


def _unit(pin: Pin, depth: int) -> str:
    return ".".join(signal_name(pin[0]).split(".")[:depth])


def _pin(name: str) -> Pin:
    cell, pin = _plain(name).rsplit("/", 1)
    return cell, pin


def _plain(name: str) -> str:
    return re.sub(r"\\(.)", r"\1", name)


def _worst(delays: str) -> float:
    return float(delays.rsplit(":", 1)[-1])


def signal_name(cell: str) -> str:
    """The signal that Yosys derived a cell's name from, without the harness' prefix.

    >>> signal_name("machine.fetch.words_TRELLIS_FF_Q_3")
    'fetch.words'
    >>> signal_name("machine.fetch.words_LUT4_A_Z_CCU2C_COUT$CCU2_COMB0")
    'fetch.words'
    """
    return _CELL_SUFFIX.sub("", cell.removeprefix(f"{INSTANCE}.")) or cell
