"""Fetch: each memory port reads its part of every tile into the operand buffers, strided windows included.

Port ``p`` of ``P`` feeds the rows ``p * dm / P`` onward of every row tile and the columns ``p, p + P, ...`` of every
column tile, so ports never meet.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hardware.accelerator import Accelerator
from hardware.timing import WALK_LATENCY
from rtl.buffer import buffer_write
from rtl.countdown import Countdown
from rtl.interface import ADDRESS_BITS, INSTRUCTION, READ_CHANNEL
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

    Latency: `hardware.timing.WALK_LATENCY` from an instruction's start to its first request, `FREE_TO_REQUEST` from a
    free strobe to the request that waits for it. Throughput: one request per cycle, `TILE_INTERVAL` between tiles.
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
        request = self.request
        m.d.comb += [
            order.instruction.eq(instr),
            order.load.eq(self.start),
            self.busy.eq(~order.done | request.valid),
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
        # A tile is begun when all before it have been asked for; meanwhile the order goes on and its room is looked at,
        # and a register says whether it may begin.
        begin = Signal()
        began = Signal()
        looking = Signal()
        may_begin = Signal()
        starting = Signal(WALK_LATENCY - 2)
        started = Signal()
        m.d.sync += [starting.eq(Cat(self.start, starting)), began.eq(begin), looking.eq(began)]
        m.d.comb += order.step.eq(began)
        with m.If(starting[-1]):
            m.d.sync += started.eq(1)
        with m.If(self.start):
            m.d.sync += started.eq(0)

        # Room in the rings: what tiles take that are asked for, and what freed ones give back, comes a cycle later.
        accepted = Signal()
        tile_end = Signal()
        column_end = Signal()
        fits = Signal()
        room = {}
        freed = {"lhs": (self.lhs_free, self.lhs_free_entries), "rhs": (self.rhs_free, instr.rhs_tile_entries)}
        size = {"lhs": order.lhs_entries, "rhs": instr.rhs_tile_entries}
        depth = {"lhs": buffers.lhs_entries, "rhs": buffers.rhs_entries}
        for side, (strobe, entries) in freed.items():
            change = Signal(CREDIT_BITS, name=f"{side}_change")
            free = room[side] = Signal(CREDIT_BITS, name=f"{side}_room", init=depth[side])
            takes = begin & (order.is_lhs if side == "lhs" else ~order.is_lhs)
            m.d.sync += change.eq(Mux(strobe, entries, 0) - Mux(takes, size[side], 0))
            m.d.sync += free.eq(free + change)
            with m.If(self.start):
                m.d.sync += [free.eq(depth[side]), change.eq(0)]
        m.d.sync += fits.eq(Mux(order.is_lhs, room["lhs"], room["rhs"]) >= Mux(order.is_lhs, size["lhs"], size["rhs"]))
        m.d.sync += may_begin.eq(started & fits & ~(begin | began | looking | order.done))
        m.d.comb += begin.eq(may_begin & ~request.valid)

        is_lhs = Signal()
        window_row = Signal(ADDRESS_BITS)
        row_tile = Signal(ADDRESS_BITS)
        runs = Countdown("runs", 8)
        kernel_rows = Countdown("kernel_rows", 8)
        columns = Countdown("columns", 8)
        tile_words = order.lhs_entries * (array.dm // ports * self._accelerator.lanes)
        own_columns, none_valid = _columns_of_port(order.columns, port, ports)
        m.d.comb += [
            accepted.eq(request.valid & request.ready),
            column_end.eq(accepted & ~is_lhs & runs.last & kernel_rows.last),
            tile_end.eq(accepted & (is_lhs | (runs.last & kernel_rows.last & columns.last))),
            walk.step.eq(column_end),
        ]
        with m.If(begin):
            m.d.sync += [request.valid.eq(1), is_lhs.eq(order.is_lhs)]
            m.d.sync += [
                *runs.begin(instr.row_runs),
                *kernel_rows.begin(instr.kernel_rows),
                *columns.begin(own_columns),
            ]
            with m.If(order.is_lhs):
                m.d.sync += [
                    request.payload.address.eq(row_tile + port * tile_words),
                    request.payload.words.eq(tile_words),
                ]
                m.d.sync += row_tile.eq(Mux(order.last_row_tile, instr.lhs_base, row_tile + ports * tile_words))
            with m.Else():
                window = Mux(none_valid, instr.port_0_start, walk.address)
                m.d.sync += [window_row.eq(window), request.payload.address.eq(window)]
                m.d.sync += request.payload.words.eq(instr.run_words)
        with m.If(tile_end):
            m.d.sync += request.valid.eq(0)
        with m.Elif(column_end):
            m.d.sync += [*runs.begin(instr.row_runs), *kernel_rows.begin(instr.kernel_rows), *columns.step()]
            m.d.sync += [a.eq(walk.next_address) for a in (window_row, request.payload.address)]
        with m.Elif(accepted & runs.last):
            m.d.sync += [*runs.begin(instr.row_runs), *kernel_rows.step()]
            m.d.sync += [a.eq(window_row + instr.window_row_step) for a in (window_row, request.payload.address)]
        with m.Elif(accepted):
            m.d.sync += [*runs.step(), request.payload.address.eq(request.payload.address + instr.run_step)]
        with m.If(self.start):
            m.d.sync += row_tile.eq(instr.lhs_base)
        return m


_TILE = data.StructLayout({"valid": 1, "is_lhs": 1, "entries": 16, "columns": 8})
"""What `Writer` must know of a tile: entries of a row tile, the port's columns of a column tile."""


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
        m.submodules.order = order = FetchOrder(accelerator.array.dn)
        m.d.comb += [order.instruction.eq(instr), order.load.eq(self.start), self.word.ready.eq(1)]
        m.d.sync += [
            self.lhs_write.select.eq(0),
            self.rhs_write.select.eq(0),
            self.lhs_ready.eq(0),
            self.rhs_ready.eq(0),
        ]

        # Every word can be a tile's last, so two more tiles stand ready in registers: the next one, and the one after,
        # which is brought a cycle after it was used. After a start all three are filled.
        tile = Signal(_TILE)
        next_tile = Signal(_TILE)
        after_next = Signal(_TILE)
        ordered = Signal(_TILE)
        tile_end = Signal()
        next_tile_now = Signal()
        bring = Signal()
        starting = Signal(3)
        m.d.sync += [starting.eq(Cat(self.start, starting)), bring.eq(next_tile_now)]
        m.d.comb += [
            next_tile_now.eq(tile_end | starting.any()),
            order.step.eq(bring & ~order.done),
            ordered.valid.eq(~order.done),
            ordered.is_lhs.eq(order.is_lhs),
            ordered.entries.eq(order.lhs_entries),
            ordered.columns.eq(_columns_of_port(order.columns, port, ports)[0]),
            self.busy.eq(tile.valid | next_tile.valid | after_next.valid | ~order.done),
        ]
        with m.If(bring):
            m.d.sync += after_next.eq(ordered)
        with m.If(next_tile_now):
            m.d.sync += [tile.eq(next_tile), next_tile.eq(Mux(bring, ordered, after_next))]

        lhs_base = Signal(range(accelerator.buffers.lhs_entries))  # rings wrap by dropping address bits
        lhs_entry = Signal.like(lhs_base)
        rhs_base, rhs_first, rhs_entry = (
            Signal(range(accelerator.buffers.rhs_entries), name=f"rhs_{n}") for n in ("base", "first", "entry")
        )
        lhs_select = Signal(self.lhs_write.select.shape(), init=1)
        rhs_select = Signal(self.rhs_write.select.shape(), init=1)
        lhs_lane, rhs_lane = (Signal(lanes, name=f"{n}_lane", init=1) for n in ("lhs", "rhs"))
        entries = Countdown("entries", 16)
        planes = Countdown("planes", 4)
        positions = Countdown("positions", 16)
        columns = Countdown("columns", 8)

        with m.If(self.word.valid & tile.is_lhs):
            m.d.sync += [
                self.lhs_write.select.eq(lhs_select),
                self.lhs_write.entry.eq(lhs_entry),
                self.lhs_write.lane.eq(lhs_lane),
                self.lhs_write.word.eq(self.word.payload),
                lhs_lane.eq(lhs_lane.rotate_left(1)),
            ]
            with m.If(lhs_lane[-1]):
                m.d.sync += [lhs_entry.eq(lhs_entry + 1), *entries.step()]
                with m.If(entries.last):
                    m.d.sync += [*entries.begin(tile.entries), lhs_select.eq(lhs_select.rotate_left(1))]
                    with m.If(lhs_select[-1]):
                        m.d.comb += tile_end.eq(1)
                        m.d.sync += [self.lhs_ready.eq(1), lhs_base.eq(lhs_entry + 1)]
                    with m.Else():
                        m.d.sync += lhs_entry.eq(lhs_base)
        with m.If(self.word.valid & ~tile.is_lhs):
            m.d.sync += [
                self.rhs_write.select.eq(rhs_select),
                self.rhs_write.entry.eq(rhs_entry),
                self.rhs_write.lane.eq(rhs_lane),
                self.rhs_write.word.eq(self.word.payload),
                rhs_entry.eq(rhs_entry + instr.chunks),
                *planes.step(),
            ]
            with m.If(planes.last):
                next_first = rhs_first + rhs_lane[-1]
                m.d.sync += [*planes.begin(instr.activation_bits), *positions.step()]
                m.d.sync += [rhs_lane.eq(rhs_lane.rotate_left(1)), rhs_first.eq(next_first), rhs_entry.eq(next_first)]
                with m.If(positions.last):
                    m.d.sync += [*positions.begin(instr.window_words), *columns.step()]
                    m.d.sync += [rhs_lane.eq(1), rhs_select.eq(rhs_select.rotate_left(1))]
                    m.d.sync += [rhs_first.eq(rhs_base), rhs_entry.eq(rhs_base)]
                    with m.If(columns.last):
                        next_base = rhs_base + instr.rhs_tile_entries
                        m.d.comb += tile_end.eq(1)
                        m.d.sync += [self.rhs_ready.eq(1), rhs_select.eq(1)]
                        m.d.sync += [a.eq(next_base) for a in (rhs_base, rhs_first, rhs_entry)]
        with m.If(next_tile_now):
            m.d.sync += [*entries.begin(next_tile.entries), *columns.begin(next_tile.columns)]
        with m.If(self.start):
            m.d.sync += [a.eq(0) for a in (lhs_base, lhs_entry, rhs_base, rhs_first, rhs_entry)]
            m.d.sync += [*planes.begin(instr.activation_bits), *positions.begin(instr.window_words)]
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
