"""The requantization pipeline against `hardware.arithmetic`, its constants changing as late and as early as allowed."""

import numpy as np
import pytest

from hardware.arithmetic import HIGHEST_VALUE, LARGEST_ACTIVATION_MULTIPLIER, LOWEST_VALUE, requantize, to_activations
from hardware.instruction import FIELDS
from rtl.requantize import ACTIVATION_STAGES, VALUE_STAGES, Requantize

DM = 8
TOTALS = [-(2**31), 2**31 - 1, -(2**16), -(2**15), -1, 0, 1, 2**15, 2**16 - 1]
MULTIPLIERS = [0, 1, 2**15, 2**16 - 1, 2**16, 2**31, 2**32 - 1]
BIASES = [-(2**31), -(2**15), -1, 0, 1, 2**15, 2**31 - 1]


def drawn(rng, extremes: list[int], low: int, high: int, shape) -> np.ndarray:
    """Extremes, whole ranges and small numbers, a third each."""
    bits = rng.integers(1, high.bit_length() + 1, size=shape)
    small = rng.integers(low, high + 1, size=shape, dtype=np.int64) >> (high.bit_length() - bits)
    anything = rng.integers(low, high + 1, size=shape, dtype=np.int64)
    return np.choose(rng.integers(3, size=shape), [rng.choice(extremes, size=shape), anything, small])


class Tiles:
    """Columns of tiles and their constants, a tile's own."""

    def __init__(self, seed: int, tiles: int = 60, wide: bool = True):
        rng = np.random.default_rng(seed)
        self.columns = rng.integers(1, 5, size=tiles)
        self.multipliers = drawn(rng, MULTIPLIERS, 0, 2**32 - 1, (tiles, DM))
        self.biases = drawn(rng, BIASES, -(2**31), 2**31 - 1, (tiles, DM))
        self.sums = [drawn(rng, TOTALS, -(2**31), 2**31 - 1, (count, DM)) for count in self.columns]
        for tile in range(0, tiles, 2):  # every other one gives values that do not saturate
            reach = 2.0 ** (48 if wide else 32) / (np.abs(self.sums[tile]).max(axis=0) + 1)
            self.multipliers[tile] = np.minimum(self.multipliers[tile], reach.astype(np.int64))

    def values(self, shift: int, relu: bool) -> np.ndarray:
        parts = [
            requantize(sums, multiplier, bias, shift)
            for sums, multiplier, bias in zip(self.sums, self.multipliers, self.biases, strict=True)
        ]
        values = np.concatenate(parts)
        return np.maximum(values, 0) if relu else values


def run(simulate, tiles: Tiles, fields: dict[str, int], rng) -> tuple[np.ndarray, np.ndarray]:
    """Values and activations of all columns, read exactly their latencies after the column."""
    dut = Requantize(DM)
    columns, holds = {}, {}  # by cycle: the sums; the tile whose constants must be there
    cycle = 1
    for tile, sums in enumerate(tiles.sums):
        for column in sums:
            columns[cycle] = column
            holds[cycle + 1] = holds[cycle + 2] = tile
            cycle += 1
        cycle += 1  # constants last two cycles longer than the tile's columns, one of which the next tile may begin in
    values, activations = [], []

    async def testbench(ctx):
        ctx.set(dut.instruction, dict.fromkeys(FIELDS, 0) | fields)
        for now in range(cycle + ACTIVATION_STAGES + 1):
            for row in range(DM):
                noise = int(rng.integers(-(2**31), 2**31))
                ctx.set(dut.sums[row], int(columns[now][row]) if now in columns else noise)
                tile = holds.get(now)
                multiplier, bias = (noise + 2**31, noise) if tile is None else (
                    int(tiles.multipliers[tile, row]), int(tiles.biases[tile, row])
                )  # fmt: skip
                ctx.set(dut.constants[row], {"multiplier": multiplier, "bias": bias})
            if now - VALUE_STAGES in columns:
                values.append([ctx.get(value) for value in dut.values])
            if now - ACTIVATION_STAGES in columns:
                activations.append([ctx.get(activation) for activation in dut.activations])
            await ctx.tick()

    simulate(dut, testbench)
    return np.array(values), np.array(activations)


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("shift", [16, 32])
def test_values_are_those_of_the_arithmetic(simulate, shift, relu):
    tiles = Tiles(shift + relu, wide=shift == 32)
    values, _ = run(simulate, tiles, {"wide_shift": shift == 32, "relu": relu}, np.random.default_rng(1))
    expected = tiles.values(shift, relu)
    assert values.tolist() == expected.tolist()
    assert HIGHEST_VALUE in expected
    assert (0 if relu else LOWEST_VALUE) in expected
    assert len(np.unique(expected)) > 100


@pytest.mark.parametrize(
    ("quantizer", "low", "high"),
    [
        (LARGEST_ACTIVATION_MULTIPLIER, 128, 127),
        (LARGEST_ACTIVATION_MULTIPLIER, 0, 255),
        (1 << 16, 128, 127),
        ((1 << 17) + 1, 0, 255),
        (12345, 8, 7),
        (4095, 1, 0),
        (4096, 0, 1),
        (1, 2, 1),
        (LARGEST_ACTIVATION_MULTIPLIER - 4095, 0, 15),
    ],
)
def test_activations_are_those_of_the_arithmetic(simulate, quantizer, low, high):
    tiles = Tiles(quantizer + low)
    fields = {"wide_shift": 1, "quantizer": quantizer, "clamp_low": low, "clamp_high": high}
    _, activations = run(simulate, tiles, fields, np.random.default_rng(2))
    expected = to_activations(tiles.values(32, False), quantizer, -low, high)
    assert activations.tolist() == (expected & 0xFF).tolist()  # two's complement
    assert quantizer == 1 or {-low, high} <= set(expected.reshape(-1).tolist())
