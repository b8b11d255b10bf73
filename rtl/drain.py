"""Drain: writes finished tiles to memory, one job after another."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, fifo
from amaranth.lib.wiring import Component, In, Out

from hardware.accelerator import Accelerator
from hardware.instruction import VALUE_LANES, WORD_BITS
from hardware.timing import PENDING_JOBS
from rtl.interface import ACCUMULATOR_BITS, ADDRESS_BITS, INSTRUCTION, WRITE_CHANNEL
from rtl.planes import ACTIVATION_BITS
from rtl.walk import PixelWalk, unit_stride

JOB = data.StructLayout({"columns": 8, "plane_columns": 8, "last_in_group": 1, "last_row_tile": 1, "last": 1})
"""Columns of raw sums or values, then columns of bit planes (none: 0), and the tile's place in the loop nest."""


class Drain(Component):
    """Reads the result buffers and offers one word after another.

    Members
    -------
    job, job_valid: one more tile will be complete; at most `hardware.timing.PENDING_JOBS` at a time.
    columns_ready, planes_ready: strobes, the first column (sums, values) or all bit planes of a job are in the buffer.
    job_done: strobe, its last word has been accepted; ``last``: it was the instruction's last.
    read_column, column: from the ring of columns, one cycle later.
    read_word, plane, masked, plane_data: from the plane buffer, see `rtl.planes.PlaneBuffer`.

    Latency: `hardware.timing.NEXT_JOB` between jobs. Throughput: one word per cycle.
    """

    def __init__(self, accelerator: Accelerator):
        self._array, self._plane_words = accelerator.array, accelerator.buffers.plane_words
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "job": In(JOB),
                "job_valid": In(1),
                "columns_ready": In(1),
                "planes_ready": In(1),
                "job_done": Out(1),
                "last": Out(1),
                "read_column": Out(range(1 << (PENDING_JOBS * self._array.dn - 1).bit_length())),
                "column": In(self._array.dm * ACCUMULATOR_BITS),
                "read_word": Out(range(self._plane_words)),
                "plane": Out(range(ACTIVATION_BITS)),
                "masked": Out(1),
                "plane_data": In(WORD_BITS),
                "word": WRITE_CHANNEL.members["word"],
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr, dm = self.instruction, self._array.dm
        m.submodules.jobs = jobs = fifo.SyncFIFO(width=JOB.size, depth=PENDING_JOBS)
        job = Signal(JOB)
        m.d.comb += [
            jobs.w_data.eq(self.job),
            jobs.w_en.eq(self.job_valid),
            jobs.r_en.eq(self.job_done),
            job.eq(jobs.r_data),
            self.last.eq(job.last),
        ]
        waiting = {}  # jobs whose data are there
        begin_columns, begin_planes = Signal(), Signal()
        for name, arrived, begun in (
            ("columns", self.columns_ready, begin_columns),
            ("planes", self.planes_ready, begin_planes),
        ):
            count = waiting[name] = Signal(range(PENDING_JOBS + 1), name=f"{name}_waiting")
            m.d.sync += count.eq(count + arrived - begun)

        m.submodules.pixels = pixels = PixelWalk()
        m.submodules.plane_pixels = plane_pixels = PixelWalk()
        for walk, prefix in ((pixels, "result"), (plane_pixels, "plane")):
            m.d.comb += [
                walk.stride.as_value().eq(unit_stride(instr, prefix)),
                walk.start.x.eq(0),
                walk.start.y.eq(0),
                walk.start.address.eq(instr[f"{prefix}_base"]),
                walk.load.eq(self.start),
            ]

        has_columns = instr.write_sums | instr.write_values
        column_words = Mux(instr.write_sums, dm // 2, max(1, dm // VALUE_LANES))
        address, row_offset, odd = Signal(ADDRESS_BITS), Signal(16), Signal()
        columns_left, word, channel_word = Signal(8), Signal(range(max(dm // 2, 2))), Signal(8)
        column_pointer, plane_pointer = Signal.like(self.read_column), Signal.like(self.read_word)
        next_column, next_word = Signal(), Signal()
        accepted, last_word = Signal(), Signal()
        words = Array(self.column[start : start + WORD_BITS] for start in range(0, len(self.column), WORD_BITS))
        m.d.comb += [
            accepted.eq(self.word.valid & self.word.ready),
            self.word.payload.address.eq(address),
            self.read_column.eq(column_pointer + next_column),
            self.read_word.eq(plane_pointer + next_word),
            last_word.eq(word == column_words - 1),
            self.masked.eq(channel_word == instr.plane_words - 1),
        ]
        m.d.sync += [column_pointer.eq(self.read_column), plane_pointer.eq(self.read_word)]

        with m.FSM():
            with m.State("IDLE"):
                with m.If(has_columns):
                    m.d.comb += begin_columns.eq(waiting["columns"] != 0)
                    m.d.sync += [address.eq(pixels.address + row_offset), columns_left.eq(job.columns)]
                    with m.If(begin_columns):
                        m.next = "COLUMNS"
                with m.Else():
                    m.d.comb += begin_planes.eq(waiting["planes"] != 0)
                    m.d.sync += [address.eq(plane_pixels.address), columns_left.eq(job.plane_columns)]
                    with m.If(begin_planes):
                        m.next = "PLANES"
            with m.State("PLANES WAIT"):
                m.d.comb += begin_planes.eq(waiting["planes"] != 0)
                m.d.sync += [address.eq(plane_pixels.address), columns_left.eq(job.plane_columns)]
                with m.If(begin_planes):
                    m.next = "PLANES"
            with m.State("COLUMNS"):
                m.d.comb += [
                    self.word.valid.eq(1),
                    self.word.payload.data.eq(words[word]),
                    self.word.payload.strobe.eq(~0),
                ]
                if dm < VALUE_LANES:  # two row tiles share a word of values
                    with m.If(instr.write_values):
                        m.d.comb += [
                            self.word.payload.data.eq(self.column[: WORD_BITS // 2].replicate(2)),
                            self.word.payload.strobe.eq(Mux(odd, 0xF0, 0x0F)),
                        ]
                with m.If(accepted):
                    m.d.sync += [word.eq(word + 1), address.eq(address + 1)]
                    with m.If(last_word):
                        m.d.comb += next_column.eq(1)
                        m.d.sync += [
                            word.eq(0),
                            columns_left.eq(columns_left - 1),
                            address.eq(pixels.next_address + row_offset),
                        ]
                        with m.If(columns_left != 1):
                            m.d.comb += pixels.step.eq(1)
                        with m.Else():
                            with m.If(job.last_in_group & ~job.last_row_tile):
                                m.d.comb += pixels.restore.eq(1)
                                self._next_rows(m, row_offset, odd, column_words)
                            with m.Else():
                                m.d.comb += [pixels.step.eq(1), pixels.save.eq(job.last_in_group)]
                                with m.If(job.last_in_group):
                                    m.d.sync += [row_offset.eq(0), odd.eq(0)]
                            with m.If(job.plane_columns != 0):
                                m.next = "PLANES WAIT"
                            with m.Else():
                                m.d.comb += self.job_done.eq(1)
                                m.next = "IDLE"
            with m.State("PLANES"):
                m.d.comb += [
                    self.word.valid.eq(1),
                    self.word.payload.data.eq(self.plane_data),
                    self.word.payload.strobe.eq(~0),
                ]
                with m.If(accepted):
                    m.d.sync += [self.plane.eq(self.plane + 1), address.eq(address + 1)]
                    with m.If(self.plane == instr.plane_bits - 1):
                        m.d.comb += next_word.eq(1)
                        m.d.sync += [self.plane.eq(0), channel_word.eq(channel_word + 1)]
                        with m.If(self.masked):
                            m.d.comb += plane_pixels.step.eq(1)
                            m.d.sync += [
                                channel_word.eq(0),
                                columns_left.eq(columns_left - 1),
                                address.eq(plane_pixels.next_address),
                            ]
                            with m.If(columns_left == 1):
                                m.d.comb += self.job_done.eq(1)
                                m.next = "IDLE"
        with m.If(self.start):
            m.d.sync += [a.eq(0) for a in (row_offset, odd, word, channel_word, self.plane)]
            m.d.sync += [column_pointer.eq(0), plane_pointer.eq(0)]
        return m

    def _next_rows(self, m, row_offset, odd, column_words) -> None:
        """Go to the next row tile's words of a pixel."""
        if self._array.dm < VALUE_LANES:
            m.d.sync += odd.eq(~odd)
            with m.If(self.instruction.write_values & ~odd):
                m.d.sync += row_offset.eq(row_offset)
            with m.Else():
                m.d.sync += row_offset.eq(row_offset + column_words)
        else:
            m.d.sync += row_offset.eq(row_offset + column_words)
