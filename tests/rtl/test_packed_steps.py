"""The steps of tiles of packed operands, against plain loops."""

from itertools import product

import numpy as np
import pytest

from hardware.instruction import FIELDS
from rtl.packed_steps import PackedSteps

WIDTHS = (2, 4, 8)


def steps_of(w: int, a: int, weights: int, activations: int, constants: bool):
    """(weight entry and part, activation entry and part, clear, idle, last) of each step; None where all is padding."""
    steps = []
    for number in range(min(weights * a, activations * w) // 2):
        steps.append([divmod(number, a // 2), divmod(number, w // 2), number == 0, False, False])
    if constants:
        steps.append([(weights, None), None, None, True, False])
    steps[-1][-1] = True
    return steps


@pytest.mark.parametrize("often", [1.0, 0.5])
@pytest.mark.parametrize(("w", "a"), list(product(WIDTHS, WIDTHS)))
def test_steps_walk_both_operands_and_end_with_the_shorter(simulate, machine, w, a, often):
    rng = np.random.default_rng(10 * w + a)
    unit = PackedSteps(machine(kind="bit_fusion"))

    async def testbench(ctx):
        for _ in range(25):
            weights, activations = (int(n) for n in rng.integers(1, 12, size=2))
            writes_sums, constants = bool(rng.integers(2)), False
            constants = not writes_sums and bool(rng.integers(2))
            fields = {"activation_bits": a, "segment_0_bits": w, "chunks": activations, "write_sums": writes_sums}
            ctx.set(unit.instruction, dict.fromkeys(FIELDS, 0) | fields)
            await ctx.tick().repeat(2)
            ctx.set(unit.bits, w)
            ctx.set(unit.entries, weights + (not writes_sums))
            ctx.set(unit.constants, constants)
            await ctx.tick()  # they need no more
            ctx.set(unit.load, 1)
            first_last = ctx.get(unit.first_last)
            await ctx.tick()
            ctx.set(unit.load, 0)
            expected = steps_of(w, a, weights, activations, constants)
            assert first_last == expected[0][-1]
            for left, right, clear, idle, last in expected:
                while rng.random() >= often:
                    await ctx.tick()
                assert ctx.get(unit.step.last) == ctx.get(unit.last) == last
                assert ctx.get(unit.step.idle) == idle
                assert ctx.get(unit.reads_constants_now) == idle
                assert ctx.get(unit.lhs_offset) == left[0]
                assert left[1] is None or ctx.get(unit.parts.lhs) == left[1]
                assert right is None or (ctx.get(unit.rhs_offset), ctx.get(unit.parts.rhs)) == right
                assert clear is None or ctx.get(unit.step.clear) == clear
                assert not ctx.get(unit.step.shift) | ctx.get(unit.step.negate) | ctx.get(unit.step.count)
                ctx.set(unit.advance, 1)
                await ctx.tick()
                ctx.set(unit.advance, 0)

    simulate(unit, testbench)


def test_a_tile_of_pruned_kernels_is_one_idle_step(simulate, machine):
    unit = PackedSteps(machine(kind="bit_fusion"))

    async def testbench(ctx):
        fields = {"activation_bits": 4, "segment_0_bits": 0, "chunks": 3, "write_sums": 0}
        ctx.set(unit.instruction, dict.fromkeys(FIELDS, 0) | fields)
        ctx.set(unit.entries, 1)
        ctx.set(unit.constants, 1)
        await ctx.tick().repeat(3)
        ctx.set(unit.load, 1)
        assert ctx.get(unit.first_last)
        await ctx.tick()
        ctx.set(unit.load, 0)
        assert ctx.get(unit.last)
        assert ctx.get(unit.step.idle)
        assert ctx.get(unit.reads_constants_now)
        assert ctx.get(unit.lhs_offset) == 0

    simulate(unit, testbench)
