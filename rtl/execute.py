"""Execute: walks bit planes and chunks, one array step per cycle."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hardware.accelerator import Accelerator
from rtl.array import STEP
from rtl.interface import INSTRUCTION
from rtl.order import TileOrder


class Execute(Component):
    """Issues the array steps of every output tile.

    Bit planes are taken by anti-diagonals from (most, most) to (least, least) significant, all chunks of a
    plane pair in a row; the first step of a diagonal doubles the sum (Horner), so no shifter is needed.

    Members
    -------
    lhs_ready, rhs_ready: strobes from fetch, one more tile lies in the buffer.
    lhs_free, rhs_free: strobes to fetch, one slot has been read for the last time.
    result_free: strobe from result, its registers may be overwritten.
    lhs_entry, rhs_entry, step, step_valid: to the buffers and the array.

    Latency: `hardware.timing.DISPATCH` cycle per tile to take its tokens, then its first step.
    Throughput: one step per cycle; ``weight_bits * activation_bits * chunks`` steps per tile. The last step
    waits until the result registers are free.
    """

    def __init__(self, accelerator: Accelerator):
        buffers = accelerator.buffers
        self._dn = accelerator.array.dn
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "lhs_ready": In(1),
                "rhs_ready": In(1),
                "lhs_free": Out(1),
                "rhs_free": Out(1),
                "result_free": In(1),
                "lhs_entry": Out(range(buffers.lhs_entries)),
                "rhs_entry": Out(range(buffers.rhs_entries)),
                "step": Out(STEP),
                "step_valid": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        m.submodules.order = order = TileOrder(self._dn)
        m.d.comb += [order.instruction.eq(instr), order.load.eq(self.start)]

        ready = {}
        for side, arrived in (("lhs", self.lhs_ready), ("rhs", self.rhs_ready)):
            tiles, taken = Signal(16, name=f"{side}_tiles_ready"), Signal(name=f"{side}_tile_taken")
            m.d.sync += tiles.eq(tiles + arrived - taken)
            ready[side] = (tiles, taken)
        registers_free = Signal(init=1)
        with m.If(self.result_free):
            m.d.sync += registers_free.eq(1)

        # Slots: the row tile's, the column tile's, and the slot where the group's first column tile lies.
        lhs_slot, rhs_slot, group_slot = (Signal(16, name=f"{n}_slot") for n in ("lhs", "rhs", "group"))
        lhs_base, rhs_base, group_base = (Signal(16, name=f"{n}_base") for n in ("lhs", "rhs", "group"))

        # Steps within the tile. `*_first` is where the diagonal starts, `*_plane` where the pair starts.
        chunk, lhs_plane, rhs_plane = Signal(16), Signal(4), Signal(4)
        lhs_first, rhs_first = Signal(4), Signal(4)
        lhs_offset, rhs_offset, lhs_first_offset, rhs_first_offset = (
            Signal(16, name=f"{n}_offset") for n in ("lhs", "rhs", "lhs_first", "rhs_first")
        )
        top_lhs, top_rhs = Signal(4), Signal(4)
        first_step, diagonal_start = Signal(), Signal()
        last_chunk, last_pair, last_step = Signal(), Signal(), Signal()
        m.d.comb += [
            top_lhs.eq(instr.weight_bits - 1),
            top_rhs.eq(instr.activation_bits - 1),
            last_chunk.eq(chunk == instr.chunks - 1),
            last_pair.eq((lhs_plane == 0) | (rhs_plane == top_rhs)),
            last_step.eq(last_chunk & (lhs_plane == 0) & (rhs_plane == 0)),
            self.lhs_entry.eq(lhs_base + lhs_offset + chunk),
            self.rhs_entry.eq(rhs_base + rhs_offset + chunk),
            self.step.clear.eq(first_step),
            self.step.shift.eq(diagonal_start),
            self.step.negate.eq(
                (instr.signed_weights & (lhs_plane == top_lhs)) ^ (instr.signed_activations & (rhs_plane == top_rhs))
            ),
            self.step.last.eq(last_step),
        ]

        needs_lhs, needs_rhs = Signal(), Signal()
        m.d.comb += [
            needs_lhs.eq(order.first_in_group & (order.first_group | ~instr.lhs_resident)),
            needs_rhs.eq(order.first_row_tile),
        ]
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [s.eq(0) for s in (lhs_slot, rhs_slot, group_slot, lhs_base, rhs_base, group_base)]
                m.next = "DISPATCH"
            with m.State("DISPATCH"):
                m.d.comb += self.busy.eq(1)
                m.d.sync += [
                    chunk.eq(0),
                    first_step.eq(1),
                    diagonal_start.eq(0),
                    lhs_plane.eq(top_lhs),
                    rhs_plane.eq(top_rhs),
                    lhs_first.eq(top_lhs),
                    rhs_first.eq(top_rhs),
                ]
                m.d.sync += [o.eq(instr.lhs_tile_entries - instr.chunks) for o in (lhs_offset, lhs_first_offset)]
                m.d.sync += [o.eq(instr.rhs_tile_entries - instr.chunks) for o in (rhs_offset, rhs_first_offset)]
                with m.If(~(needs_lhs & (ready["lhs"][0] == 0)) & ~(needs_rhs & (ready["rhs"][0] == 0))):
                    m.d.comb += [ready["lhs"][1].eq(needs_lhs), ready["rhs"][1].eq(needs_rhs)]
                    m.next = "STEP"
            with m.State("STEP"):
                m.d.comb += [self.busy.eq(1), self.step_valid.eq(~last_step | registers_free)]
                with m.If(self.step_valid):
                    m.d.sync += [first_step.eq(0), diagonal_start.eq(0), chunk.eq(chunk + 1)]
                    with m.If(last_chunk):
                        m.d.sync += chunk.eq(0)
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
                    with m.If(last_step):
                        m.d.comb += [
                            order.step.eq(1),
                            self.lhs_free.eq(order.last_in_group & ~instr.lhs_resident),
                            self.rhs_free.eq(order.last_row_tile),
                        ]
                        m.d.sync += registers_free.eq(0)
                        self._next_slots(m, order, (lhs_slot, lhs_base), (rhs_slot, rhs_base), (group_slot, group_base))
                        m.next = "DISPATCH"
                        with m.If(order.last):
                            m.next = "IDLE"
        return m

    def _next_slots(self, m, order, lhs, rhs, group):
        """Move to the next output tile's slots: along the group, then back to its start with the next row tile."""
        instr = self.instruction

        def following(slot, base, slots, entries):
            wrap = slot == slots - 1
            return Mux(wrap, 0, slot + 1), Mux(wrap, 0, base + entries)

        next_rhs = following(*rhs, instr.rhs_slots, instr.rhs_tile_entries)
        next_lhs = following(*lhs, instr.lhs_slots, instr.lhs_tile_entries)
        with m.If(~order.last_in_group):
            m.d.sync += [target.eq(value) for target, value in zip(rhs, next_rhs, strict=True)]
        with m.Else():
            m.d.sync += [target.eq(value) for target, value in zip(lhs, next_lhs, strict=True)]
            with m.If(~order.last_row_tile):
                m.d.sync += [target.eq(value) for target, value in zip(rhs, group, strict=True)]
            with m.Else():
                m.d.sync += [target.eq(value) for target, value in zip((*rhs, *group), next_rhs * 2, strict=True)]
                with m.If(instr.lhs_resident):  # the resident ring starts over at row tile 0
                    m.d.sync += [target.eq(0) for target in lhs]
