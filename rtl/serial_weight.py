"""The serial-weight array: one weight bit plane by whole activations per cycle (ReLeQ's accelerator, arXiv 1811.01704,
after Stripes, MICRO 2016)."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hardware.kinds import KINDS
from hardware.timing import array_latency
from rtl.array import STEP, accumulated, taking_part, travelling
from rtl.datapath import at_hand
from rtl.interface import ACCUMULATOR_BITS

PLANES = KINDS["serial_weight"].planes
VALUE = signed(PLANES + 1)
PAIR = signed(PLANES + 2)


class MaskedSum(Component):
    """Adds up the values whose bit is set in ``mask``; all of them, if not ``masked``.

    Of two neighbours, a LUT per bit chooses none, one or the sum of both, which whoever shares the values adds up but
    once; behind that comes a tree of adders.

    Members
    -------
    mask: ``width`` bits.
    values: ``width`` of them; only if ``masked``.
    pairs: sums of values 0 and 1, 2 and 3, and so on.
    sum: signed.

    Latency: `hardware.timing.masked_sum_latency` cycles. Throughput: one sum per cycle.
    """

    def __init__(self, width: int, masked: bool = True):
        self._width, self._masked = width, masked
        own = {"mask": In(width), "values": In(data.ArrayLayout(VALUE, width))} if masked else {}
        bits = PLANES + 1 + (width - 1).bit_length()
        super().__init__(own | {"pairs": In(data.ArrayLayout(PAIR, width // 2)), "sum": Out(signed(bits))})

    def elaborate(self, platform):
        m = Module()
        rows = []
        for pair in range(self._width // 2):
            row = Signal(PAIR, name=f"chosen_{pair}")
            chosen = self.pairs[pair]
            if self._masked:
                first, second = self.values[2 * pair], self.values[2 * pair + 1]
                has_first, has_second = self.mask[2 * pair], self.mask[2 * pair + 1]
                chosen = Mux(has_first, Mux(has_second, chosen, first), Mux(has_second, second, 0))
            m.d.sync += row.eq(chosen)
            rows.append(row)
        level = 1
        while len(rows) > 1:
            added = []
            for pair in range(len(rows) // 2):
                one = Signal(signed(len(rows[0]) + 1), name=f"level_{level}_{pair}")
                domain = m.d.sync if level % 2 == 0 or len(rows) == 2 else m.d.comb
                domain += one.eq(rows[2 * pair] + rows[2 * pair + 1])
                added.append(one)
            rows, level = added, level + 1
        m.d.comb += self.sum.eq(rows[0])
        return m


class SerialWeightArray(Component):
    """Multiplies one weight bit plane by whole activations per cycle and accumulates.

    As `rtl.array.BitSerialArray`, bipolar weights included, but that a step takes all planes of the activations: a tile
    takes as many steps as it has weight planes and chunks.

    Members
    -------
    lhs, rhs: ``dm`` vectors of ``dk`` bits, ``dn`` ones of `PLANES` times ``dk`` bits, plane by plane; from registers,
        `hardware.timing.BUFFER_LATENCY` cycles after the step they belong to.
    signed_activations: the planes are those of two's complement. It does not change while steps are under way, nor
        in the `rtl.datapath.SETTLING` cycles before them.
    step, step_valid, sums, column_sums, sums_valid: as there.

    Latency: `hardware.timing.array_latency` cycles from ``step`` to ``sums``. Throughput: one step per cycle.
    """

    def __init__(self, dm: int, dk: int, dn: int):
        self._shape = dm, dk, dn
        sums = signed(ACCUMULATOR_BITS)
        super().__init__(
            {
                "lhs": In(data.ArrayLayout(unsigned(dk), dm)),
                "rhs": In(data.ArrayLayout(unsigned(PLANES * dk), dn)),
                "signed_activations": In(1),
                "step": In(STEP),
                "step_valid": In(1),
                "sums": Out(data.ArrayLayout(sums, dm * dn)),
                "column_sums": Out(data.ArrayLayout(sums, dn)),
                "sums_valid": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        dm, dk, dn = self._shape
        steps, valid = travelling(m, self.step, self.step_valid, array_latency(dk, "serial_weight"))
        adding, before = steps[-1], steps[-2]
        m.d.sync += self.sums_valid.eq(valid[-1] & adding.last)
        takes_part, column_takes_part = taking_part(m, before, valid[-2])
        negate = Signal()  # beside the accumulators
        m.d.sync += negate.eq(before.negate)
        is_signed = at_hand(m, self.signed_activations, dn, "is_signed")
        for column in range(dn):
            values = Signal(data.ArrayLayout(VALUE, dk), name=f"values_{column}")
            pairs = Signal(data.ArrayLayout(PAIR, dk // 2), name=f"pairs_{column}")
            planes = [self.rhs[column][plane * dk : (plane + 1) * dk] for plane in range(PLANES)]
            for place, value in enumerate(values):
                bits = [plane[place] for plane in planes]
                m.d.comb += value.eq(Cat(*bits, bits[-1] & is_signed[column]).as_signed())
            m.d.comb += [pair.eq(values[2 * i] + values[2 * i + 1]) for i, pair in enumerate(pairs)]
            for row in range(dm):
                unit = m.submodules[f"unit_{row}_{column}"] = MaskedSum(dk)
                m.d.comb += [unit.mask.eq(self.lhs[row]), unit.values.eq(values), unit.pairs.eq(pairs)]
                number = Signal(signed(ACCUMULATOR_BITS), name=f"number_{row}_{column}")
                m.d.comb += number.eq(Mux(negate, ~unit.sum, unit.sum))
                control = (takes_part, adding.clear, adding.shift)
                name = f"unit_{row}_{column}_sum"
                total = accumulated(m, name, ACCUMULATOR_BITS, *control, number, negate)
                m.d.comb += self.sums[column * dm + row].eq(total)

            counter = m.submodules[f"column_{column}"] = MaskedSum(dk, masked=False)
            m.d.comb += counter.pairs.eq(pairs)
            control = (column_takes_part, adding.column_clear, adding.column_shift)
            total = accumulated(m, f"column_{column}_sum", ACCUMULATOR_BITS, *control, counter.sum, 0)
            m.d.comb += self.column_sums[column].eq(total)
        return m
