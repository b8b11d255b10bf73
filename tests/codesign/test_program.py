"""Networks as one program each on the simulated machine, against integer inference: scores, values, planes, cycles."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.integers import IntegerNetwork
from codesign.networks import create_network
from codesign.program import POISON, Program, Step, build_program
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.tracing import trace
from hardware.accelerator import Accelerator, Memory, load_accelerator
from hardware.arithmetic import to_activations
from hardware.errors import InputError
from hardware.kinds import KINDS
from policies.policy import Policy
from program_networks import NETWORKS, UNUSUAL, Around, Chain, Flat, Image, OptionA, Readers, Residual, Row
from sim.run import Job, Outcome, simulate_jobs

SHAPE = (3, 7, 6)


@pytest.fixture(scope="module")
def wide(machine) -> Accelerator:
    """Four ports, two lanes, and buffers so small that passes are split and weights streamed."""
    return machine(dm=4, dn=4, dk=128, ports=4, lhs_entries=256, rhs_entries=256, plane_words=16)


def quantized_network(
    module: Callable[[], nn.Module], shape: tuple[int, int, int], weights=4, activations=4, seed=0
) -> IntegerNetwork:
    """A module with random weights; ``weights`` and ``activations`` are one width for all layers or one per layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        traced = trace(module().eval(), shape)
        images = torch.randn(12, *shape)
    count = len(traced.layers)
    bits = (each if isinstance(each, list) else [each] * count for each in (weights, activations))
    policy = Policy.from_bits("random", traced.layers, list(zip(*bits, strict=True)))
    return IntegerNetwork(QuantizedNetwork(traced, policy, Calibration(traced, images)).eval())


