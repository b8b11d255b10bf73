"""The compressed popcount against Python's, its LUTs, and a proof."""

import re
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hardware.timing import popcount_latency
from rtl.popcount import Popcount, popcount_stages
from sim.formal import delayed, prove_pipeline
from sim.yosys import run_yosys

DK = [64, 128, 256, 512]


def vectors(rng: np.random.Generator, width: int) -> list[int]:
    """Corners, single bits, runs of ones, and random vectors of every density."""
    top = (1 << width) - 1
    corners = [0, top, 1, 1 << (width - 1), top >> 1, top - 1, top // 3, top // 3 * 2]
    runs = [(1 << int(n)) - 1 << int(s) & top for n, s in rng.integers(0, width, (40, 2))]
    dense = [sum(1 << i for i in np.flatnonzero(rng.random(width) < p).tolist()) for p in np.linspace(0.02, 1, 80)]
    return [*corners, *(1 << i for i in range(0, width, 7)), *runs, *dense]


def counts_of(simulate, popcount: Popcount, stages: int, pairs: list[tuple[int, int]], negated: list[int]) -> list[int]:
    """The counts of one pair of vectors per cycle, each looked at ``stages`` cycles later."""
    counts, masked = [], hasattr(popcount, "right")

    async def testbench(ctx):
        before = (0, 0)
        for cycle in range(len(pairs) + stages):
            pair = pairs[cycle] if cycle < len(pairs) else (0, 0)
            ctx.set(popcount.left, pair[0])
            if masked:
                ctx.set(popcount.right, pair[1])
                ctx.set(popcount.left_again, before[0])
                ctx.set(popcount.right_again, before[1])
            adding = cycle - (stages - 1)
            ctx.set(popcount.negate, negated[adding] if 0 <= adding < len(pairs) else 1)
            if cycle >= stages:
                counts.append(ctx.get(popcount.count))
            before = pair
            await ctx.tick()

    simulate(popcount, testbench)
    return counts


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dk", DK)
def test_one_count_per_cycle_of_any_vectors_negated_or_not(simulate, dk, masked):
    rng = np.random.default_rng(dk + masked)
    top = (1 << dk) - 1
    drawn = vectors(rng, dk)
    pairs = [(v, top) for v in drawn] + [(top, v) for v in drawn]
    pairs += [(drawn[i], drawn[j]) for i, j in rng.integers(len(drawn), size=(200, 2))]
    negated = rng.integers(2, size=len(pairs)).tolist()
    stages = popcount_latency(dk)
    expected = [(left & right if masked else left).bit_count() for left, right in pairs]
    expected = [-1 - count if negative else count for count, negative in zip(expected, negated, strict=True)]
    assert counts_of(simulate, Popcount(dk, stages, masked), stages, pairs, negated) == expected


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")  # the one that is refused
@pytest.mark.parametrize("dk", DK)
def test_too_few_stages_are_refused_and_more_only_delay(simulate, dk):
    rng = np.random.default_rng(dk)
    stages = popcount_latency(dk)
    assert stages == popcount_stages(dk) >= popcount_stages(dk, masked=False)
    with pytest.raises(ValueError, match=f"the popcount of {dk} bits takes {stages} stages, got {stages - 1}"):
        Popcount(dk, stages - 1)
    pairs = [(int(v), int(v)) for v in vectors(rng, dk)]
    counts = counts_of(simulate, Popcount(dk, stages + 2), stages + 2, pairs, [0] * len(pairs))
    assert counts == [vector.bit_count() for vector, _ in pairs]


class Miter(Component):
    """Whether the count differs from a plain sum of the products of ``stages`` cycles ago.

    With ``fault`` the sum knows of one vector too many.
    """

    def __init__(self, width: int, stages: int, masked: bool, fault: int | None = None):
        self._popcount, self._stages, self._fault = Popcount(width, stages, masked), stages, fault
        super().__init__({"left": In(width), "right": In(width), "negate": In(1), "differs": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.popcount = popcount = self._popcount
        left, right, negate = Signal.like(self.left), Signal.like(self.right), Signal()
        m.d.sync += [left.eq(self.left), right.eq(self.right), negate.eq(self.negate)]
        m.d.comb += [popcount.left.eq(self.left), popcount.negate.eq(self.negate)]
        products = self.left
        if hasattr(popcount, "right"):
            products = self.left & self.right
            m.d.comb += [
                popcount.right.eq(self.right),
                popcount.left_again.eq(left),
                popcount.right_again.eq(right),
            ]
        expected = Cat(sum(products[i] for i in range(len(products))), C(0, 1))
        if self._fault is not None:
            expected = Mux(products == self._fault, expected ^ 1, expected)
        expected = delayed(m, expected, self._stages).as_signed()
        m.d.comb += self.differs.eq(popcount.count != Mux(negate, ~expected, expected))
        return m


@pytest.mark.parametrize(("width", "stages", "masked"), [(7, 4, True), (11, 4, True), (14, 5, True), (13, 4, False)])
def test_proof_that_no_vector_is_counted_wrong(tmp_path: Path, width, stages, masked):
    prove_pipeline(Miter(width, stages, masked), tmp_path, stages)


def test_the_proof_finds_a_single_wrong_vector(tmp_path: Path):
    with pytest.raises(AssertionError, match="it can differ"):
        prove_pipeline(Miter(11, 4, True, fault=0b10110011101), tmp_path, 4)


def cells(output: str) -> dict[str, int]:
    """Cells of the last `stat`."""
    return {cell: int(count) for count, cell in re.findall(r"^ +(\d+) (?:.* )?([A-Z]\w+)$", output, re.MULTILINE)}


@pytest.mark.parametrize(("masked", "most"), [(True, 345), (False, 275)])
def test_open_synthesis_leaves_a_dot_product_of_256_bits_small(tmp_path: Path, masked, most):
    popcount = Popcount(256, popcount_latency(256), masked)
    (tmp_path / "popcount.v").write_text(verilog.convert(popcount, name="popcount", emit_src=False))
    used = cells(run_yosys(tmp_path, "read_verilog popcount.v; synth_xilinx -family xc7 -top popcount; stat"))
    luts = {int(cell[3:]): count for cell, count in used.items() if re.fullmatch(r"LUT\d", cell)}
    assert sum(luts.values()) <= most
    assert not any("SRL" in cell or cell.startswith("DSP") for cell in used)
