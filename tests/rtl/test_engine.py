"""The whole machine under Amaranth's own simulator, with a memory in plain Python.

`tests/sim` runs the generated Verilog; here the same gateware runs on a second simulator, and every word on
its memory port is counted.
"""

from dataclasses import replace

import numpy as np
import pytest

from codesign.lowering import lower
from hardware.cost import count_events
from hardware.cycles import layer_cycles
from hardware.instruction import ERROR_ILLEGAL_INSTRUCTION, ERROR_NONE, FIELDS, INSTRUCTION_WORDS, OPCODE_RUN, encode
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.timing import INSTRUCTION_TO_STAGES, REQUEST_TO_WORD, START_TO_REQUEST
from rtl.engine import Engine
from rtl.interface import INSTRUCTION
from sim.reference import integer_convolution

LINEAR = Layer("fc", "linear", in_channels=100, out_channels=5, images=4, signed_activations=True)
CONV = Layer("c", "conv", 3, 4, in_height=4, in_width=3, kernel=(3, 2), stride=(2, 1), padding=(1, 0), images=2)


def operands_of(integers, layer, weight_bits, activation_bits, signed_weights=True) -> Operands:
    rng = np.random.default_rng(7)
    kernel = (layer.in_channels, *layer.kernel)
    weights = [
        integers(rng, kernel, bits, signed_weights) if bits else np.zeros(kernel, dtype=np.int64)
        for bits in weight_bits
    ]
    shape = (layer.images, layer.in_channels, layer.in_height, layer.in_width)
    activations = integers(rng, shape, activation_bits, layer.signed_activations)
    return Operands(layer, np.stack(weights), activations, tuple(weight_bits), activation_bits, signed_weights)


async def run_program(ctx, engine, memory, address=0, limit=20_000, meddle=False) -> tuple[int, int]:
    """Start the engine and serve its memory until it is done: busy cycles and error code."""
    ctx.set(engine.program, address)
    ctx.set(engine.start, 1)
    busy_cycles = 0
    while True:
        memory.read(ctx, engine.read.request, engine.read.word)
        memory.write(ctx, engine.write.word)
        await memory.tick(ctx)
        ctx.set(engine.start, meddle)
        ctx.set(engine.program, 12345 if meddle else address)
        if not ctx.get(engine.busy):
            ctx.set(engine.start, 0)
            assert ctx.get(engine.cycles) == busy_cycles
            return busy_cycles, ctx.get(engine.error)
        busy_cycles += 1
        assert busy_cycles < limit, "the engine hangs"


RUNS = [  # layer, weight bits, activation bits, changes of the machine
    (LINEAR, [2] * 5, 3, {}),
    (LINEAR, [3] * 5, 2, {"lhs_entries": 16, "rhs_entries": 16, "latency": 0}),  # weights are streamed
    (LINEAR, [2, 0, 1, 2, 4], 1, {"latency": 3, "cycles_per_word": 9}),  # one pass per width, one kernel pruned
    (LINEAR, [1] * 5, 1, {"latency": 0, "cycles_per_word": 11}),  # the write channel is the bottleneck
    (CONV, [1] * 4, 8, {"dk": 128, "dn": 3, "latency": 40}),
    (CONV, [4] * 4, 2, {"dm": 4, "dn": 1, "lhs_entries": 32, "rhs_entries": 16, "cycles_per_word": 2}),
]


@pytest.mark.parametrize(("layer", "weight_bits", "activation_bits", "changes"), RUNS)
def test_results_cycles_and_words_are_those_of_reference_model_and_events(
    simulate, machine, integers, plain_memory, layer, weight_bits, activation_bits, changes
):
    accelerator = machine(**{"lhs_entries": 64, "rhs_entries": 64} | changes)
    operands = operands_of(integers, layer, weight_bits, activation_bits)
    lowered = lower(operands, accelerator)
    latency, interval = accelerator.memory.latency, accelerator.memory.cycles_per_word
    memory, engine = plain_memory(lowered.image, latency, interval), Engine(accelerator)
    ends = []

    async def testbench(ctx):
        ends.append(await run_program(ctx, engine, memory))

    simulate(engine, testbench)
    (cycles, error) = ends[0]
    assert error == ERROR_NONE
    results = np.array(memory.words[lowered.result_address :], dtype=np.uint64)
    expected = integer_convolution(operands.weights, operands.activations, layer)
    assert (lowered.outputs(results) == expected).all()
    assert (
        memory.words[: lowered.result_address] == lowered.image[: lowered.result_address].tolist()
    )  # nothing else is written
    assert len({address for _, address in memory.writes}) == lowered.result_words  # and no result twice
    assert cycles == layer_cycles(lowered.schedule)
    events = count_events(lowered.schedule)
    assert (memory.words_read, memory.words_written) == (events.words_read, events.words_written)

    # The latencies before the first operand, on the port itself. Cycle 0 is the start strobe.
    first, second = memory.requests[:2]
    assert first == (START_TO_REQUEST, 0, INSTRUCTION_WORDS)
    assert memory.arrivals[0] == START_TO_REQUEST + REQUEST_TO_WORD + latency
    channel_free = first[0] + INSTRUCTION_WORDS * interval
    assert second[0] == max(memory.arrivals[INSTRUCTION_WORDS - 1] + INSTRUCTION_TO_STAGES, channel_free)


