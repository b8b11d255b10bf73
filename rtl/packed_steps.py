"""The steps of an output tile of packed operands."""

from amaranth.hdl import C, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hardware.accelerator import Accelerator
from rtl.array import STEP
from rtl.countdown import Countdown
from rtl.interface import INSTRUCTION, entries_bits

PARTS = data.StructLayout({"lhs": 2, "rhs": 2})
"""Which part of its weight and of its activation entry a step takes: of ``2 / bits`` of the *other* operand."""


class PackedSteps(Component):
    """The steps of one output tile; to whom it belongs they are as `rtl.execute.MatrixSteps`.

    A step takes ``2 / activation bits`` of a weight entry and ``2 / weight bits`` of an activation entry, which hold as
    many values. A tile ends where either operand does: behind that there is but padding. All row tiles have the width
    of the instruction's first segment.

    Members
    -------
    parts: of the step's entries. The others: as there.
    """

    def __init__(self, accelerator: Accelerator):
        self._bits = bits = entries_bits(accelerator)
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "load": In(1),
                "bits": In(4),
                "entries": In(bits),
                "constants": In(1),
                "advance": In(1),
                "lhs_offset": Out(bits),
                "rhs_offset": Out(bits),
                "parts": Out(PARTS),
                "step": Out(STEP),
                "last": Out(1),
                "next_last": Out(1),
                "first_last": Out(1),
                "reads_constants_now": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr, bits = self.instruction, self._bits
        steps = Countdown("steps", bits + 2)
        first_step, products_done, reads_constants, last, has_constants = (
            Signal(name=n) for n in ("first_step", "products_done", "reads_constants", "last", "has_constants")
        )
        lhs_top, rhs_top = Signal(2), Signal(2)  # the last parts of entries
        products, next_products = Signal(bits, reset_less=True), Signal(bits)  # entries of weights
        next_steps = Signal(bits + 2)
        next_short, next_empty, next_constants = (Signal(name=f"next_{n}") for n in ("short", "empty", "constants"))

        def halves(width):
            """Entries of the other operand, in steps."""
            return lambda entries: Mux(width == 8, entries << 2, Mux(width == 4, entries << 1, entries))

        weights = Signal(bits)
        m.d.comb += weights.eq(self.entries - has_constants)
        lhs_steps = halves(instr.activation_bits)(weights)
        rhs_steps = halves(instr.segment_0_bits)(instr.chunks[:bits])
        fewest = Mux(lhs_steps < rhs_steps, lhs_steps, rhs_steps)
        m.d.sync += [
            lhs_top.eq((instr.activation_bits >> 1) - 1),
            rhs_top.eq((instr.segment_0_bits >> 1) - 1),
            has_constants.eq(~instr.write_sums),
            next_products.eq(weights),
            next_steps.eq(fewest),
            next_empty.eq(self.bits == 0),
            next_constants.eq(self.constants),
            next_short.eq((self.bits == 0) | ((fewest == 1) & ~self.constants)),
            last.eq(Mux(self.load, self.first_last, self.next_last)),
        ]
        m.d.comb += [
            self.step.clear.eq(first_step),
            self.step.idle.eq(products_done),
            self.step.last.eq(last),
            self.last.eq(last),
            self.next_last.eq(last),
            self.first_last.eq(next_short),
            self.reads_constants_now.eq(products_done & reads_constants),
        ]
        with m.If(self.advance):
            m.d.sync += [first_step.eq(0), *steps.step(), self.parts.lhs.eq(self.parts.lhs + 1)]
            m.d.sync += self.parts.rhs.eq(self.parts.rhs + 1)
            m.d.comb += self.next_last.eq(steps.last | (steps.last_after_step(C(0, 1)) & ~reads_constants))
            with m.If(self.parts.lhs == lhs_top):
                m.d.sync += [self.parts.lhs.eq(0), self.lhs_offset.eq(self.lhs_offset + 1)]
            with m.If(self.parts.rhs == rhs_top):
                m.d.sync += [self.parts.rhs.eq(0), self.rhs_offset.eq(self.rhs_offset + 1)]
            with m.If(steps.last):
                m.d.sync += [products_done.eq(1), self.lhs_offset.eq(products)]
        with m.If(self.load):
            m.d.sync += [
                products.eq(next_products),
                *steps.begin(next_steps),
                *(a.eq(0) for a in (self.lhs_offset, self.rhs_offset, self.parts)),
                first_step.eq(1),
                reads_constants.eq(next_constants),
                products_done.eq(next_empty),
            ]
        return m
