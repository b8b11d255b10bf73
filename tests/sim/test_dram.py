"""The simulated memory, measured from outside: programs whose cycles are known but for the memory."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from codesign.execution import run_on_rtl
from hardware.accelerator import Memory
from hardware.instruction import ERROR_ILLEGAL_INSTRUCTION, FIELDS, INSTRUCTION_WORDS, encode
from hardware.layer import Layer
from hardware.operands import Operands
from sim.run import SMALLEST_MEMORY_WORDS, Job, MachineError, simulate_jobs

PORTS, WORDS, STROBES = 4, 3, (0x00, 0xFF, 0x01, 0x80, 0x0F, 0xAA)
READ_ADDRESS, RESULT_ADDRESS, STROBE_ADDRESS = 100, 200, 300
OLD, NEW = 0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210

# In the place of the engine: all ports ask for their words at once; then every word and the cycle in which it came is
# written from address 200 on, then NEW to one address from 300 on with every strobe. Cycle 0 is the first busy one. The
# program's address is added to the last port's.
SCRIPT = f"""
module codesign_engine(
    input clk, input rst, input start, input [31:0] \\program , output reg busy, output [3:0] error,
    output reg [47:0] cycles, output write__word__valid, input write__word__ready, output [103:0] write__word__payload,
    {{ports}}
);
    wire [31:0] program_address = \\program ;
    wire [{PORTS - 1}:0] request_ready = {{ready}};
    wire [{PORTS - 1}:0] word_valid = {{valid}};
    wire [63:0] word [{PORTS}];
    reg [{PORTS - 1}:0] asking;
    reg [63:0] script [{2 * PORTS * WORDS}];
    integer count [{PORTS}], step;
    assign error = 0;
    {{wires}}
    wire strobes = step >= {2 * PORTS * WORDS};
    wire [7:0] pattern [{len(STROBES)}];
    {{patterns}}
    wire received = {{received}};
    assign write__word__valid = busy && received;
    assign write__word__payload = strobes
        ? {{{{pattern[step - {2 * PORTS * WORDS}], 64'd{NEW}, 32'd{STROBE_ADDRESS} + step - 32'd{2 * PORTS * WORDS}}}}}
        : {{{{8'hff, script[step], 32'd{RESULT_ADDRESS} + step}}}};
    always @(posedge clk) begin
        if (busy) cycles <= cycles + 1;
        asking <= asking & ~request_ready;
        for (int p = 0; p < {PORTS}; p++) if (word_valid[p]) begin
            script[2 * ({WORDS} * p + count[p])] <= word[p];
            script[2 * ({WORDS} * p + count[p]) + 1] <= cycles;
            count[p] <= count[p] + 1;
        end
        if (write__word__valid && write__word__ready) begin
            step <= step + 1;
            if (step == {2 * PORTS * WORDS + len(STROBES) - 1}) busy <= 0;
        end
        if (start) begin
            busy <= 1;
            asking <= '1;
        end
        if (rst) begin
            busy <= 0;
            asking <= 0;
            cycles <= 0;
            step <= 0;
            for (int p = 0; p < {PORTS}; p++) count[p] <= 0;
        end
    end
endmodule
""".format(
    ports=",\n    ".join(
        f"output read_{p}__request__valid, input read_{p}__request__ready, output [55:0] read_{p}__request__payload, "
        f"input read_{p}__word__valid, output read_{p}__word__ready, input [63:0] read_{p}__word__payload"
        for p in range(PORTS)
    ),
    ready="{" + ", ".join(f"read_{p}__request__ready" for p in reversed(range(PORTS))) + "}",
    valid="{" + ", ".join(f"read_{p}__word__valid" for p in reversed(range(PORTS))) + "}",
    received=" && ".join(f"count[{p}] == {WORDS}" for p in range(PORTS)),
    patterns="\n    ".join(f"assign pattern[{i}] = 8'd{pattern};" for i, pattern in enumerate(STROBES)),
    wires="\n    ".join(
        f"assign word[{p}] = read_{p}__word__payload; assign read_{p}__word__ready = 1; "
        f"assign read_{p}__request__valid = asking[{p}]; "
        f"assign read_{p}__request__payload = {{24'd{WORDS}, 32'd{READ_ADDRESS + 10 * p}{moved}}};"
        for p, moved in enumerate([""] * (PORTS - 1) + [" + program_address"])
    ),
)


@pytest.fixture(scope="module")
def read_cycles(tiny) -> Callable[[int, int], int]:
    """Busy cycles of a machine that reads one illegal instruction and stops: request, words, one look at the opcode."""
    image = encode(dict.fromkeys(FIELDS, 0))

    def measure(latency: int, cycles_per_word: int) -> int:
        memory = Memory(latency=latency, cycles_per_word=cycles_per_word)
        (outcome,) = simulate_jobs([Job(image, 0, 0, 0, cycle_limit=10_000)], tiny, memory).outcomes
        assert outcome.error == ERROR_ILLEGAL_INSTRUCTION
        return outcome.cycles

    return measure


def test_latency_0_brings_the_first_word_in_the_next_cycle(read_cycles):
    assert read_cycles(0, 1) == 1 + INSTRUCTION_WORDS + 1


@pytest.mark.parametrize("latency", [1, 2, 33, 1000])
def test_latency_delays_the_words_of_a_request_once(read_cycles, latency):
    assert read_cycles(latency, 1) - read_cycles(0, 1) == latency
    assert read_cycles(latency, 5) - read_cycles(0, 5) == latency


@pytest.mark.parametrize("cycles_per_word", [2, 7, 64])
def test_every_word_but_the_first_waits_for_the_one_before(read_cycles, cycles_per_word):
    assert read_cycles(3, cycles_per_word) - read_cycles(3, 1) == (INSTRUCTION_WORDS - 1) * (cycles_per_word - 1)


def slope(accelerator, in_channels: int, out_channels: int, cycles_per_word: int) -> float:
    """Cycles that one more image costs a fully connected layer of 1 bit."""

    def operands(images: int) -> Operands:
        layer = Layer("fc", "linear", in_channels, out_channels, images=images)
        weights = np.zeros((out_channels, in_channels, 1, 1), dtype=np.int64)
        activations = np.zeros((images, in_channels, 1, 1), dtype=np.int64)
        return Operands(layer, weights, activations, (1,) * out_channels, 1)

    memory = Memory(latency=4, cycles_per_word=cycles_per_word)
    more, fewer = run_on_rtl([operands(60), operands(20)], accelerator, memory).layers
    return (more.rtl_cycles - fewer.rtl_cycles) / 40


@pytest.mark.parametrize("cycles_per_word", [8, 16, 64])
def test_results_take_the_write_channel_word_by_word(tiny, cycles_per_word):
    # One word in, eight words out for every image.
    assert slope(tiny, in_channels=64, out_channels=16, cycles_per_word=cycles_per_word) == 8 * cycles_per_word


@pytest.mark.parametrize("cycles_per_word", [8, 16, 64])
def test_operands_take_the_read_channel_word_by_word(tiny, cycles_per_word):
    # Ten words in, one word out for every image.
    assert slope(tiny, in_channels=640, out_channels=2, cycles_per_word=cycles_per_word) == 10 * cycles_per_word


def test_reads_and_writes_do_not_share_a_channel(tiny):
    # Eight words in and eight out: with one channel for both an image would cost 16 words.
    assert slope(tiny, in_channels=512, out_channels=16, cycles_per_word=16) == 8 * 16


@pytest.mark.parametrize(("latency", "cycles_per_word"), [(0, 1), (5, 1), (2, 7)])
def test_every_port_has_the_whole_memory_and_a_bandwidth_of_its_own(tiny, latency, cycles_per_word):
    image = np.arange(400, dtype=np.uint64) + 7000
    memory = Memory(ports=PORTS, latency=latency, cycles_per_word=cycles_per_word)
    job = Job(image, 0, RESULT_ADDRESS, 2 * PORTS * WORDS, cycle_limit=10_000)
    (outcome,) = simulate_jobs([job], tiny, memory, verilog=SCRIPT).outcomes
    words, cycles = outcome.results.reshape(PORTS, WORDS, 2).transpose(2, 0, 1)
    assert words.tolist() == [[7000 + READ_ADDRESS + 10 * p + k for k in range(WORDS)] for p in range(PORTS)]
    # All are asked in cycle 0, and no port waits for another.
    assert cycles.tolist() == [[1 + latency + k * cycles_per_word for k in range(WORDS)]] * PORTS
    writes = 2 * PORTS * WORDS + len(STROBES)
    assert outcome.cycles == cycles.max() + 1 + (writes - 1) * cycles_per_word + 1


def test_a_write_changes_the_bytes_of_its_strobe_only(tiny):
    image = np.full(400, OLD, dtype=np.uint64)
    job = Job(image, 0, STROBE_ADDRESS, len(STROBES) + 1, cycle_limit=10_000)
    (outcome,) = simulate_jobs([job], tiny, Memory(ports=PORTS, latency=0, cycles_per_word=1), verilog=SCRIPT).outcomes
    old, new = OLD.to_bytes(8, "little"), NEW.to_bytes(8, "little")
    expected = [bytes((new if strobe >> i & 1 else old)[i] for i in range(8)) for strobe in STROBES]
    assert [int(word).to_bytes(8, "little") for word in outcome.results] == [*expected, old]


def test_an_address_beyond_the_memory_is_a_fault_on_the_last_port_too(tiny):
    last_word = SMALLEST_MEMORY_WORDS - READ_ADDRESS - 10 * (PORTS - 1) - WORDS
    job = Job(np.zeros(400, dtype=np.uint64), last_word, 0, 1, cycle_limit=10_000)
    simulate_jobs([job], tiny, verilog=SCRIPT)
    with pytest.raises(MachineError, match="job 0: the machine used an address beyond its memory"):
        simulate_jobs([replace(job, program_address=last_word + 1)], tiny, verilog=SCRIPT)
