"""Proofs that a fusion unit's sum is that of the products, in parts: the whole is out of SAT solvers' reach.

The unit's registers hold what they should, whatever comes; every brick gets its digits and the correction is right,
whatever the words, in all modes; the table of digits says that bricks multiply each pair of digits that belong
together, once, in its place. That these make up the sum of products is arithmetic.
"""

from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib.wiring import Component, In, Out

import rtl.fusion
import rtl.fusion_routing
from rtl.fusion_routing import (
    COLUMN_CONTROL,
    FUSION_STAGES,
    ROW_CONTROL,
    SUM_BITS,
    UNIT_CONTROL,
    WIDTHS,
    fusion_control,
)
from sim.formal import delayed, prove_pipeline
from sim.stand_ins import mutant_of

MODES = list(product(WIDTHS, WIDTHS, (False, True), (False, True)))
BRICKS = 22
DELAYS = [1 if brick in (0, 4, 8, 12, 16) else 3 if brick in (20, 21) else 2 for brick in range(BRICKS)]


class UnitProof(Component):
    """Every register of the unit against those before it, a cycle ago, and signed products of its digits.

    By then products are at most 9 and ``high`` is made of four of them, so the sums' bounds follow from the formulas.
    """

    control: In(UNIT_CONTROL)
    weights: In(3 * BRICKS)
    activations: In(2 * BRICKS)
    correction: In(signed(SUM_BITS))
    differs: Out(1)

    def __init__(self, module=rtl.fusion):
        self._unit = module.FusionUnit()
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        m.d.comb += [unit.control.eq(self.control), unit.correction.eq(self.correction)]
        products = []
        for brick in range(BRICKS):
            weight, activation = self.weights.word_select(brick, 3), self.activations.word_select(brick, 2)
            m.d.comb += [unit.weights[brick].as_value().eq(weight), unit.activations[brick].eq(activation)]
            digit, biased = Cat(weight[:2], weight[1] & weight[2]).as_signed(), Signal(4, name=f"biased_{brick}")
            m.d.comb += biased.eq(digit * activation + Mux(weight[2], 6, 0))
            products.append(delayed(m, biased, 2 if DELAYS[brick] == 1 else 1))
        quads = [delayed(m, quad) for quad in unit.quads]
        even, odd, high = (delayed(m, register) for register in (unit.even, unit.odd, unit.high))
        control = delayed(m, self.control)
        highest = high + 4 * products[20] + 16 * products[21]
        wrong = [quad != sum(products[4 * i : 4 * i + 4]) for i, quad in enumerate(unit.quads)]
        wrong.append(unit.high != sum(products[16:19]) + 4 * products[19])
        bounded = Cat(quad <= 36 for quad in quads).all() & (high <= 63)
        shifted = quads[0] + 256 * highest + Mux(control[0], 16, 1) * quads[2]
        wrong.append(bounded & (unit.even != shifted))
        wrong.append(bounded & (unit.odd != quads[1] + Mux(control[1], 16, 1) * quads[3]))
        bounded = (even <= 36 + 256 * (63 + 4 * 9 + 16 * 9) + 16 * 36) & (odd <= 36 + 16 * 36)
        total = delayed(m, self.correction) + even + Mux(control[2], 4, 1) * odd
        wrong.append(bounded & (unit.sum != total[:SUM_BITS].as_signed()))
        m.d.comb += self.differs.eq(Cat(wrong).any())
        return m


