"""Proof that a masked sum is the sum of the values whose bit is set, whatever they are."""

from pathlib import Path

import pytest
from amaranth.hdl import Module, Mux
from amaranth.lib.wiring import Component, In, Out

import rtl.serial_weight
from hardware.timing import masked_sum_latency
from rtl.serial_weight import VALUE
from sim.formal import delayed, prove_pipeline
from sim.stand_ins import mutant_of


class MaskedSumProof(Component):
    """A unit's sum beside that of chosen values, which come with their true pairs' sums, as all units' do."""

    def __init__(self, width: int, masked: bool, module=rtl.serial_weight):
        self._width, self._masked, self._unit = width, masked, module.MaskedSum(width, masked)
        super().__init__({"mask": In(width), "values": In(len(self._unit.pairs) * 2 * VALUE.width), "differs": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        values = [self.values.word_select(i, VALUE.width).as_signed() for i in range(self._width)]
        m.d.comb += [pair.eq(values[2 * i] + values[2 * i + 1]) for i, pair in enumerate(unit.pairs)]
        chosen = values
        if self._masked:
            m.d.comb += unit.mask.eq(self.mask)
            m.d.comb += [given.eq(value) for given, value in zip(unit.values, values, strict=True)]
            chosen = [Mux(self.mask[i], value, 0) for i, value in enumerate(values)]
        while len(chosen) > 1:  # in the tree's order, which makes the proof short
            chosen = [one + other for one, other in zip(chosen[::2], chosen[1::2], strict=True)]
        expected = delayed(m, chosen[0], masked_sum_latency(self._width)).as_signed()
        m.d.comb += self.differs.eq(unit.sum != expected)
        return m


@pytest.mark.parametrize(
    ("width", "masked"), [(4, True), (8, True), (8, False), pytest.param(16, True, marks=pytest.mark.slow)]
)
def test_proof_that_the_chosen_values_are_summed(tmp_path: Path, width, masked):
    prove_pipeline(MaskedSumProof(width, masked), tmp_path, masked_sum_latency(width))


MUTANTS = {  # text of the module, what it becomes
    "second alone is the pair": ("Mux(has_second, second, 0)", "Mux(has_second, chosen, 0)"),
    "one register less": ("level % 2 == 0 or len(rows) == 2", "level % 2 == 0 and len(rows) > 2"),
    "levels as wide as their operands": ("signed(len(rows[0]) + 1)", "signed(len(rows[0]))"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_proof_fails_for_a_wrong_masked_sum(tmp_path: Path, mutant):
    module = mutant_of(rtl.serial_weight, *MUTANTS[mutant])
    with pytest.raises(AssertionError, match="it can differ"):
        prove_pipeline(MaskedSumProof(8, True, module), tmp_path, masked_sum_latency(8))
