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


class Residual(nn.Module):
    """Padded max pool, residual, average pool over a part, linear layer over several pixels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, padding=1)
        self.second = nn.Conv2d(10, 10, 3, padding=1)
        self.last = nn.Linear(10 * 2 * 1, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 3, 2, padding=1)
        x = F.relu(self.second(x) + x)
        return self.last(F.avg_pool2d(x, (2, 3), (2, 3)).flatten(1))


class Separable(nn.Module):
    """Depthwise and pointwise layers; with more than 64 channels the depthwise one is split."""

    def __init__(self, channels=12, dilation=1):
        super().__init__()
        self.first = nn.Conv2d(3, channels, (3, 1), padding=(1, 0))
        self.depth = nn.Conv2d(channels, channels, 3, 2, padding=dilation, groups=channels, dilation=dilation)
        self.point = nn.Conv2d(channels, 9, 1)
        self.last = nn.Linear(9, 4)

    def forward(self, x):
        x = F.relu(self.depth(F.relu(self.first(x))))
        return self.last(F.adaptive_avg_pool2d(F.relu(self.point(x)), 1).flatten(1))


class Grouped(nn.Module):
    """Channel groups that are no single channels, and that begin amidst a word."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 80, 1)
        self.grouped = nn.Conv2d(80, 80, (2, 3), groups=8, padding=(0, 1))
        self.last = nn.Linear(80 * 2 * 2, 3)

    def forward(self, x):
        return self.last(F.avg_pool2d(F.relu(self.grouped(F.relu(self.first(x)))), 3).flatten(1))


class OptionA(nn.Module):
    """The shortcut of ResNet for CIFAR: every other pixel, zeros for the channels that are missing."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.last = nn.Linear(16 * 4 * 3, 5)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.last(F.relu(self.down(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))).flatten(1))


class Readers(nn.Module):
    """One value read by three layers, of which two can share planes, by an addition, and by a pool."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.one, self.two, self.three = (nn.Conv2d(6, 6, k, padding=k // 2) for k in (1, 3, 5))
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        y = self.one(x) + x + (self.two(x) + self.three(x))
        return self.last(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Image(nn.Module):
    """Two layers read the image, with borders and steps of their own; scores added to themselves and rectified."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 5, padding=2)
        self.last = nn.Linear(5 * 7 * 6, 4)

    def forward(self, x):
        x = self.last((self.one(x) + self.two(x)).flatten(1))
        return F.relu(x + x)


class Flat(nn.Module):
    """Linear layers only."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(126, 70), nn.ReLU(), nn.Linear(70, 20), nn.ReLU(), nn.Linear(20, 6)
        )

    def forward(self, x):
        return self.layers(x)


class Chain(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 9, 3), nn.Conv2d(9, 7, 2, stride=2)
        self.last = nn.Linear(7 * 2 * 2, 5)

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x)))).flatten(1))


class Broad(nn.Module):
    """More than 64 channels everywhere: planes of several words, values that go in several passes through a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 150, 2), nn.Conv2d(150, 150, 1)
        self.last = nn.Linear(150 * 2, 5)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.max_pool2d(F.relu(self.second(x)) + x, (4, 2), 1)
        return self.last(F.avg_pool2d(x, (3, 2)).flatten(1))


class Widths(nn.Module):
    """So many kernels that every width from 0 to 8 bits has row tiles of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 36, 2), nn.Linear(36, 5)

    def forward(self, x):
        return self.last(F.adaptive_avg_pool2d(F.relu(self.first(x)), 1).flatten(1))


class NegativePool(nn.Module):
    """A padded pool of values below 0: what lies outside the image must not win."""

    def __init__(self, channels=8):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(channels * 42, 5)
        nn.init.constant_(self.first.bias, -4.0)

    def values(self, x):
        return self.first(x)

    def forward(self, x):
        return self.last(F.max_pool2d(self.values(x), 3, 1, padding=1).flatten(1))


