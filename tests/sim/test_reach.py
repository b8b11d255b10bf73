"""Proofs by reachability: what they find, and what they say when there is nothing to find."""

from pathlib import Path

import pytest
from amaranth.hdl import Assert, Assume, Module, Signal
from amaranth.lib.wiring import Component, In

from hardware.errors import InputError
from sim.reach import reach


class Counter(Component):
    """Counts to three and stays, as long as nobody says ``two`` where it has to be one."""

    enable: In(1)
    two: In(1)

    def __init__(self, bound: int | None, honest: bool = True):
        self._bound, self._honest = bound, honest
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        count = Signal(4)
        with m.If(self.enable & (count != 3)):
            m.d.sync += count.eq(count + 1 + self.two)
        if self._honest:
            m.d.comb += Assume(~self.two)
        if self._bound is not None:
            m.d.comb += Assert(count <= self._bound)
        return m


@pytest.mark.parametrize("bound", [3, 7])  # 7 is too weak for induction by itself
def test_what_never_fails_is_proved(tmp_path: Path, bound: int) -> None:
    assert "proved by PDR" in reach(Counter(bound), tmp_path)


def test_a_failure_is_confirmed_by_another_solver_and_has_its_line_and_waves(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"within 4 cycles: test_reach\.py:\d+; see"):
        reach(Counter(2), tmp_path)
    assert "count" in (tmp_path / "trace.vcd").read_text()
    with pytest.raises(AssertionError, match="within 4 cycles"):  # 2, then 4, which is beyond three and never stays
        reach(Counter(4, honest=False), tmp_path)


def test_a_bounded_proof_sees_no_further_than_its_depth(tmp_path: Path) -> None:
    assert reach(Counter(2), tmp_path, depth=3) == "no failure within 3 cycles"
    with pytest.raises(AssertionError, match="within 4 cycles"):
        reach(Counter(2), tmp_path, depth=4)


def test_a_proof_without_a_result_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="the proof asserts nothing"):
        reach(Counter(None), tmp_path)
    counter = Counter(3)
    monkeypatch.setattr("sim.reach.ABC", "no_such_command;{engine}")
    with pytest.raises(InputError, match="ABC gave no result within 300 seconds"):
        reach(counter, tmp_path)
    monkeypatch.setattr("sim.reach.SOLVER", "z-none")
    with pytest.raises(InputError, match="z-none was not found: install the package z3-solver"):
        reach(counter, tmp_path)
