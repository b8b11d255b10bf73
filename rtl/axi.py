"""AXI masters of the memory ports: requests of any length become bursts that AXI3 and AXI4 allow.

Both units take requests in words of the data width, add the memory's base address and keep to a limit. Bursts are
incrementing, of full-width beats, at most `BURST_BEATS` long, and never cross a 4 KB page; the ID is 0 (no ID signals).

Timing: `ADDRESS_LATENCY` cycles from a request to its first address; bursts and requests follow each other without a
bubble, one address in every cycle if the slave takes them, even when each request is of one word. A read slave may take
an address as late as with the last beat of the burst before and still give one beat in every cycle. So may a write
slave, but for bursts of one word: it gets one beat in every cycle if it takes an address before the last beat of the
burst before, and two in three cycles otherwise.

Halt: from the cycle after the first of ``halt`` to the one after its last no address appears that did not already wait
for the slave, and no request and no word is taken. Bursts that have started end as AXI demands, then ``idle`` rises.
When ``halt`` has fallen too, the unit is as after reset; ``halt`` may be one cycle long. What was not yet started is
forgotten.

Source: ARM IHI 0022 (AMBA AXI protocol), chapters A3 (handshakes, bursts) and A5 (ordering with one ID).
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out, Signature, connect, flipped

from hardware.registers import LIMIT_BITS, ErrorCode
from rtl.interface import ADDRESS_BITS, LENGTH_BITS, READ_REQUEST

BURST_BEATS = 16  # AXI3's longest
PAGE_BYTES = 4096  # no burst crosses a multiple of this
OUTSTANDING = 1024
"""Bursts that may be without their last word or response; more wait. Enough for one-word bursts to fill the longest
latency that `hardware.accelerator.Memory` allows."""
AHEAD = 4
"""Write bursts whose addresses may go ahead of their data."""
ADDRESS_LATENCY = 2
"""Request to its first address on the bus, when no other request is in the way."""
WORD_LATENCY = 1
"""Word taken by the writer to its beat on the bus."""
REQUEST_TO_BEAT = 4
"""Request to its first write beat on the bus, when its word waits and nothing else is in the way."""

BYTE_ADDRESS_BITS = 32
BEATS_BITS = BURST_BEATS.bit_length()
INCREMENTING = 0b01
MODIFIABLE_BUFFERABLE = 0b0011
UNPRIVILEGED_SECURE_DATA = 0b000


def write_word(data_bits: int = 64) -> data.StructLayout:
    """A word for `AxiWriter`: its bytes and which of them to write."""
    return data.StructLayout({"data": data_bits, "strobe": data_bits // 8})


def _address_channel(prefix: str, version: int) -> dict:
    return {
        f"{prefix}valid": Out(1),
        f"{prefix}ready": In(1),
        f"{prefix}addr": Out(BYTE_ADDRESS_BITS),
        f"{prefix}len": Out({3: 4, 4: 8}[version]),
        f"{prefix}size": Out(3),
        f"{prefix}burst": Out(2),
        f"{prefix}cache": Out(4),
        f"{prefix}prot": Out(3),
    }


def axi_read(data_bits: int = 64, version: int = 3) -> Signature:
    """AR and R as the master sees them; ``version`` 3 or 4 only sets the width of ``arlen``."""
    channel = {"rvalid": In(1), "rready": Out(1), "rdata": In(data_bits), "rresp": In(2), "rlast": In(1)}
    return Signature(_address_channel("ar", version) | channel)


def axi_write(data_bits: int = 64, version: int = 3) -> Signature:
    """AW, W and B as the master sees them; ``version`` 3 or 4 only sets the width of ``awlen``."""
    words = {"wvalid": Out(1), "wready": In(1), "wdata": Out(data_bits), "wstrb": Out(data_bits // 8), "wlast": Out(1)}
    return Signature(_address_channel("aw", version) | words | {"bvalid": In(1), "bready": Out(1), "bresp": In(2)})


BURST = data.StructLayout({"address": BYTE_ADDRESS_BITS, "beats": BEATS_BITS})
"""One burst: first byte address, 1 to `BURST_BEATS` beats."""


class BurstSplitter(Component):
    """Cuts requests into bursts.

    Members
    -------
    base, limit: the memory; see `AxiReader`.
    stop: start no burst and take no request; a burst that waits for the slave stays, everything else is forgotten.
    hold: start no burst yet; requests are taken.
    burst: the bursts in order.
    started: strobe, first cycle of a burst on ``burst``.
    refused: strobe, the request that is first since this cycle reaches beyond ``limit`` or is of no words. It and the
        next one, if that is taken, wait for ``stop``.
    refusing: the first request was refused; word: its first word, base not included, while ``refused``.
    empty: no request is held.
    left: words of the first request from the burst on ``burst`` to its end.

    A request passes two registers and is next and first in them, for a cycle at least. In the first register its
    distance to the limit is known, in the second one whether it keeps to it and whether it needs more than one burst.

    Latency: `ADDRESS_LATENCY`. Throughput: one burst per cycle.
    """

    def __init__(self, word_bytes: int):
        self._word_bytes = word_bytes
        # The next request, and how many words are left from its first one to the limit.
        self.asked = Signal()
        self.next_request = Signal(READ_REQUEST)
        self.to_limit = Signal(signed(ADDRESS_BITS + 2))
        # The longest burst from where the first request is now, whether it goes on, the longest burst behind that one.
        self.room = Signal(BEATS_BITS)
        self.more = Signal()
        self.room_behind = Signal(BEATS_BITS)
        super().__init__(
            {
                "request": In(stream.Signature(READ_REQUEST)),
                "base": In(BYTE_ADDRESS_BITS),
                "limit": In(LIMIT_BITS),
                "stop": In(1),
                "hold": In(1),
                "burst": Out(stream.Signature(BURST)),
                "started": Out(1),
                "refused": Out(1),
                "refusing": Out(1),
                "word": Out(ADDRESS_BITS),
                "empty": Out(1, init=1),
                "left": Out(LENGTH_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        page_bits = (PAGE_BYTES // self._word_bytes).bit_length() - 1
        byte_bits = self._word_bytes.bit_length() - 1
        request, burst = self.request, self.burst
        asked, next_request, to_limit = self.asked, self.next_request, self.to_limit
        taken = Signal()
        moves = Signal()  # from next to first
        moved = Signal()
        held = Signal()  # there is a first one
        waits = Signal()
        address = Signal(ADDRESS_BITS)  # of a word, base included
        base = Cat(Const(0, page_bits), self.base[page_bits + byte_bits :])

        # A burst ends with the request, after BURST_BEATS, or at the page's end: a matter of the lowest bits only.
        log_beats = BURST_BEATS.bit_length() - 1
        room, more, room_behind = self.room, self.more, self.room_behind

        def longest(low, line: int):
            """Words from an address to its page's end, if it lies in that line of ``BURST_BEATS``."""
            return Mux(low[log_beats:] == line, BURST_BEATS - low[:log_beats], BURST_BEATS)

        def longer(words, beats):
            """More ``words`` than ``beats``, which are a few."""
            return words[len(beats) :].any() | (words[: len(beats)] > beats)

        last_line = PAGE_BYTES // self._word_bytes // BURST_BEATS - 1
        m.d.comb += [
            burst.valid.eq(held & (waits | ~(self.refusing | self.stop | self.hold))),
            burst.payload.address.eq(address << byte_bits),
            burst.payload.beats.eq(Mux(more, room, self.left)),
            self.started.eq(burst.valid & ~waits),
            self.empty.eq(~(held | asked)),
            self.refused.eq(moved & self.refusing),
            self.word.eq(address - base),
        ]
        m.d.sync += waits.eq(burst.valid & ~burst.ready)
        with m.If(burst.valid & burst.ready):
            m.d.sync += [address.eq(address + room), self.left.eq(self.left - room)]  # if there are more
            m.d.sync += [room.eq(room_behind), room_behind.eq(longest(address[:page_bits], last_line - 2))]
            m.d.sync += more.eq(longer(self.left, room + room_behind))
            with m.If(~more):
                m.d.sync += held.eq(0)
        with m.If(self.stop & ~(burst.valid & ~burst.ready)):
            m.d.sync += held.eq(0)

        words, low = next_request.words, next_request.address[:page_bits]
        first_room = Signal.like(room)
        m.d.comb += [
            first_room.eq(longest(low, last_line)),
            moves.eq(asked & ~self.stop & (~held | (burst.valid & burst.ready & ~more))),
            request.ready.eq(~self.stop & (~asked | moves)),
            taken.eq(request.valid & request.ready),
        ]
        m.d.sync += [moved.eq(moves), asked.eq(~self.stop & (taken | (asked & ~moves)))]
        with m.If(taken):
            m.d.sync += [next_request.eq(request.payload), to_limit.eq(self.limit - request.payload.address)]
        with m.If(moves):
            m.d.sync += [
                held.eq(1),
                self.refusing.eq((words == 0) | (to_limit < words)),
                self.left.eq(words),
                more.eq(longer(words, first_room)),
                address.eq(base + next_request.address),
                room.eq(first_room),
                room_behind.eq(longest(low, last_line - 1)),
            ]
        return m