def test_a_moody_memory_changes_the_cycles_and_nothing_else(simulate, machine, integers, plain_memory):
    accelerator = machine(lhs_entries=16, rhs_entries=16)
    operands = operands_of(integers, LINEAR, [3] * 5, 2)
    lowered = lower(operands, accelerator)
    memory, engine = plain_memory(lowered.image, 2, refuse=0.5), Engine(accelerator)

    async def testbench(ctx):
        await run_program(ctx, engine, memory)

    simulate(engine, testbench)
    results = np.array(memory.words[lowered.result_address :], dtype=np.uint64)
    assert (lowered.outputs(results) == integer_convolution(operands.weights, operands.activations, LINEAR)).all()


def test_an_illegal_instruction_stops_the_machine_and_the_next_start_clears_it(
    simulate, machine, integers, plain_memory
):
    accelerator = machine(lhs_entries=64, rhs_entries=64, latency=0)
    lowered = lower(operands_of(integers, LINEAR, [2, 2, 1, 1, 1], 1), accelerator)
    illegal = lowered.image.copy()
    illegal[INSTRUCTION_WORDS] ^= np.uint64(2)  # the second instruction's opcode: 1 becomes 3
    memory, engine, ends = plain_memory(illegal), Engine(accelerator), []

    async def testbench(ctx):
        ends.append(await run_program(ctx, engine, memory))
        for _ in range(50):  # stopped: no word is asked for or written
            memory.read(ctx, engine.read.request, engine.read.word)
            memory.write(ctx, engine.write.word)
            await memory.tick(ctx)
        assert ctx.get(engine.error) == ERROR_ILLEGAL_INSTRUCTION
        memory.words = lowered.image.tolist()
        ends.append(await run_program(ctx, engine, memory))

    simulate(engine, testbench)
    one, both = lowered.schedule.passes[:1], lowered.schedule
    stopped = layer_cycles(replace(both, passes=one)) + START_TO_REQUEST + REQUEST_TO_WORD + INSTRUCTION_WORDS
    assert ends == [(stopped, ERROR_ILLEGAL_INSTRUCTION), (layer_cycles(both), ERROR_NONE)]


@pytest.mark.parametrize("opcode", [0, 2, OPCODE_RUN + 128])
def test_every_opcode_but_run_is_illegal(simulate, machine, plain_memory, opcode):
    address = 30
    image = np.concatenate([np.zeros(address, np.uint64), encode(dict.fromkeys(FIELDS, 0) | {"opcode": opcode})])
    memory, engine, ends = plain_memory(image, latency=5), Engine(machine(lhs_entries=16, rhs_entries=16)), []

    async def testbench(ctx):
        ends.append(await run_program(ctx, engine, memory, address))

    simulate(engine, testbench)
    assert memory.requests == [(START_TO_REQUEST, address, INSTRUCTION_WORDS)]
    # Request, first word one cycle and the latency later, the other words, one cycle to look at the opcode.
    assert ends == [(1 + 5 + INSTRUCTION_WORDS + 1, ERROR_ILLEGAL_INSTRUCTION)]


def test_a_start_while_busy_is_ignored(simulate, machine, integers, plain_memory):
    accelerator = machine(lhs_entries=64, rhs_entries=64, latency=0)
    lowered = lower(operands_of(integers, LINEAR, [2] * 5, 1), accelerator)
    memory, engine, ends = plain_memory(lowered.image), Engine(accelerator), []

    async def testbench(ctx):
        ends.append(await run_program(ctx, engine, memory, meddle=True))

    simulate(engine, testbench)
    assert ends == [(layer_cycles(lowered.schedule), ERROR_NONE)]
    assert memory.words_read == count_events(lowered.schedule).words_read


def test_the_gateware_decodes_what_the_lowering_encodes():
    rng = np.random.default_rng(0)
    fields = {name: int(rng.integers(1 << bits)) for name, bits in FIELDS.items()}
    word = int.from_bytes(encode(fields).astype("<u8").tobytes(), "little")
    decoded = INSTRUCTION.from_bits(word & ((1 << INSTRUCTION.size) - 1))
    assert {name: getattr(decoded, name) for name in FIELDS} == fields
