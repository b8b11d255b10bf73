"""Drain: writes finished tiles to memory, one job after another, run by run of consecutive words."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, fifo
from amaranth.lib.wiring import Component, In, Out

from hardware.accelerator import Accelerator
from hardware.instruction import VALUE_LANES, WORD_BITS
from hardware.timing import PENDING_JOBS, WRITE_QUEUE
from rtl.countdown import Countdown
from rtl.interface import ACCUMULATOR_BITS, ADDRESS_BITS, INSTRUCTION, WRITE_CHANNEL, WRITE_REQUEST, WRITE_WORD, part_of
from rtl.planes import ACTIVATION_BITS
from rtl.walk import PixelWalk, unit_stride

JOB = data.StructLayout({"columns": 8, "plane_columns": 8, "last_in_group": 1, "last_row_tile": 1, "last": 1})
"""Columns of raw sums or values, then columns of bit planes (none: 0), and the tile's place in the loop nest."""

PICK = data.StructLayout(
    {"valid": 1, "planes": 1, "word": 8, "plane": 3, "masked": 1, "odd": 1, "first": 1, "run": WRITE_REQUEST}
)
"""A word to be read: from the plane buffer or a column, which one, and the run that it may be the first of."""


class WriteQueue(Component):
    """Words on their way from the buffers to memory, `hardware.timing.WRITE_QUEUE` of them.

    Members
    -------
    pick: the word that is asked for in this cycle, if it is ``valid``; only if there is ``room``.
    room: another word may be asked for, whatever is already on its way. empty: none is.
    arriving: the word asked for three cycles ago. column, plane_data: its column or word of a plane, from the buffers.
    write_values: columns hold values, not sums.
    request, word: see `rtl.interface.WRITE_CHANNEL`.

    Latency: `hardware.timing.ISSUE_TO_WRITER` from asking the buffers to the word being offered, the first of a run
    after its request. Throughput: one word per cycle, also when every run is of one word.
    """

    def __init__(self, dm: int):
        self._dm = dm
        channel = {name: WRITE_CHANNEL.members[name] for name in ("request", "word")}
        super().__init__(
            {
                "pick": In(PICK),
                "room": Out(1, init=1),
                "empty": Out(1),
                "arriving": Out(PICK),
                "column": In(dm * ACCUMULATOR_BITS),
                "plane_data": In(WORD_BITS),
                "write_values": In(1),
                **channel,
            }
        )

    def elaborate(self, platform):
        m = Module()
        reading = Signal(PICK)
        read = Signal(PICK)
        pick = Signal(PICK)
        requests = m.submodules.requests = fifo.SyncFIFOBuffered(width=WRITE_REQUEST.size, depth=WRITE_QUEUE)
        words = m.submodules.words = fifo.SyncFIFOBuffered(width=WRITE_WORD.size, depth=WRITE_QUEUE)
        part = Signal(WORD_BITS)
        planes = Signal(WORD_BITS)
        chosen = Signal(WRITE_WORD)
        word = Signal(WRITE_WORD)
        valid = Signal()
        m.d.sync += [
            reading.eq(self.pick),
            read.eq(reading),
            self.arriving.eq(read),
            pick.eq(self.arriving),
            part.eq(part_of(self.column, self.arriving.word, WORD_BITS)),
            planes.eq(self.plane_data),
        ]
        m.d.comb += [chosen.data.eq(Mux(pick.planes, planes, part)), chosen.strobe.eq(~0)]
        if self._dm < VALUE_LANES:  # two row tiles share a word of values
            with m.If(self.write_values & ~pick.planes):
                m.d.comb += [
                    chosen.data.eq(part[: WORD_BITS // 2].replicate(2)),
                    chosen.strobe.eq(Mux(pick.odd, 0xF0, 0x0F)),
                ]
        m.d.sync += [word.eq(chosen), valid.eq(pick.valid)]

        # A request goes ahead of its words, and leaves before they do, so it finds room where they do.
        left = Signal(range(WRITE_QUEUE + 1), init=WRITE_QUEUE)
        popped = Signal()
        after = Signal.like(left)
        m.d.comb += [
            words.w_data.eq(word),
            words.w_en.eq(valid),
            requests.w_data.eq(reading.run),
            requests.w_en.eq(reading.valid & reading.first),
            self.word.payload.eq(words.r_data),
            self.word.valid.eq(words.r_rdy),
            words.r_en.eq(self.word.ready),
            self.request.payload.eq(requests.r_data),
            self.request.valid.eq(requests.r_rdy),
            requests.r_en.eq(self.request.ready),
            popped.eq(self.word.valid & self.word.ready),
            after.eq(left + popped - self.pick.valid),
            self.empty.eq(left == WRITE_QUEUE),
        ]
        m.d.sync += [left.eq(after), self.room.eq(after != 0)]
        return m


class Drain(Component):
    """Asks the result buffers for one word after another.

    Members
    -------
    job, job_valid: one more tile will be complete; at most `hardware.timing.PENDING_JOBS` at a time.
    columns_ready, planes_ready: strobes, the first column (sums, values) or all bit planes of a job are in the buffer.
    job_done: strobe, its last word has been asked for; ``last``: it was the instruction's last.
    empty: every word asked for has left.
    request, word: see `rtl.interface.WRITE_CHANNEL`: a run is one column's sums or values, or one pixel's bit planes.
    read_column, column: from the ring of columns, three cycles later.
    read_word: to the plane buffer; plane, masked, plane_data: three cycles later, see `rtl.planes.PlaneBuffer`.

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
                "empty": Out(1),
                "read_column": Out(range(1 << (PENDING_JOBS * self._array.dn - 1).bit_length())),
                "column": In(self._array.dm * ACCUMULATOR_BITS),
                "read_word": Out(range(self._plane_words)),
                "plane": Out(range(ACTIVATION_BITS)),
                "masked": Out(1),
                "plane_data": In(WORD_BITS),
                "request": WRITE_CHANNEL.members["request"],
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
        begin_columns = Signal()
        begin_planes = Signal()
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

        # Constants of the instruction.
        has_columns = Signal()
        column_words = Signal(range(max(2, dm // 2 + 1)))
        plane_run = Signal(range(1 << (4 + 8)))
        m.d.sync += [
            has_columns.eq(instr.write_sums | instr.write_values),
            column_words.eq(Mux(instr.write_sums, dm // 2, max(1, dm // VALUE_LANES))),
            plane_run.eq(instr.plane_bits * instr.plane_words),
        ]

        m.submodules.queue = queue = WriteQueue(dm)
        pick = Signal(PICK)
        ask = Signal()
        address = Signal(ADDRESS_BITS)
        row_offset = Signal(16, reset_less=True)
        odd = Signal()
        columns = Countdown("columns", self._array.dn.bit_length())
        words = Countdown("words", len(column_words))
        planes = Countdown("planes", 4)
        channel_words = Countdown("channel_words", 8)
        word = Signal.like(column_words)
        plane = Signal(range(ACTIVATION_BITS))
        run_begins = Signal()
        first_word = [*words.begin(column_words), word.eq(0), run_begins.eq(1)]
        first_plane = [*planes.begin(instr.plane_bits), plane.eq(0)]
        first_pixel = [*first_plane, *channel_words.begin(instr.plane_words), run_begins.eq(1)]
        m.d.comb += [
            queue.pick.eq(pick),
            queue.column.eq(self.column),
            queue.plane_data.eq(self.plane_data),
            queue.write_values.eq(instr.write_values),
            self.request.payload.eq(queue.request.payload),
            self.request.valid.eq(queue.request.valid),
            queue.request.ready.eq(self.request.ready),
            self.word.payload.eq(queue.word.payload),
            self.word.valid.eq(queue.word.valid),
            queue.word.ready.eq(self.word.ready),
            self.empty.eq(queue.empty),
            self.plane.eq(queue.arriving.plane),
            self.masked.eq(queue.arriving.masked),
            pick.valid.eq(ask),
            pick.word.eq(word),
            pick.plane.eq(plane),
            pick.masked.eq(channel_words.last),
            pick.odd.eq(odd),
            pick.first.eq(run_begins),
            pick.run.address.eq(address),
        ]
        begin_pixels = [address.eq(plane_pixels.address), *columns.begin(job.plane_columns), *first_pixel]

        with m.FSM():
            with m.State("IDLE"):
                with m.If(has_columns):
                    m.d.comb += begin_columns.eq(waiting["columns"] != 0)
                    m.d.sync += [address.eq(pixels.address + row_offset), *columns.begin(job.columns), *first_word]
                    with m.If(begin_columns):
                        m.next = "COLUMNS"
                with m.Else():
                    m.d.comb += begin_planes.eq(waiting["planes"] != 0)
                    m.d.sync += begin_pixels
                    with m.If(begin_planes):
                        m.next = "PLANES"
            with m.State("PLANES WAIT"):
                m.d.comb += begin_planes.eq(waiting["planes"] != 0)
                m.d.sync += begin_pixels
                with m.If(begin_planes):
                    m.next = "PLANES"
            with m.State("COLUMNS"):
                m.d.comb += [ask.eq(queue.room), pick.run.words.eq(column_words)]
                with m.If(ask):
                    m.d.sync += [*words.step(), word.eq(word + 1), run_begins.eq(0)]
                    with m.If(words.last):
                        m.d.sync += [self.read_column.eq(self.read_column + 1), *columns.step(), *first_word]
                        m.d.sync += address.eq(pixels.next_address + row_offset)
                        m.d.comb += pixels.step.eq(~(columns.last & job.last_in_group & ~job.last_row_tile))
                        with m.If(columns.last):
                            with m.If(job.last_in_group & ~job.last_row_tile):
                                m.d.comb += pixels.restore.eq(1)
                                self._next_rows(m, row_offset, odd, column_words)
                            with m.Elif(job.last_in_group):
                                m.d.comb += pixels.save.eq(1)
                                m.d.sync += [row_offset.eq(0), odd.eq(0)]
                            with m.If(job.plane_columns != 0):
                                m.next = "PLANES WAIT"
                            with m.Else():
                                m.d.comb += self.job_done.eq(1)
                                m.next = "IDLE"
            with m.State("PLANES"):
                m.d.comb += [ask.eq(queue.room), pick.planes.eq(1), pick.run.words.eq(plane_run)]
                with m.If(ask):
                    m.d.sync += [*planes.step(), plane.eq(plane + 1), run_begins.eq(0)]
                    with m.If(planes.last):
                        m.d.sync += [self.read_word.eq(self.read_word + 1), *channel_words.step(), *first_plane]
                        with m.If(channel_words.last):
                            m.d.comb += plane_pixels.step.eq(1)
                            m.d.sync += [address.eq(plane_pixels.next_address), *columns.step(), *first_pixel]
                            with m.If(columns.last):
                                m.d.comb += self.job_done.eq(1)
                                m.next = "IDLE"
        with m.If(self.start):
            m.d.sync += [a.eq(0) for a in (row_offset, odd, self.read_column, self.read_word)]
        return m

    def _next_rows(self, m, row_offset, odd, column_words) -> None:
        """Go to the next row tile's words of a pixel."""
        if self._array.dm < VALUE_LANES:
            m.d.sync += odd.eq(~odd)
            with m.If(~(self.instruction.write_values & ~odd)):
                m.d.sync += row_offset.eq(row_offset + column_words)
        else:
            m.d.sync += row_offset.eq(row_offset + column_words)
