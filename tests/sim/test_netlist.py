"""The mapped machine: where its nets lead, what switches in it, and that it is the machine."""

import numpy as np
import pytest

from codesign.lowering import lower
from codesign.sampling import random_operands
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from rtl.verilog import TOP
from sim.activity import _count, measure_activity, rtl_toggles
from sim.job import Job
from sim.netlist import Netlist, _block_rams, _clock_pins, _pins, unit_of
from sim.reference import reference_sums

LEFT = {"I0": "input", "I1": "input", "O": "output"}
FLIP_FLOP = {"C": "input", "CE": "input", "D": "input", "Q": "output"}


def cell(kind: str, directions: dict[str, str], **bits: list) -> dict:
    return {"type": kind, "port_directions": directions, "connections": bits}


MODULE = {
    "netnames": {
        "clk": {"bits": [2]},
        "a": {"bits": [3, 4]},
        "again": {"bits": [3]},  # another name of a[0]
        "n1": {"bits": [5]},
        "q": {"bits": [6]},
    },
    "cells": {
        "l1": cell("LUT2", LEFT, I0=[3], I1=[4], O=[5]),
        "l2": cell("LUT2", LEFT, I0=[3], I1=["1"], O=[7]),
        "f": cell("FDRE", FLIP_FLOP, C=[2], CE=[4], D=[5], Q=[6]),
        "ram": cell("RAMB18E1", {"CLKARDCLK": "input", "DIADI": "input"}, CLKARDCLK=[2], DIADI=[6, 6]),
        "unit": cell(f"{TOP}.engine.array", {"lhs": "input"}, lhs=[3, 4, 5, 6]),
    },
}


def test_nets_are_weighted_by_the_pins_they_drive():
    assert _pins(MODULE) == {"a[0]": 2, "a[1]": 2, "n1": 1, "q": 2}  # no clock, no other unit
    assert _clock_pins(MODULE) == 1 / 8 + 1
    assert _block_rams(MODULE) == 0.5


@pytest.mark.parametrize(
    ("module", "unit"),
    [
        (f"{TOP}.engine.array", "array"),
        (f"{TOP}.engine.lhs_buffer_3", "lhs_buffer"),
        (f"{TOP}.reader_0", "reader"),
        (f"{TOP}.engine.array.unit_0_0", None),  # in the array
        (f"{TOP}.engine", None),
        (TOP, None),
    ],
)
def test_units_are_known_by_their_path(module, unit):
    assert unit_of(module) == unit


SAIF = """(SAIFILE
(DURATION 420)
(INSTANCE bench
 (NET
  (n1 (T0 1) (T1 2) (TZ 0) (TX 0) (TB 0) (TC 99))
 )
 (INSTANCE machine
  (NET
   (n1 (T0 1) (T1 2) (TZ 0) (TX 0) (TB 0) (TC 5))
   (a\\[0\\] (T0 1) (T1 2) (TZ 0) (TX 0) (TB 0) (TC 7))
  )
  (INSTANCE engine.array
   (NET
    (n1 (T0 1) (T1 2) (TZ 0) (TX 0) (TB 0) (TC 11))
   )
  )
 )
)
)
"""
ARRAY = f"{TOP}.engine.array"


def test_toggles_are_counted_where_they_happen():
    netlist = Netlist("", {ARRAY: "array"}, {TOP: {"n1": 1, "a[0]": 3}, ARRAY: {"n1": 2}}, {}, {}, 0)
    assert _count(iter(SAIF.splitlines()), netlist) == (420, {"rest": 5 + 3 * 7, "array": 22})


def test_toggles_of_the_machine_as_described_go_to_the_unit_they_lie_in(tmp_path):
    nets = [
        (" (INSTANCE bench", 99),
        ("  (INSTANCE machine", 1),
        ("   (INSTANCE control", 2),
        ("   (INSTANCE engine", 4),
        ("    (INSTANCE array", 8),
        ("     (INSTANCE unit_0_0", 16),
        ("    (INSTANCE lhs_buffer_1", 32),
        ("     (INSTANCE memory_0", 64),
        ("   (INSTANCE reader_0", 128),
        ("  (INSTANCE memory", 99),
    ]
    lines = [f"{name}\n   (NET\n    (a\\[0\\] (T0 1) (T1 2) (TZ 0) (TX 0) (TB 0) (TC {n}))\n" for name, n in nets]
    (tmp_path / "x.saif").write_text("(SAIFILE\n(DURATION 420)\n" + "".join(lines))
    assert rtl_toggles(tmp_path / "x.saif") == {"rest": 1 + 2 + 4, "array": 24, "lhs_buffer": 96, "reader": 128}


def test_a_net_that_was_not_traced_is_not_taken_as_silent():
    netlist = Netlist("", {ARRAY: "array"}, {TOP: {"n1": 1, "n2": 1}, ARRAY: {}}, {}, {}, 0)
    with pytest.raises(InputError, match="did not trace 1 of 2 nets"):
        _count(iter(SAIF.splitlines()), netlist)


@pytest.mark.slow  # synthesis and a simulator of some 50,000 cells
def test_the_mapped_machine_is_the_machine(tiny):
    rng = np.random.default_rng(5)
    work = [random_operands(rng, tiny, number) for number in range(6)]
    lowered = [lower(operands, tiny) for operands in work]
    jobs = [Job(one.image, 0, one.result_address, one.result_words, cycle_limit=1 << 18) for one in lowered]
    for operands, one, activity in zip(work, lowered, measure_activity(jobs, tiny), strict=True):
        assert (one.outputs(activity.outcome.results) == reference_sums(operands)).all()
        assert activity.outcome.cycles == layer_cycles(one.schedule)
        assert set(activity.pins) >= {"array", "lhs_buffer", "rhs_buffer", "fetch", "execute", "result", "rest"}
