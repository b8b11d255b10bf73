"""Sums to values to activations, one column of ``dm`` channels per cycle; the arithmetic of `hardware.arithmetic`."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from rtl.datapath import at_hand
from rtl.interface import ACCUMULATOR_BITS, INSTRUCTION, VALUE_BITS

CONSTANTS = data.StructLayout({"multiplier": 32, "bias": signed(32)})
"""A kernel's constants, as they lie in the row tile's last entry."""

_SETTINGS = data.StructLayout(
    {name: INSTRUCTION.members[name] for name in ("wide_shift", "relu", "quantizer", "clamp_low", "clamp_high")}
)
"""What it takes from the instruction."""
VALUE_STAGES = 8
"""Cycles from a column on ``sums`` to its values on ``values``."""
ACTIVATION_STAGES = VALUE_STAGES + 5
"""Cycles from a column on ``sums`` to its activations on ``activations``."""
ACTIVATION_BITS = 8


class Requantize(Component):
    """Multiplies, adds the bias, shifts, saturates to 16 bits, rectifies; then quantizes to the next layer's width.

    Members
    -------
    instruction: since `rtl.datapath.SETTLING` cycles before the first column at the latest.
    sums: ``dm`` sums of one column.
    constants: per row, those of the column on ``sums``.
    values: 16-bit values; activations: two's complement.

    Latency: `VALUE_STAGES` and `ACTIVATION_STAGES` cycles. Throughput: one column per cycle.
    """

    def __init__(self, dm: int):
        self._dm = dm
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "sums": In(data.ArrayLayout(signed(ACCUMULATOR_BITS), dm)),
                "constants": In(data.ArrayLayout(CONSTANTS, dm)),
                "values": Out(data.ArrayLayout(signed(VALUE_BITS), dm)),
                "activations": Out(data.ArrayLayout(ACTIVATION_BITS, dm)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        given = Signal(_SETTINGS)
        m.d.comb += [given[name].eq(self.instruction[name]) for name in _SETTINGS.members]
        for row, settings in enumerate(at_hand(m, given, self._dm, "settings")):
            value = self._value(m, row, settings)
            m.d.comb += self.values[row].eq(value)
            self._activation(m, row, settings, value)
        return m

    def _value(self, m, row: int, settings):
        """Products of 16-bit halves fit the multipliers of every FPGA; three stages put them together.

        A multiplier has registers before and behind it that do nothing else: FPGAs have them inside, or beside. So the
        two products with the low half of the sum are a cycle apart, as are those with the high half.
        """
        constants = self.constants[row]

        def register(shape, value, name):
            signal = Signal(shape, name=f"{name}_{row}")
            m.d.sync += signal.eq(value)
            return signal

        def multiply(shape, one, other, name):
            return register(shape, register(shape, one * other, f"{name}_product"), name)

        total = register(signed(32), self.sums[row], "total")
        factor = register(32, constants.multiplier, "factor")
        low_high = multiply(unsigned(32), total[:16], factor[16:], "low_high")
        high_low = multiply(signed(32), total[16:].as_signed(), factor[:16], "high_low")
        middle = register(signed(34), low_high + high_low, "middle")

        late_total, late_factor = register(signed(32), total, "late_total"), register(32, factor, "late_factor")
        low_low = multiply(unsigned(32), late_total[:16], late_factor[:16], "low_low")
        high_high = multiply(signed(32), late_total[16:].as_signed(), late_factor[16:], "high_high")
        bias = constants.bias
        for stage in range(3):
            bias = register(signed(32), bias, f"bias_{stage}")
        summand = register(signed(48), Mux(settings.wide_shift, bias << 16, bias), "summand")
        outer = register(signed(65), Cat(low_low, high_high).as_signed() + summand, "outer")
        product = register(signed(65), outer + (register(signed(34), middle, "late_middle") << 16), "product")

        shifted = register(signed(49), Mux(settings.wide_shift, product >> 32, product >> 16), "shifted")
        fits = (shifted[VALUE_BITS - 1 :] == 0) | shifted[VALUE_BITS - 1 :].all()
        limit = Mux(shifted[-1], -(1 << (VALUE_BITS - 1)), (1 << (VALUE_BITS - 1)) - 1)
        saturated = Mux(settings.relu & shifted[-1], 0, Mux(fits, shifted, limit))
        return register(signed(VALUE_BITS), saturated, "value")

    def _activation(self, m, row: int, settings, value) -> None:
        factor = Signal(signed(VALUE_BITS), name=f"activation_factor_{row}")
        products, parts = (
            Signal(data.ArrayLayout(signed(VALUE_BITS + 13), 2), name=f"{n}_{row}") for n in ("products", "parts")
        )
        rounded = Signal(signed(VALUE_BITS + 25), name=f"rounded_{row}")
        m.d.sync += [
            factor.eq(value),
            products[0].eq(factor * settings.quantizer[:12]),
            products[1].eq(factor * settings.quantizer[12:]),
            parts.eq(products),
            rounded.eq(parts[0] + (parts[1] << 12) + Const(1 << 23, 24)),
        ]
        integer = Signal(signed(VALUE_BITS + 1), name=f"integer_{row}")
        low = Signal(signed(9), name=f"low_{row}")
        m.d.comb += [integer.eq(rounded >> 24), low.eq(-settings.clamp_low)]
        with m.If(integer < low):
            m.d.sync += self.activations[row].eq(low)
        with m.Elif(integer > settings.clamp_high):
            m.d.sync += self.activations[row].eq(settings.clamp_high)
        with m.Else():
            m.d.sync += self.activations[row].eq(integer)
