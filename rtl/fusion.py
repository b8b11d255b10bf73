"""A fusion unit of BitFusion (arXiv 1712.01507): 16 bricks of 2 x 2 bits that multiply operands of 2, 4 or 8 bits.

A brick multiplies a digit of a weight by a digit of an activation; what it is worth is 4 to the power of its *place*,
the sum of the digits' places. Bricks of equal place need no shifter between them: each adds its product to the sum of
those before it, and since a product is logic of five inputs, product and adder are one LUT6 per bit. In every mode the
16 bricks fill four quads of four bricks of equal place,

====================  ======  ======  ======  ======  ================
widths                quad 0  quad 1  quad 2  quad 3  further bricks
====================  ======  ======  ======  ======  ================
8 x 8                 0 (1)   1 (2)   2 (3)   3       4 (3) 5 (2) 6 (1)
8 x 4, 4 x 8          0 (2)   1       2       3       4 (2)
8 x 2, 2 x 8          0       1       2       3
4 x 4                 0       1       2       1
4 x 2, 2 x 4          0       1       0       1
2 x 2                 0       0       0       0
====================  ======  ======  ======  ======  ================

but for those in the first two rows, in which the quads lack some (in brackets: how many bricks work). Six bricks whose
place never changes stand in for these. So a unit has 22 bricks, of which 16 work, and three shifts by one or two
digits, instead of 16 bricks and shifts behind nearly each of them: they are cheaper than what they replace.

Signs. A signed activation goes through the bricks with its sign bit inverted, 2**(bits - 1) too large; a brick with the
sign digit of a weight gives 6 too much, which makes its product positive. What that is in all depends on the weights
alone, so a row of units shares it: `rtl.fusion_routing.WeightRouter.correction`. Sums inside the unit are never
negative.

Open synthesis for 7-series: 136 LUTs and 93 registers for a unit, 120 LUTs if ``correction`` is the constant 0 (whoever
adds up many sums may correct their total instead).
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from rtl.fusion_routing import (
    BRICKS,
    FIFTH,
    FOURTH,
    QUADS,
    SIXTH,
    SUM_BITS,
    UNIT_CONTROL,
    WEIGHT_DIGIT,
    add,
    fit,
    register,
)


class FusionUnit(Component):
    """The sum of products of a row's weights and a column's activations.

    Members
    -------
    control: constant while operands pass.
    weights, activations, correction: a router's digits and correction.
    sum: exact, of the operands that were at the routers `rtl.fusion_routing.FUSION_STAGES` cycles ago.

    Throughput: one sum per cycle.
    """

    control: In(UNIT_CONTROL)
    weights: In(data.ArrayLayout(WEIGHT_DIGIT, BRICKS))
    activations: In(data.ArrayLayout(2, BRICKS))
    correction: In(signed(SUM_BITS))
    sum: Out(signed(SUM_BITS))

    def __init__(self):
        super().__init__()
        self.quads = [Signal(6, name=f"quad_{quad}") for quad in range(len(QUADS))]
        self.high, self.even, self.odd = Signal(6), Signal(16), Signal(10)

    def elaborate(self, platform):
        m = Module()
        products = [_brick(weight, digit) for weight, digit in zip(self.weights, self.activations, strict=True)]

        def chain(bricks: range, bits: list[int]) -> Value:
            """Sums of bricks of one place, the first one's product from a register: it is next to the carry chain."""
            total = register(m, products[bricks[0]], f"product_{bricks[0]}")
            for brick, width in zip(bricks[1:], bits, strict=True):
                total = add(total, products[brick], width)
            return total

        m.d.sync += [quad.eq(chain(bricks, [5, 5, 6])) for quad, bricks in zip(self.quads, QUADS, strict=True)]
        high = chain(FOURTH, [5, 5])
        m.d.sync += self.high.eq(Cat(high[:2], add(high[2:], products[FIFTH[0]], 4)))
        high = Cat(self.high[:2], add(self.high[2:], products[FIFTH[1]], 5))
        high = Cat(high[:4], add(high[4:], products[SIXTH[0]], 4))

        # A quad is at most 36: only the lowest one's sum lies below what is in place 4, and it never reaches that.
        control, (first, second, third, fourth) = self.control, self.quads
        m.d.sync += [
            self.even.eq(add(Cat(fit(first, 8), high), Mux(control.quad_2, third << 4, third), 16)),
            self.odd.eq(add(second, Mux(control.quad_3, fourth << 4, fourth), 10)),
        ]
        total = add(self.even, Mux(control.odd_quads, self.odd << 2, self.odd), 16)
        m.d.sync += self.sum.eq(add(self.correction, total, SUM_BITS))
        return m


def _brick(weight, activation: Value) -> Value:
    """Product of a weight's digit and an activation's, 0 to 9; of a signed one -6 to 3, plus 6.

    -2 * x = 2 * (1 - x) - 2: the products with a negative bit are inverted instead.
    """
    low = weight.digit[0].replicate(2) & activation
    high = (weight.digit[1].replicate(2) & activation) ^ weight.signed.replicate(2)
    carry = low[1] & high[0]
    return Cat(low[0], low[1] ^ high[0], high[1] ^ carry, high[1] & carry)
