"""What stands at each unit, row and column of an array, synthesised alone for its kind's resource law.

Nothing is around a part, and as in the array it has no reset. Accumulators are not among the parts: they are counted.
"""

from itertools import product

from amaranth.back import verilog
from amaranth.hdl import C, Cat, Module, Signal, Value
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hardware.resource_law import ArrayParts
from hardware.timing import popcount_latency
from rtl.datapath import without_reset
from rtl.fusion import FusionUnit
from rtl.fusion_array import _part, _tree
from rtl.fusion_routing import (
    BRICKS,
    COLUMN_CONTROL,
    ROW_CONTROL,
    SUM_BITS,
    UNIT_CONTROL,
    WIDTHS,
    WORD_BITS,
    ActivationRouter,
    WeightRouter,
    fusion_control,
)
from rtl.popcount import Popcount
from rtl.serial_weight import PAIR, PLANES, VALUE, MaskedSum
from sim.synthesis import machine_cells, resources

DEVICE = "xc7z020"
SYNTHESISED, LARGER = (64, 128), (256, 512)
"""`hardware.accelerator.Array.dk`. Popcounts are irregular and all synthesised; of other parts the small ones are."""


class Alone(Component):
    """A part with nothing around it."""

    def __init__(self, part: Component, name: str):
        self._part, self._name = part, name
        super().__init__(dict(part.signature.members))

    def elaborate(self, platform):
        m = Module()
        m.submodules[self._name] = without_reset(m, "operands")(self._part)
        for name, member in self._part.signature.members.items():
            outside, inside = getattr(self, name), getattr(self._part, name)
            m.d.comb += inside.eq(outside) if member.flow == In else outside.eq(inside)
        return m


