"""The simulated memory against what it promises: a scripted AXI master stands where the machine is."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from hardware.accelerator import Memory
from hardware.timing import ADDRESS_TO_WORD, WRITE_RESPONSE
from sim.job import RESPONSES, BusError, Job
from sim.run import SMALLEST_MEMORY_WORDS, MachineError, simulate_jobs

PORTS = 4
BASE = 0x4000_0000  # byte address of the memory, as in bench.sv
WORDS = SMALLEST_MEMORY_WORDS
SCRIPT, LOG, DATA = 0x100, 0x200, 0x1000  # words: commands, what happened, what the tests read and write
READS, WRITES = 32, 16  # words of a port's commands, write commands
PORT_LOG, BEAT_LOG = 256, 64
WRITE_LOG = LOG + PORTS * PORT_LOG
BAD_WORD = 0xBAD0_BAD0_BAD0_BAD0

READ_PINS = {
    **{"arvalid": "output", "arready": "input", "araddr": "output [31:0]", "arlen": "output [3:0]"},
    **{"arsize": "output [2:0]", "arburst": "output [1:0]", "arcache": "output [3:0]", "arprot": "output [2:0]"},
    **{"rvalid": "input", "rready": "output", "rdata": "input [63:0]", "rresp": "input [1:0]", "rlast": "input"},
}

# Commands and log lie in the simulated memory itself, read and written past the bus. A command's bits: 31:0 address,
# 35:32 len, 38:36 size, 40:39 burst, 63 valid; of a write also 44:41 the beat with WLAST, 55:48 strobes, and behind it
# a word with the data of its first beat, which every beat raises by one. The last word of a port's commands is the
# cycle from which on it takes beats.
BODY = f"""
    logic running = 0, done = 0;
    logic [31:0] now = 0, script = 0;
    assign s_axi_awready = !s_axi_bvalid;
    assign s_axi_wready = !s_axi_bvalid;
    assign s_axi_arready = !s_axi_rvalid;
    assign s_axi_bresp = 0;
    assign s_axi_rresp = 0;
    assign interrupt = done;

    logic [{PORTS - 1}:0] idle;
    for (genvar p = 0; p < {PORTS}; p++) begin : reader
        localparam int MINE = {LOG} + p * {PORT_LOG};
        logic [31:0] asked, owed, came;
        wire [63:0] command = bench.memory.contents[script + p * {READS} + asked];
        assign arvalid[p] = running && command[63];
        assign {{arburst[p], arsize[p], arlen[p], araddr[p]}} = command[40:0];
        assign rready[p] = running && now >= bench.memory.contents[script + p * {READS} + {READS - 1}][31:0];
        assign idle[p] = !command[63] && owed == came;
        always_ff @(posedge clk) begin
            if (arvalid[p] && arready[p]) begin
                bench.memory.contents[MINE + asked] <= now;
                asked <= asked + 1;
                owed <= owed + arlen[p] + 1;
            end
            if (rvalid[p] && rready[p]) begin
                bench.memory.contents[MINE + {BEAT_LOG} + 2 * came] <= {{29'b0, rlast[p], rresp[p], now}};
                bench.memory.contents[MINE + {BEAT_LOG} + 2 * came + 1] <= rdata[p];
                came <= came + 1;
            end
            if (rst) {{asked, owed, came}} <= 0;
        end
    end

    logic [31:0] asked, sent, answered, beats;
    logic [3:0] beat;
    wire [31:0] writes = script + {PORTS * READS};
    wire [63:0] address = bench.memory.contents[writes + 2 * asked];
    wire [63:0] words = bench.memory.contents[writes + 2 * sent];
    assign m_axi_0_awvalid = running && address[63];
    assign {{m_axi_0_awburst, m_axi_0_awsize, m_axi_0_awlen, m_axi_0_awaddr}} = address[40:0];
    assign m_axi_0_awcache = 0;
    assign m_axi_0_awprot = 0;
    assign m_axi_0_wvalid = running && words[63];
    assign m_axi_0_wdata = bench.memory.contents[writes + 2 * sent + 1] + beat;
    assign m_axi_0_wstrb = words[55:48];
    assign m_axi_0_wlast = beat == words[44:41];
    assign m_axi_0_bready = running;
    always_ff @(posedge clk) begin
        if (m_axi_0_awvalid && m_axi_0_awready) begin
            bench.memory.contents[{WRITE_LOG} + asked] <= now;
            asked <= asked + 1;
        end
        if (m_axi_0_wvalid && m_axi_0_wready) begin
            bench.memory.contents[{WRITE_LOG} + {2 * BEAT_LOG} + beats] <= now;
            beats <= beats + 1;
            beat <= m_axi_0_wlast ? 0 : beat + 1;
            if (m_axi_0_wlast) sent <= sent + 1;
        end
        if (m_axi_0_bvalid && m_axi_0_bready) begin
            bench.memory.contents[{WRITE_LOG} + {BEAT_LOG} + answered] <= {{30'b0, m_axi_0_bresp, now}};
            answered <= answered + 1;
        end

        s_axi_bvalid <= s_axi_bvalid ? !s_axi_bready : s_axi_awvalid && s_axi_wvalid;
        s_axi_rvalid <= s_axi_rvalid ? !s_axi_rready : s_axi_arvalid;
        if (s_axi_arvalid && s_axi_arready) s_axi_rdata <= s_axi_araddr == `STATUS && done ? `STATUS_DONE : 0;
        if (s_axi_awvalid && s_axi_wvalid && s_axi_awready) begin
            if (s_axi_awaddr == `PROGRAM) script <= s_axi_wdata;
            if (s_axi_awaddr == `CONTROL && (s_axi_wdata & `CONTROL_START) != 0) running <= 1;
        end
        if (running) now <= now + 1;
        if (running && &idle && !address[63] && !words[63] && answered == asked) {{done, running}} <= 2'b10;
        if (rst) begin
            {{running, done, now, asked, sent, answered, beats, beat, s_axi_bvalid, s_axi_rvalid}} <= 0;
        end
    end
endmodule
"""


def master() -> str:
    """Verilog of a machine that does what its program says on the bus, nothing else."""
    lite = {
        **{"awvalid": "input", "awready": "output", "awaddr": "input [11:0]", "awprot": "input [2:0]"},
        **{"wvalid": "input", "wready": "output", "wdata": "input [31:0]", "wstrb": "input [3:0]"},
        **{"bvalid": "output reg", "bready": "input", "bresp": "output [1:0]"},
        **{"arvalid": "input", "arready": "output", "araddr": "input [11:0]", "arprot": "input [2:0]"},
        **{"rvalid": "output reg", "rready": "input", "rdata": "output reg [31:0]", "rresp": "output [1:0]"},
    }
    write = {
        **{"awvalid": "output", "awready": "input", "awaddr": "output [31:0]", "awlen": "output [3:0]"},
        **{"awsize": "output [2:0]", "awburst": "output [1:0]", "awcache": "output [3:0]", "awprot": "output [2:0]"},
        **{"wvalid": "output", "wready": "input", "wdata": "output [63:0]", "wstrb": "output [7:0]"},
        **{"wlast": "output", "bvalid": "input", "bready": "output", "bresp": "input [1:0]"},
    }
    pins = ["input clk", "input rst", "output interrupt"]
    pins += [f"{kind} s_axi_{name}" for name, kind in lite.items()]
    pins += [f"{kind} m_axi_0_{name}" for name, kind in write.items()]
    pins += [f"{kind} m_axi_{port}_{name}" for port in range(PORTS) for name, kind in READ_PINS.items()]
    lines = []
    for name, kind in READ_PINS.items():  # the ports as one vector each
        direction, _, width = kind.partition(" ")
        lines.append(f"    wire [{PORTS - 1}:0]{width} {name};")
        for port in range(PORTS):
            inner, pin = f"{name}[{port}]", f"m_axi_{port}_{name}"
            lines.append(f"    assign {pin} = {inner};" if direction == "output" else f"    assign {inner} = {pin};")
    text = ",\n    ".join(pins)
    return f"module codesign_accelerator (\n    {text}\n);\n" + "\n".join(lines) + BODY


def command(word: int, beats: int = 1, size: int = 3, burst: int = 1, offset: int = 0) -> int:
    """A burst from a word address (or ``offset`` bytes behind it) on."""
    return (BASE + 8 * word + offset) % (1 << 32) | beats - 1 << 32 | size << 36 | burst << 39 | 1 << 63


def write_command(word: int, beats: int = 1, strobes: int = 0xFF, sent: int | None = None, **more: int) -> int:
    """As `command`; WLAST comes with beat ``sent``, by default the last."""
    return command(word, beats, **more) | (sent or beats) - 1 << 41 | strobes << 48


@dataclass(frozen=True)
class Seen:
    """What the master saw, in cycles: addresses, beats and responses accepted; and the memory in the end."""

    reads: list[list[int]]
    beats: list[list[tuple[int, int, int, int]]]  # cycle, data, response, last
    addresses: list[int]
    words: list[int]
    responses: list[tuple[int, int]]  # cycle, response
    memory: np.ndarray


def contents(words: int = DATA + 0x1000) -> np.ndarray:
    """Random memory, with room for script and log."""
    image = np.random.default_rng(0).integers(0, 1 << 64, size=words, dtype=np.uint64)
    image[SCRIPT:DATA] = 0
    return image


def job_of(reads=(), writes=(), takes_from=0, image: np.ndarray | None = None, **fields) -> Job:
    """A job for the master: commands by port, write commands with the data of their first beats."""
    image = contents() if image is None else image
    for port, commands in enumerate(reads):
        image[SCRIPT + port * READS : SCRIPT + port * READS + len(commands)] = commands
        image[SCRIPT + (port + 1) * READS - 1] = takes_from
    flat = [np.uint64(word) for pair in writes for word in pair]
    image[SCRIPT + PORTS * READS : SCRIPT + PORTS * READS + len(flat)] = flat
    return Job(image, SCRIPT, 0, len(image), cycle_limit=20_000, **fields)


def run(job: Job, accelerator, latency: int = 7, cycles_per_word: int = 1) -> Seen:
    """What came of the job."""
    memory = Memory(ports=PORTS, latency=latency, cycles_per_word=cycles_per_word)
    (outcome,) = simulate_jobs([job], accelerator, memory, verilog=master()).outcomes
    return seen(job, outcome.results)


def seen(job: Job, words: np.ndarray) -> Seen:
    """The log, as far as the commands made one."""
    script = [int(word) for word in job.image[SCRIPT : SCRIPT + PORTS * READS + 2 * WRITES]]
    reads, beats = [], []
    for port in range(PORTS):
        mine = LOG + port * PORT_LOG
        lengths = [(one >> 32 & 15) + 1 for one in script[port * READS : (port + 1) * READS - 1] if one]
        reads.append([int(word) for word in words[mine : mine + len(lengths)]])
        log = [int(word) for word in words[mine + BEAT_LOG : mine + BEAT_LOG + 2 * sum(lengths)]]
        beats.append(
            [(one & 0xFFFF_FFFF, data, one >> 32 & 3, one >> 34) for one, data in zip(log[::2], log[1::2], strict=True)]
        )
    lengths = [(one >> 41 & 15) + 1 for one in script[PORTS * READS :: 2] if one]
    first = [int(word) for word in words[WRITE_LOG : WRITE_LOG + 4 * BEAT_LOG]]
    responses = [(one & 0xFFFF_FFFF, one >> 32) for one in first[BEAT_LOG : BEAT_LOG + len(lengths)]]
    log = first[2 * BEAT_LOG : 2 * BEAT_LOG + sum(lengths)]
    return Seen(reads, beats, first[: len(lengths)], log, responses, words)


@pytest.mark.parametrize(("latency", "cycles_per_word"), [(0, 1), (7, 1), (0, 3), (1000, 1), (33, 64)])
def test_every_port_sees_the_whole_memory_after_its_latency_at_a_bandwidth_of_its_own(tiny, latency, cycles_per_word):
    image = contents(WORDS)
    places = [(0, 16), (WORDS - 16, 16), (DATA + 5, 1), (WORDS // 2 + 511, 1), (WORDS - 1, 1), (DATA + 7, 9)]
    orders = [places[port:] + places[:port] for port in range(PORTS)]
    reads = [[command(*one) for one in order] for order in orders]
    # Port 0 writes meanwhile.
    job = job_of(reads, [(write_command(DATA + 100, 16), 1)], image=image)
    got = run(job, tiny, latency, cycles_per_word)
    for port, order in enumerate(orders):
        accepted, expected = 0, []
        for (word, beats), cycle in zip(order, got.reads[port], strict=True):
            assert cycle == accepted, "an address waits for the words of the burst before, and for nothing else"
            accepted += beats * cycles_per_word
            expected += [
                (cycle + ADDRESS_TO_WORD + latency + k * cycles_per_word, int(image[word + k]), 0, int(k == beats - 1))
                for k in range(beats)
            ]
        assert got.beats[port] == expected
    first = got.words[0]
    assert got.words == [first + k * cycles_per_word for k in range(16)], "reads and writes share no bandwidth"
    assert first == 1
    assert got.responses == [(got.words[-1] + WRITE_RESPONSE, 0)]
    assert got.memory[DATA + 100 : DATA + 116].tolist() == list(range(1, 17))


def test_beats_wait_for_a_master_that_does_not_take_them(tiny):
    reads = [[command(DATA, 16), command(DATA + 16, 4)]] * PORTS
    job = job_of(reads, takes_from=60)
    got = run(job, tiny)
    for port in range(PORTS):
        assert [beat[0] for beat in got.beats[port]] == list(range(60, 80))
        assert [beat[1] for beat in got.beats[port]] == job.image[DATA : DATA + 20].tolist()


def test_addresses_of_writes_are_accepted_at_once_and_bursts_answered_in_order(tiny):
    bursts = [(DATA + 32 * i, 1 + 5 * i % 16) for i in range(6)]
    job = job_of(writes=[(write_command(*one), 1000 * i) for i, one in enumerate(bursts)])
    got = run(job, tiny, cycles_per_word=3)
    assert got.addresses == list(range(6))
    assert np.diff(got.words).tolist() == [3] * (len(got.words) - 1)
    ends = np.cumsum([beats for _, beats in bursts]) - 1
    assert got.responses == [(got.words[end] + WRITE_RESPONSE, 0) for end in ends]
    for i, (word, beats) in enumerate(bursts):
        assert got.memory[word : word + beats].tolist() == list(range(1000 * i, 1000 * i + beats))


def test_strobes_choose_the_bytes_that_change(tiny):
    strobes = [0x00, 0x01, 0x80, 0x3C, 0xA5, 0xFF]
    new = 0x1122_3344_5566_7788
    job = job_of(writes=[(write_command(DATA + 2 * i, 2, strobe), new) for i, strobe in enumerate(strobes)])
    got = run(job, tiny)
    expected = job.image[DATA:].copy()
    for i, strobe in enumerate(strobes):
        mask = sum(0xFF << 8 * byte for byte in range(8) if strobe >> byte & 1)
        for beat in range(2):
            old = int(expected[2 * i + beat])
            expected[2 * i + beat] = old & ~mask | (new + beat) & mask
    assert (got.memory[DATA:] == expected).all()
    assert (got.memory[:SCRIPT] == job.image[:SCRIPT]).all()


@pytest.mark.parametrize("response", RESPONSES)
def test_an_error_response_to_a_write_leaves_memory_unchanged(tiny, response):
    job = job_of(writes=[(write_command(DATA + 8 * i, 3), 7 * i) for i in range(3)])
    got = run(replace(job, bus_error=BusError("write", 2, response)), tiny)
    assert [answer for _, answer in got.responses] == [0, RESPONSES[response], 0]
    expected = job.image[DATA:].copy()
    expected[:3], expected[16:19] = (0, 1, 2), (14, 15, 16)
    assert (got.memory[DATA:] == expected).all()


@pytest.mark.parametrize("port", [0, 3])
def test_an_error_response_to_a_read_is_that_of_all_beats_of_one_burst_of_one_port(tiny, port):
    job = job_of([[command(DATA + 8 * i, 4) for i in range(3)]] * PORTS)
    got = run(replace(job, bus_error=BusError("read", 2, "SLVERR", port)), tiny)
    plain = [(int(job.image[DATA + 8 * i + k]), 0, int(k == 3)) for i in range(3) for k in range(4)]
    wrong = [*plain[:4], *[(BAD_WORD, RESPONSES["SLVERR"], int(k == 3)) for k in range(4)], *plain[8:]]
    for one in range(PORTS):
        assert [beat[1:] for beat in got.beats[one]] == (wrong if one == port else plain)
    assert (got.memory[DATA:] == job.image[DATA:]).all()


FORBIDDEN = {
    "beyond the memory": {"word": WORDS},
    "before the memory": {"word": -1},
    "across a page": {"word": 512 * 5 - 3, "beats": 4},
    "not aligned": {"word": DATA, "offset": 4},
    "half words": {"word": DATA, "size": 2},
    "a fixed address": {"word": DATA, "burst": 0},
}


@pytest.mark.parametrize(
    ("access", "case"),
    [*(("read", case) for case in FORBIDDEN), ("write", "beyond the memory"), ("write", "across a page")],
)
def test_a_burst_that_axi_or_the_memory_forbids_is_a_fault(tiny, access, case):
    if access == "read":
        job = job_of([[], [], [command(DATA), command(**FORBIDDEN[case])], []])
    else:
        job = job_of(writes=[(write_command(**FORBIDDEN[case]), 0)], write_range=(0, 1 << 31))
    with pytest.raises(MachineError, match="job 0: the machine made a burst beyond its memory or against AXI's rules"):
        run(job, tiny)


def test_a_burst_to_the_end_of_a_page_is_none(tiny):
    run(job_of([[command(512 * 5 - 4, 4)]] * PORTS, [(write_command(512 * 10 - 16, 16), 0)]), tiny)


@pytest.mark.parametrize(("beats", "sent"), [(4, 3), (3, 4)], ids=["early", "late"])
def test_a_wrong_wlast_is_a_fault(tiny, beats, sent):
    job = job_of(writes=[(write_command(DATA, beats, sent=sent), 0)])
    with pytest.raises(MachineError, match="against AXI's rules"):
        run(job, tiny)


@pytest.mark.parametrize(
    ("write", "stray"),
    [
        (write_command(DATA + 4, 8), False),
        (write_command(DATA + 3, 2), True),
        (write_command(DATA + 11, 2), True),
        (write_command(DATA + 3, 1, strobes=0), False),
        (write_command(DATA + 12, 1, strobes=0x80), True),
    ],
    ids=["inside", "before", "behind", "no byte", "one byte"],
)
def test_a_write_outside_its_range_is_reported(tiny, write, stray):
    job = job_of(writes=[(write, 0)], write_range=(DATA + 4, DATA + 12))
    if stray:
        with pytest.raises(MachineError, match="job 0: the machine wrote outside the range"):
            run(job, tiny)
    else:
        run(job, tiny)