def image_of(shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def job_of(program: Program, image: torch.Tensor, memory: Memory | None = None) -> Job:
    """A job that brings back the whole memory."""
    words = program.with_image(image.double().numpy())
    return Job(words, program.address, 0, len(words), cycle_limit=4 * program.cycles(memory) + 100_000)


def walk(fields: dict[str, int], prefix: str) -> list[int]:
    """Addresses of all output pixels' first words, as the instruction's steps and corrections lead there."""
    address, addresses = fields[f"{prefix}_base"], []
    for _ in range(fields["out_height"]):
        for _ in range(fields["out_width"]):
            addresses.append(address)
            address += fields[f"{prefix}_step"]
        address = (address + fields[f"{prefix}_row_correction"]) % 2**32
    return addresses


def written_values(step: Step, memory: np.ndarray) -> np.ndarray:
    """int64 ``(kernels, pixels)``."""
    halves = memory.view("<i2")
    rows = [halves[4 * address : 4 * address + len(step.work.kernels)] for address in walk(step.fields, "result")]
    return np.array(rows, dtype=np.int64).T


def written_activations(step: Step, memory: np.ndarray) -> np.ndarray:
    """The integers of bit planes or packed values, two's complement where clamped below 0: ``(kernels, pixels)``."""
    bits, columns = step.fields["plane_bits"], []
    apart, stride = (1, bits) if KINDS[step.work.kind].packed else (64, 1)  # of a value's bits, of neighbours
    for address in walk(step.fields, "plane"):
        pixel = []
        for channel in range(len(step.work.kernels)):
            word, place = divmod(channel, 64)
            words = sum(int(memory[address + word * bits + i]) << 64 * i for i in range(bits))
            places = [words >> place * stride + i * apart & 1 for i in range(bits)]
            integer = sum(bit << i for i, bit in enumerate(places))
            pixel.append(integer - (1 << bits) * (step.fields["clamp_low"] > 0 and places[-1]))
        columns.append(pixel)
    return np.array(columns, dtype=np.int64).T


def check_tensors(network: IntegerNetwork, program: Program, image: torch.Tensor, memory: np.ndarray, before=None):
    """Everything that the program wrote, against the values of the network's nodes.

    ``before`` holds the channels, rows and columns of zeros that a padding node has before what is moved into it.
    """
    values = network.run(image, record=True).values
    rectified = {step.name for step in program.steps if step.fields["relu"]}
    written: dict[tuple, list[int]] = {}
    for step in program.steps:
        expected = values[step.value][0]
        expected = np.maximum(expected, 0) if step.name in rectified else expected
        if expected.ndim == 1:  # a flat node keeps its pixels
            expected = expected.reshape(-1, step.fields["out_height"], step.fields["out_width"])
        moved = step.fields["write_values"] and step.name in (before or {})
        channels, top, left = before[step.name] if moved else (0, 0, 0)
        region = expected[
            [kernel + channels for kernel in step.work.kernels],
            top : top + step.fields["out_height"],
            left : left + step.fields["out_width"],
        ].reshape(len(step.work.kernels), -1)
        if step.fields["write_values"]:
            assert (written_values(step, memory) == region).all(), step.name
            written.setdefault((step.name, len(expected)), []).extend(step.work.kernels)
        if step.fields["write_planes"]:
            constants = step.fields["quantizer"], -step.fields["clamp_low"], step.fields["clamp_high"]
            assert (written_activations(step, memory) == to_activations(region, *constants)).all(), step.name
            written.setdefault((step.name, len(expected), *constants), []).extend(step.work.kernels)
    for (node, channels, *constants), kernels in written.items():
        if node in (before or {}) and not constants:
            channels -= 2 * before[node][0]
        assert sorted(kernels) == list(range(channels)), node  # nothing is missing, nothing comes twice


def check(network, program, image, outcome: Outcome, memory: Memory | None = None, before=None) -> None:
    """Scores, tensors and cycles."""
    scores = outcome.results[program.scores.base : program.scores.base + program.scores.words]
    assert outcome.error == 0
    assert program.read_scores(scores).tolist() == network.run(image).scores[0].tolist()
    check_tensors(network, program, image, outcome.results, before)
    assert outcome.cycles == program.cycles(memory)


@pytest.mark.parametrize("machine_name", ["tiny", "wide"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_values_of_integer_inference_in_the_modelled_cycles(tiny, wide, name, machine_name):
    module, weights, activations, *before = NETWORKS[name]
    accelerator = {"tiny": tiny, "wide": wide}[machine_name]
    network, image = quantized_network(module, SHAPE, weights, activations), image_of(SHAPE)
    program = build_program(network, accelerator, SHAPE)
    (outcome,) = simulate_jobs([job_of(program, image)], accelerator).outcomes
    check(network, program, image, outcome, before=before[0] if before else None)
    assert len(set(network.run(image).scores[0].tolist())) > 1  # equal scores would prove little


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_that_share_memory_give_the_same_scores_image_after_image(tiny, name):
    module, *bits = NETWORKS[name]
    network = quantized_network(module, SHAPE, *bits[:2])
    apart = build_program(network, tiny, SHAPE)
    program = build_program(network, tiny, SHAPE, compact=True)
    assert len(program.memory) <= len(apart.memory)
    assert [step.work for step in program.steps] == [step.work for step in apart.steps]
    memory = program.memory
    for seed in range(2):
        image = image_of(SHAPE, seed)
        loaded = program.with_image(image.double().numpy())
        for _, tensor in program.image_tensors:  # nothing else is written again
            memory[tensor.base : tensor.base + tensor.words] = loaded[tensor.base : tensor.base + tensor.words]
        job = Job(memory, program.address, 0, len(memory), cycle_limit=4 * program.cycles() + 100_000)
        memory = simulate_jobs([job], tiny).outcomes[0].results
        scores = program.read_scores(memory[program.scores.base : program.scores.base + program.scores.words])
        assert (scores == network.run(image).scores[0]).all()


@pytest.mark.parametrize("preset", ["stripes-tiny", "fusion-tiny"])
def test_networks_on_machines_of_other_kinds_give_the_same_values(preset):
    accelerator, image = load_accelerator(preset), image_of(SHAPE)
    networks = [quantized_network(module, SHAPE, *bits[:2]) for module, *bits in NETWORKS.values()]
    programs = [build_program(network, accelerator, SHAPE) for network in networks]
    outcomes = simulate_jobs([job_of(program, image) for program in programs], accelerator).outcomes
    for network, program, outcome, (*_, last) in zip(networks, programs, outcomes, NETWORKS.values(), strict=True):
        check(network, program, image, outcome, before=last if isinstance(last, dict) else None)


def test_every_width_of_weights_and_activations(smallest):
    networks = [quantized_network(Chain, SHAPE, bits, 9 - bits, seed=bits) for bits in range(1, 9)]
    networks += [quantized_network(Chain, SHAPE, bits, bits, seed=bits) for bits in (1, 8)]
    programs = [build_program(network, smallest, SHAPE) for network in networks]
    image = image_of(SHAPE)
    outcomes = simulate_jobs([job_of(program, image) for program in programs], smallest).outcomes
    for network, program, outcome in zip(networks, programs, outcomes, strict=True):
        check(network, program, image, outcome)


def test_tiles_of_one_step_with_constants_behind_it(smallest):
    # Of packed operands, whose steps take two bits of each; of planes, with one plane each.
    network, image = quantized_network(Flat, SHAPE, 2 if smallest.traits.packed else 1, 2), image_of(SHAPE)
    program = build_program(network, smallest, SHAPE)
    assert any(step.work.window_words == 1 for step in program.steps)
    (outcome,) = simulate_jobs([job_of(program, image)], smallest).outcomes
    check(network, program, image, outcome)


@pytest.mark.parametrize(("latency", "cycles_per_word"), [(0, 1), (90, 2), (3, 16)])
def test_a_program_behind_other_memories(tiny, latency, cycles_per_word):
    network, image = quantized_network(Residual, SHAPE), image_of(SHAPE, 1)
    program, memory = build_program(network, tiny, SHAPE), Memory(latency=latency, cycles_per_word=cycles_per_word)
    (outcome,) = simulate_jobs([job_of(program, image, memory)], tiny, memory).outcomes
    check(network, program, image, outcome, memory)


def test_lenet_on_several_images(tiny):
    shape = (1, 8, 8)
    network = quantized_network(lambda: create_network("lenet", seed=0), shape)
    program = build_program(network, tiny, shape)
    images = [image_of(shape, seed) for seed in range(3)]
    outcomes = simulate_jobs([job_of(program, image) for image in images], tiny).outcomes
    for image, outcome in zip(images, outcomes, strict=True):
        check(network, program, image, outcome)
    assert len({outcome.cycles for outcome in outcomes}) == 1
    # A second image needs nothing of the first one's memory, and changes no more than the image's planes.
    changed = program.with_image(images[0].double().numpy()) != program.with_image(images[1].double().numpy())
    ((_, tensor),) = program.image_tensors
    assert changed.any()
    assert set(np.flatnonzero(changed)) <= set(range(tensor.base, tensor.base + tensor.words))
    assert (program.with_image(images[0].double().numpy()) == POISON).any()  # what the program still has to write


@pytest.mark.parametrize(("channels", "window", "width"), [(2, 1, 5), (4, 19, 24), (2048, 1, 4)])
def test_pools_of_one_row_tile_of_large_windows_and_of_as_many_channels_as_a_pass_holds(tiny, channels, window, width):
    shape = 1, 1, width
    network, image = quantized_network(lambda: Row(channels, window), shape), image_of(shape)
    program = build_program(network, tiny, shape)
    (pool,) = (step.work for step in program.steps if step.work.operation == "maximum")
    assert (pool.row_tiles, pool.taps) == (channels // tiny.array.dm, window)
    (outcome,) = simulate_jobs([job_of(program, image)], tiny).outcomes
    check(network, program, image, outcome)


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_lowered_is_right_or_else_refused(tiny, name):
    network, image = quantized_network(UNUSUAL[name], SHAPE), image_of(SHAPE)
    try:
        program = build_program(network, tiny, SHAPE)
    except InputError:
        return
    (outcome,) = simulate_jobs([job_of(program, image)], tiny).outcomes
    scores = outcome.results[program.scores.base : program.scores.base + program.scores.words]
    assert program.read_scores(scores).tolist() == network.run(image).scores[0].tolist()


@pytest.mark.parametrize(
    ("between", "features", "message"),
    [
        (
            lambda x: x + F.max_pool2d(x, 3, 1, padding=1),
            8 * 42,
            r"node 'add\w*' adds two tensors of which one has a border for a pool: pool a copy",
        ),
        (
            lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)),
            12 * 42,
            r"node 'pad\w*' puts 2 channels before 8, but bitserial-tiny moves 4 at a time: pad by a multiple",
        ),
    ],
)
def test_a_network_that_the_machine_cannot_run_is_refused_by_its_node(tiny, between, features, message):
    network = quantized_network(lambda: Around(between, features), SHAPE)
    with pytest.raises(InputError, match=message):
        build_program(network, tiny, SHAPE)


def test_channels_that_the_machine_moves_together_may_not_reach_beyond_the_padded_ones(machine):
    # 7 channels are moved as 8; before them 4, behind them 1 of zeros: 12 in all, on a machine that takes 8 at a time.
    padded = Around(lambda x: F.pad(x[:, :, ::2], (0, 0, 0, 0, 4, 4)), 16 * 24)
    network = quantized_network(lambda: padded, SHAPE)
    assert build_program(network, machine(dm=8), SHAPE).steps
    with pytest.raises(InputError, match="puts 4 channels before 8, but variant moves 16 at a time"):
        build_program(network, machine(dm=16), SHAPE)


def test_a_layer_that_does_not_fit_is_refused_by_name(machine):
    network = quantized_network(Chain, SHAPE)
    with pytest.raises(InputError, match="'first' needs 37 entries for one weight tile"):
        build_program(network, machine(rhs_entries=16, lhs_entries=16), SHAPE)


def test_only_the_last_instruction_ends_the_program_and_they_lie_in_a_row(tiny):
    program = build_program(quantized_network(OptionA, SHAPE), tiny, SHAPE)
    instructions = program.memory[program.address :].reshape(len(program.steps), -1)
    assert (instructions[:, 0] >> np.uint64(8) & np.uint64(1)).tolist() == [0] * (len(program.steps) - 1) + [1]
    # Slice and padding are one instruction; what is rectified is so by the instruction before.
    assert [(step.name, step.work.operation, step.fields["relu"]) for step in program.steps] == [
        ("first", "matrix", 1),
        ("down", "matrix", 0),
        ("pad", "sum", 0),
        ("add_1", "sum", 1),
        ("last", "matrix", 0),
    ]


def test_a_value_is_written_only_as_it_is_read(tiny):
    def written(module, activations):
        program = build_program(quantized_network(module, SHAPE, 4, activations), tiny, SHAPE)
        return [(s.name, s.fields["write_values"], s.fields["plane_bits"]) for s in program.steps]

    assert written(Chain, [8, 3, 5]) == [("first", 0, 3), ("second", 0, 5), ("last", 1, 0)]
    one_width, two_widths = written(Readers, 4), written(Readers, [8, 4, 4, 6, 5])
    assert one_width[:2] == [("first", 1, 4), ("one", 1, 0)]
    assert two_widths[:3] == [("first", 1, 4), ("first", 0, 6), ("one", 1, 0)]


def test_a_program_is_not_changed_by_an_image(tiny):
    program = build_program(quantized_network(Image, SHAPE), tiny, SHAPE)
    before = program.memory.copy()
    memory = program.with_image(image_of(SHAPE).double().numpy())
    assert (program.memory == before).all()
    assert len(program.image_tensors) == 2
    for layer, tensor in program.image_tensors:
        assert (
            memory[tensor.base : tensor.base + tensor.words] != before[tensor.base : tensor.base + tensor.words]
        ).any()
        assert tensor.border == layer.layer.padding