class RouterProof(Component):
    """Both routers' outputs in a mode, against the packed values."""

    weights: In(32)
    activations: In(32)
    differs: Out(1)

    def __init__(self, mode: tuple[int, int, bool, bool], module=rtl.fusion_routing):
        self._mode, self._module = mode, module
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.row = row = self._module.WeightRouter()
        m.submodules.column = column = self._module.ActivationRouter()
        weight_bits, activation_bits, signed_weights, signed_activations = self._mode
        control, mode = self._module.fusion_control(*self._mode), self._module._ASSIGNED[self._mode[:2]]
        m.d.comb += [
            row.control.eq(ROW_CONTROL.const(control["row"])),
            column.control.eq(COLUMN_CONTROL.const(control["column"])),
            row.weights.eq(self.weights),
            column.activations.eq(self.activations),
        ]
        wrong, excess = [], 0
        for brick, delay in enumerate(DELAYS):
            given = row.digits[brick]
            if brick not in mode:
                wrong.append(given.as_value() != 0)
                continue
            weight, activation = mode[brick]
            is_sign, is_sign_too = (
                has_sign and 2 * digit % bits == bits - 2
                for digit, bits, has_sign in zip((weight, activation), self._mode[:2], self._mode[2:], strict=True)
            )
            excess += is_sign * 6 * 4 ** (weight % (weight_bits // 2) + activation % (activation_bits // 2))
            expected = self.activations.word_select(activation, 2) ^ (2 if is_sign_too else 0)
            wrong += [
                given.digit != delayed(m, self.weights.word_select(weight, 2), delay),
                given.signed != is_sign,
                column.digits[brick] != delayed(m, expected[:2], delay),
            ]
        values = [self.weights.word_select(i, weight_bits) for i in range(64 // weight_bits // activation_bits)]
        values = [value.as_signed() if signed_weights else value for value in values]
        total = sum(sum(values[i::4]) for i in range(4))  # in the router's order, which makes the proof short
        correction = (-total << activation_bits - 1 if signed_activations else C(0, 1)) - excess
        wrong.append(row.correction != delayed(m, correction, FUSION_STAGES - 1))
        m.d.comb += self.differs.eq(Cat(wrong).any())
        return m


def test_proof_that_every_register_of_a_unit_holds_its_sum(tmp_path: Path):
    prove_pipeline(UnitProof(), tmp_path, FUSION_STAGES)


QUICK = [(8, 8, True, True), (8, 4, False, True), (4, 2, True, False)]


@pytest.mark.parametrize(
    "mode", [pytest.param(m, id=str(m), marks=() if m in QUICK else pytest.mark.slow) for m in MODES]
)
def test_proof_that_routers_give_the_digits_and_the_correction(tmp_path: Path, mode):
    prove_pipeline(RouterProof(mode), tmp_path, FUSION_STAGES)


@pytest.mark.parametrize("widths", list(product(WIDTHS, WIDTHS)), ids=str)
def test_bricks_multiply_every_pair_of_digits_once_in_its_place(widths):
    weight_digits, activation_digits = (bits // 2 for bits in widths)
    shifts = fusion_control(*widths, False, False)["unit"]
    quads = [0, shifts["odd_quads"], 2 * shifts["quad_2"], shifts["odd_quads"] + 2 * shifts["quad_3"]]
    places = [place for place in quads for _ in range(4)] + [4, 4, 4, 5, 5, 6]
    found = Counter(
        (weight, activation, places[brick])
        for brick, (weight, activation) in rtl.fusion_routing._ASSIGNED[widths].items()
    )
    assert found == Counter(
        (i * weight_digits + d, i * activation_digits + e, d + e)
        for i in range(16 // weight_digits // activation_digits)
        for d in range(weight_digits)
        for e in range(activation_digits)
    )


MUTANTS = {  # which proof, text of its module, what it becomes
    "sign of weights ignored": (UnitProof, " ^ weight.signed.replicate(2)", ""),
    "carry lost": (UnitProof, "high[1] ^ carry", "high[1]"),
    "quad too narrow": (UnitProof, "[5, 5, 6]", "[5, 5, 5]"),
    "highest brick in a lower place": (UnitProof, "Cat(high[:4], add(high[4:]", "Cat(high[:3], add(high[3:]"),
    "sign of activations ignored": (RouterProof, "self.activations ^ invert", "self.activations"),
    "brick too early": (RouterProof, "3 if brick in (20, 21)", "2 if brick in (20, 21)"),
    "excess forgotten": (RouterProof, "(too_large - excess)", "too_large"),
}


@pytest.mark.parametrize(
    "mutant", [pytest.param(n, marks=() if n == "brick too early" else pytest.mark.slow) for n in MUTANTS]
)
def test_the_proof_fails_for_a_wrong_unit(tmp_path: Path, mutant: str):
    proof, text, wrong = MUTANTS[mutant]
    module = mutant_of(rtl.fusion if proof is UnitProof else rtl.fusion_routing, text, wrong)
    wrong = proof(module) if proof is UnitProof else proof((8, 8, True, True), module)
    with pytest.raises(AssertionError, match="it can differ"):
        prove_pipeline(wrong, tmp_path, FUSION_STAGES)
