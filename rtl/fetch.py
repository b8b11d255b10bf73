"""Fetch: each memory port reads its part of every tile into the operand buffers, strided windows included.

Port ``p`` of ``P`` feeds the rows ``p * dm / P`` onward of every row tile and the columns ``p, p + P, ...`` of every
column tile, so ports never meet.
"""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hardware.accelerator import Accelerator
from rtl.buffer import buffer_write
from rtl.interface import ADDRESS_BITS, INSTRUCTION, LENGTH_BITS, READ_CHANNEL
from rtl.order import FetchOrder
from rtl.walk import PixelWalk

CREDIT_BITS = 17


def _columns_of_port(columns, port: int, ports: int):
    """How many of the tile's first ``columns`` columns a port fetches, and whether none of them is valid.

    A last tile may have fewer columns than there are ports. A port without one fetches the very first window again,
    which nobody uses: so all ports fetch as many tiles, and none ever waits for another.
    """
    count = (columns + (ports - 1 - port)) >> (ports.bit_length() - 1)
    return Mux(count == 0, 1, count), count == 0


class Requester(Component):
    """Asks the memory for a port's part of every tile in fetch order, as soon as the ring has room for the tile.

    A row tile is one request, a column tile one request per output pixel and run of its window: the window is
    walked in the activations themselves, so no im2col copy exists.

    Members
    -------
    lhs_free, rhs_free: strobes, a tile's entries have become free; ``lhs_free_entries`` is how many a row tile had.
    busy: requests are still to be made.

    Latency: `hardware.timing.LAST_STEP_TO_FREE` from a free strobe to the request that waits for it.
    Throughput: one request per cycle.
    """

    def __init__(self, accelerator: Accelerator, port: int):
        self._accelerator, self._port = accelerator, port
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "lhs_free": In(1),
                "lhs_free_entries": In(16),
                "rhs_free": In(1),
                "request": READ_CHANNEL.members["request"],
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr, port = self.instruction, self._port
        array, buffers, ports = self._accelerator.array, self._accelerator.buffers, self._accelerator.memory.ports
        m.submodules.order = order = FetchOrder(array.dn)
        m.submodules.walk = walk = PixelWalk()
        m.d.comb += [
            order.instruction.eq(instr),
            order.load.eq(self.start),
            self.busy.eq(~order.done),
            walk.load.eq(self.start),
            walk.start.x.eq(instr[f"port_{port}_x"]),
            walk.start.y.eq(instr[f"port_{port}_y"]),
            walk.start.address.eq(instr[f"port_{port}_start"]),
            walk.stride.width.eq(instr.out_width),
            walk.stride.height.eq(instr.out_height),
            walk.stride.columns.eq(instr.port_columns),
            walk.stride.rows.eq(instr.port_rows),
            walk.stride.step.eq(instr.port_step),
            walk.stride.row_correction.eq(instr.row_correction),
            walk.stride.image_correction.eq(instr.image_correction),
        ]

        # Room in the rings, less what the tiles that are being fetched take.
        taken = Signal()  # the current tile takes its room in this cycle
        enough = Signal()
        in_tile = Signal()  # the room is already taken, more requests of the tile follow
        room = {}
        for side, depth, size, freed in (
            ("lhs", buffers.lhs_entries, order.lhs_entries, Mux(self.lhs_free, self.lhs_free_entries, 0)),
            ("rhs", buffers.rhs_entries, instr.rhs_tile_entries, Mux(self.rhs_free, instr.rhs_tile_entries, 0)),
        ):
            free = room[side] = Signal(CREDIT_BITS, name=f"{side}_room", init=depth)
            mine = order.is_lhs if side == "lhs" else ~order.is_lhs
            m.d.sync += free.eq(free + freed - Mux(taken & mine, size, 0))
            with m.If(self.start):
                m.d.sync += free.eq(depth)
        m.d.comb += enough.eq(
            Mux(order.is_lhs, room["lhs"] >= order.lhs_entries, room["rhs"] >= instr.rhs_tile_entries)
        )

        row_words = array.dm // ports * self._accelerator.lanes  # of one entry
        tile_words, row_tile = Signal(LENGTH_BITS), Signal(ADDRESS_BITS)
        run_address, window_row = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        own_columns = Signal(8)
        count, none_valid = _columns_of_port(order.columns, port, ports)
        m.d.comb += [
            tile_words.eq(order.lhs_entries * row_words),
            own_columns.eq(count),
            self.request.payload.address.eq(
                Mux(order.is_lhs, row_tile + port * tile_words, Mux(none_valid, instr.port_0_start, run_address))
            ),
            self.request.payload.words.eq(Mux(order.is_lhs, tile_words, instr.run_words)),
            self.request.valid.eq(~order.done & (in_tile | enough)),
        ]
        run, kernel_row, column = Signal(8), Signal(8), Signal(8)
        with m.If(self.request.valid & self.request.ready):
            m.d.comb += taken.eq(~in_tile)
            with m.If(order.is_lhs):
                m.d.comb += order.step.eq(1)
                m.d.sync += row_tile.eq(Mux(order.last_row_tile, instr.lhs_base, row_tile + tile_words * ports))
            with m.Elif(run != instr.row_runs - 1):
                m.d.sync += [in_tile.eq(1), run.eq(run + 1), run_address.eq(run_address + instr.run_step)]
            with m.Elif(kernel_row != instr.kernel_rows - 1):
                m.d.sync += [in_tile.eq(1), run.eq(0), kernel_row.eq(kernel_row + 1)]
                m.d.sync += [a.eq(window_row + instr.window_row_step) for a in (window_row, run_address)]
            with m.Else():
                m.d.comb += walk.step.eq(1)
                m.d.sync += [run.eq(0), kernel_row.eq(0)]
                m.d.sync += [a.eq(walk.next_address) for a in (window_row, run_address)]
                with m.If(column == own_columns - 1):
                    m.d.comb += order.step.eq(1)
                    m.d.sync += [in_tile.eq(0), column.eq(0)]
                with m.Else():
                    m.d.sync += [in_tile.eq(1), column.eq(column + 1)]
        with m.If(self.start):
            m.d.sync += [run.eq(0), kernel_row.eq(0), column.eq(0), in_tile.eq(0)]
            m.d.sync += row_tile.eq(instr.lhs_base)
            m.d.sync += [a.eq(instr[f"port_{port}_start"]) for a in (window_row, run_address)]
        return m


