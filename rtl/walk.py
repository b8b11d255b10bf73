"""Walks the pixels of an image in row order and keeps the memory address that belongs to each."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hardware.timing import WALK_LATENCY
from rtl.interface import ADDRESS_BITS

SIZE_BITS = 16

STRIDE = data.StructLayout(
    {
        "width": SIZE_BITS,
        "height": SIZE_BITS,
        "columns": SIZE_BITS,  # smaller than width, or 1
        "rows": SIZE_BITS,  # smaller than height
        "step": ADDRESS_BITS,
        "row_correction": ADDRESS_BITS,
        "image_correction": ADDRESS_BITS,
    }
)
"""A step goes ``columns`` and ``rows`` further and ``step`` words; where the column passes the image's right edge it
wraps into the next row and ``row_correction`` is added, where the row passes the lower edge, ``image_correction``."""

PLACE = data.StructLayout({"x": SIZE_BITS, "y": SIZE_BITS, "address": ADDRESS_BITS})

STATE = data.StructLayout(
    {
        "column": signed(SIZE_BITS + 1),  # four steps ahead
        "row": signed(SIZE_BITS + 1),  # three steps ahead, and so is this:
        "column_wraps": 1,
        "distance": ADDRESS_BITS,  # two steps ahead: from the pixel behind the next one to the one behind that
        "behind": ADDRESS_BITS,
        "next": ADDRESS_BITS,
        "here": ADDRESS_BITS,
    }
)
"""A walk works ahead, so that every step is one addition, no decision waits for another, and the state may follow a
cycle behind the step. ``column`` and ``row`` count from the place where a step would wrap, which makes their signs the
decisions."""


class PixelWalk(Component):
    """A pixel's address, and the address after the next step.

    Members
    -------
    load: go to ``start``; ``stride`` must be stable since the cycle before, and so must ``start``, until
        `hardware.timing.WALK_LATENCY` cycles later.
    step: go to the next pixel.
    save, restore: remember the next place (with ``step``) as the one to come back to; go back to it, not together with
        a ``step`` and not in the cycle after a ``save``. ``load`` saves, too.

    Latency: ``address`` and ``next_address`` fit each other `hardware.timing.WALK_LATENCY` cycles after ``load``, one
    cycle after ``step`` or ``restore``. Throughput: one step per cycle.
    """

    stride: In(STRIDE)
    start: In(PLACE)
    load: In(1)
    step: In(1)
    save: In(1)
    restore: In(1)
    address: Out(ADDRESS_BITS)
    next_address: Out(ADDRESS_BITS)

    def elaborate(self, platform):
        m = Module()
        stride, start = self.stride, self.start
        state = Signal(STATE)
        after = Signal(STATE)
        saved = Signal(STATE)
        stepped = Signal()  # the state is still that of before the step
        m.d.sync += [stepped.eq(self.step), state.eq(after)]
        m.d.comb += [
            after.eq(state),
            self.address.eq(Mux(stepped, state.next, state.here)),
            self.next_address.eq(Mux(stepped, state.behind, state.next)),
        ]

        # Constants of the walk, from sums of at most two terms.
        column_back, row_back = (Signal(signed(SIZE_BITS + 1), name=n) for n in ("column_back", "row_back"))
        past_row, past_image, past_both = (
            Signal(ADDRESS_BITS, name=n) for n in ("past_row", "past_image", "past_both")
        )
        m.d.sync += [
            column_back.eq(stride.columns - stride.width),
            row_back.eq(stride.rows - stride.height),
            past_row.eq(stride.step + stride.row_correction),
            past_image.eq(stride.step + stride.image_correction),
            past_both.eq(past_row + stride.image_correction),
        ]

        column_wraps, row_wraps = state.column >= 0, state.row >= 0
        distance = Mux(state.column_wraps, Mux(row_wraps, past_both, past_row), Mux(row_wraps, past_image, stride.step))
        ahead = [
            after.column.eq(state.column + Mux(column_wraps, column_back, stride.columns)),
            after.column_wraps.eq(column_wraps),
            after.row.eq(state.row + Mux(row_wraps, row_back, stride.rows) + column_wraps),
            after.distance.eq(distance),
        ]
        first_column, first_row = Signal.like(state.column), Signal.like(state.row)
        # The cycles after a load, by the register that they fill; in all but the first one the state goes ahead.
        loading = Signal(WALK_LATENCY - 1)
        column, row, _, first_next, first_behind = loading
        goes = Signal()
        m.d.sync += [
            loading.eq(Cat(self.load, loading)),
            goes.eq(self.step | loading[:-1].any()),
            first_column.eq(start.x + column_back),
            first_row.eq(start.y + row_back),
        ]
        with m.If(goes):
            m.d.comb += ahead
        with m.If(column):
            m.d.comb += after.column.eq(first_column)
        with m.If(row):
            m.d.comb += after.row.eq(first_row + column_wraps)
        with m.If(first_next):
            m.d.comb += [after.here.eq(start.address), after.next.eq(start.address + state.distance)]
        with m.If(first_behind):
            m.d.comb += after.behind.eq(state.next + state.distance)
        with m.If(stepped):
            m.d.comb += [
                after.here.eq(state.next),
                after.next.eq(state.behind),
                after.behind.eq(state.behind + state.distance),
            ]

        saving = Signal()
        m.d.sync += saving.eq((self.step & self.save) | first_next)
        with m.If(saving):
            m.d.sync += saved.eq(after)
        with m.If(self.restore):
            m.d.sync += state.eq(saved)
        return m


def unit_stride(instruction, prefix: str):
    """The stride from one output pixel to the next in the tensor whose fields start with ``prefix``."""
    return Cat(
        instruction.out_width,
        instruction.out_height,
        Cat(1, *[0] * (SIZE_BITS - 1)),
        *[0] * SIZE_BITS,
        instruction[f"{prefix}_step"],
        instruction[f"{prefix}_row_correction"],
        instruction[f"{prefix}_image_correction"],
    )
