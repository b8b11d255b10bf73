"""Walks the pixels of an image in row order and keeps the memory address that belongs to each."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

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


class PixelWalk(Component):
    """A pixel, its address, and the address after the next step.

    Members
    -------
    load: go to ``start``; ``stride`` must have been stable for a cycle and stay so.
    step: go to the next pixel.
    save, restore: remember the next place (with ``step``) as the one to come back to; go back to it.
        ``load`` saves, too.

    Latency: ``address`` and ``next_address`` fit each other one cycle after ``load``, ``step`` or ``restore``.
    Throughput: one step per cycle.
    """

    stride: In(STRIDE)
    start: In(PLACE)
    load: In(1)
    step: In(1)
    save: In(1)
    restore: In(1)
    address: Out(ADDRESS_BITS)
    next_address: Out(ADDRESS_BITS)
    saved_address: Out(ADDRESS_BITS)

    def elaborate(self, platform):
        m = Module()
        stride = self.stride
        here, saved = Signal(PLACE), Signal(PLACE)
        # Comparisons are with constants of the walk, taken once, so that only one carry chain follows another.
        column_limit, row_limit = Signal(SIZE_BITS), Signal(SIZE_BITS)
        m.d.sync += [column_limit.eq(stride.width - stride.columns), row_limit.eq(stride.height - stride.rows)]
        column_wraps, row_wraps = Signal(), Signal()
        x, y, after = Signal(SIZE_BITS), Signal(SIZE_BITS), Signal(PLACE)
        m.d.comb += [
            column_wraps.eq(here.x >= column_limit),
            row_wraps.eq(Mux(column_wraps, here.y + 1 >= row_limit, here.y >= row_limit)),
            x.eq(here.x + Mux(column_wraps, stride.columns - stride.width, stride.columns)),
            y.eq(here.y + Mux(row_wraps, stride.rows - stride.height, stride.rows) + column_wraps),
            after.x.eq(x),
            after.y.eq(y),
            after.address.eq(
                here.address
                + stride.step
                + Mux(column_wraps, stride.row_correction, 0)
                + Mux(row_wraps, stride.image_correction, 0)
            ),
            self.address.eq(here.address),
            self.next_address.eq(after.address),
            self.saved_address.eq(saved.address),
        ]
        with m.If(self.step):
            m.d.sync += here.eq(after)
            with m.If(self.save):
                m.d.sync += saved.eq(after)
        with m.If(self.restore):
            m.d.sync += here.eq(saved)
        with m.If(self.load):
            m.d.sync += [here.eq(self.start), saved.eq(self.start)]
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
