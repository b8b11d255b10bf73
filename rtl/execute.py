"""Execute: takes tiles from fetch and issues their steps, one per cycle and without a gap between tiles."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hardware.accelerator import Accelerator
from hardware.instruction import OPCODE_MATRIX
from rtl.array import STEP
from rtl.countdown import Countdown
from rtl.interface import INSTRUCTION, entries_bits
from rtl.order import TileOrder
from rtl.packed_steps import PARTS, PackedSteps
from rtl.vector import VectorSteps, vector_step

PLACE = data.StructLayout({"columns": 8, "plane_columns": 8, "last_in_group": 1, "last_row_tile": 1, "last": 1})
"""Where sums belong: valid columns; columns that have all their channels with these sums, for the bit planes; whether
they end a group of column tiles, a column tile's row tiles, the instruction."""


class MatrixSteps(Component):
    """The steps of one output tile.

    Bit planes are taken by anti-diagonals from (most, most) to (least, least) significant, all chunks of a plane pair
    in a row (activation planes that are taken side by side are as one); the first step of a diagonal doubles the sum
    (Horner), so no shifter is needed. A tile of a new row tile ends with a step that reads the kernels' constants, a
    tile of pruned kernels consists of no more: their multipliers are 0, so the sums that are left do not matter. Weight
    plane 0 meets every activation plane once, most significant first: there the column counters take part.

    Members
    -------
    load: a tile begins in the next cycle: its row tile has ``bits`` and ``entries``, and ``constants`` are to be read;
        these three must have been stable for a cycle.
    advance: the current step is taken.
    lhs_offset, rhs_offset: the step's entries, counted from the tile's.
    step, last: the step; it is the tile's last one. next_last: what ``last`` becomes if no tile begins.
    first_last: what it becomes if one does.
    reads_constants_now: the step is the one that reads the constants.
    """

    def __init__(self, accelerator: Accelerator):
        self._bits = bits = entries_bits(accelerator)
        self._side_by_side = accelerator.planes > 1
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
        rhs_planes, rhs_signed = instr.activation_bits, instr.signed_activations
        if self._side_by_side:  # one step takes them all, and the array knows of their sign
            rhs_planes, rhs_signed = C(1, 4), C(0, 1)
        # `*_first` is where the diagonal starts, `*_plane` where the pair lies; offsets are plane * chunks.
        lhs_plane, rhs_plane, lhs_first, rhs_first = (
            Signal(4, name=n, reset_less=True) for n in ("lhs_plane", "rhs_plane", "lhs_first", "rhs_first")
        )
        lhs_offset, rhs_offset, lhs_first_offset, rhs_first_offset = (
            Signal(bits, name=f"{n}_offset", reset_less=True) for n in ("lhs", "rhs", "lhs_first", "rhs_first")
        )
        top_lhs = Signal(4)
        top_rhs = Signal(4)
        chunk = Signal(bits, reset_less=True)
        first_step, columns_new, diagonal_start, reads_constants, products_done = (
            Signal(name=n) for n in ("first_step", "columns_new", "diagonal_start", "reads_constants", "products_done")
        )
        # Ends are announced by registers, so that no decision waits for a comparison.
        chunks = Countdown("chunks", bits)
        final_pair = Signal()
        next_final_pair = Signal()
        last = Signal()
        last_pair = Signal()
        last_product = Signal()
        one_chunk = Signal()
        next_last_chunk = Signal()
        next_constants = Signal()
        rhs_last = Signal(bits)
        # entries that hold bit planes; behind them lie the constants
        products = Signal(bits, reset_less=True)
        next_products = Signal(bits)
        m.d.comb += [
            last_pair.eq((lhs_plane == 0) | (rhs_plane == top_rhs)),
            last_product.eq(chunks.last & final_pair),
            next_last_chunk.eq(chunks.last_after_step(one_chunk)),
            next_final_pair.eq(Mux(chunks.last & last_pair, (lhs_first + rhs_first) == 1, final_pair)),
            self.lhs_offset.eq(lhs_offset + chunk),
            self.rhs_offset.eq(rhs_offset + chunk),
            self.step.clear.eq(first_step),
            self.step.shift.eq(diagonal_start & ~products_done),
            self.step.negate.eq(
                (instr.signed_weights & (lhs_plane == top_lhs)) ^ (rhs_signed & (rhs_plane == top_rhs))
            ),
            self.step.idle.eq(products_done),
            self.step.count.eq(lhs_plane == 0),
            self.step.column_clear.eq(columns_new),
            self.step.column_shift.eq(chunk == 0),
            self.step.column_negate.eq(rhs_signed & (rhs_plane == top_rhs)),
            self.last.eq(last),
            self.next_last.eq(last),
            self.step.last.eq(last),
            self.reads_constants_now.eq(products_done & reads_constants),
        ]
        with m.If(self.advance):
            m.d.sync += [first_step.eq(0), diagonal_start.eq(0), chunk.eq(chunk + 1)]
            m.d.sync += [*chunks.step(), final_pair.eq(next_final_pair)]
            m.d.comb += self.next_last.eq(last_product | (next_last_chunk & next_final_pair & ~reads_constants))
            with m.If(lhs_plane == 0):
                m.d.sync += columns_new.eq(0)
            with m.If(last_product):
                m.d.sync += [products_done.eq(1), chunk.eq(0)]
                m.d.sync += lhs_offset.eq(products)
            with m.Elif(chunks.last):
                m.d.sync += [chunk.eq(0), *chunks.begin(instr.chunks)]
                with m.If(~last_pair):
                    m.d.sync += [
                        lhs_plane.eq(lhs_plane - 1),
                        rhs_plane.eq(rhs_plane + 1),
                        lhs_offset.eq(lhs_offset - instr.chunks),
                        rhs_offset.eq(rhs_offset + instr.chunks),
                    ]
                with m.Else():
                    m.d.sync += diagonal_start.eq(1)
                    with m.If(rhs_first != 0):  # next diagonal starts at (top, one lower) ...
                        m.d.sync += [
                            rhs_first.eq(rhs_first - 1),
                            rhs_first_offset.eq(rhs_first_offset - instr.chunks),
                            lhs_plane.eq(lhs_first),
                            lhs_offset.eq(lhs_first_offset),
                            rhs_plane.eq(rhs_first - 1),
                            rhs_offset.eq(rhs_first_offset - instr.chunks),
                        ]
                    with m.Else():  # ... or, once that is 0, at (one lower, 0)
                        m.d.sync += [
                            lhs_first.eq(lhs_first - 1),
                            lhs_first_offset.eq(lhs_first_offset - instr.chunks),
                            lhs_plane.eq(lhs_first - 1),
                            lhs_offset.eq(lhs_first_offset - instr.chunks),
                            rhs_plane.eq(rhs_first),
                            rhs_offset.eq(rhs_first_offset),
                        ]
        # What the next tile begins with.
        next_top, next_first, next_one_pair, next_short, next_empty = (
            Signal(shape, name=f"next_{name}")
            for shape, name in ((4, "top"), (bits, "first"), (1, "one_pair"), (1, "short"), (1, "empty"))
        )
        has_constants = Signal()
        behind_first = Signal(bits)  # entries behind a kernel's first bit plane
        m.d.sync += [
            last.eq(Mux(self.load, self.first_last, self.next_last)),
            one_chunk.eq(instr.chunks == 1),
            has_constants.eq(~instr.write_sums),
            behind_first.eq(instr.chunks + ~instr.write_sums),
        ]
        m.d.comb += self.first_last.eq(next_short)
        one_pair = (self.bits == 1) & (rhs_planes == 1)
        m.d.sync += [
            next_products.eq(self.entries - has_constants),
            next_top.eq(self.bits - 1),
            next_first.eq(self.entries - behind_first),
            rhs_last.eq(instr.rhs_tile_entries - instr.chunks),
            next_one_pair.eq(one_pair),
            next_short.eq((self.bits == 0) | ((instr.chunks == 1) & one_pair & ~self.constants)),
            next_empty.eq(self.bits == 0),
            next_constants.eq(self.constants),
            top_rhs.eq(rhs_planes - 1),
        ]
        with m.If(self.load):
            m.d.sync += [
                products.eq(next_products),
                chunk.eq(0),
                *chunks.begin(instr.chunks),
                final_pair.eq(next_one_pair),
                *(a.eq(next_top) for a in (lhs_plane, lhs_first, top_lhs)),
                *(a.eq(top_rhs) for a in (rhs_plane, rhs_first)),
                *(a.eq(next_first) for a in (lhs_offset, lhs_first_offset)),
                *(a.eq(rhs_last) for a in (rhs_offset, rhs_first_offset)),
                first_step.eq(1),
                columns_new.eq(1),
                diagonal_start.eq(1),
                reads_constants.eq(next_constants),
                products_done.eq(next_empty),
            ]
            with m.If(next_empty):
                m.d.sync += lhs_offset.eq(0)
        return m