def _errors() -> dict:
    return {"error": Out(1), "error_code": Out(ErrorCode), "error_address": Out(ADDRESS_BITS)}


def _stop(m: Module, halt: Signal, idle: Signal) -> Signal:
    """``halt``, a cycle later and kept until the unit is idle."""
    stop = Signal()
    m.d.sync += stop.eq(halt | (stop & ~idle))
    return stop


def _full(m: Module, outstanding: Signal) -> Signal:
    """No burst may be started: seen a cycle late, so one may begin when but one is left."""
    full = Signal()
    m.d.sync += full.eq(outstanding >= OUTSTANDING - 1)
    return full


def _connect_address(m: Module, unit: Component, prefix: str, cache: int, protection: int) -> None:
    """Bursts of ``unit.splitter`` to its address channel, its requests and memory to the splitter."""
    splitter = unit.splitter

    def pin(name: str) -> Signal:
        return getattr(unit.axi, prefix + name)

    connect(m, flipped(unit.request), splitter.request)
    m.d.comb += [
        splitter.base.eq(unit.base),
        splitter.limit.eq(unit.limit),
        pin("valid").eq(splitter.burst.valid),
        splitter.burst.ready.eq(pin("ready")),
        pin("addr").eq(splitter.burst.payload.address),
        pin("len").eq(splitter.burst.payload.beats - 1),
        pin("size").eq(unit.word_bytes.bit_length() - 1),
        pin("burst").eq(INCREMENTING),
        pin("cache").eq(cache),
        pin("prot").eq(protection),
    ]