class Moves(nn.Module):
    """A slice that does not begin at 0, padding before and behind, pooling that rectifies, a ReLU of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.two, self.three = (nn.Conv2d(8, 5, k) for k in (2, 2, 1))

    def forward(self, x):
        x = self.first(x)
        y = self.one(F.pad(F.relu(x[:, :, 1::2, ::3]), (1, 2, 2, 1)))
        z = self.two(F.relu(F.max_pool2d(x, (2, 3), (1, 2))))
        w = self.three(F.relu(x) + x)
        return sum(
            (F.adaptive_avg_pool2d(each, 1).flatten(1) for each in (z, w)), F.adaptive_avg_pool2d(y, 1).flatten(1)
        )


NETWORKS: dict[str, tuple] = {
    "residual": (Residual, 4, 4),
    "separable": (Separable, 5, 3),
    "separable, dilated, split": (lambda: Separable(96, 2), 3, 4),
    "grouped": (Grouped, 4, 4),
    "option A": (OptionA, 4, 5, {"pad": (4, 0, 0)}),
    "moves": (Moves, 4, 5, {"pad": (0, 2, 1)}),
    "two widths of one value": (Readers, 4, [8, 4, 4, 6, 5]),
    "one width of one value": (Readers, 4, 4),
    "two layers on the image": (Image, 3, [2, 7, 4]),
    "negative pool": (NegativePool, 4, 4),
    "linear only": (Flat, 6, 4),
    "broad": (Broad, 3, 3),
    "kernel-wise": (Residual, [[4, 0, 2, 8, 1, 0, 3, 5, 7, 6], [0, 3, 3, 1, 0, 2, 4, 4, 0, 5], 4], 4),
    "kernel-wise chain": (Chain, [[4, 0, 2, 8, 1, 0, 3, 5, 7], [0, 3, 3, 1, 0, 2, 4], [2, 0, 5, 1, 3]], [8, 4, 2]),
    "kernel-wise before groups": (Separable, [[4, 1, 0, 2, 8, 1, 0, 3, 5, 2, 6, 7], [3, 0, 2, 4] * 3, 4, 4], 4),
    "every width in one layer": (Widths, [[bits for bits in range(9) for _ in range(4)], 4], 4),
    "a pruned layer": (Chain, [4, [0] * 7, 4], 4),
}
"""Module, weight bits, activation bits, and what padding nodes have before what is moved into them."""


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


class Row(nn.Module):
    """A pool of windows of so many pixels, two apart, in a row."""

    def __init__(self, channels: int, window: int):
        super().__init__()
        self.window, self.first, self.last = window, nn.Conv2d(1, channels, 1), nn.Linear(channels, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), (1, self.window), (1, 2))
        return self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize(("channels", "window", "width"), [(2, 1, 5), (4, 19, 24), (2048, 1, 4)])
def test_pools_of_one_row_tile_of_large_windows_and_of_as_many_channels_as_a_pass_holds(tiny, channels, window, width):
    shape = 1, 1, width
    network, image = quantized_network(lambda: Row(channels, window), shape), image_of(shape)
    program = build_program(network, tiny, shape)
    (pool,) = (step.work for step in program.steps if step.work.operation == "maximum")
    assert (pool.row_tiles, pool.taps) == (channels // tiny.array.dm, window)
    (outcome,) = simulate_jobs([job_of(program, image)], tiny).outcomes
    check(network, program, image, outcome)


class Around(nn.Module):
    """A convolution, what is done to its output, and a linear layer over what is left."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], features: int):
        super().__init__()
        self.between, self.first, self.last = between, nn.Conv2d(3, 8, 3, padding=1), nn.Linear(features, 5)

    def forward(self, x):
        return self.last(self.between(self.first(x)).flatten(1))


class FlatReaders(nn.Module):
    """Flattened twice; only one of them is rectified."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Linear(80, 5), nn.Linear(80, 5)

    def forward(self, x):
        x = self.first(x)
        return self.one(F.relu(x.flatten(1))) + self.two(x.flatten(1))


class FlatScores(nn.Module):
    """Scores that lie in several pixels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 5)

    def forward(self, x):
        return self.first(x).flatten(1)


class FlatAddition(nn.Module):
    """Adds four values of two pixels to four of one."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.last = nn.Conv2d(3, 2, (6, 6)), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.first(x).flatten(1)
        return self.last(x + self.one(x))


class Widened(nn.Module):
    """Channels of zeros behind the others, which an addition reads."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 12, 1), nn.Linear(12 * 42, 5)

    def forward(self, x):
        return self.last((F.pad(self.one(x), (0, 0, 0, 0, 0, 4)) + self.two(x)).flatten(1))


class NegativePaddedPool(NegativePool):
    """The same of values that were padded themselves, with channels."""

    def __init__(self):
        super().__init__(16)

    def values(self, x):
        return F.pad(super().values(x), (0, 0, 0, 0, 4, 4))


UNUSUAL: dict[str, Callable[[], nn.Module]] = {  # and what would go wrong if these were lowered like the usual ones
    "a slice's end": lambda: Around(lambda x: x[:, :, :4, 1:4], 8 * 12),  # it is ignored
    "padding behind": lambda: Around(lambda x: F.pad(x, (0, 1, 0, 1)), 8 * 56),  # the zeros are never written
    "channels behind": Widened,  # the zeros are never written
    "pool of padding": NegativePaddedPool,  # the border is 0, not the lowest value, and wins over negative values
    "padding of flat values": lambda: Around(lambda x: F.pad(x.flatten(1), (4, 0)), 8 * 42 + 4),  # taken for columns
    "ReLU of one of two": FlatReaders,  # goes into the layer, though another node reads it without
    "scores of several pixels": FlatScores,  # only the first pixel's channels are read
    "flat addition": FlatAddition,  # values of another order are added
}


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
