"""AXI's rules proved for both masters by induction, whatever the slave, the requests and halt do; mutants must fail."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In

import rtl.axi
from hardware.errors import InputError
from hardware.registers import LIMIT_BITS, ErrorCode
from rtl.axi import AHEAD, BURST_BEATS, OUTSTANDING, PAGE_BYTES
from rtl.interface import READ_REQUEST
from sim.formal import prove
from sim.properties import past, stable_while_stalled
from sim.reach import reach
from sim.stand_ins import mutant_of

DEPTH = 2
WORD_BYTES = 8
BEAT = data.StructLayout({"word": 72, "given": 1})
"""Bytes and strobes of a beat, and whether they are those of a word."""


class Proof(Component):
    """What both masters have in common: requests become the right bursts, and halt ends them.

    Nothing is assumed of the requests, not even that they wait to be taken. Base and limit change only while idle.
    ``next`` and ``left`` are the independent account of the first request: the next word (base included) and the words
    not yet asked for. ``coming`` is the request behind it: it becomes the first as soon as that is through.
    """

    def __init__(self, unit, prefix: str, free: dict):
        self.unit, self.prefix = unit, prefix
        super().__init__(
            {
                "request": In(READ_REQUEST),
                "request_valid": In(1),
                "base": In(32),
                "limit": In(LIMIT_BITS),
                "halt": In(1),
                "address_ready": In(1),
            }
            | free
        )

    def channel(self, name: str) -> Signal:
        return getattr(self.unit.axi, self.prefix + name)

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self.unit
        m.d.comb += [
            unit.request.valid.eq(self.request_valid),
            unit.request.payload.eq(self.request),
            unit.base.eq(self.base),
            unit.limit.eq(self.limit),
            unit.halt.eq(self.halt),
            self.channel("ready").eq(self.address_ready),
        ]
        self.stop = Signal()  # from the cycle after halt's first one to that after its last, and until the unit is idle
        m.d.sync += self.stop.eq(self.halt | (self.stop & ~unit.idle))
        base = self.base[12:] << 9  # in words
        memory = Cat(self.base, self.limit)
        m.d.comb += Assume(unit.idle | (memory == past(m, memory)))
        m.d.comb += Assume(base + self.limit <= (1 << 32) // WORD_BYTES)

        valid, address = self.channel("valid"), self.channel("addr")
        beats = Signal(9)
        m.d.comb += beats.eq(self.channel("len") + 1)
        constant = (self.channel(name) for name in ("size", "burst", "cache", "prot"))
        self.waited = stable_while_stalled(m, valid, self.address_ready, address, beats, *constant)
        self.started, self.accepted = valid & ~self.waited, valid & self.address_ready
        with m.If(valid):
            m.d.comb += [
                Assert(self.channel("size") == 3),
                Assert(self.channel("burst") == 1),
                Assert(beats <= BURST_BEATS),
                Assert(address % WORD_BYTES == 0),
                Assert(address // PAGE_BYTES == (address + beats * WORD_BYTES - 1) // PAGE_BYTES),
                Assert(address // WORD_BYTES >= base),
                Assert(address // WORD_BYTES + beats <= base + self.limit),
            ]
        with m.If(self.stop):
            m.d.comb += [Assert(~self.started), Assert(~unit.request.ready)]

        next, left, refused = Signal(29), Signal(24), Signal()
        coming, asked = Signal(READ_REQUEST), Signal()  # the request behind the first, if there is one
        taken = self.request_valid & unit.request.ready
        bad = (coming.words == 0) | (coming.address + coming.words > self.limit)
        through = ~refused & (left == Mux(self.accepted, beats, 0))
        moves = asked & through & ~self.stop
        with m.If(valid):
            m.d.comb += [
                Assert(~refused),
                Assert(address == next * WORD_BYTES),
                Assert(beats <= left),
                # As long as may be.
                Assert((beats == left) | (beats == BURST_BEATS) | ((next + beats) % 512 == 0)),
            ]
        # No bubble: a burst to be made is on the bus, a request is taken as soon as there is a place for it.
        self.may_start = Signal()
        with m.If(self.may_start & ~self.stop):
            m.d.comb += Assert(valid | (left == 0))
        m.d.comb += Assert(unit.request.ready == (~self.stop & (~asked | through)))
        with m.If(past(m, self.stop)):
            m.d.comb += Assert(unit.idle == ((unit.outstanding == 0) & ~valid))
        m.d.comb += [
            Assert((unit.error_code == ErrorCode.ADDRESS_RANGE) == past(m, moves & bad)),
            Assert(unit.error == (unit.error_code != ErrorCode.NONE)),
        ]
        refused_address = past(m, coming.address)
        with m.If(unit.error_code == ErrorCode.ADDRESS_RANGE):
            m.d.comb += Assert(unit.error_address == refused_address)
        with m.If(self.accepted):
            m.d.sync += [next.eq(next + beats), left.eq(left - beats)]
        with m.If(self.stop & ~(valid & ~self.address_ready)):
            m.d.sync += [left.eq(0), refused.eq(0)]
        with m.If(moves):
            m.d.sync += [next.eq(base + coming.address), left.eq(Mux(bad, 0, coming.words)), refused.eq(bad)]
        m.d.sync += asked.eq(~self.stop & (taken | (asked & ~moves)))
        with m.If(taken):
            m.d.sync += coming.eq(self.request)

        # What induction needs to know: the account and the unit agree.
        splitter = unit.splitter

        def room(word):
            """Words to the page's end, if those are fewer than the longest burst's."""
            return Mux(word % 512 // 16 == 31, 16 - word % 16, 16)

        m.d.comb += [
            Assert(splitter.stop == self.stop),
            Assert(splitter.asked == asked),
            Assert(splitter.empty == ((left == 0) & ~refused & ~asked)),
            Assert((left == 0) | ~refused),
        ]
        with m.If(asked):
            m.d.comb += [
                Assert(splitter.next_request == coming),
                Assert(splitter.to_limit == self.limit - coming.address),
            ]
        with m.If(left != 0):
            m.d.comb += [
                Assert(~splitter.refusing),
                Assert(splitter.left == left),
                Assert(splitter.burst.payload.address == next * WORD_BYTES),
                Assert(splitter.room == room(next)),
                Assert(splitter.room_behind == room(next + splitter.room)),
                Assert(splitter.more == (left > splitter.room)),
                Assert(next >= base),
                Assert(next + left <= base + self.limit),
            ]
        with m.If(refused):
            m.d.comb += Assert(splitter.refusing)
        return m

    def few(self, m: Module, outstanding) -> Signal:
        """Whether there was room for two bursts without an answer a cycle ago: one may have started then."""
        few = Signal(init=1)
        m.d.sync += few.eq(outstanding < OUTSTANDING - 1)
        return few


class ReaderProof(Proof):
    """The slave answers accepted bursts only; the rest of it is free."""

    def __init__(self, module: ModuleType = rtl.axi):
        free = {"rvalid": In(1), "rlast": In(1), "rdata": In(64), "rresp": In(2)}
        super().__init__(module.AxiReader(version=4), "ar", free)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        unit, axi = self.unit, self.unit.axi
        m.d.comb += [getattr(axi, name).eq(getattr(self, name)) for name in ("rvalid", "rlast", "rdata", "rresp")]
        owed = Signal(16)  # accepted bursts without their last beat
        few = self.few(m, owed)
        m.d.sync += owed.eq(owed + self.accepted - (self.rvalid & self.rlast))
        m.d.comb += [
            Assume(~self.rvalid | (owed != 0)),
            Assert(axi.rready),
            Assert(unit.word.valid == (self.rvalid & ~self.stop)),
            Assert(unit.word.payload == self.rdata),
            Assert(unit.outstanding == owed),
            Assert(owed + self.channel("valid") <= OUTSTANDING),
            self.may_start.eq(few),
            Assert(unit.splitter.hold == ~few),
        ]
        with m.If(unit.idle):
            m.d.comb += [Assert(owed == 0), Assert(~self.channel("valid"))]
        with m.If(self.rvalid & (self.rresp >= 2)):
            m.d.comb += Assert(unit.error)
        return m


class WriterProof(Proof):
    """The slave responds after the address and the last beat of a burst; the rest of it is free.

    ``lengths`` and ``beat`` are the independent account: last beats of the bursts that appeared and are not all sent.
    ``inside`` beats were given to the unit, or made by it after a halt, and are not sent: ``first`` is on the pins,
    ``second`` waits behind it. So beats come in the order of their words, none is lost and none comes twice.
    """

    def __init__(self, module: ModuleType = rtl.axi):
        free = {"word_valid": In(1), "word": In(72), "wready": In(1), "bvalid": In(1), "bresp": In(2)}
        super().__init__(module.AxiWriter(version=4), "aw", free)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        unit, axi = self.unit, self.unit.axi
        m.d.comb += [getattr(axi, name).eq(getattr(self, name)) for name in ("wready", "bvalid", "bresp")]
        m.d.comb += [unit.word.valid.eq(self.word_valid), unit.word.payload.eq(self.word), Assert(axi.bready)]

        lengths, level, beat = [Signal(8, name=f"length_{i}") for i in range(AHEAD + 2)], Signal(8), Signal(8)
        stable_while_stalled(m, axi.wvalid, self.wready, axi.wdata, axi.wstrb, axi.wlast)
        sent = axi.wvalid & self.wready
        done = sent & axi.wlast
        kept = Signal(8)
        m.d.comb += kept.eq(level - done)
        m.d.sync += level.eq(kept + self.started)
        for i, length in enumerate(lengths):
            with m.If(self.started & (kept == i)):
                m.d.sync += length.eq(self.channel("len"))
            with m.Elif(done & (i <= AHEAD)):
                m.d.sync += length.eq(lengths[min(i + 1, AHEAD + 1)])
        with m.If(sent):
            m.d.sync += beat.eq(Mux(axi.wlast, 0, beat + 1))
        with m.If(axi.wvalid):
            m.d.comb += [Assert(level != 0), Assert(beat <= lengths[0]), Assert(axi.wlast == (beat == lengths[0]))]
        m.d.comb += Assert(unit.lengths.level <= AHEAD)

        inside, first, second, second_last = Signal(2), Signal(BEAT), Signal(BEAT), Signal()
        first_last, behind, load, lasts = axi.wvalid & axi.wlast, Signal(8), Signal(), Signal(2)
        owes, given = level != lasts, self.word_valid & unit.word.ready
        m.d.comb += [
            behind.eq(Mux(axi.wvalid, Mux(axi.wlast, 0, beat + 1), beat)),  # the beat's number behind the pins
            second_last.eq((inside == 2) & (behind == Array(lengths)[first_last])),
            lasts.eq(first_last + second_last),
            load.eq(given | (self.stop & owes & (inside != 2))),
            Assert(unit.word.ready == (owes & (inside != 2) & ~self.stop)),
            Assert(axi.wvalid == (inside != 0)),  # a cycle behind the word, or behind the beat before it
            Assert(inside <= 2),
        ]
        m.d.sync += inside.eq(inside + load - sent)
        with m.If(inside == 2):
            m.d.sync += first.eq(Mux(sent, second, first))
        with m.Elif(load):
            loaded = Cat(self.word, given)
            with m.If(inside == sent):
                m.d.sync += first.eq(loaded)
            with m.Else():
                m.d.sync += second.eq(loaded)
        with m.If(axi.wvalid & first.given):
            m.d.comb += Assert(Cat(axi.wdata, axi.wstrb) == first.word)
        with m.If(axi.wvalid & ~first.given):  # a beat that no word was given for
            m.d.comb += Assert(axi.wstrb == 0)

        addresses, answers = Signal(16), Signal(16)  # accepted, and not responded to
        few = self.few(m, unit.outstanding)
        m.d.sync += [addresses.eq(addresses + self.accepted - self.bvalid), answers.eq(answers + done - self.bvalid)]
        m.d.comb += [
            Assume(~self.bvalid | ((addresses != 0) & (answers != 0))),
            Assert(unit.outstanding == addresses + self.waited),
            Assert(unit.outstanding == answers + level),
            Assert(unit.outstanding <= OUTSTANDING),
            self.may_start.eq(few & (level < AHEAD)),
            Assert(unit.splitter.hold == (~few | unit.lengths.full)),
        ]
        with m.If(unit.idle):
            m.d.comb += [
                Assert(addresses == 0),
                Assert(level == 0),
                Assert(~self.channel("valid")),
                Assert(~axi.wvalid),
            ]
        with m.If(self.bvalid & (self.bresp >= 2)):
            m.d.comb += Assert(unit.error)

        # What induction needs to know: account and unit agree; last beats inside have left the unit's queue.
        m.d.comb += [
            Assert(unit.lengths.level == level - lasts),
            Assert(unit.lengths.filled == owes),
            Assert(unit.lengths.full == (unit.lengths.level == AHEAD)),
            Assert(unit.beat == Mux(inside == 2, Mux(second_last, 0, behind + 1), behind)),
            Assert((beat == 0) | (level != 0)),
        ]
        m.d.comb += Assert(unit.waits == (inside == 2))
        with m.If(inside == 2):
            m.d.comb += [
                Assert(level > first_last),
                Assert(behind <= Array(lengths)[first_last]),
                Assert(unit.waiting_last == second_last),
                Assert(unit.waiting.strobe == Mux(second.given, second.word[64:], 0)),
                Assert(~second.given | (unit.waiting.data == second.word[:64])),
            ]
        for i, entry in enumerate(unit.lengths.entries):
            with m.If(i < unit.lengths.level):
                m.d.comb += Assert(entry == Array(lengths)[i + lasts])
        with m.If(unit.lengths.level != 0):
            m.d.comb += Assert(unit.beat <= unit.lengths.entries[0])
        return m


PROOFS = {"reader": ReaderProof, "writer": WriterProof}


@pytest.mark.parametrize("name", PROOFS)
def test_no_slave_and_no_request_makes_the_master_break_a_rule(tmp_path: Path, name: str) -> None:
    log = prove(PROOFS[name](), tmp_path, mode="prove", depth=DEPTH)
    assert "successful proof by k-induction" in log


MUTANTS = {  # which proof, text of rtl/axi.py, what it becomes
    "address withdrawn by halt": ("reader", "held & (waits | ~(", "held & (~("),
    "address replaced while it waits": ("writer", "with m.If(burst.valid & burst.ready):", "with m.If(burst.valid):"),
    "burst started after halt": ("reader", "~(self.refusing | self.stop | self.hold)", "~(self.refusing | self.hold)"),
    "burst of 32 beats": ("reader", "BURST_BEATS = 16", "BURST_BEATS = 32"),
    "burst across a page": (
        "writer",
        "first_room.eq(longest(low, last_line))",
        "first_room.eq(BURST_BEATS)",
    ),
    "shorter bursts": (
        "reader",
        "room.eq(room_behind), room_behind",
        "room.eq(8), room_behind",
    ),
    "burst of no words at the end": ("writer", "(words[: len(beats)] > beats)", "(words[: len(beats)] >= beats)"),
    "base not kept": ("writer", "PAGE_BYTES = 4096", "PAGE_BYTES = 8192"),
    "a word beyond the limit": ("reader", "(to_limit < words)", "(to_limit + 1 < words)"),
    "request of no words": ("writer", "(words == 0) | (to_limit < words)", "to_limit < words"),
    "refused request issued": ("reader", "~(self.refusing | ", "~("),
    "refused twice": ("reader", "self.refused.eq(moved & self.refusing)", "self.refused.eq(held & self.refusing)"),
    "bubble between bursts": ("reader", "(~held | (burst.valid & burst.ready & ~more))", "~held"),
    "bubble between requests": ("reader", "(~asked | moves)", "~asked"),
    "request lost": ("writer", "~self.stop & (~asked | moves)", "~self.stop"),
    "request kept through halt": ("writer", "asked.eq(~self.stop & (taken", "asked.eq((taken"),
    "last beat of a burst of one word": (
        "writer",
        "self.beat == self.entries[0])",
        "self.beat + 1 == self.entries[0])",
    ),
    "every beat the last": ("writer", "axi.wlast.eq(Mux(waits, waiting_last, lengths.last))", "axi.wlast.eq(1)"),
    "last beat of the beat before": ("writer", "Mux(waits, waiting_last, lengths.last)", "lengths.last"),
    "beat torn by the next word": ("writer", "m.If(~stays)", "m.If(1)"),
    "beat that waits torn by the next word": ("writer", "m.If(~waits)", "m.If(1)"),
    "beat that waits lost": ("writer", "axi.wvalid.eq(load | waits | stays)", "axi.wvalid.eq(load | stays)"),
    "beat that waits sent twice": ("writer", "waits.eq(stays &", "waits.eq((waits & axi.wlast) | stays &"),
    "third beat taken": ("writer", "wanted.eq(lengths.filled & ~waits)", "wanted.eq(lengths.filled)"),
    "beats in the wrong order": ("writer", "Mux(waits, waiting, beat)", "beat"),
    "bytes written after halt": ("writer", "Mux(stop, 0, word.payload.strobe)", "word.payload.strobe"),
    "idle before the last beat": ("reader", "(axi.rvalid & axi.rlast)", "axi.rvalid"),
    "idle before the response": ("writer", "splitter.started - axi.bvalid", "splitter.started - lengths.pop"),
    "halt of one cycle forgotten": ("writer", "stop.eq(halt | (stop & ~idle))", "stop.eq(halt)"),
    "full a length late": ("writer", "self.full.eq(after == AHEAD)", "self.full.eq(self.level == AHEAD)"),
    "filled after the last one": ("writer", "self.filled.eq(after != 0)", "self.filled.eq(self.level != 0)"),
    "lengths overwritten": ("writer", "self.level == i + self.pop", "self.level == i"),
}
LATE = (
    "last beat of the beat before",
    "beat that waits torn by the next word",
    "beat that waits lost",
    "beat that waits sent twice",
    "third beat taken",
    "beats in the wrong order",
    "full a length late",
    "filled after the last one",
)
"""Those that show only after some beats, which ABC finds faster than z3."""
QUICK = ("address withdrawn by halt", "every beat the last")


@pytest.mark.parametrize(
    "mutant", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MUTANTS]
)  # some seconds each
def test_the_proof_fails_for_a_wrong_master(tmp_path: Path, mutant: str) -> None:
    proof, text, wrong = MUTANTS[mutant]
    module = mutant_of(rtl.axi, text, wrong)
    fails: Callable[..., str] = partial(reach, depth=14) if mutant in LATE else partial(prove, mode="bmc", depth=8)
    with pytest.raises(AssertionError, match="proof failed within"):  # a trace from reset, not a weak induction
        fails(PROOFS[proof](module), tmp_path)


class Counter(Component):
    """Counts to three and stays; ``bound`` holds, but is too weak for induction where it is above three."""

    enable: In(1)

    def __init__(self, bound: int):
        self._bound = bound
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        count = Signal(4)
        with m.If(self.enable & (count != 3)):
            m.d.sync += count.eq(count + 1)
        m.d.comb += Assert(count <= self._bound)
        return m


def test_a_proof_says_whether_it_failed_and_how(tmp_path: Path) -> None:
    assert "DONE (PASS" in prove(Counter(3), tmp_path, mode="prove", depth=2)
    with pytest.raises(AssertionError, match=r"within 4 cycles: test_axi_formal\.py:"):
        prove(Counter(2), tmp_path, mode="bmc", depth=4)
    prove(Counter(2), tmp_path, mode="bmc", depth=3)  # the third cycle still sees two
    with pytest.raises(AssertionError, match="only by induction over 2 cycles"):
        prove(Counter(7), tmp_path, mode="prove", depth=2)


def test_a_proof_without_a_result_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(3)
    with pytest.raises(InputError, match=r"ended with exit code \d+ and no result"):
        prove(counter, tmp_path, mode="prove", depth=-1)
    with pytest.raises(InputError, match="bmc, prove, not 'cover'"):
        prove(counter, tmp_path, mode="cover", depth=2)
    monkeypatch.setattr("sim.formal.SOLVER", "z-none")
    with pytest.raises(InputError, match="z-none was not found: install the package z3-solver"):
        prove(counter, tmp_path, mode="prove", depth=2)