class SerialWeightUnit(Component):
    """The masked sum of a unit."""

    def __init__(self, dk: int):
        self._part = MaskedSum(dk)
        values, pairs, total = (
            len(Value.cast(value)) for value in (self._part.values, self._part.pairs, self._part.sum)
        )
        super().__init__({"mask": In(dk), "values_in": In(values), "pairs_in": In(pairs), "total": Out(total)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = without_reset(m, "operands")(self._part)
        m.d.comb += [
            self._part.mask.eq(self.mask),
            Value.cast(self._part.values).eq(self.values_in),
            Value.cast(self._part.pairs).eq(self.pairs_in),
            self.total.eq(self._part.sum),
        ]
        return m


class SerialWeightColumn(Component):
    """What the units of a column share, and the sum of all its values."""

    def __init__(self, dk: int):
        self._dk, self._part = dk, MaskedSum(dk, masked=False)
        ports = {
            "rhs": In(PLANES * dk),
            "is_signed": In(1),
            "values_out": Out(VALUE.width * dk),
            "pairs_out": Out(PAIR.width * dk // 2),
            "total": Out(len(Value.cast(self._part.sum))),
        }
        super().__init__(ports)

    def elaborate(self, platform):
        m = Module()
        dk = self._dk
        m.submodules.unit = without_reset(m, "operands")(self._part)
        values = Signal(data.ArrayLayout(VALUE, dk))
        pairs = Signal(data.ArrayLayout(PAIR, dk // 2))
        for place, value in enumerate(values):
            bits = [self.rhs[plane * dk + place] for plane in range(PLANES)]
            m.d.comb += value.eq(Cat(*bits, bits[-1] & self.is_signed).as_signed())
        m.d.comb += [pair.eq(values[2 * i] + values[2 * i + 1]) for i, pair in enumerate(pairs)]
        m.d.comb += [
            self._part.pairs.eq(pairs),
            self.values_out.eq(Value.cast(values)),
            self.pairs_out.eq(Value.cast(pairs)),
            self.total.eq(self._part.sum),
        ]
        return m


class Settings:
    """Control bits as the array has them: those that are the same in every mode are one, those of one value none."""

    def __init__(self, name: str, layout: data.StructLayout):
        modes = product((False, True), (False, True), WIDTHS, WIDTHS)
        numbers = []
        for signed_activations, signed_weights, activations, weights in modes:
            control = fusion_control(weights, activations, signed_weights, signed_activations)
            numbers.append(layout.const(control[name]).as_value().value)
        self._bits = [tuple(number >> bit & 1 for number in numbers) for bit in range(layout.size)]
        self._distinct = sorted({bits for bits in self._bits if len(set(bits)) > 1})

    def __len__(self) -> int:
        return len(self._distinct)

    def all_of(self, distinct: Value) -> Value:
        """All of the layout's bits."""
        return Cat(
            distinct[self._distinct.index(bits)] if bits in self._distinct else C(bits[0], 1) for bits in self._bits
        )


class FusionRouters(Component):
    """A row's, or a column's, choice of parts, its routers and their settings' registers."""

    def __init__(self, dk: int, side: str):
        self._units, self._side = dk // WORD_BITS, side
        self._layout = ROW_CONTROL if side == "row" else COLUMN_CONTROL
        self._settings = Settings(side, self._layout)
        bits = 2 * BRICKS + (SUM_BITS if side == "row" else 0)
        shared = {"vector": In(dk), "part": In(2), "other": In(4), "setting": In(len(self._settings))}
        super().__init__(shared | {"routed": Out(bits * self._units)})

    def elaborate(self, platform):
        m = Module()
        control = Signal(self._layout)
        held = Signal(len(self._settings))
        m.d.sync += held.eq(self.setting)
        m.d.comb += control.as_value().eq(self._settings.all_of(held))
        routed = []
        for unit in range(self._units):
            router = m.submodules[f"r{unit}"] = (WeightRouter if self._side == "row" else ActivationRouter)()
            packed = Signal(WORD_BITS, name=f"packed_{unit}")
            m.d.sync += packed.eq(_part(self.vector, self.part, self.other, unit, self._units))
            word = router.weights if self._side == "row" else router.activations
            m.d.comb += [word.eq(packed), Value.cast(router.control).eq(control.as_value())]
            if self._side == "row":  # whether digits are signed is a setting: it goes by the router
                routed += [Cat(digit.digit for digit in router.digits), router.correction]
            else:
                routed.append(Value.cast(router.digits))
        m.d.comb += self.routed.eq(Cat(routed))
        return m


class FusionProduct(Component):
    """The fusion units of one dot product and the adders behind them."""

    def __init__(self, dk: int):
        self._units, self._row = dk // WORD_BITS, Settings("row", ROW_CONTROL)
        operands = {name: In(2 * BRICKS * self._units) for name in ("weights", "activations")}
        settings = {"setting": In(UNIT_CONTROL.size), "row": In(len(self._row))}
        super().__init__(operands | {"corrections": In(SUM_BITS * self._units)} | settings | {"total": Out(32)})

    def elaborate(self, platform):
        m = Module()
        control = Signal(ROW_CONTROL)
        m.d.comb += control.as_value().eq(self._row.all_of(self.row))
        products = []
        for number in range(self._units):
            unit = m.submodules[f"u{number}"] = FusionUnit()
            weights = self.weights[2 * BRICKS * number :]
            for brick in range(BRICKS):
                m.d.comb += [
                    unit.weights[brick].digit.eq(weights[2 * brick : 2 * brick + 2]),
                    unit.weights[brick].signed.eq(control.signed[brick]),
                ]
            m.d.comb += [
                Value.cast(unit.activations).eq(self.activations.word_select(number, 2 * BRICKS)),
                unit.correction.eq(self.corrections.word_select(number, SUM_BITS)),
                Value.cast(unit.control).eq(self.setting),
            ]
            products.append(unit.sum)
        m.d.comb += self.total.eq(_tree(m, products, "products"))
        return m


def cells(part: Component, name: str = "part") -> tuple[int, int]:
    """LUTs and flip-flops of a part on the device of the laws."""
    text = verilog.convert(part, name=name, emit_src=False, strip_internal_attrs=True)
    found = resources(machine_cells(text, name, DEVICE), DEVICE)
    print(type(part).__name__, found, flush=True)
    return found.lut, found.ff


def array_parts(kind: str) -> ArrayParts:
    """Those of a kind's array for every ``dk``; a minute or two each, if they are not in the cache."""
    if kind == "bit_serial":
        unit, column = ({dk: popcount(dk, masked) for dk in (*SYNTHESISED, *LARGER)} for masked in (True, False))
        return ArrayParts(unit=unit, column=column, row={})
    if kind == "serial_weight":
        bits = PAIR.width + 7  # of a sum of 256
        unit, column = (
            with_larger({dk: cells(part(dk)) for dk in SYNTHESISED}, bits)
            for part in (SerialWeightUnit, SerialWeightColumn)
        )
        return ArrayParts(unit=unit, column=column, row={})
    unit = with_larger({dk: cells(Alone(FusionProduct(dk), "inner")) for dk in SYNTHESISED}, SUM_BITS + 3)
    column, row = (
        with_larger({dk: cells(Alone(FusionRouters(dk, side), "inner")) for dk in SYNTHESISED})
        for side in ("column", "row")
    )
    return ArrayParts(unit=unit, column=column, row=row)


def popcount(dk: int, masked: bool) -> tuple[int, int]:
    """A popcount's LUTs and flip-flops."""
    return cells(Alone(Popcount(dk, popcount_latency(dk), masked), "popcount"), "codesign_popcount")


def with_larger(found: dict[int, tuple[int, int]], bits: int = 0) -> dict[int, tuple[int, int]]:
    """Those of `LARGER`, too, which are made of those of `SYNTHESISED`.

    A sum of 256 positions is two of 128 and an adder of ``bits`` with its register. One of 512 is four of 128, adders
    of ``bits`` without registers, because two levels share one, and an adder of ``bits + 1`` with one. What is no sum
    (``bits`` 0) grows by as much with every 64 positions.
    """
    (small_lut, small_ff), (lut, ff) = (found[dk] for dk in SYNTHESISED)
    if not bits:
        more_lut, more_ff = lut - small_lut, ff - small_ff
        return found | {dk: (lut + n * more_lut, ff + n * more_ff) for dk, n in zip(LARGER, (2, 6), strict=True)}
    return found | {256: (2 * lut + bits, 2 * ff + bits), 512: (4 * lut + 3 * bits + 1, 4 * ff + bits + 1)}
