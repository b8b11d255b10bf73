"""The bit-serial array: dm x dn dot-product units over dk bits (after BISMO, arXiv 1806.08862)."""

from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hardware.timing import ARRAY_LATENCY

ACCUMULATOR_BITS = 32

STEP = data.StructLayout({"clear": 1, "shift": 1, "negate": 1, "last": 1})
"""What one step does to the accumulators.

clear: start a new sum; shift: double the sum first (Horner over bit-plane diagonals, most significant first);
negate: subtract (exactly one of the two planes is a sign plane); last: the sum is complete after this step.
"""


def popcount_tree(m: Module, bits, group: int, name: str):
    """Set bits of ``bits`` in two registered levels: groups of ``group`` bits, then their sum.

    Latency: 2 cycles. Throughput: one count per cycle.
    """
    partial = []
    for start in range(0, len(bits), group):
        count = Signal(range(group + 1), name=f"{name}_group_{start}")
        m.d.sync += count.eq(_sum([bits[i] for i in range(start, min(start + group, len(bits)))]))
        partial.append(count)
    total = Signal(range(len(bits) + 1), name=f"{name}_count")
    m.d.sync += total.eq(_sum(partial))
    return total


def _sum(terms):
    """A balanced tree of adders: depth log2 of the number of terms."""
    while len(terms) > 1:
        terms = [sum(terms[i : i + 2]) for i in range(0, len(terms), 2)]
    return terms[0]


class BitSerialArray(Component):
    """Multiplies one weight bit plane by one activation bit plane per cycle and accumulates.

    Members
    -------
    lhs, rhs: ``dm`` and ``dn`` vectors of ``dk`` bits, one cycle after the step they belong to (buffer read).
    step: the step's control bits, in the cycle of the buffer address.
    sums: ``dn x dm`` accumulators, index ``column * dm + row``, signed.
    sums_valid: the sums of a step marked ``last`` are on ``sums`` in this cycle.

    Latency: `hardware.timing.ARRAY_LATENCY` cycles from ``step`` to ``sums``.
    Throughput: one step per cycle.
    """

    def __init__(self, dm: int, dk: int, dn: int):
        self._shape = (dm, dk, dn)
        super().__init__(
            {
                "lhs": In(data.ArrayLayout(unsigned(dk), dm)),
                "rhs": In(data.ArrayLayout(unsigned(dk), dn)),
                "step": In(STEP),
                "step_valid": In(1),
                "sums": Out(data.ArrayLayout(signed(ACCUMULATOR_BITS), dm * dn)),
                "sums_valid": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        dm, _, dn = self._shape
        step, valid = self.step, self.step_valid
        for stage in range(1, ARRAY_LATENCY):  # the control bits travel beside the operands
            delayed, delayed_valid = Signal(STEP, name=f"step_{stage}"), Signal(name=f"step_valid_{stage}")
            m.d.sync += [delayed.eq(step), delayed_valid.eq(valid)]
            step, valid = delayed, delayed_valid
        m.d.sync += self.sums_valid.eq(valid & step.last)

        for column in range(dn):
            for row in range(dm):
                unit = f"unit_{row}_{column}"
                count = popcount_tree(m, self.lhs[row] & self.rhs[column], 8, unit)
                total = Signal(signed(ACCUMULATOR_BITS), name=f"{unit}_sum")
                base = Signal(signed(ACCUMULATOR_BITS), name=f"{unit}_base")
                with m.If(~step.clear):
                    m.d.comb += base.eq(total)
                    with m.If(step.shift):
                        m.d.comb += base.eq(total << 1)
                with m.If(valid):
                    with m.If(step.negate):
                        m.d.sync += total.eq(base - count)
                    with m.Else():
                        m.d.sync += total.eq(base + count)
                m.d.comb += self.sums[column * dm + row].eq(total)
        return m
