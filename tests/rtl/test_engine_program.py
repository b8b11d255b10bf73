"""One program of three instructions, with values and bit planes between them, under Amaranth's simulator."""

import numpy as np
import pytest

from codesign.tensors import Tensor, activation_words, instruction, row_tile_words
from hardware.arithmetic import requantize, to_activations
from hardware.cycles import program_cycles
from hardware.instruction import ERROR_NONE, encode
from hardware.kinds import KINDS
from hardware.layer import Layer
from hardware.passes import Output
from hardware.schedule import schedule, vector_passes
from sim.reference import integer_convolution


class Network:
    """conv -> its values are pooled, its activations (3 bits) feed a second conv, whose values are the end."""

    def __init__(self, accelerator, integers):
        rng = np.random.default_rng(3)
        self.first = Layer("first", "conv", 5, 9, 5, 4, kernel=(3, 2), padding=(1, 1), signed_activations=True)
        self.second = Layer("second", "conv", 9, 6, 5, 5, kernel=(2, 2), stride=(2, 1), padding=(0, 1))
        self.pool = Layer("pool", "conv", 9, 9, 5, 5, kernel=(2, 3), stride=(1, 2))
        self.inputs = integers(rng, (1, 5, 5, 4), 4, True)
        self.weights = integers(rng, (9, 5, 3, 2), 3, True), integers(rng, (6, 9, 2, 2), 2, True)
        self.multipliers = [rng.integers(1 << 15, 1 << 19, size=count) for count in (9, 6)]
        self.biases = [rng.integers(-(1 << 22), 1 << 22, size=count) for count in (9, 6)]
        self.quantizer = {"quantizer": 1 << 19, "clamp_low": 0, "clamp_high": 7}
        channels = -(-9 // max(accelerator.array.dm, 4)) * max(accelerator.array.dm, 4) // 4
        outs = -(-6 // max(accelerator.array.dm, 4)) * max(accelerator.array.dm, 4) // 4
        image = activation_words(self.inputs, 4, (1, 1), KINDS["bit_serial"])
        self.values = Tensor(4000, 1, 5, 5, channels)
        self.planes = Tensor(4500, 1, 5, 5, 3, border=(0, 1))
        self.pooled = Tensor(4800, 1, 4, 2, channels)
        self.ends = Tensor(5000, 1, self.second.out_height, self.second.out_width, outs)
        self.memory = np.zeros(5400, dtype=np.uint64)
        source = Tensor(3000, 1, 5, 4, 4, border=(1, 1))
        self.memory[3000 : 3000 + len(image)] = image
        plans = [
            schedule(self.first, 3, 4, accelerator, output=Output(values=True, plane_bits=3), order=range(9)),
            schedule(self.second, 2, 3, accelerator, output=Output(values=True), order=range(6)),
        ]
        (one,), (two,) = (plan.passes for plan in plans)
        (pool,) = vector_passes("maximum", self.pool, accelerator, Output(values=True))
        self.works = one, pool, two
        words = []
        for work, weights, multiplier, bias in zip(
            (one, two), self.weights, self.multipliers, self.biases, strict=True
        ):
            constants = (bias.astype(np.uint64) << np.uint64(32)) | multiplier.astype(np.uint64)
            words.append(row_tile_words(weights, work, constants=constants))
        bases = 500, 500 + len(words[0])
        for base, tiles in zip(bases, words, strict=True):
            self.memory[base : base + len(tiles)] = tiles
        fields = [
            instruction(one, self.first, source, bases[0], results=self.values, planes=self.planes)
            | {"relu": 1} | self.quantizer,
            instruction(pool, self.pool, self.values, results=self.pooled) | {"multiplier": 1 << 16},
            instruction(two, self.second, self.planes, bases[1], results=self.ends) | {"last": 1},
        ]  # fmt: skip
        program = np.concatenate([encode(one) for one in fields])
        self.memory[: len(program)] = program

    def expected(self) -> list[np.ndarray]:
        """Values ``(channels, height, width)``: of the first layer, the pool and the second layer."""

        def layer_values(layer, number, activations):
            sums = integer_convolution(self.weights[number], activations, layer)[0]
            constants = self.multipliers[number][:, None, None], self.biases[number][:, None, None]
            return requantize(sums, *constants, 16)

        values = np.maximum(layer_values(self.first, 0, self.inputs), 0)
        pooled = np.stack([values[:, y : y + 2, 2 * x : 2 * x + 3].max((1, 2)) for y in range(4) for x in range(2)], 1)
        ends = layer_values(self.second, 1, to_activations(values[None], 1 << 19, 0, 7))
        return [values, pooled.reshape(9, 4, 2), ends]


@pytest.mark.parametrize(
    ("changes", "refuse"),
    [
        ({}, 0.0),
        ({"dm": 4, "ports": 2, "latency": 0}, 0.0),
        ({"dm": 8, "dk": 128, "dn": 4, "ports": 4, "cycles_per_word": 3}, 0.0),
        ({"dm": 4, "dn": 4, "ports": 2}, 0.5),
    ],
)
def test_a_program_of_two_layers_and_a_pool(run_engine, machine, integers, plain_memory, changes, refuse):
    accelerator = machine(**{"lhs_entries": 64, "rhs_entries": 64, "plane_words": 64} | changes)
    network = Network(accelerator, integers)
    memory = plain_memory(network.memory, accelerator.memory.latency, accelerator.memory.cycles_per_word, refuse)
    ((cycles, error),) = run_engine(accelerator, memory)
    assert error == ERROR_NONE
    words = np.array(memory.words, dtype=np.uint64)
    for tensor, expected in zip((network.values, network.pooled, network.ends), network.expected(), strict=True):
        values = tensor.inside(words[tensor.base : tensor.base + tensor.words]).copy().view("<i2")[0]
        assert len(np.unique(expected)) > 10
        assert (values[:, :, : len(expected)].transpose(2, 0, 1) == expected).all()
    assert refuse or cycles == program_cycles(network.works, accelerator.memory)
