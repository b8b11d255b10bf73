"""Fetch: reads tiles from memory into the operand buffers, strided windows included."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hardware.accelerator import Accelerator
from rtl.buffer import buffer_write
from rtl.interface import ADDRESS_BITS, INSTRUCTION, READ_CHANNEL
from rtl.order import FetchOrder


class Requester(Component):
    """Asks the memory for every tile in fetch order, as soon as a slot of its ring is free.

    A row tile is one request, a column tile one request per output pixel and kernel row: the window is
    walked in the activations themselves, so no im2col copy exists.

    Members
    -------
    lhs_free, rhs_free: strobes, one slot has become free.
    busy: requests are still to be made.

    Latency: `hardware.timing.LAST_STEP_TO_FREE` from a free strobe to the request that waits for it.
    Throughput: one request per cycle.
    """

    def __init__(self, accelerator: Accelerator):
        self._dn = accelerator.array.dn
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "lhs_free": In(1),
                "rhs_free": In(1),
                "request": READ_CHANNEL.members["request"],
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        m.submodules.order = order = FetchOrder(self._dn)
        m.d.comb += [order.instruction.eq(instr), order.load.eq(self.start), self.busy.eq(~order.done)]

        free = {}
        for side, released in (("lhs", self.lhs_free), ("rhs", self.rhs_free)):
            slots, taken = Signal(16, name=f"{side}_slots_free"), Signal(name=f"{side}_slot_taken")
            m.d.sync += slots.eq(slots + released - taken)
            with m.If(self.start):
                m.d.sync += slots.eq(instr[f"{side}_slots"])
            free[side] = (slots, taken)

        in_tile = Signal()  # the slot is already taken, more requests of the tile follow
        lhs_address, window_row = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.comb += self.request.valid.eq(
            ~order.done & (in_tile | Mux(order.is_lhs, free["lhs"][0] != 0, free["rhs"][0] != 0))
        )
        with m.If(order.is_lhs):
            m.d.comb += [
                self.request.payload.address.eq(lhs_address),
                self.request.payload.words.eq(instr.lhs_tile_words),
            ]
        with m.Else():
            m.d.comb += [
                self.request.payload.address.eq(window_row),
                self.request.payload.words.eq(instr.run_words),
            ]

        image, row, pixel = (Signal(ADDRESS_BITS, name=n) for n in ("image", "row", "pixel"))
        x, y, kernel_row, column = Signal(16), Signal(16), Signal(8), Signal(8)
        next_pixel, next_row, next_image = (Signal(ADDRESS_BITS, name=f"next_{n}") for n in ("pixel", "row", "image"))
        m.d.comb += [
            next_pixel.eq(pixel + instr.pixel_step),
            next_row.eq(row + instr.row_step),
            next_image.eq(image + instr.image_step),
        ]
        with m.If(self.request.valid & self.request.ready):
            m.d.comb += [
                free["lhs"][1].eq(order.is_lhs),
                free["rhs"][1].eq(~order.is_lhs & ~in_tile),
            ]
            with m.If(order.is_lhs):
                m.d.comb += order.step.eq(1)
                m.d.sync += lhs_address.eq(Mux(order.last_row_tile, instr.lhs_base, lhs_address + instr.lhs_tile_words))
            with m.Elif(kernel_row != instr.kernel_rows - 1):
                m.d.sync += [
                    in_tile.eq(1),
                    kernel_row.eq(kernel_row + 1),
                    window_row.eq(window_row + instr.window_row_step),
                ]
            with m.Else():
                m.d.sync += kernel_row.eq(0)
                with m.If(column == order.columns - 1):
                    m.d.comb += order.step.eq(1)
                    m.d.sync += [in_tile.eq(0), column.eq(0)]
                with m.Else():
                    m.d.sync += [in_tile.eq(1), column.eq(column + 1)]
                with m.If(x != instr.out_width - 1):
                    m.d.sync += [x.eq(x + 1), pixel.eq(next_pixel), window_row.eq(next_pixel)]
                with m.Elif(y != instr.out_height - 1):
                    m.d.sync += [x.eq(0), y.eq(y + 1)]
                    m.d.sync += [a.eq(next_row) for a in (row, pixel, window_row)]
                with m.Else():
                    m.d.sync += [x.eq(0), y.eq(0)]
                    m.d.sync += [a.eq(next_image) for a in (image, row, pixel, window_row)]
        with m.If(self.start):
            m.d.sync += [lhs_address.eq(instr.lhs_base), x.eq(0), y.eq(0), kernel_row.eq(0), column.eq(0)]
            m.d.sync += [a.eq(instr.rhs_base) for a in (image, row, pixel, window_row)]
        return m


class Writer(Component):
    """Puts the words that come back, in fetch order, where the array reads them.

    A row tile comes as [row][plane][chunk], a column tile as [column][tap][plane][channel word].

    Members
    -------
    lhs_write, rhs_write: to the operand buffers, registered.
    lhs_ready, rhs_ready: strobes, one tile is complete.

    Latency: one cycle from a word to its buffer write; `hardware.timing.WORD_TO_READY` from a tile's last
    word until the execute stage may start on it. Throughput: one word per cycle.
    """

    def __init__(self, accelerator: Accelerator):
        array, buffers, lanes = accelerator.array, accelerator.buffers, accelerator.lanes
        self._dn, self._lanes = array.dn, lanes
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "word": READ_CHANNEL.members["word"],
                "lhs_write": Out(buffer_write(array.dm, buffers.lhs_entries, lanes)),
                "rhs_write": Out(buffer_write(array.dn, buffers.rhs_entries, lanes)),
                "lhs_ready": Out(1),
                "rhs_ready": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr, lanes = self.instruction, self._lanes
        lane_bits = lanes.bit_length() - 1
        m.submodules.order = order = FetchOrder(self._dn)
        m.d.comb += [order.instruction.eq(instr), order.load.eq(self.start), self.busy.eq(~order.done)]
        m.d.comb += self.word.ready.eq(1)
        m.d.sync += [
            self.lhs_write.select.eq(0),
            self.rhs_write.select.eq(0),
            self.lhs_ready.eq(0),
            self.rhs_ready.eq(0),
        ]

        def ring(side):
            """Base entry of the slot being filled, and the statements that go to the next slot."""
            base, slot = Signal(16, name=f"{side}_base"), Signal(16, name=f"{side}_slot")
            wrap = slot == instr[f"{side}_slots"] - 1
            advance = [
                slot.eq(Mux(wrap, 0, slot + 1)),
                base.eq(Mux(wrap, 0, base + instr[f"{side}_tile_entries"])),
            ]
            return base, advance, [slot.eq(0), base.eq(0)]

        lhs_base, lhs_advance, lhs_reset = ring("lhs")
        rhs_base, rhs_advance, rhs_reset = ring("rhs")

        lhs_select = Signal(self.lhs_write.select.shape(), init=1)
        lane, entry = Signal(range(max(lanes, 2))), Signal(16)
        rhs_select = Signal(self.rhs_write.select.shape(), init=1)
        column, tap, plane, channel = Signal(8), Signal(16), Signal(4), Signal(16)
        tap_position, plane_base = Signal(24), Signal(16)
        position = Signal(24)
        m.d.comb += position.eq(tap_position + channel)

        with m.If(self.word.valid & order.is_lhs):
            m.d.sync += [
                self.lhs_write.select.eq(lhs_select),
                self.lhs_write.entry.eq(lhs_base + entry),
                self.lhs_write.lane.eq(Const(1, lanes) << lane),
                self.lhs_write.word.eq(self.word.payload),
                lane.eq(lane + 1),
            ]
            with m.If(lane == lanes - 1):
                m.d.sync += [lane.eq(0), entry.eq(entry + 1)]
                with m.If(entry == instr.lhs_tile_entries - 1):
                    m.d.sync += [entry.eq(0), lhs_select.eq(lhs_select.rotate_left(1))]
                    with m.If(lhs_select[-1]):
                        m.d.comb += order.step.eq(1)
                        m.d.sync += [self.lhs_ready.eq(1), *lhs_advance]
        with m.If(self.word.valid & ~order.is_lhs):
            m.d.sync += [
                self.rhs_write.select.eq(rhs_select),
                self.rhs_write.entry.eq(rhs_base + plane_base + (position >> lane_bits)),
                self.rhs_write.lane.eq(Const(1, lanes) << (position & (lanes - 1))[: max(lane_bits, 1)]),
                self.rhs_write.word.eq(self.word.payload),
                channel.eq(channel + 1),
            ]
            with m.If(channel == instr.channel_words - 1):
                m.d.sync += [channel.eq(0), plane.eq(plane + 1), plane_base.eq(plane_base + instr.chunks)]
                with m.If(plane == instr.activation_bits - 1):
                    m.d.sync += [
                        plane.eq(0),
                        plane_base.eq(0),
                        tap.eq(tap + 1),
                        tap_position.eq(tap_position + instr.channel_words),
                    ]
                    with m.If(tap == instr.taps - 1):
                        m.d.sync += [
                            tap.eq(0),
                            tap_position.eq(0),
                            column.eq(column + 1),
                            rhs_select.eq(rhs_select.rotate_left(1)),
                        ]
                        with m.If(column == order.columns - 1):
                            m.d.comb += order.step.eq(1)
                            m.d.sync += [self.rhs_ready.eq(1), column.eq(0), rhs_select.eq(1), *rhs_advance]
        with m.If(self.start):
            m.d.sync += [*lhs_reset, *rhs_reset]
        return m


class Fetch(Component):
    """The fetch stage: a `Requester` runs ahead of a `Writer`; the memory's latency lies between them."""

    def __init__(self, accelerator: Accelerator):
        self._requester, self._writer = Requester(accelerator), Writer(accelerator)
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "lhs_free": In(1),
                "rhs_free": In(1),
                "request": READ_CHANNEL.members["request"],
                "word": READ_CHANNEL.members["word"],
                "lhs_write": self._writer.signature.members["lhs_write"],
                "rhs_write": self._writer.signature.members["rhs_write"],
                "lhs_ready": Out(1),
                "rhs_ready": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.requester = requester = self._requester
        m.submodules.writer = writer = self._writer
        connect(m, flipped(self.request), requester.request)
        connect(m, flipped(self.word), writer.word)
        m.d.comb += [
            requester.instruction.eq(self.instruction),
            requester.start.eq(self.start),
            requester.lhs_free.eq(self.lhs_free),
            requester.rhs_free.eq(self.rhs_free),
            writer.instruction.eq(self.instruction),
            writer.start.eq(self.start),
            self.lhs_write.eq(writer.lhs_write),
            self.rhs_write.eq(writer.rhs_write),
            self.lhs_ready.eq(writer.lhs_ready),
            self.rhs_ready.eq(writer.rhs_ready),
            self.busy.eq(requester.busy | writer.busy),
        ]
        return m