def _report(m: Module, unit: Component, response: Signal, code: ErrorCode) -> None:
    """Errors of the requests and of the slave's responses to the unit's error ports."""
    refused = unit.splitter.refused
    m.d.comb += [
        unit.error.eq(refused | response),
        unit.error_code.eq(Mux(refused, ErrorCode.ADDRESS_RANGE, Mux(response, code, ErrorCode.NONE))),
        unit.error_address.eq(Mux(refused, unit.splitter.word, 0)),
    ]


class AxiReader(Component):
    """Reads memory through AR and R.

    Parameters
    ----------
    data_bits: width of a word and of a beat, a power of two of 32 or more.
    version: 3 or 4, see `axi_read`.
    cache, protection: ARCACHE and ARPROT.

    Members
    -------
    axi: the pins.
    request, word: as `rtl.interface.READ_CHANNEL`. A word is passed on in the cycle in which it comes; RREADY is
        always 1 and ``word.ready`` is not looked at.
    base: byte address of word 0, a multiple of 4 KB (the low bits are ignored).
    limit: words of the memory; base and limit together must stay within 2**32 bytes. Both change only while idle.
    halt: see the module. Words that come during it are swallowed.
    idle: no request is held and no word is owed.
    error: strobe, with ``error_code`` READ_ERROR (a beat came with SLVERR or DECERR; it is passed on all the same) or
        ADDRESS_RANGE (a request reaches beyond the limit or has no words: nothing of it is issued, and nothing after it
        until ``halt``, though one more request may be taken; ``error_address`` is its word address). A request is
        refused two cycles after it was taken, or the cycle after the last address of those before it was, if that is
        later.

    Latency: `ADDRESS_LATENCY` from request to AR, none from R to word. Throughput: one burst and one word per cycle.
    """

    def __init__(
        self,
        data_bits: int = 64,
        version: int = 3,
        cache: int = MODIFIABLE_BUFFERABLE,
        protection: int = UNPRIVILEGED_SECURE_DATA,
    ):
        self._cache, self._protection = cache, protection
        self.word_bytes = data_bits // 8
        self.splitter = BurstSplitter(self.word_bytes)
        super().__init__(
            {
                "axi": Out(axi_read(data_bits, version)),
                "request": In(stream.Signature(READ_REQUEST)),
                "word": Out(stream.Signature(data_bits)),
                "base": In(BYTE_ADDRESS_BITS),
                "limit": In(LIMIT_BITS),
                "halt": In(1),
                "idle": Out(1, init=1),
                "outstanding": Out(range(OUTSTANDING + 1)),
            }
            | _errors()
        )

    def elaborate(self, platform):
        m = Module()
        axi = self.axi
        m.submodules.splitter = splitter = self.splitter
        _connect_address(m, self, "ar", self._cache, self._protection)
        stop = _stop(m, self.halt, self.idle)
        full = _full(m, self.outstanding)
        m.d.comb += [
            splitter.stop.eq(stop),
            splitter.hold.eq(full),
            self.idle.eq(splitter.empty & (self.outstanding == 0)),
            axi.rready.eq(1),
            self.word.valid.eq(axi.rvalid & ~stop),
            self.word.payload.eq(axi.rdata),
        ]
        m.d.sync += self.outstanding.eq(self.outstanding + (axi.arvalid & axi.arready) - (axi.rvalid & axi.rlast))
        _report(m, self, axi.rvalid & axi.rresp[1], ErrorCode.READ_ERROR)
        return m