class Execute(Component):
    """Takes tiles as they become ready, issues their steps and says where the sums belong.

    Members
    -------
    lhs_ready, rhs_ready: strobes from fetch, one per port: its part of one more tile lies in the buffer.
    lhs_free, rhs_free: strobes to fetch, a tile has been read for the last time; ``lhs_free_entries`` is its size.
    result_free: strobe from result, its registers may be overwritten.
    lhs_entry, rhs_entry, step, step_valid: to the buffers and the array.
    parts: of packed operands' entries, see `rtl.packed_steps.PARTS`.
    vector_step, vector_valid: to the vector unit.
    constants: the step reads constants.
    place: where the sums of the step that was last marked ``last`` (``done``) belong.
    busy: tiles are left. has_tile: one is being worked on.

    Latency: `hardware.timing.READY_TO_STEP` from a tile being ready to its first step being taken, `ISSUE_LATENCY` from
    there to the outputs. Throughput: one step per cycle, see `hardware.schedule.Pass.steps`. The last step of a tile
    waits until the result registers are free.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        buffers, ports = accelerator.buffers, accelerator.memory.ports
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "lhs_ready": In(ports),
                "rhs_ready": In(ports),
                "lhs_free": Out(1),
                "lhs_free_entries": Out(entries_bits(accelerator)),
                "rhs_free": Out(1),
                "result_free": In(1),
                "lhs_entry": Out(range(buffers.lhs_entries)),
                "rhs_entry": Out(range(buffers.rhs_entries)),
                "step": Out(STEP),
                "step_valid": Out(1),
                **({"parts": Out(PARTS)} if accelerator.traits.packed else {}),
                "constants": Out(1),
                "vector_step": Out(vector_step(accelerator)),
                "vector_valid": Out(1),
                "place": Out(PLACE),
                "busy": Out(1),
                "has_tile": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr, accelerator = self.instruction, self._accelerator
        m.submodules.order = order = TileOrder(accelerator)  # the next tile, while the current one runs
        m.submodules.matrix = matrix = (PackedSteps if accelerator.traits.packed else MatrixSteps)(accelerator)
        m.submodules.vector = vector = VectorSteps(accelerator)
        is_matrix = Signal()
        for unit in (order, matrix, vector):
            m.d.comb += unit.instruction.eq(instr)
        m.d.comb += order.load.eq(self.start)
        m.d.sync += is_matrix.eq(instr.opcode == OPCODE_MATRIX)

        running = Signal()
        pending = Signal()
        dispatch = Signal()
        advance = Signal()
        tile_end = Signal()
        # Of the current step: it completes sums, it is the tile's last, it may be taken as far as the result registers
        # are concerned. All known a cycle ahead, because everything in this stage hangs on them.
        sums_end, last_step, may = Signal(), Signal(), Signal(init=1)
        next_free = Signal()
        registers_free = Signal(init=1)
        # Without and with a tile that begins; which of them it is, is known last.
        next_sums_end = Mux(is_matrix, matrix.next_last, vector.next_done)
        first_sums_end = Mux(is_matrix, matrix.first_last, vector.first_done)
        m.d.sync += [
            sums_end.eq(Mux(dispatch, first_sums_end, next_sums_end)),
            last_step.eq(
                Mux(
                    dispatch,
                    Mux(is_matrix, matrix.first_last, vector.first_last),
                    Mux(is_matrix, matrix.next_last, vector.next_last),
                )
            ),
            registers_free.eq(next_free),
            may.eq(Mux(dispatch, ~first_sums_end | next_free, ~next_sums_end | next_free)),
        ]
        m.d.comb += [
            next_free.eq((registers_free | self.result_free) & ~(advance & sums_end)),
            advance.eq(running & may),
            tile_end.eq(advance & last_step),
            self.busy.eq(running | pending),
            self.has_tile.eq(running),
        ]

        # Tokens: parts of tiles that lie in the buffers and have not been taken. The order goes on a cycle after a
        # dispatch, they are counted a cycle later, and a register says whether the next tile is all there: a tile's end
        # waits for none of this.
        dispatched = Signal()
        counted = Signal()
        ready = Signal()
        m.d.sync += [dispatched.eq(dispatch), counted.eq(dispatched)]
        needs = {
            "lhs": is_matrix & order.first_in_group & (order.first_group | ~instr.lhs_resident),
            "rhs": order.first_row_tile,
        }
        missing = []
        for side, arrived in (("lhs", self.lhs_ready), ("rhs", self.rhs_ready)):
            taken = Signal(name=f"{side}_taken")
            m.d.sync += taken.eq(dispatched & needs[side])
            for port, strobe in enumerate(arrived):
                tiles = Signal(entries_bits(accelerator), name=f"{side}_tiles_{port}")
                m.d.sync += tiles.eq(tiles + strobe - taken)
                missing.append(needs[side] & (tiles == 0))
        m.d.sync += ready.eq(pending & ~(dispatch | dispatched | counted) & ~Cat(missing).any())
        m.d.comb += [order.step.eq(dispatched), dispatch.eq(ready & (~running | tile_end))]

        self._rings(m, order, dispatch, is_matrix, matrix.lhs_offset, Mux(is_matrix, matrix.rhs_offset, vector.offset))
        columns, entries = Signal.like(order.columns), Signal.like(order.entries)
        last_in_group = Signal()
        last_row_tile = Signal()
        last = Signal()
        with m.If(tile_end):
            m.d.sync += running.eq(0)
        with m.If(dispatch):
            m.d.sync += [
                running.eq(1),
                pending.eq(~order.last),
                columns.eq(order.columns),
                last_in_group.eq(order.last_in_group),
                last_row_tile.eq(order.last_row_tile),
                last.eq(order.last),
                entries.eq(order.entries),
            ]
        with m.If(self.start):
            m.d.sync += pending.eq(1)
        m.d.comb += [
            matrix.load.eq(dispatch),
            matrix.bits.eq(order.bits),
            matrix.entries.eq(order.entries),
            matrix.constants.eq(~instr.write_sums & order.first_in_group),
            matrix.advance.eq(advance),
            vector.load.eq(dispatch),
            vector.columns.eq(order.columns),
            vector.advance.eq(advance),
        ]
        m.d.sync += [
            self.step.eq(matrix.step),
            self.step_valid.eq(advance & is_matrix),
            self.constants.eq(advance & is_matrix & matrix.reads_constants_now),
            self.vector_step.eq(vector.step),
            self.vector_valid.eq(advance & ~is_matrix),
            self.lhs_free.eq(tile_end & is_matrix & last_in_group & ~instr.lhs_resident),
            self.lhs_free_entries.eq(entries),
            self.rhs_free.eq(tile_end & last_row_tile),
        ]
        if accelerator.traits.packed:
            m.d.sync += self.parts.eq(matrix.parts)
        with m.If(advance & sums_end):
            with m.If(is_matrix):
                m.d.sync += [
                    self.place.columns.eq(columns),
                    self.place.plane_columns.eq(Mux(last_row_tile, columns, 0)),
                    self.place.last_in_group.eq(last_in_group),
                    self.place.last_row_tile.eq(last_row_tile),
                    self.place.last.eq(last),
                ]
            with m.Else():
                m.d.sync += [
                    self.place.columns.eq(1),
                    self.place.plane_columns.eq(Mux(vector.last, columns, 0)),
                    self.place.last_in_group.eq(1),
                    self.place.last_row_tile.eq(vector.last_group),
                    self.place.last.eq(last & vector.last),
                ]
        return m

    def _rings(self, m, order, dispatch, is_matrix, lhs_offset, rhs_offset):
        """Where the current tile lies in the rings, and where the next one does."""
        instr, buffers = self.instruction, self._accelerator.buffers
        lhs, lhs_next = (Signal(range(buffers.lhs_entries), name=n, reset_less=True) for n in ("lhs_base", "lhs_next"))
        rhs, rhs_next, rhs_group = (
            Signal(range(buffers.rhs_entries), name=n, reset_less=True) for n in ("rhs_base", "rhs_next", "rhs_group")
        )
        rhs_after = Signal.like(rhs)
        m.d.sync += [self.lhs_entry.eq(lhs + lhs_offset), self.rhs_entry.eq(rhs + rhs_offset)]
        m.d.comb += rhs_after.eq(rhs_next + instr.rhs_tile_entries)
        with m.If(dispatch):
            m.d.sync += [lhs.eq(lhs_next), rhs.eq(rhs_next), rhs_next.eq(rhs_after)]
            with m.If(order.last_in_group):
                m.d.sync += lhs_next.eq(lhs_next + order.entries)
                with m.If(~order.last_row_tile):
                    m.d.sync += rhs_next.eq(rhs_group)
                with m.Else():
                    m.d.sync += rhs_group.eq(rhs_after)
                    with m.If(instr.lhs_resident):  # the resident ring starts over at row tile 0
                        m.d.sync += lhs_next.eq(0)
        with m.If(self.start):
            m.d.sync += [lhs_next.eq(0), rhs_next.eq(0), rhs_group.eq(0)]
