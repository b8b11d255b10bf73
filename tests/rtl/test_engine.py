"""The whole machine under Amaranth's own simulator, with a memory in plain Python.

`tests/sim` runs the generated Verilog; here the same gateware runs on a second simulator, and every word on
its memory ports is seen.
"""

from dataclasses import replace

import numpy as np
import pytest

from codesign.lowering import lower
from hardware.cycles import layer_cycles
from hardware.instruction import (
    ERROR_ILLEGAL_INSTRUCTION,
    ERROR_NONE,
    FIELDS,
    INSTRUCTION_WORDS,
    OPCODES,
    encode,
)
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.timing import (
    ADDRESS_TO_WORD,
    INSTRUCTION_TO_STAGES,
    REQUEST_TO_ADDRESS,
    START_TO_REQUEST,
    WALK_LATENCY,
    WORD_LATENCY,
)
from rtl.interface import INSTRUCTION
from sim.reference import reference_sums

LINEAR = Layer("fc", "linear", in_channels=100, out_channels=5, images=4, signed_activations=True)
CONV = Layer("c", "conv", 3, 4, in_height=4, in_width=3, kernel=(3, 2), stride=(2, 1), padding=(1, 0), images=2)
DILATED = replace(CONV, in_height=7, in_channels=70, dilation=(2, 2), padding=(1, 1))
GROUPED = Layer("g", "conv", 128, 66, groups=2)  # two passes
DEPTHWISE = Layer("d", "conv", 6, 6, in_height=3, in_width=3, kernel=(2, 2), groups=6, images=2)