class Writer(Component):
    """Puts the words that come back, in fetch order, where the array reads them.

    A row tile comes as [row][entry][lane], a column tile as [column][tap][channel word][plane].

    Members
    -------
    lhs_write, rhs_write: to the port's rows and columns of the operand buffers, registered.
    lhs_ready, rhs_ready: strobes, the port's part of one tile is complete.

    Latency: one cycle from a word to its buffer write; `hardware.timing.WORD_TO_READY` from a tile's last
    word until the execute stage may start on it. Throughput: one word per cycle.
    """

    def __init__(self, accelerator: Accelerator, port: int):
        self._accelerator, self._port = accelerator, port
        array, buffers, ports = accelerator.array, accelerator.buffers, accelerator.memory.ports
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "word": READ_CHANNEL.members["word"],
                "lhs_write": Out(buffer_write(array.dm // ports, buffers.lhs_entries, accelerator.lanes)),
                "rhs_write": Out(buffer_write(array.dn // ports, buffers.rhs_entries, accelerator.lanes)),
                "lhs_ready": Out(1),
                "rhs_ready": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr, port = self.instruction, self._port
        accelerator, lanes, ports = self._accelerator, self._accelerator.lanes, self._accelerator.memory.ports
        lane_bits = lanes.bit_length() - 1
        m.submodules.order = order = FetchOrder(accelerator.array.dn)
        m.d.comb += [order.instruction.eq(instr), order.load.eq(self.start), self.busy.eq(~order.done)]
        m.d.comb += self.word.ready.eq(1)
        m.d.sync += [
            self.lhs_write.select.eq(0),
            self.rhs_write.select.eq(0),
            self.lhs_ready.eq(0),
            self.rhs_ready.eq(0),
        ]

        lhs_base = Signal(range(accelerator.buffers.lhs_entries))  # rings wrap by dropping address bits
        rhs_base = Signal(range(accelerator.buffers.rhs_entries))
        lhs_select = Signal(self.lhs_write.select.shape(), init=1)
        rhs_select = Signal(self.rhs_write.select.shape(), init=1)
        lane, entry = Signal(range(max(lanes, 2))), Signal(16)
        own_columns, column = Signal(8), Signal(8)
        position, plane, plane_base = Signal(16), Signal(4), Signal(16)
        m.d.comb += own_columns.eq(_columns_of_port(order.columns, port, ports)[0])

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
                with m.If(entry == order.lhs_entries - 1):
                    m.d.sync += [entry.eq(0), lhs_select.eq(lhs_select.rotate_left(1))]
                    with m.If(lhs_select[-1]):
                        m.d.comb += order.step.eq(1)
                        m.d.sync += [self.lhs_ready.eq(1), lhs_base.eq(lhs_base + order.lhs_entries)]
        with m.If(self.word.valid & ~order.is_lhs):
            m.d.sync += [
                self.rhs_write.select.eq(rhs_select),
                self.rhs_write.entry.eq(rhs_base + plane_base + (position >> lane_bits)),
                self.rhs_write.lane.eq(Const(1, lanes) << (position & (lanes - 1))[: max(lane_bits, 1)]),
                self.rhs_write.word.eq(self.word.payload),
                plane.eq(plane + 1),
                plane_base.eq(plane_base + instr.chunks),
            ]
            with m.If(plane == instr.activation_bits - 1):
                m.d.sync += [plane.eq(0), plane_base.eq(0), position.eq(position + 1)]
                with m.If(position == instr.window_words - 1):
                    m.d.sync += [position.eq(0), column.eq(column + 1), rhs_select.eq(rhs_select.rotate_left(1))]
                    with m.If(column == own_columns - 1):
                        m.d.comb += order.step.eq(1)
                        m.d.sync += [
                            self.rhs_ready.eq(1),
                            column.eq(0),
                            rhs_select.eq(1),
                            rhs_base.eq(rhs_base + instr.rhs_tile_entries),
                        ]
        with m.If(self.start):
            m.d.sync += [lhs_base.eq(0), rhs_base.eq(0)]
        return m


class Fetch(Component):
    """The fetch stage of one port: a `Requester` runs ahead of a `Writer`; the memory's latency lies between them."""

    def __init__(self, accelerator: Accelerator, port: int):
        self._requester, self._writer = Requester(accelerator, port), Writer(accelerator, port)
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "lhs_free": In(1),
                "lhs_free_entries": In(16),
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
            requester.lhs_free_entries.eq(self.lhs_free_entries),
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