class LengthQueue(Component):
    """Beats of the write bursts that have started and whose beats are not all sent.

    Members
    -------
    push, push_last: strobe, a burst has started; index of its last beat. Only when not ``full``.
    pop: strobe, the first one is done. Only when ``filled``.
    beat, last: whether this is the last beat of the first burst.
    level: bursts held, this cycle's push not counted; full, filled: it is `AHEAD`, it is not 0.

    Latency: a length may be popped a cycle after it was pushed. Throughput: a push and a pop per cycle.
    """

    push: In(1)
    push_last: In(BEATS_BITS - 1)
    pop: In(1)
    beat: In(BEATS_BITS - 1)
    last: Out(1)
    level: Out(range(AHEAD + 1))
    full: Out(1)
    filled: Out(1)

    def __init__(self):
        self.entries = [Signal(BEATS_BITS - 1, name=f"entry_{i}") for i in range(AHEAD)]
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        after = Signal.like(self.level)
        m.d.comb += [self.last.eq(self.beat == self.entries[0]), after.eq(self.level + self.push - self.pop)]
        m.d.sync += [self.level.eq(after), self.full.eq(after == AHEAD), self.filled.eq(after != 0)]
        for i, entry in enumerate(self.entries):
            after = self.entries[i + 1] if i + 1 < AHEAD else entry
            with m.If(self.push & (self.level == i + self.pop)):
                m.d.sync += entry.eq(self.push_last)
            with m.Elif(self.pop):
                m.d.sync += entry.eq(after)
        return m


