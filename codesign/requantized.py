"""One layer as a program that writes values, bit planes or both, and what these must be; raw sums: `lower`."""

from dataclasses import dataclass, replace

import numpy as np

from codesign.lowering import POISON, check_ranges
from codesign.tensors import Tensor, activation_words, instruction, row_tile_words
from hardware.accelerator import Accelerator
from hardware.arithmetic import ACTIVATION_SHIFT, Requantization, to_activations
from hardware.instruction import INSTRUCTION_WORDS, VALUE_LANES, encode
from hardware.operands import Operands
from hardware.passes import Output
from hardware.schedule import Schedule, schedule, value_words


@dataclass(frozen=True, eq=False)
class Rules:
    """How sums become values, and values the next layer's activations, see `hardware.arithmetic`.

    Parameters
    ----------
    activation_multiplier, levels:
        Of `hardware.arithmetic.to_activations`.
    border:
        Zeros around the planes' images, ``(vertical, horizontal)``.
    """

    requantization: Requantization
    relu: bool
    activation_multiplier: int
    levels: tuple[int, int]
    border: tuple[int, int]

    def values(self, sums: np.ndarray) -> np.ndarray:
        """int64 values of sums ``(images, M, height, width)``."""
        values = self.requantization.values(sums)
        return np.maximum(values, 0) if self.relu else values


def random_rules(rng: np.random.Generator, operands: Operands, sums: np.ndarray, plane_bits: int) -> Rules:
    """Rules that spread these sums over the values, some saturated, and values over the activations, some clamped.

    A pruned kernel's multiplier is 0, as the machine demands: the sums that its tile leaves are any.
    """
    channels = sums.shape[1]
    factors = rng.uniform(0.2, 2, size=(channels,)) * 10_000 / max(float(np.abs(sums).mean()), 1)
    factors[np.array(operands.weight_bits) == 0] = 0
    biases = rng.uniform(-10_000, 10_000, size=(channels,))
    signed = bool(rng.integers(2))
    low = -(1 << plane_bits - 1) if signed and plane_bits else 0
    return Rules(
        Requantization.nearest(factors, biases, "random layer"),
        relu=bool(rng.integers(2)),
        activation_multiplier=max(1, int(rng.uniform(0.5, 2) * (1 << ACTIVATION_SHIFT + plane_bits - 16))),
        levels=(low, low + (1 << plane_bits) - 1),
        border=(int(rng.integers(3)), int(rng.integers(3))),
    )


@dataclass(frozen=True, eq=False)
class RequantizedLayer:
    """A layer ready to run: results are ``result_words`` words from ``result_address`` on, values before planes."""

    schedule: Schedule
    rules: Rules
    image: np.ndarray
    result_address: int
    result_words: int
    values: Tensor | None
    planes: Tensor | None

    def count_mismatches(self, results: np.ndarray, sums: np.ndarray) -> tuple[int, int]:
        """Outputs, and how many are wrong (of planes, bits), if these are the layer's sums."""
        # Channels lie in the order of the kernels.
        expected = self.rules.values(sums)[:, [kernel for work in self.schedule.passes for kernel in work.kernels]]
        outputs = wrong = start = 0
        if self.values is not None:
            start = self.values.words
            got = np.ascontiguousarray(self.values.inside(results[:start])).view("<i2")[..., : expected.shape[1]]
            outputs, wrong = expected.size, int((got.transpose(0, 3, 1, 2) != expected).sum())
        if self.planes is not None:
            bits = self.schedule.passes[0].output.plane_bits
            activations = to_activations(expected, self.rules.activation_multiplier, *self.rules.levels)
            traits = self.schedule.accelerator.traits
            difference = results[start:] ^ activation_words(activations, bits, self.planes.border, traits)
            outputs, wrong = outputs + expected.size, wrong + int(np.unpackbits(difference.view(np.uint8)).sum())
        return outputs, wrong


def lower_requantized(
    operands: Operands, accelerator: Accelerator, output: Output, rules: Rules, in_order: bool = True
) -> RequantizedLayer:
    """Build the program and the memory image of one layer.

    Parameters
    ----------
    in_order:
        Channels lie as the kernels are numbered; else sorted by the kernels' widths.

    Raises
    ------
    InputError
        Where `hardware.schedule.schedule` does.
    """
    layer, bits = operands.layer, operands.activation_bits
    check_ranges(operands)
    order = range(layer.out_channels) if in_order else None
    kind = operands.signed_weights, operands.bipolar
    output = replace(output, plane_bits=accelerator.traits.padded(output.plane_bits))
    plan = schedule(layer, operands.weight_bits, bits, accelerator, *kind, output=output, order=order)
    constants = rules.requantization.bias.astype(np.uint64) << np.uint64(32)
    constants |= rules.requantization.multiplier.astype(np.uint64)
    weights = [row_tile_words(operands.weights, work, layer.groups, constants) for work in plan.passes]
    bits = accelerator.traits.padded(bits)
    activations = activation_words(operands.activations, bits, layer.padding, accelerator.traits)
    lhs_base = len(plan.passes) * INSTRUCTION_WORDS
    rhs_base = lhs_base + sum(map(len, weights))
    result_address = rhs_base + len(activations)
    words = bits * -(-layer.in_channels // 64)
    source = Tensor(rhs_base, layer.images, layer.in_height, layer.in_width, words, layer.padding)

    shape = layer.images, layer.out_height, layer.out_width
    end, values, planes, results = result_address, None, None, []
    if output.values:
        values = Tensor(end, *shape, value_words(layer.out_channels, accelerator))
        results.append(np.full(values.words, POISON, dtype=np.uint64))
        end += values.words
    if output.plane_bits:
        planes = Tensor(end, *shape, output.plane_bits * -(-layer.out_channels // 64), rules.border)
        results.append(np.zeros(planes.words, dtype=np.uint64))
        planes.inside(results[-1])[:] = POISON
        end += planes.words

    program, done = [], 0
    low, high = rules.levels
    for number, (work, tiles) in enumerate(zip(plan.passes, weights, strict=True)):
        fields = instruction(
            *(work, layer, source, lhs_base, values, done // VALUE_LANES, planes, done // 64 * output.plane_bits)
        )
        fields |= {"relu": int(rules.relu), "wide_shift": int(rules.requantization.shift == 32)}
        fields |= {"quantizer": rules.activation_multiplier, "clamp_low": -low, "clamp_high": high}
        program.append(encode(fields | {"last": number == len(plan.passes) - 1}))
        lhs_base += len(tiles)
        done += len(work.kernels)
    image = np.concatenate([*program, *weights, activations, *results])
    return RequantizedLayer(plan, rules, image, result_address, end - result_address, values, planes)