def operands_of(integers, layer, weight_bits, activation_bits, bipolar=False) -> Operands:
    rng = np.random.default_rng(7)
    kernel = (layer.in_channels // layer.groups, *layer.kernel)
    weights = [integers(rng, kernel, bits, True) if bits else np.zeros(kernel, dtype=np.int64) for bits in weight_bits]
    shape = (layer.images, layer.in_channels, layer.in_height, layer.in_width)
    activations = integers(rng, shape, activation_bits, layer.signed_activations)
    return Operands(layer, np.stack(weights), activations, tuple(weight_bits), activation_bits, bipolar=bipolar)


RUNS = [  # layer, weight bits, activation bits, bipolar, changes of the machine
    (LINEAR, [2] * 5, 3, True, {}),
    (LINEAR, [3] * 5, 2, False, {"lhs_entries": 16, "rhs_entries": 16, "latency": 0}),  # weights are streamed
    (LINEAR, [2, 0, 1, 2, 4], 1, False, {"latency": 3, "cycles_per_word": 9}),  # several widths, one kernel pruned
    (LINEAR, [1] * 5, 1, False, {"latency": 0, "cycles_per_word": 11}),  # the write channel is the bottleneck
    (LINEAR, [4] * 5, 4, True, {"ports": 2, "latency": 2}),
    (CONV, [1] * 4, 8, False, {"dk": 128, "dn": 3, "latency": 40}),
    (CONV, [4] * 4, 2, False, {"dm": 4, "dn": 1, "lhs_entries": 32, "rhs_entries": 16, "cycles_per_word": 2}),
    (CONV, [3, 3, 2, 2], 2, True, {"dn": 4, "ports": 2, "lhs_entries": 32, "rhs_entries": 16}),
    (DILATED, [2] * 4, 1, False, {"dm": 4, "dn": 4, "ports": 4, "rhs_entries": 32, "latency": 5}),
    (LINEAR, [3] * 5, 2, False, {"dm": 4, "dn": 8, "ports": 4, "lhs_entries": 16, "cycles_per_word": 2}),
    (GROUPED, [2] * 66, 2, False, {"dm": 16, "ports": 2}),
    (DEPTHWISE, [3] * 6, 2, False, {"dn": 4}),
]


@pytest.mark.parametrize(("layer", "weight_bits", "activation_bits", "bipolar", "changes"), RUNS)
def test_sums_and_cycles_are_those_of_reference_and_model(
    run_engine, machine, integers, plain_memory, layer, weight_bits, activation_bits, bipolar, changes
):
    accelerator = machine(**{"lhs_entries": 64, "rhs_entries": 64} | changes)
    operands = operands_of(integers, layer, weight_bits, activation_bits, bipolar)
    lowered = lower(operands, accelerator)
    latency, interval = accelerator.memory.latency, accelerator.memory.cycles_per_word
    memory = plain_memory(lowered.image, latency, interval)
    ((cycles, error),) = run_engine(accelerator, memory)
    assert error == ERROR_NONE
    results = np.array(memory.words[lowered.result_address :], dtype=np.uint64)
    expected = reference_sums(operands)
    expected[:, [bits == 0 for bits in weight_bits]] = 0
    assert (lowered.outputs(results) == expected).all()
    assert memory.words[: lowered.result_address] == lowered.image[: lowered.result_address].tolist()
    addresses = [address for _, address, _ in memory.writes]
    assert sorted(addresses) == list(range(lowered.result_address, len(memory.words)))  # every result once
    assert cycles == layer_cycles(lowered.schedule)

    # The latencies before the first operand, on the port itself. Cycle 0 is the start strobe.
    port = memory.ports[0]
    first, second = port.requests[:2]
    assert first == (START_TO_REQUEST, 0, INSTRUCTION_WORDS)
    assert port.addresses[0] == START_TO_REQUEST + REQUEST_TO_ADDRESS
    assert port.arrivals[0] == port.addresses[0] + ADDRESS_TO_WORD + latency
    assert second[0] == port.arrivals[INSTRUCTION_WORDS - 1] + WORD_LATENCY + INSTRUCTION_TO_STAGES + WALK_LATENCY
    channel_free = port.addresses[0] + INSTRUCTION_WORDS * interval
    assert port.addresses[1] == max(second[0] + REQUEST_TO_ADDRESS, channel_free)


@pytest.mark.parametrize("ports", [1, 2, 4])
def test_a_moody_memory_changes_the_cycles_and_nothing_else(run_engine, machine, integers, plain_memory, ports):
    accelerator = machine(dm=4, dn=4, ports=ports, lhs_entries=16, rhs_entries=16)
    operands = operands_of(integers, LINEAR, [3] * 5, 2)
    lowered = lower(operands, accelerator)
    memory = plain_memory(lowered.image, 2, refuse=0.5)
    run_engine(accelerator, memory)
    results = np.array(memory.words[lowered.result_address :], dtype=np.uint64)
    assert (lowered.outputs(results) == reference_sums(operands)).all()


def test_an_illegal_instruction_stops_the_machine_and_the_next_start_clears_it(
    run_engine, machine, integers, plain_memory
):
    accelerator = machine(dm=16, lhs_entries=64, rhs_entries=64, latency=0)
    lowered = lower(operands_of(integers, GROUPED, [2] * 66, 1), accelerator)
    illegal = lowered.image.copy()
    illegal[INSTRUCTION_WORDS] ^= np.uint64(4)  # the second instruction's opcode: 1 becomes 5
    memory = plain_memory(illegal)

    def stopped():
        memory.words = lowered.image.tolist()

    ends = run_engine(accelerator, memory, then=stopped)
    one, both = lowered.schedule.passes[:1], lowered.schedule
    to_word = START_TO_REQUEST + REQUEST_TO_ADDRESS + ADDRESS_TO_WORD + WORD_LATENCY
    cycles = layer_cycles(replace(both, passes=one)) + to_word + INSTRUCTION_WORDS
    assert ends == [(cycles, ERROR_ILLEGAL_INSTRUCTION), (layer_cycles(both), ERROR_NONE)]


@pytest.mark.parametrize("opcode", [0, max(OPCODES) + 1, 1 + 128, 255])
def test_every_other_opcode_is_illegal(run_engine, machine, plain_memory, opcode):
    address = 30
    image = np.concatenate([np.zeros(address, np.uint64), encode(dict.fromkeys(FIELDS, 0) | {"opcode": opcode})])
    memory = plain_memory(image, latency=5)
    (end,) = run_engine(machine(lhs_entries=16, rhs_entries=16), memory, address)
    assert memory.ports[0].requests == [(START_TO_REQUEST, address, INSTRUCTION_WORDS)]
    # Request 1, address 3, first word 4 + 5, last word 9 + INSTRUCTION_WORDS - 1, its register, one cycle to look at
    # the opcode.
    assert end == (9 + INSTRUCTION_WORDS + 1, ERROR_ILLEGAL_INSTRUCTION)


def test_a_start_while_busy_is_ignored(run_engine, machine, integers, plain_memory):
    accelerator = machine(lhs_entries=64, rhs_entries=64, latency=0)
    operands = operands_of(integers, LINEAR, [2] * 5, 1)
    lowered = lower(operands, accelerator)
    memory = plain_memory(lowered.image)
    (end,) = run_engine(accelerator, memory, meddle=True)
    assert end == (layer_cycles(lowered.schedule), ERROR_NONE)
    results = np.array(memory.words[lowered.result_address :], dtype=np.uint64)
    assert (lowered.outputs(results) == reference_sums(operands)).all()


def test_the_gateware_decodes_what_the_lowering_encodes():
    rng = np.random.default_rng(0)
    fields = {name: int(rng.integers(1 << bits)) for name, bits in FIELDS.items()}
    word = int.from_bytes(encode(fields).astype("<u8").tobytes(), "little")
    decoded = INSTRUCTION.from_bits(word & ((1 << INSTRUCTION.size) - 1))
    assert {name: getattr(decoded, name) for name in FIELDS} == fields
