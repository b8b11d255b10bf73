"""The array of fusion units: dm x dn dot products of packed values (after BitFusion, arXiv 1712.01507)."""

from itertools import product

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hardware.timing import BUFFER_LATENCY, FUSION_UNIT_LATENCY, array_latency
from rtl.array import STEP, accumulated, taking_part, travelling
from rtl.datapath import at_hand
from rtl.fusion import FusionUnit
from rtl.fusion_routing import (
    COLUMN_CONTROL,
    FUSION_STAGES,
    ROW_CONTROL,
    UNIT_CONTROL,
    WIDTHS,
    ActivationRouter,
    WeightRouter,
    fusion_control,
)
from rtl.fusion_routing import WORD_BITS as UNIT_BITS
from rtl.interface import ACCUMULATOR_BITS
from rtl.packed_steps import PARTS

assert FUSION_STAGES == FUSION_UNIT_LATENCY

MODE = data.StructLayout({"weight_bits": 4, "activation_bits": 4, "signed_weights": 1, "signed_activations": 1})
"""Widths of `rtl.fusion_routing.WIDTHS`."""


class FusionArray(Component):
    """Multiplies packed weights by packed activations and accumulates.

    A dot product is made of ``dk / 32`` fusion units. Between rows and columns nothing is handed on: they get their
    operands from registers beside the buffers, as in the other arrays.

    Members
    -------
    lhs, rhs: ``dm`` and ``dn`` vectors of ``dk`` bits from registers, `hardware.timing.BUFFER_LATENCY` cycles after the
        step they belong to.
    mode: does not change while steps are under way, nor in the `rtl.datapath.SETTLING` cycles before them.
    parts: of the vectors, see `rtl.packed_steps.PARTS`; in the cycle of the buffer address.
    step, step_valid, sums, sums_valid: as `rtl.array.BitSerialArray`; of a step count ``clear``, ``idle``, ``last``.

    Latency: `hardware.timing.array_latency` cycles from ``step`` to ``sums``. Throughput: one step per cycle.
    """

    def __init__(self, dm: int, dk: int, dn: int):
        self._shape = dm, dk, dn
        sums = signed(ACCUMULATOR_BITS)
        super().__init__(
            {
                "lhs": In(data.ArrayLayout(unsigned(dk), dm)),
                "rhs": In(data.ArrayLayout(unsigned(dk), dn)),
                "mode": In(MODE),
                "parts": In(PARTS),
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
        units = dk // UNIT_BITS
        steps, valid = travelling(m, self.step, self.step_valid, array_latency(dk, "bit_fusion"))
        adding, before = steps[-1], steps[-2]
        m.d.sync += self.sums_valid.eq(valid[-1] & adding.last)
        takes_part, _ = taking_part(m, before, valid[-2])
        parts = self.parts
        for stage in range(BUFFER_LATENCY):
            later = Signal(PARTS, name=f"parts_{stage}")
            m.d.sync += later.eq(parts)
            parts = later

        mode = Signal(MODE)
        m.d.sync += mode.eq(self.mode)
        controls = {}
        for name, layout in (("row", ROW_CONTROL), ("column", COLUMN_CONTROL), ("unit", UNIT_CONTROL)):
            controls[name] = Signal(layout, name=f"{name}_control")
            m.d.sync += controls[name].as_value().eq(_table(mode, name, layout))
        operands = {}
        for side, count, router, vectors, part, other in (
            ("row", dm, WeightRouter, self.lhs, parts.lhs, mode.activation_bits),
            ("column", dn, ActivationRouter, self.rhs, parts.rhs, mode.weight_bits),
        ):
            copies = at_hand(m, controls[side], count, f"{side}_control_copy")
            for index, unit in product(range(count), range(units)):
                one = m.submodules[f"{side}_{index}_{unit}"] = router()
                packed = Signal(UNIT_BITS, name=f"{side}_{index}_{unit}_packed")
                m.d.sync += packed.eq(_part(vectors[index], part, other, unit, units))
                word = one.weights if side == "row" else one.activations
                m.d.comb += [word.eq(packed), one.control.eq(copies[index])]
                operands[side, index, unit] = one

        unit_controls = at_hand(m, controls["unit"], dm, "unit_control_copy")
        for row, column in product(range(dm), range(dn)):
            products = []
            for unit in range(units):
                left, right = operands["row", row, unit], operands["column", column, unit]
                one = m.submodules[f"unit_{row}_{column}_{unit}"] = FusionUnit()
                m.d.comb += [
                    one.control.eq(unit_controls[row]),
                    one.weights.eq(left.digits),
                    one.activations.eq(right.digits),
                    one.correction.eq(left.correction),
                ]
                products.append(one.sum)
            total = accumulated(
                m,
                f"sum_{row}_{column}",
                ACCUMULATOR_BITS,
                *(takes_part, adding.clear, 0),
                _tree(m, products, f"products_{row}_{column}"),
                0,
            )
            m.d.comb += self.sums[column * dm + row].eq(total)
        return m


def _table(mode, name: str, layout: data.StructLayout) -> Value:
    """The control bits that `rtl.fusion_routing.fusion_control` says, for every mode."""
    rows = []
    for signed_activations, signed_weights, activations, weights in product((0, 1), (0, 1), range(4), range(4)):
        if max(weights, activations) == len(WIDTHS):
            rows.append(0)  # no mode
            continue
        control = fusion_control(WIDTHS[weights], WIDTHS[activations], bool(signed_weights), bool(signed_activations))
        rows.append(layout.const(control[name]).as_value().value)
    index = Cat(mode.weight_bits[2:], mode.activation_bits[2:], mode.signed_weights, mode.signed_activations)
    return Array(rows)[index]


def _part(vector: Value, part: Value, other_bits: Value, unit: int, units: int) -> Value:
    """What a unit gets of a vector: the vector's part ``part`` holds ``64 / other_bits`` bits for each, in order."""

    def piece(bits: int, number: int) -> Value:
        start = (number * units + unit) * bits
        return vector[start : start + bits]

    quarters, halves = (Array(piece(bits, number) for number in range(count)) for bits, count in ((8, 4), (16, 2)))
    return Mux(other_bits == 8, quarters[part], Mux(other_bits == 4, halves[part[0]], piece(32, 0)))


def _tree(m: Module, values: list, name: str) -> Signal:
    """Their sum, two levels of adders per cycle."""
    level = 0
    while len(values) > 1:
        added = []
        for pair in range(len(values) // 2):
            one = Signal(signed(len(values[0]) + 1), name=f"{name}_{level}_{pair}")
            domain = m.d.sync if level % 2 == 1 or len(values) == 2 else m.d.comb
            domain += one.eq(values[2 * pair] + values[2 * pair + 1])
            added.append(one)
        values, level = added, level + 1
    return values[0]
