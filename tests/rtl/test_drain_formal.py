"""Words on their way to memory, proved for ever: none is lost, none doubled, none comes without its request.

The proofs fit together: what `WriteQueueProof` assumes of the words that come, `DrainProof` says of the drain, which
has a stand-in for the queue.
"""

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import fifo
from amaranth.lib.wiring import Component, In

import rtl.drain
from hardware.instruction import VALUE_LANES, WORD_BITS
from hardware.timing import ISSUE_TO_WRITER, PENDING_JOBS, WRITE_QUEUE
from rtl.drain import JOB, PICK
from rtl.interface import ACCUMULATOR_BITS, WRITE_REQUEST, WRITE_WORD
from sim.properties import FreeInstruction, faulty, past, same, stable_while_stalled, within
from sim.reach import reach
from sim.stand_ins import SETTLED, StandIn, copy_of, mutant_of

WORD_TO_QUEUE = 5  # from asking for a word to it entering its queue
READ_LATENCY = 3  # from asking for a word to what the buffers answer


class WriteQueueProof(Component):
    """Words are asked for whenever there is room, and begin runs as they like, the first one does.

    Their data come `READ_LATENCY` cycles later; whether columns hold values changes only while there are no words. A
    word that begins a run is taken only after the request was, as `AxiWriter` does (`test_axi_formal.py`); otherwise
    both are taken at any time. ``level`` counts the words that were asked for and not taken, ``firsts`` is which of
    them begin a run; ``granted`` counts the requests taken whose words were not begun.

    ``pace``: also that nothing is waited for in vain.

    With a ``depth`` of its own the queue is shorter than it is, and one word of all, any, is marked; ``ahead`` counts
    the words before it. Few of its bits are compared, because the unit treats all alike.
    """

    CHECKED = (0, WORD_BITS // 2, WORD_BITS - 1, WORD_BITS, -1)
    """Bits of a word and its strobe."""

    def __init__(self, dm: int, module: ModuleType = rtl.drain, depth: int | None = None, pace: bool = False):
        copy = copy_of(module)
        self._marks, self._pace, self._depth = depth is not None, pace, depth or WRITE_QUEUE
        sizes = WRITE_REQUEST.size, WRITE_WORD.size
        self._fifos = {size: fifo.SyncFIFOBuffered(width=size, depth=self._depth) for size in sizes}
        copy.WRITE_QUEUE = self._depth
        copy.fifo = SimpleNamespace(SyncFIFOBuffered=lambda width, depth: self._fifos[width])
        self._dm, self._unit = dm, copy.WriteQueue(dm)
        free = {"ask": 1, "pick": PICK, "mark": 1, "column": dm * ACCUMULATOR_BITS, "plane_data": WORD_BITS}
        free |= {"write_values": 1, "request_ready": 1, "word_ready": 1}
        super().__init__({name: In(shape) for name, shape in free.items()})

    def _expected(self, pick):
        """The word of a pick whose data come in this cycle."""
        count = self._dm * ACCUMULATOR_BITS // WORD_BITS
        data, strobe = self.column[:WORD_BITS], 0xFF
        for i in range(1, count):
            data = Mux(pick.word == i, self.column.word_select(i, WORD_BITS), data)
        if self._dm < VALUE_LANES:
            data = Mux(self.write_values, self.column[: WORD_BITS // 2].replicate(2), data)
            strobe = Mux(self.write_values, Mux(pick.odd, 0xF0, 0x0F), 0xFF)
        return Cat(Mux(pick.planes, self.plane_data, data), Mux(pick.planes, 0xFF, strobe)[:8])

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        pick, comes, level, begun = self.pick, self.ask, Signal(range(self._depth + 1)), Signal()
        m.d.comb += [
            unit.pick.eq(pick),
            unit.pick.valid.eq(comes),
            unit.column.eq(self.column),
            unit.plane_data.eq(self.plane_data),
            unit.write_values.eq(self.write_values),
            unit.request.ready.eq(self.request_ready),
            unit.word.ready.eq(self.word_ready),
            Assume(~comes | unit.room),
            Assume((level == 0) | same(m, self.write_values)),
            Assume(begun | pick.first),
            Assume(pick.word < self._dm * ACCUMULATOR_BITS // WORD_BITS),
        ]
        with m.If(comes):
            m.d.sync += begun.eq(1)

        # Words and requests in the queue.
        firsts, requests, granted = Signal(self._depth), Signal.like(level), Signal.like(level)
        asked, sent = unit.request.valid & self.request_ready, unit.word.valid & self.word_ready
        pushed = comes & pick.first
        m.d.comb += Assume(~(sent & firsts[0]) | (granted != 0))
        m.d.sync += [
            level.eq(level + comes - sent),
            requests.eq(requests + pushed - asked),
            granted.eq(granted + asked - (sent & firsts[0])),
        ]
        for i in range(self._depth):
            with m.If(comes & (level == i + sent)):
                m.d.sync += firsts[i].eq(pick.first)
            with m.Elif(sent):
                m.d.sync += firsts[i].eq(firsts[i + 1] if i + 1 < self._depth else 0)
        m.d.comb += [
            Assert(unit.room == (level < self._depth)),
            Assert(level <= self._depth),
            Assert(unit.empty == (level == 0)),
            Assert(~unit.word.valid | (level != 0)),  # nothing leaves that did not come
            Assert(~unit.request.valid | (requests != 0)),
            Assert(~(unit.word.valid & firsts[0]) | (granted != 0) | unit.request.valid),  # no word before its request
            Assert((level != 0) | (requests == 0)),  # who has no word left has no request left
        ]
        stable_while_stalled(m, unit.request.valid, self.request_ready, unit.request.payload)
        stable_while_stalled(m, unit.word.valid, self.word_ready, unit.word.payload)

        # The drain selects planes, and the buffers answer, by what arrives.
        asked_for, asking = pick.as_value(), [comes]
        for _ in range(READ_LATENCY):
            asked_for = past(m, asked_for)
        for _ in range(WORD_TO_QUEUE):
            asking.append(past(m, asking[-1]))
        arriving = PICK(asked_for)
        m.d.comb += Assert(unit.arriving.valid == asking[READ_LATENCY])
        with m.If(asking[READ_LATENCY]):
            m.d.comb += [Assert(unit.arriving.plane == arriving.plane), Assert(unit.arriving.masked == arriving.masked)]

        # Neither of its queues ever overflows; what they hold is what came. (It helps PDR to know.)
        on_their_way = past(m, pushed), sum(asking[1:])
        for queue, count, coming in zip(self._fifos.values(), (requests, level), on_their_way, strict=True):
            m.d.comb += [Assert(~queue.w_en | queue.w_rdy), Assert(count == queue.r_level + coming)]
        m.d.comb += Assert(sum(firsts) == requests + granted)
        within(m, ISSUE_TO_WRITER - 1, (level != 0) & ~unit.word.valid)  # what came is offered
        if self._marks:
            self._mark(m, arriving, level - sent, sent, requests - asked, asked)
        if self._pace:  # who is not refused for a while asks in every cycle
            waits_for_request = firsts[0] & (granted == 0)
            waits = unit.word.valid & ~self.word_ready & ~waits_for_request
            refused, calm = waits | (unit.request.valid & ~self.request_ready), Signal(range(2 * WRITE_QUEUE + 1))
            m.d.sync += calm.eq(Mux(refused, 0, Mux(calm == 2 * WRITE_QUEUE, calm, calm + 1)))
            m.d.comb += Assert(unit.room | (calm < 2 * WRITE_QUEUE))
        return m

    def _mark(self, m: Module, arriving, level, sent, requests, asked) -> None:
        """Follow the marked word, and its request, if it begins a run, to where they leave."""
        unit, marks, marked = self._unit, Signal(), Signal()
        word = self._expected(arriving), unit.word.payload.as_value()
        words = [Cat(value[i] for i in self.CHECKED) for value in word]
        runs = [Cat(r.address[0], r.words[-1]) for r in (self.pick.run, unit.request.payload)]
        # When it is known what must leave; is it there, what is before it, does one leave, is one offered; what it is.
        word_known = marks
        for _ in range(READ_LATENCY):
            word_known = past(m, word_known)
        followed = {
            "word": (word_known, 1, level, sent, unit.word.valid, *words),
            "run": (marks, self.pick.first, requests, asked, unit.request.valid, *runs),
        }
        m.d.comb += marks.eq(self.ask & self.mark & ~marked)
        for name, (known, here, before, leaves, offered, comes_as, leaves_as) in followed.items():
            inside, kept = Signal(name=f"{name}_inside"), Signal(len(comes_as), name=f"{name}_kept")
            ahead = Signal(range(self._depth + 1), name=f"{name}_ahead")
            with m.If(marks):
                m.d.sync += [inside.eq(here), ahead.eq(before)]
            with m.Elif(leaves):
                m.d.sync += [inside.eq(inside & (ahead != 0)), ahead.eq(Mux(ahead == 0, 0, ahead - 1))]
            with m.If(known):
                m.d.sync += kept.eq(comes_as)
            m.d.comb += Assert(~(inside & (ahead == 0) & offered) | (leaves_as == kept))
        with m.If(marks):
            m.d.sync += marked.eq(1)


class DrainProof(Component):
    """Jobs come only where there is room, their data after them; the queue has room at any time.

    ``given`` are the jobs that are not done, ``index`` counts the words of the current run, ``columns`` and ``pixels``
    the runs of the current job, ``column`` and ``plane_word`` those of the pass.
    """

    DM = 8

    def __init__(self, accelerator, module: ModuleType = rtl.drain):
        copy = copy_of(module)
        self._queue = StandIn(copy.WriteQueue(accelerator.array.dm))
        copy.WriteQueue = lambda dm: self._queue
        self._unit = copy.Drain(accelerator)
        flags = dict.fromkeys(("write_sums", "write_values", "write_planes"), (0, 1))
        self._free = FreeInstruction(flags | {"plane_bits": (1, 3), "plane_words": (1, 2)}, {"write_sums": 1}, SETTLED)
        free = {"job": JOB, "job_valid": 1, "columns_ready": 1, "planes_ready": 1, "room": 1}
        free |= {"queue_valid": 2, "queue_data": 128, "ready": 2, "queue_empty": 1, "arriving": PICK}
        super().__init__({name: In(bits) for name, bits in (free | self._free.ports()).items()})

    def _streams(self, m: Module) -> None:
        """Both streams are the queue's."""
        unit, queue = self._unit, self._queue
        for i, name in enumerate(("request", "word")):
            inner, outer = getattr(queue, name), getattr(unit, name)
            m.d.comb += [
                inner.valid.eq(self.queue_valid[i]),
                inner.payload.eq(self.queue_data),
                outer.ready.eq(self.ready[i]),
                Assert(outer.valid == inner.valid),
                Assert(inner.ready == outer.ready),
                Assert(outer.payload.as_value() == inner.payload.as_value()),
            ]
        m.d.comb += [
            queue.empty.eq(self.queue_empty),
            queue.arriving.eq(self.arriving),
            Assert(unit.empty == queue.empty),
            Assert(unit.plane == self.arriving.plane),
            Assert(unit.masked == self.arriving.masked),
        ]

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        free, job, queue = self._free, self.job, self._queue
        jobs, running, last = Signal(range(PENDING_JOBS + 2)), Signal(), Signal()  # a pass runs; its last job was given
        steps = {f"{p}_{n}": 3 + i for p in ("result", "plane") for i, n in enumerate(("base", "step"))}
        one = free["write_sums"] ^ (free["write_values"] | free["write_planes"])
        free.build(m, self, ~running, one, steps | {"out_width": 3, "out_height": 3})
        has_columns = free["write_sums"] | free["write_values"]
        self._streams(m)
        m.d.comb += [
            unit.instruction.eq(free.instruction),
            unit.start.eq(free.start),
            unit.job.eq(job),
            unit.job_valid.eq(self.job_valid),
            unit.columns_ready.eq(self.columns_ready),
            unit.planes_ready.eq(self.planes_ready),
            queue.room.eq(self.room),
            Assert(~queue.pick.valid | self.room),
        ]

        # Jobs, and their data: none of a job is read before it is there.
        done, pick, head = unit.job_done, queue.pick, Signal(JOB)
        given = [Signal(JOB, name=f"job_{i}") for i in range(PENDING_JOBS)]
        m.d.comb += head.eq(given[0])
        for i, kept in enumerate(given):
            with m.If(self.job_valid & (jobs == i + done)):
                m.d.sync += kept.eq(job)
            with m.Elif(done):
                m.d.sync += kept.eq(given[-1])
        with m.If(free.start):
            m.d.sync += [running.eq(1), last.eq(0)]
        with m.If(self.job_valid & job.last):
            m.d.sync += last.eq(1)
        with m.If(done & head.last):
            m.d.sync += running.eq(0)
        m.d.sync += jobs.eq(jobs + self.job_valid - done)
        m.d.comb += [
            Assume(~self.job_valid | (running & ~last & (jobs < PENDING_JOBS) & (job.columns != 0))),
            Assume((job.columns <= 2) & (job.plane_columns <= 2)),
            Assume(free["write_planes"] | (job.plane_columns == 0)),
            Assume(has_columns | (job.plane_columns != 0)),
            Assert(~done | (jobs != 0)),  # no job is done that was not given
            Assert(~done | (unit.last == head.last)),
        ]
        index, columns, pixels = Signal(4), Signal(2), Signal(2)
        kinds = {
            "columns": (self.columns_ready, has_columns, ~pick.planes & (columns == 0)),
            "planes": (self.planes_ready, job.plane_columns != 0, pick.planes & (pixels == 0)),
        }
        owed = {}
        for kind, (arrives, needed, begins) in kinds.items():
            owed[kind], there = Signal(2, name=f"{kind}_owed"), Signal(2, name=f"{kind}_there")
            comes, read = self.job_valid & needed, pick.valid & begins & (index == 0)
            # What is written in the cycle after its strobe is read in the one after that.
            m.d.sync += [owed[kind].eq(owed[kind] + comes - arrives), there.eq(there + past(m, arrives) - read)]
            m.d.comb += [Assume(~arrives | ((owed[kind] + comes) != 0)), Assert(~read | (there != 0))]

        # A job's words: runs of its columns, then runs of its pixels' planes; each word from its own place.
        dm, bits = self._unit._array.dm, free["plane_bits"]
        plane_words = Mux(free["plane_words"] == 2, bits << 1, bits)
        run = Mux(pick.planes, plane_words, Mux(free["write_sums"], dm // 2, max(1, dm // VALUE_LANES)))
        run_ends, plane = index == run - 1, Signal(2)
        all_columns = columns + (run_ends & ~pick.planes) == Mux(has_columns, head.columns, 0)
        all_pixels = pixels + (run_ends & pick.planes) == head.plane_columns
        column, plane_word = Signal.like(unit.read_column), Signal.like(unit.read_word)
        with m.If(pick.valid):
            m.d.comb += [
                Assert(jobs != 0),
                Assert(pick.first == (index == 0)),
                Assert(pick.run.words == run),
                Assert(Mux(pick.planes, all_columns & (pixels < head.plane_columns), columns < head.columns)),
                Assert(has_columns | pick.planes),
                Assert(done == (run_ends & all_columns & all_pixels)),
            ]
            m.d.sync += index.eq(Mux(run_ends, 0, index + 1))
            with m.If(~pick.planes):
                m.d.comb += [Assert(pick.word == index), Assert(unit.read_column == column)]
                m.d.sync += [columns.eq(columns + run_ends), column.eq(column + run_ends)]
            with m.Else():
                m.d.comb += [
                    Assert(unit.read_word == plane_word),
                    Assert(pick.plane == plane),
                    Assert(pick.masked == (index + bits >= run)),
                ]
                m.d.sync += [pixels.eq(pixels + run_ends), plane.eq(Mux(plane == bits - 1, 0, plane + 1))]
                m.d.sync += plane_word.eq(plane_word + (plane == bits - 1))
        with m.Else():
            m.d.comb += Assert(~done)
        with m.If(done):
            m.d.sync += [columns.eq(0), pixels.eq(0)]
        with m.If(free.start):
            m.d.sync += [column.eq(0), plane_word.eq(0)]

        ready = (jobs != 0) & (owed["columns"] == 0) & (owed["planes"] == 0)
        within(m, 4, ready & self.room & ~pick.valid)  # a job that has its data goes on
        return m


PROOFS = {
    "queue": lambda machine, module=rtl.drain: WriteQueueProof(4, module, pace=True),
    "words in a short queue": lambda machine, module=rtl.drain: WriteQueueProof(4, module, 4),
    "half words in a short queue": lambda machine, module=rtl.drain: WriteQueueProof(2, module, 4),
    "drain": lambda machine, module=rtl.drain: DrainProof(machine(dm=DrainProof.DM, plane_words=16), module),
}
LONG = ("queue", "half words in a short queue", "drain")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in PROOFS])
def test_no_word_is_lost_and_none_comes_without_its_request(tmp_path: Path, machine, name: str) -> None:
    assert "proved by PDR" in reach(PROOFS[name](machine), tmp_path)


FAULTS = {  # which proof, what its unit gets instead
    "word moves on without being taken": ("words in a short queue", lambda unit: unit.word.ready.eq(1)),
    "request moves on without being taken": ("words in a short queue", lambda unit: unit.request.ready.eq(1)),
    "every word a run": ("queue", lambda unit: unit.pick.first.eq(1)),
    "words that were not asked for": ("queue", lambda unit: unit.pick.valid.eq(1)),
    "word forgotten": ("queue", lambda unit: unit.pick.valid.eq(0)),
    "data forgotten": ("drain", lambda unit: unit.columns_ready.eq(0)),
    "data before their job": ("drain", lambda unit: unit.columns_ready.eq(1)),
    "start dropped": ("drain", lambda unit: unit.start.eq(0)),
}
MUTANTS = {  # which proof, text of rtl/drain.py, what it becomes
    "room for one too many": ("queue", "self.room.eq(after != 0)", "self.room.eq(1)"),
    "credit twice": ("queue", "popped - self.pick.valid", "(popped << 1) - self.pick.valid"),
    "request for every word": ("queue", "reading.valid & reading.first", "reading.valid"),
    "request with the wrong word": ("queue", "reading.valid & reading.first", "reading.valid & ~reading.first"),
    "room seen too late": ("queue", "after != 0", "after > 3"),
    "part of the word before": ("words in a short queue", "self.arriving.word,", "pick.word,"),
    "planes instead of the word before": ("words in a short queue", "Mux(pick.planes,", "Mux(self.arriving.planes,"),
    "run of the one before": ("words in a short queue", "w_data.eq(reading.run)", "w_data.eq(read.run)"),
    "other half": ("half words in a short queue", "Mux(pick.odd, 0xF0, 0x0F)", "Mux(pick.odd, 0x0F, 0xF0)"),
    "asked without room": ("drain", "ask.eq(queue.room)", "ask.eq(1)"),
    "runs too short": ("drain", "instr.plane_bits * instr.plane_words", "instr.plane_bits"),
    "job done before its planes": ("drain", "with m.If(job.plane_columns != 0):", "with m.If(0):"),
    "data read before they are written": (
        "drain",
        'waiting["columns"] != 0',
        '(waiting["columns"] | self.columns_ready) != 0',
    ),
    "next column too late": ("drain", "self.read_column + 1", "self.read_column + columns.last"),
}
QUICK = ("every word a run", "request for every word")


@pytest.mark.parametrize("fault", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FAULTS])
def test_the_proof_fails_for_a_unit_with_a_fault(tmp_path: Path, machine, fault: str) -> None:
    proof, wrong = FAULTS[fault]
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(faulty(PROOFS[proof](machine), wrong), tmp_path)


@pytest.mark.parametrize("mutant", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MUTANTS])
def test_the_proof_fails_for_a_wrong_unit(tmp_path: Path, machine, mutant: str) -> None:
    proof, text, wrong = MUTANTS[mutant]
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(PROOFS[proof](machine, mutant_of(rtl.drain, text, wrong)), tmp_path)