class AxiWriter(Component):
    """Writes memory through AW, W and B.

    Up to `AHEAD` addresses go ahead of their data; a burst's first beat comes at least two cycles after its address.

    Parameters
    ----------
    data_bits, version, cache, protection: as in `AxiReader`, for AW.

    Members
    -------
    axi: the pins.
    request: as in `AxiReader`; then as many words as asked for must come on ``word``, in order.
    word: see `write_word`.
    base, limit, halt: as in `AxiReader`. During halt the beats owed are sent with no byte enabled.
    idle: no request is held and every burst has its response: everything asked for is written.
    error: as in `AxiReader`, with WRITE_ERROR for a burst's response SLVERR or DECERR.

    Latency: `ADDRESS_LATENCY`, `WORD_LATENCY`, `REQUEST_TO_BEAT`. Throughput: one burst and one word per cycle.
    """

    def __init__(
        self,
        data_bits: int = 64,
        version: int = 3,
        cache: int = MODIFIABLE_BUFFERABLE,
        protection: int = UNPRIVILEGED_SECURE_DATA,
    ):
        self._cache, self._protection = cache, protection
        self.word_bytes = data_bits // 8
        self.splitter, self.lengths = BurstSplitter(self.word_bytes), LengthQueue()
        # A beat waits behind the one on the pins.
        self.waits = Signal()
        self.waiting = Signal(write_word(data_bits))
        self.waiting_last = Signal()
        super().__init__(
            {
                "axi": Out(axi_write(data_bits, version)),
                "request": In(stream.Signature(READ_REQUEST)),
                "word": In(stream.Signature(write_word(data_bits))),
                "base": In(BYTE_ADDRESS_BITS),
                "limit": In(LIMIT_BITS),
                "halt": In(1),
                "idle": Out(1, init=1),
                "outstanding": Out(range(OUTSTANDING + 1)),
                "beat": Out(BEATS_BITS - 1),
            }
            | _errors()
        )

    def elaborate(self, platform):
        m = Module()
        axi, word = self.axi, self.word
        m.submodules.splitter = splitter = self.splitter
        m.submodules.lengths = lengths = self.lengths
        _connect_address(m, self, "aw", self._cache, self._protection)
        stop = _stop(m, self.halt, self.idle)
        full = _full(m, self.outstanding)
        m.d.comb += [
            splitter.stop.eq(stop),
            splitter.hold.eq(lengths.full | full),
            lengths.push.eq(splitter.started),
            lengths.push_last.eq(splitter.burst.payload.beats - 1),
            lengths.beat.eq(self.beat),
            self.idle.eq(splitter.empty & (self.outstanding == 0)),
            axi.bready.eq(1),
        ]
        m.d.sync += self.outstanding.eq(self.outstanding + splitter.started - axi.bvalid)

        # The beat on the pins comes from registers, so that it outlives a halt that resets whoever gave the word. A
        # second one waits while the slave does not take it: the slave's readiness goes no further.
        wanted = Signal()
        load = Signal()
        waits, waiting, waiting_last = self.waits, self.waiting, self.waiting_last
        beat = Signal(write_word(8 * self.word_bytes), name="next_beat")
        m.d.comb += [
            wanted.eq(lengths.filled & ~waits),
            word.ready.eq(wanted & ~stop),
            load.eq(wanted & (word.valid | stop)),
            lengths.pop.eq(load & lengths.last),
            beat.data.eq(word.payload.data),
            beat.strobe.eq(Mux(stop, 0, word.payload.strobe)),
        ]
        with m.If(load):
            m.d.sync += self.beat.eq(Mux(lengths.last, 0, self.beat + 1))
        with m.If(~waits):
            m.d.sync += [waiting.eq(beat), waiting_last.eq(lengths.last)]
        stays = axi.wvalid & ~axi.wready
        m.d.sync += [axi.wvalid.eq(load | waits | stays), waits.eq(stays & (load | waits))]
        with m.If(~stays):
            m.d.sync += [
                Cat(axi.wdata, axi.wstrb).eq(Mux(waits, waiting, beat)),
                axi.wlast.eq(Mux(waits, waiting_last, lengths.last)),
            ]
        _report(m, self, axi.bvalid & axi.bresp[1], ErrorCode.WRITE_ERROR)
        return m
