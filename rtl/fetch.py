"""Fetch: each memory port reads its part of every tile into the operand buffers, strided windows included.

Port ``p`` of ``P`` feeds the rows ``p * dm / P`` onward of every row tile and the columns ``p, p + P, ...`` of every
column tile, so ports never meet.
"""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import data, fifo, stream
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hardware.accelerator import Accelerator
from hardware.timing import TILE_QUEUE, WALK_LATENCY
from rtl.buffer import buffer_write
from rtl.countdown import Countdown
from rtl.interface import ADDRESS_BITS, INSTRUCTION, LENGTH_BITS, READ_CHANNEL, columns_bits, entries_bits
from rtl.order import FetchOrder
from rtl.walk import PixelWalk


def tile_layout(accelerator: Accelerator) -> data.StructLayout:
    """What `Writer` must know of a tile: entries of a row tile, the port's columns of a column tile,
    whether there is but one word for the port."""
    return data.StructLayout(
        {
            "is_lhs": 1,
            "entries": entries_bits(accelerator),
            "one_entry": 1,
            "columns": columns_bits(accelerator),
            "one_word": 1,
        }
    )


def _columns_of_port(columns, port: int, ports: int):
    """How many of the tile's first ``columns`` columns a port fetches, and whether none of them is valid.

    A last tile may have fewer columns than there are ports. A port without one fetches the very first window again,
    which nobody uses: so all ports fetch as many tiles, and none ever waits for another.
    """
    count = (columns + (ports - 1 - port)) >> (ports.bit_length() - 1)
    return Mux(count == 0, 1, count), count == 0


def _last_after_turn(one_hot):
    """The last bit of a one-hot value after `rotate_left(1)`."""
    return one_hot[-2] if len(one_hot) > 1 else one_hot[0]


