"""A fusion unit with its routers against Python's integers, and its LUTs."""

from itertools import product

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Module, Value
from amaranth.lib.wiring import Component, In, Out
from hypothesis import given
from hypothesis import strategies as st

from rtl.fusion import FusionUnit
from rtl.fusion_routing import (
    COLUMN_CONTROL,
    FUSION_STAGES,
    ROW_CONTROL,
    SUM_BITS,
    UNIT_CONTROL,
    WIDTHS,
    ActivationRouter,
    WeightRouter,
    fusion_control,
)
from sim.synthesis import resources, synthesize

MODES = list(product(WIDTHS, WIDTHS, (False, True), (False, True)))
TOP = "unit_top"


class Path(Component):
    """A row, a column, and the unit where they cross."""

    weights: In(32)
    activations: In(32)
    row: In(ROW_CONTROL)
    column: In(COLUMN_CONTROL)
    unit: In(UNIT_CONTROL)
    sum: Out(SUM_BITS)

    def elaborate(self, platform):
        m = Module()
        m.submodules.weights = weights = WeightRouter()
        m.submodules.activations = activations = ActivationRouter()
        m.submodules.unit = unit = FusionUnit()
        m.d.comb += [
            weights.control.eq(self.row),
            weights.weights.eq(self.weights),
            activations.control.eq(self.column),
            activations.activations.eq(self.activations),
            unit.control.eq(self.unit),
            unit.weights.eq(weights.digits),
            unit.activations.eq(activations.digits),
            unit.correction.eq(weights.correction),
            self.sum.eq(unit.sum),
        ]
        return m


def value(word: int, index: int, bits: int, is_signed: bool) -> int:
    """A packed value."""
    number = word >> index * bits & (1 << bits) - 1
    return number - (1 << bits) if is_signed and number >> bits - 1 else number


def dot(mode: tuple[int, int, bool, bool], weights: int, activations: int) -> int:
    weight_bits, activation_bits, *signs = mode
    return sum(
        value(weights, i, weight_bits, signs[0]) * value(activations, i, activation_bits, signs[1])
        for i in range((8 // weight_bits) * (8 // activation_bits))
    )


def sums_of(simulate, mode: tuple[int, int, bool, bool], words: list[tuple[int, int]]) -> list[int]:
    """The sums of a pair of words per cycle, each looked at `FUSION_STAGES` cycles later."""
    path, sums = Path(), []

    async def testbench(ctx):
        for name, bits in fusion_control(*mode).items():
            ctx.set(getattr(path, name), bits)
        for weights, activations in [*words, *[(0, 0)] * FUSION_STAGES]:
            ctx.set(path.weights, weights)
            ctx.set(path.activations, activations)
            sums.append(ctx.get(path.sum))
            await ctx.tick()

    simulate(path, testbench)
    return [number - (number >> SUM_BITS - 1 << SUM_BITS) for number in sums[FUSION_STAGES:]]


def extremes(mode: tuple[int, int, bool, bool]) -> list[tuple[int, int]]:
    """All values the same: 0, 1, the lowest, the highest, all ones; only one of them not 0."""
    lanes, words = (8 // mode[0]) * (8 // mode[1]), []
    for bits in mode[:2]:
        values = {0, 1, (1 << bits) - 1, 1 << bits - 1, (1 << bits - 1) - 1}
        words.append([sum(v << i * bits for i in range(lanes)) for v in sorted(values)])
    single = [(((1 << mode[0]) - 1) << i * mode[0], ((1 << mode[1]) - 1) << i * mode[1]) for i in range(lanes)]
    return [*product(*words), *single]


def with_garbage(
    rng: np.random.Generator, mode: tuple[int, int, bool, bool], words: tuple[int, int]
) -> tuple[int, int]:
    """The same with anything above the packed values."""
    used = 64 // mode[1], 64 // mode[0]
    return tuple(w & (1 << u) - 1 | int(rng.integers(1 << 32)) >> u << u for w, u in zip(words, used, strict=True))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_one_exact_sum_per_cycle_whatever_lies_above_the_values(simulate, mode):
    rng = np.random.default_rng(MODES.index(mode))
    words = [*extremes(mode), *map(tuple, rng.integers(1 << 32, size=(60, 2)).tolist())]
    words = [with_garbage(rng, mode, words[i]) for i in rng.permutation(len(words))]
    assert sums_of(simulate, mode, words) == [dot(mode, *pair) for pair in words]


@pytest.mark.parametrize("signs", list(product((False, True), repeat=2)), ids=str)
def test_every_brick_multiplies_all_pairs_of_digits(simulate, signs):
    mode = (2, 2, *signs)
    words = [(w << 2 * i, a << 2 * i) for i in range(16) for w in range(4) for a in range(4)]
    assert sums_of(simulate, mode, words) == [dot(mode, *pair) for pair in words]


@pytest.mark.parametrize("signs", list(product((False, True), repeat=2)), ids=str)
def test_bricks_of_high_places_multiply_all_pairs_of_digits(simulate, signs):
    mode = (8, 8, *signs)
    words = [(w << 2 * i, a << 2 * j) for i in range(4) for j in range(4) for w in range(4) for a in range(4)]
    assert sums_of(simulate, mode, words) == [dot(mode, *pair) for pair in words]


WORD = st.integers(0, 2**32 - 1)


@given(mode=st.sampled_from(MODES), weights=WORD, activations=WORD)
def test_no_sum_needs_more_bits_than_there_are(mode, weights, activations):
    assert -(1 << SUM_BITS - 1) <= dot(mode, weights, activations) < 1 << SUM_BITS - 1


def test_no_bit_of_a_sum_is_idle():
    unsigned = dot((8, 8, False, False), 255, 255)
    assert unsigned.bit_length() + 1 == SUM_BITS
    assert min(dot(mode, *pair) for mode in MODES for pair in extremes(mode)) == dot((8, 8, True, False), 128, 255) < 0


@pytest.mark.parametrize("widths", [(3, 4), (8, 16), (0, 2)])
def test_other_widths_are_refused(widths):
    with pytest.raises(ValueError, match=f"takes 2, 4 or 8 bits, got {widths[0]} x {widths[1]}"):
        fusion_control(*widths, False, False)


class Flat(Component):
    """A part with plain vectors as ports, as synthesis likes them."""

    def __init__(self, part):
        self._part = part
        self._ports = {
            "__".join(map(str, path)): (Value.cast(v), f.flow) for path, f, v in part.signature.flatten(part)
        }
        super().__init__({name: flow(len(port)) for name, (port, flow) in self._ports.items()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.part = self._part
        for name, (port, flow) in self._ports.items():
            m.d.comb += port.eq(getattr(self, name)) if flow is In else getattr(self, name).eq(port)
        return m


@pytest.mark.slow
@pytest.mark.parametrize(("part", "most"), [(FusionUnit, 140), (WeightRouter, 125), (ActivationRouter, 70)])
def test_open_synthesis_leaves_it_small(part, most):
    text = verilog.convert(Flat(part()), name=TOP, emit_src=False, strip_internal_attrs=True)
    used = resources(synthesize(text, TOP, "xc7z020"), "xc7z020")
    assert used.lut <= most
    assert used.dsp == 0
