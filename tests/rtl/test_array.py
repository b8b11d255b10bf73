"""The popcount tree and the bit-serial array against plain integers."""

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import Component, In, Out

from hardware.timing import ARRAY_LATENCY
from rtl.array import BitSerialArray, popcount_tree


class PopcountTree(Component):
    """`popcount_tree` with ports."""

    def __init__(self, width: int, group: int):
        self._group = group
        super().__init__({"bits": In(width), "count": Out(range(width + 1))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.count.eq(popcount_tree(m, Signal.cast(self.bits), self._group, "tree"))
        return m


@pytest.mark.parametrize(("width", "group"), [(1, 8), (7, 8), (8, 8), (9, 8), (64, 8), (100, 6), (64, 64), (5, 1)])
def test_popcount_counts_one_vector_per_cycle_two_cycles_later(simulate, width, group):
    rng = np.random.default_rng(width)
    top = (1 << width) - 1
    vectors = [0, top, 1, 1 << (width - 1), *(int.from_bytes(rng.bytes(16), "little") & top for _ in range(100))]
    counts = []

    async def testbench(ctx):
        dut = tree
        for vector in [*vectors, 0, 0]:
            ctx.set(dut.bits, vector)
            counts.append(ctx.get(dut.count))
            await ctx.tick()

    tree = PopcountTree(width, group)
    simulate(tree, testbench)
    assert counts[2:] == [vector.bit_count() for vector in vectors]


def drive(array: BitSerialArray, steps, idle: float, rng, sums: list, delays: list):
    """A testbench that issues ``steps``, each with its operands one cycle later, and notes the finished sums.

    A step is (step bits, left planes, right planes). In a cycle in which none is issued, with probability
    ``idle``, the inputs hold noise.
    """

    async def testbench(ctx):
        waiting, operands = list(steps), None
        last_at = []  # cycles of steps marked last that are still in the array
        cycle = 0
        while waiting or last_at:
            issue = bool(waiting) and rng.random() >= idle
            step, *planes = (
                waiting.pop(0) if issue else ({name: int(rng.integers(2)) for name in steps[0][0]}, None, None)
            )
            ctx.set(array.step_valid, issue)
            ctx.set(array.step, step)
            for side, port in enumerate((array.lhs, array.rhs)):
                for i in range(len(port)):
                    noise = int.from_bytes(rng.bytes(8), "little")
                    ctx.set(port[i], operands[side][i] if operands and operands[side] is not None else noise)
            operands = planes
            if issue and step["last"]:
                last_at.append(cycle)
            if ctx.get(array.sums_valid):
                delays.append(cycle - last_at.pop(0))
                sums.append([ctx.get(array.sums[i]) for i in range(len(array.sums))])
            await ctx.tick()
            cycle += 1
            assert cycle < 100 * len(steps) + 100, "a sum never came"

    return testbench


def reference(steps, dm: int, dn: int) -> list[list[int]]:
    """Sums after every step marked last, by the definition of the step bits."""
    total, finished = np.zeros((dn, dm), dtype=np.int64), []
    for step, left, right in steps:
        counts = np.array([[(row & column).bit_count() for row in left] for column in right])
        base = 0 if step["clear"] else total << step["shift"]
        total = base - counts if step["negate"] else base + counts
        if step["last"]:
            finished.append(total.reshape(-1).tolist())
    return finished


@pytest.mark.parametrize("idle", [0.0, 0.5])
@pytest.mark.parametrize(("dm", "dk", "dn"), [(2, 64, 2), (4, 64, 3), (2, 64, 1)])
def test_sums_follow_the_step_bits_and_come_array_latency_cycles_later(simulate, dm, dk, dn, idle):
    rng = np.random.default_rng(dn)

    def vectors(count):
        return [int.from_bytes(rng.bytes(dk // 8), "little") for _ in range(count)]

    steps = []
    for number in range(60):
        bits = {name: int(rng.random() < 0.4) for name in ("clear", "shift", "negate", "last")}
        bits["clear"] |= number % 12 == 0  # a sum of 12 doublings stays below 2**31
        steps.append((bits, vectors(dm), vectors(dn)))
    steps[-1][0]["last"] = 1
    sums, delays = [], []
    array = BitSerialArray(dm, dk, dn)
    simulate(array, drive(array, steps, idle, rng, sums, delays))
    assert sums == reference(steps, dm, dn)
    assert set(delays) == {ARRAY_LATENCY}


def planes(values: np.ndarray, bits: int) -> list[list[int]]:
    """``[plane][vector]``: bit planes as integers, element k at bit k."""
    return [[sum(((int(v) >> p) & 1) << k for k, v in enumerate(vector)) for vector in values] for p in range(bits)]


@pytest.mark.parametrize(("signed_w", "signed_a"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("w_bits", "a_bits"), [(1, 1), (2, 3), (8, 8)])
def test_signed_and_unsigned_planes_make_the_dot_product(simulate, integers, w_bits, a_bits, signed_w, signed_a):
    rng = np.random.default_rng(10 * w_bits + a_bits)
    weights = integers(rng, (2, 64), w_bits, signed_w)
    activations = integers(rng, (2, 64), a_bits, signed_a)
    left, right = planes(weights, w_bits), planes(activations, a_bits)
    steps = []
    for diagonal in range(w_bits + a_bits - 2, -1, -1):
        pairs = [(i, diagonal - i) for i in range(w_bits) if 0 <= diagonal - i < a_bits]
        for i, j in pairs:
            negative = (signed_w and i == w_bits - 1) != (signed_a and j == a_bits - 1)
            bits = {"clear": not steps, "shift": (i, j) == pairs[0], "negate": negative, "last": i + j == 0}
            steps.append(({name: int(bit) for name, bit in bits.items()}, left[i], right[j]))
    sums: list[list[int]] = []
    array = BitSerialArray(2, 64, 2)
    simulate(array, drive(array, steps, 0.0, rng, sums, []))
    assert sums == [(activations @ weights.T).reshape(-1).tolist()]