class Requester(Component):
    """Asks the memory for a port's part of every tile in fetch order, as soon as the ring has room for the tile.

    A row tile is one request, a column tile one request per output pixel and run of its window: the window is
    walked in the activations themselves, so no im2col copy exists.

    Members
    -------
    lhs_free, rhs_free: strobes, a tile's entries have become free; ``lhs_free_entries`` is how many a row tile had.
    tile: the tiles, in the cycle before their first request; one waits for ``tile.ready``, which must be right two
        cycles after a transfer.
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
                "lhs_free_entries": In(entries_bits(accelerator)),
                "rhs_free": In(1),
                "request": READ_CHANNEL.members["request"],
                "tile": Out(stream.Signature(tile_layout(accelerator))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr, port = self.instruction, self._port
        array, buffers, ports = self._accelerator.array, self._accelerator.buffers, self._accelerator.memory.ports
        m.submodules.order = order = FetchOrder(self._accelerator)
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
            change = Signal(entries_bits(self._accelerator), name=f"{side}_change", reset_less=True)
            free = room[side] = Signal.like(change, name=f"{side}_room", init=depth[side])
            takes = begin & (order.is_lhs if side == "lhs" else ~order.is_lhs)
            m.d.sync += change.eq(Mux(strobe, entries, 0) - Mux(takes, size[side], 0))
            m.d.sync += free.eq(free + change)
            with m.If(self.start):
                m.d.sync += [free.eq(depth[side]), change.eq(0)]
        m.d.sync += fits.eq(Mux(order.is_lhs, room["lhs"], room["rhs"]) >= Mux(order.is_lhs, size["lhs"], size["rhs"]))
        m.d.sync += may_begin.eq(started & fits & self.tile.ready & ~(begin | began | looking | order.done))
        m.d.comb += begin.eq(may_begin & ~request.valid)

        # Of the next tile: sums of two terms, each a cycle behind the one before, ready when it may begin.
        own_columns = Signal.like(order.columns)
        none_valid, one_column = Signal(), Signal()
        tile_words = Signal(LENGTH_BITS)
        row_tile, row_part, row_after = (Signal(ADDRESS_BITS, name=n) for n in ("row_tile", "row_part", "row_after"))
        count, none = _columns_of_port(order.columns, port, ports)
        lanes = self._accelerator.lanes
        one_entry, one_window_word = Signal(), Signal()
        m.d.sync += [
            one_entry.eq(order.lhs_entries == 1),
            one_window_word.eq((instr.activation_bits == 1) & (instr.window_words == 1)),
            own_columns.eq(count),
            one_column.eq(count == 1),
            none_valid.eq(none),
            tile_words.eq(order.lhs_entries * (array.dm // ports * lanes)),
            row_part.eq(row_tile + port * tile_words),
            row_after.eq(row_tile + ports * tile_words),
        ]
        m.d.comb += [
            self.tile.valid.eq(begin),
            self.tile.payload.is_lhs.eq(order.is_lhs),
            self.tile.payload.one_entry.eq(one_entry),
            self.tile.payload.one_word.eq(
                Mux(order.is_lhs, one_entry & (array.dm == ports) & (lanes == 1), one_column & one_window_word)
            ),
            self.tile.payload.entries.eq(order.lhs_entries),
            self.tile.payload.columns.eq(own_columns),
        ]

        # Of the current request: it ends a row of the window, the window (in a column tile), the tile.
        window_row = Signal(ADDRESS_BITS)
        runs = Countdown("runs", 8)
        kernel_rows = Countdown("kernel_rows", 8)
        columns = Countdown("columns", len(own_columns))
        one_run, one_row = Signal(), Signal()
        window_ends, tile_ends = Signal(), Signal()
        m.d.sync += [one_run.eq(instr.row_runs == 1), one_row.eq(instr.kernel_rows == 1)]
        next_rows_last = Mux(runs.last, kernel_rows.last_after_step(one_row), kernel_rows.last)
        next_window_ends = runs.last_after_step(one_run) & next_rows_last
        next_columns_last = Mux(window_ends, columns.left == 2, columns.last)
        m.d.comb += [
            accepted.eq(request.valid & request.ready),
            column_end.eq(accepted & window_ends),
            tile_end.eq(accepted & tile_ends),
            walk.step.eq(column_end),
        ]
        with m.If(accepted):
            m.d.sync += [window_ends.eq(next_window_ends), tile_ends.eq(next_window_ends & next_columns_last)]
            m.d.sync += [*runs.step(), request.payload.address.eq(request.payload.address + instr.run_step)]
            with m.If(runs.last):
                m.d.sync += [*runs.begin(instr.row_runs), *kernel_rows.step()]
                m.d.sync += [a.eq(window_row + instr.window_row_step) for a in (window_row, request.payload.address)]
        with m.If(column_end):
            m.d.sync += [*kernel_rows.begin(instr.kernel_rows), *columns.step()]
            m.d.sync += [a.eq(walk.next_address) for a in (window_row, request.payload.address)]
        with m.If(tile_end):
            m.d.sync += request.valid.eq(0)
        with m.If(begin):
            m.d.sync += [
                request.valid.eq(1),
                *runs.begin(instr.row_runs),
                *kernel_rows.begin(instr.kernel_rows),
                *columns.begin(own_columns),
            ]
            with m.If(order.is_lhs):
                m.d.sync += [
                    request.payload.address.eq(row_part),
                    request.payload.words.eq(tile_words),
                    row_tile.eq(Mux(order.last_row_tile, instr.lhs_base, row_after)),
                    window_ends.eq(0),
                    tile_ends.eq(1),
                ]
            with m.Else():
                window = Mux(none_valid, instr.port_0_start, walk.address)
                m.d.sync += [a.eq(window) for a in (window_row, request.payload.address)]
                m.d.sync += [
                    request.payload.words.eq(instr.run_words),
                    window_ends.eq(one_run & one_row),
                    tile_ends.eq(one_run & one_row & one_column),
                ]
        with m.If(self.start):
            m.d.sync += row_tile.eq(instr.lhs_base)
        return m


class Writer(Component):
    """Puts the words that come back, in fetch order, where the array reads them.

    A row tile comes as [row][entry][lane], a column tile as [column][tap][channel word][plane]. Where the array takes
    activation planes side by side, they lie so in an entry, sign-extended to all of its planes.

    Members
    -------
    tile: the tiles in the order of their words; each must come before its first word.
    lhs_write, rhs_write: to the port's rows and columns of the operand buffers, registered.
    lhs_ready, rhs_ready: strobes, the port's part of one tile is complete.
    busy: words of a tile are still to come.

    Latency: one cycle from a word to its buffer write; `hardware.timing.WORD_TO_READY` from a tile's last
    word until the execute stage may start on it. Throughput: one word per cycle.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        array, buffers, ports = accelerator.array, accelerator.buffers, accelerator.memory.ports
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "word": READ_CHANNEL.members["word"],
                "tile": In(stream.Signature(tile_layout(accelerator))),
                "lhs_write": Out(buffer_write(array.dm // ports, buffers.lhs_entries, accelerator.lanes)),
                "rhs_write": Out(
                    buffer_write(array.dn // ports, buffers.rhs_entries, accelerator.lanes * accelerator.planes)
                ),
                "lhs_ready": Out(1),
                "rhs_ready": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr, accelerator, lanes = self.instruction, self._accelerator, self._accelerator.lanes
        m.d.comb += self.word.ready.eq(1)
        m.d.sync += [
            self.lhs_write.select.eq(0),
            self.rhs_write.select.eq(0),
            self.lhs_ready.eq(0),
            self.rhs_ready.eq(0),
        ]

        tile = Signal(tile_layout(accelerator))
        tile_end = Signal()
        last_word = Signal()  # the next word is the tile's last
        m.d.comb += [tile_end.eq(self.word.valid & last_word), self.tile.ready.eq(tile_end | ~self.busy)]
        with m.If(self.tile.ready):
            m.d.sync += [self.busy.eq(self.tile.valid), tile.eq(self.tile.payload)]

        lhs_base = Signal(
            range(accelerator.buffers.lhs_entries), reset_less=True
        )  # rings wrap by dropping address bits
        lhs_entry = Signal.like(lhs_base)
        rhs_base, rhs_first, rhs_entry = (
            Signal(range(accelerator.buffers.rhs_entries), name=f"rhs_{n}", reset_less=True)
            for n in ("base", "first", "entry")
        )
        lhs_select = Signal(self.lhs_write.select.shape(), init=1)
        rhs_select = Signal(self.rhs_write.select.shape(), init=1)
        lhs_lane, rhs_lane = (Signal(lanes, name=f"{n}_lane", init=1) for n in ("lhs", "rhs"))
        entries = Countdown("entries", entries_bits(accelerator))
        planes = Countdown("planes", 4)
        positions = Countdown("positions", (accelerator.buffers.rhs_entries * lanes).bit_length())
        columns = Countdown("columns", columns_bits(accelerator))

        plane_count = C(1, 4) if accelerator.traits.packed else instr.activation_bits
        # Ends are announced a word ahead, as far as they can: what follows them hangs on one register.
        one_plane, one_position = Signal(), Signal()
        m.d.sync += [
            one_plane.eq(plane_count == 1),
            one_position.eq(instr.window_words == 1),
        ]
        entries_last = Mux(lhs_lane[-1], entries.last_after_step(tile.one_entry), entries.last)
        rows_last = Mux(lhs_lane[-1] & entries.last, _last_after_turn(lhs_select), lhs_select[-1])
        lhs_last = _last_after_turn(lhs_lane) & entries_last & rows_last
        positions_last = Mux(planes.last, positions.last_after_step(one_position), positions.last)
        columns_last = Mux(planes.last & positions.last, columns.left == 2, columns.last)
        rhs_last = planes.last_after_step(one_plane) & positions_last & columns_last
        with m.If(self.word.valid):
            m.d.sync += last_word.eq(Mux(tile.is_lhs, lhs_last, rhs_last))
        with m.If(self.tile.ready):
            m.d.sync += last_word.eq(self.tile.payload.one_word)

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
                        m.d.sync += [self.lhs_ready.eq(1), lhs_base.eq(lhs_entry + 1)]
                    with m.Else():
                        m.d.sync += lhs_entry.eq(lhs_base)
        with m.If(self.word.valid & ~tile.is_lhs):
            lane = rhs_lane
            if accelerator.planes > 1:  # side by side; the top plane again in those that the activations lack
                of_plane = Signal(accelerator.planes, init=1)
                beyond = planes.last & instr.signed_activations
                written = [of_plane[p] | (of_plane[:p].any() & beyond) for p in range(accelerator.planes)]
                lane = Cat(rhs_lane & plane.replicate(lanes) for plane in written)
                m.d.sync += of_plane.eq(Mux(planes.last, 1, of_plane << 1))
            m.d.sync += [
                self.rhs_write.select.eq(rhs_select),
                self.rhs_write.entry.eq(rhs_entry),
                self.rhs_write.lane.eq(lane),
                self.rhs_write.word.eq(self.word.payload),
                *([rhs_entry.eq(rhs_entry + instr.chunks)] if accelerator.planes == 1 else []),
                *planes.step(),
            ]
            with m.If(planes.last):
                next_first = rhs_first + rhs_lane[-1]
                m.d.sync += [*planes.begin(plane_count), *positions.step()]
                m.d.sync += [rhs_lane.eq(rhs_lane.rotate_left(1)), rhs_first.eq(next_first), rhs_entry.eq(next_first)]
                with m.If(positions.last):
                    m.d.sync += [*positions.begin(instr.window_words), *columns.step()]
                    m.d.sync += [rhs_lane.eq(1), rhs_select.eq(rhs_select.rotate_left(1))]
                    m.d.sync += [rhs_first.eq(rhs_base), rhs_entry.eq(rhs_base)]
                    with m.If(columns.last):
                        next_base = rhs_base + instr.rhs_tile_entries
                        m.d.sync += [self.rhs_ready.eq(1), rhs_select.eq(1)]
                        m.d.sync += [a.eq(next_base) for a in (rhs_base, rhs_first, rhs_entry)]
        with m.If(self.tile.ready):
            m.d.sync += [*entries.begin(self.tile.payload.entries), *columns.begin(self.tile.payload.columns)]
        with m.If(self.start):
            m.d.sync += [a.eq(0) for a in (lhs_base, lhs_entry, rhs_base, rhs_first, rhs_entry)]
            m.d.sync += [*planes.begin(plane_count), *positions.begin(instr.window_words)]
        return m


class Fetch(Component):
    """The fetch stage of one port: a `Requester` runs ahead of a `Writer`.

    The memory's latency lies between them, and a queue of `hardware.timing.TILE_QUEUE` tiles.
    """

    def __init__(self, accelerator: Accelerator, port: int):
        self._requester, self._writer = Requester(accelerator, port), Writer(accelerator)
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "lhs_free": In(1),
                "lhs_free_entries": In(entries_bits(accelerator)),
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
        width = len(requester.tile.payload.as_value())
        m.submodules.tiles = tiles = fifo.SyncFIFOBuffered(width=width, depth=TILE_QUEUE)
        m.d.comb += [
            tiles.w_data.eq(requester.tile.payload),
            tiles.w_en.eq(requester.tile.valid),
            requester.tile.ready.eq(tiles.w_rdy),
            writer.tile.payload.eq(tiles.r_data),
            writer.tile.valid.eq(tiles.r_rdy),
            tiles.r_en.eq(writer.tile.ready),
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
            self.busy.eq(requester.busy | writer.busy | (tiles.level != 0)),
        ]
        return m
