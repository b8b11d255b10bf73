"""The bit-serial array: dm x dn dot-product units over dk bits (after BISMO, arXiv 1806.08862)."""

from amaranth.hdl import Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hardware.timing import array_latency, popcount_latency
from rtl.interface import ACCUMULATOR_BITS
from rtl.popcount import Popcount, add

STEP = data.StructLayout(
    {
        "clear": 1,
        "shift": 1,
        "negate": 1,
        "last": 1,
        "idle": 1,
        "count": 1,
        "column_clear": 1,
        "column_shift": 1,
        "column_negate": 1,
    }
)
"""What one step does to the accumulators.

clear: start a new sum; shift: double the sum first (Horner over bit-plane diagonals, most significant first);
negate: subtract (exactly one of the two planes is a sign plane); last: the sum is complete after this step;
idle: leave all accumulators as they are, whatever the other bits say, but for ``last``.

count: the column counters take part, because this activation plane meets weight plane 0 and no other step of the tile
adds it; column_clear, column_shift, column_negate: as above, for the column counters.
"""


def travelling(m: Module, step, valid: Value, latency: int) -> tuple[list, list]:
    """A step's control bits and whether it is valid, in each of the cycles in which they travel beside the operands."""
    steps, valids = [step], [valid]
    for stage in range(1, latency):
        delayed, delayed_valid = Signal(STEP, name=f"step_{stage}"), Signal(name=f"step_valid_{stage}")
        m.d.sync += [delayed.eq(steps[-1]), delayed_valid.eq(valids[-1])]
        steps.append(delayed)
        valids.append(delayed_valid)
    return steps, valids


def taking_part(m: Module, before, valid: Value) -> tuple[Signal, Signal]:
    """Whether accumulators and column counters take part in the next cycle, from the step in the cycle before.

    Registers: a whole array of accumulators hangs on each.
    """
    takes_part = Signal()
    column_takes_part = Signal()
    m.d.sync += takes_part.eq(valid & ~before.idle)
    m.d.sync += column_takes_part.eq(valid & ~before.idle & before.count)
    return takes_part, column_takes_part


def accumulated(
    m: Module, name: str, bits: int, enable: Value, clear: Value, shift: Value, number: Signal, carry: Value
) -> Signal:
    """``total = (clear ? 0 : shift ? 2 * total : total) + number + carry``: one LUT per bit of ``bits``.

    To subtract, the number comes as its complement, -1 - number, and the carry makes up for the -1.
    """
    total, addend = (Signal(signed(bits), name=n) for n in (name, f"{name}_addend"))
    base = Mux(clear, 0, Mux(shift, total << 1, total))
    m.d.comb += addend.eq(number)
    with m.If(enable):
        m.d.sync += total.eq(add(addend, base[:bits], carry))
    return total


class BitSerialArray(Component):
    """Multiplies one weight bit plane by one activation bit plane per cycle and accumulates.

    Bipolar weights are odd integers w = 2u + 1 (mid-rise levels, doubled): the array takes the planes of u, and
    sum(w * a) = 2 * sum(u * a) + sum(a) is made of ``sums`` and ``column_sums``. They cost no weight bit and no step.

    Parameters
    ----------
    dm, dk, dn:
        Rows, bits of a vector, columns.
    bipolar:
        There are column counters.
    accumulator_bits:
        Width of the accumulators, wrapping around; the outputs are sign-extended to `ACCUMULATOR_BITS`.

    Members
    -------
    lhs, rhs: ``dm`` and ``dn`` vectors of ``dk`` bits from registers, `hardware.timing.BUFFER_LATENCY` cycles after the
        step they belong to.
    step: the step's control bits, in the cycle of the buffer address.
    sums: ``dn x dm`` accumulators, index ``column * dm + row``, signed.
    column_sums: ``dn`` sums of the activations, signed; only if ``bipolar``.
    sums_valid: the sums of a step marked ``last`` are on ``sums`` and ``column_sums`` in this cycle.

    Latency: `hardware.timing.array_latency` cycles from ``step`` to ``sums``.
    Throughput: one step per cycle, the next tile's right behind a ``last`` one.
    """

    def __init__(self, dm: int, dk: int, dn: int, bipolar: bool = True, accumulator_bits: int = ACCUMULATOR_BITS):
        self._shape, self._bipolar, self._bits = (dm, dk, dn), bipolar, accumulator_bits
        sums = signed(ACCUMULATOR_BITS)
        column_sums = {"column_sums": Out(data.ArrayLayout(sums, dn))} if bipolar else {}
        super().__init__(
            {
                "lhs": In(data.ArrayLayout(unsigned(dk), dm)),
                "rhs": In(data.ArrayLayout(unsigned(dk), dn)),
                "step": In(STEP),
                "step_valid": In(1),
                "sums": Out(data.ArrayLayout(sums, dm * dn)),
                **column_sums,
                "sums_valid": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        dm, dk, dn = self._shape
        steps, valid = travelling(m, self.step, self.step_valid, array_latency(dk))
        adding, before = steps[-1], steps[-2]
        m.d.sync += self.sums_valid.eq(valid[-1] & adding.last)

        lhs_again, rhs_again = (
            [Signal(dk, name=f"{name}_{i}") for i in range(count)]
            for name, count in (("lhs_again", dm), ("rhs_again", dn))
        )
        for again, vectors in ((lhs_again, self.lhs), (rhs_again, self.rhs)):
            m.d.sync += [one.eq(vector) for one, vector in zip(again, vectors, strict=True)]

        takes_part, column_takes_part = taking_part(m, before, valid[-2])
        stages = popcount_latency(dk)
        for column in range(dn):
            for row in range(dm):
                unit = f"unit_{row}_{column}"
                m.submodules[unit] = popcount = Popcount(dk, stages)
                m.d.comb += [
                    popcount.left.eq(self.lhs[row]),
                    popcount.right.eq(self.rhs[column]),
                    popcount.left_again.eq(lhs_again[row]),
                    popcount.right_again.eq(rhs_again[column]),
                    popcount.negate.eq(before.negate),
                ]
                total = self._accumulate(m, f"{unit}_sum", takes_part, adding.clear, adding.shift, popcount.count)
                m.d.comb += self.sums[column * dm + row].eq(total)

        for column in range(dn) if self._bipolar else ():
            unit = f"column_{column}"
            m.submodules[unit] = popcount = Popcount(dk, stages, masked=False)
            m.d.comb += [popcount.left.eq(self.rhs[column]), popcount.negate.eq(before.column_negate)]
            control = (column_takes_part, adding.column_clear, adding.column_shift)
            m.d.comb += self.column_sums[column].eq(self._accumulate(m, f"{unit}_sum", *control, popcount.count))
        return m

    def _accumulate(self, m: Module, name: str, enable: Value, clear: Value, shift: Value, count: Signal) -> Signal:
        return accumulated(m, name, self._bits, enable, clear, shift, count, count[-1])
