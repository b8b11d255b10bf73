"""The requantization pipeline against `hardware.arithmetic`, constants and settings there no longer than promised."""

from itertools import product

import numpy as np
import pytest

from hardware.arithmetic import HIGHEST_VALUE, LARGEST_ACTIVATION_MULTIPLIER, LOWEST_VALUE, requantize, to_activations
from hardware.instruction import FIELDS
from rtl.datapath import SETTLING
from rtl.requantize import ACTIVATION_STAGES, VALUE_STAGES, Requantize

DM = 8
SETTINGS = "wide_shift", "relu", "quantizer", "clamp_low", "clamp_high"
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

    def __init__(self, seed: int, tiles: int = 60, wide: bool = True, dm: int = DM):
        rng = np.random.default_rng(seed)
        self.columns = rng.integers(1, 5, size=tiles)
        self.multipliers = drawn(rng, MULTIPLIERS, 0, 2**32 - 1, (tiles, dm))
        self.biases = drawn(rng, BIASES, -(2**31), 2**31 - 1, (tiles, dm))
        self.sums = [drawn(rng, TOTALS, -(2**31), 2**31 - 1, (count, dm)) for count in self.columns]
        for tile in range(0, tiles, 2):  # every other one gives values that do not saturate
            reach = 2.0 ** (48 if wide else 32) / (np.abs(self.sums[tile]).max(axis=0) + 1)
            self.multipliers[tile] = np.minimum(self.multipliers[tile], reach.astype(np.int64))

    def each(self):
        """(sums, multipliers, biases) of every column."""
        for sums, *constants in zip(self.sums, self.multipliers, self.biases, strict=True):
            for column in sums:
                yield column, *constants

    def values(self, shift: int, relu: bool) -> np.ndarray:
        values = np.stack([requantize(*column, shift) for column in self.each()])
        return np.maximum(values, 0) if relu else values


def run(simulate, columns, fields: dict[str, int], rng, pause: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Values and activations of all columns, read exactly their latencies after the column.

    The first column comes `SETTLING` cycles after the instruction; columns follow each other at once but for pauses.
    Whatever is not promised to be there is noise: constants but in their column's cycle, the instruction before and
    after.
    """
    columns = list(columns)
    dm = len(columns[0][0])
    dut = Requantize(dm)
    ends = SETTLING + np.cumsum(1 + (rng.random(len(columns)) < pause)) - 1
    given = dict(zip(ends.tolist(), columns, strict=True))
    last = int(ends[-1]) + ACTIVATION_STAGES
    values, activations = [], []

    def noise(bits: int) -> int:
        return int(rng.integers(1 << bits))

    async def testbench(ctx):
        for now in range(-SETTLING, last + 1):
            steady = 0 <= now < last
            ctx.set(
                dut.instruction,
                dict.fromkeys(FIELDS, 0) | (fields if steady else {name: noise(FIELDS[name]) for name in SETTINGS}),
            )
            for row in range(dm):
                total, multiplier, bias = (
                    (int(one[row]) for one in given[now])
                    if now in given
                    else (noise(32) - 2**31, noise(32), noise(32) - 2**31)
                )
                ctx.set(dut.sums[row], total)
                ctx.set(dut.constants[row], {"multiplier": multiplier, "bias": bias})
            if now - VALUE_STAGES in given:
                values.append([ctx.get(value) for value in dut.values])
            if now - ACTIVATION_STAGES in given:
                activations.append([ctx.get(activation) for activation in dut.activations])
            await ctx.tick()

    simulate(dut, testbench)
    return np.array(values), np.array(activations)


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("shift", [16, 32])
def test_values_are_those_of_the_arithmetic(simulate, shift, relu):
    tiles = Tiles(shift + relu, wide=shift == 32)
    values, _ = run(simulate, tiles.each(), {"wide_shift": shift == 32, "relu": relu}, np.random.default_rng(1))
    expected = tiles.values(shift, relu)
    assert values.tolist() == expected.tolist()
    assert HIGHEST_VALUE in expected
    assert (0 if relu else LOWEST_VALUE) in expected
    assert len(np.unique(expected)) > 100


@pytest.mark.parametrize("shift", [16, 32])
def test_values_of_all_extremes_together(simulate, shift):
    """Every sum with every multiplier and every bias, another one in every cycle and row."""
    cases = np.random.default_rng(0).permutation(list(product(TOTALS, MULTIPLIERS, BIASES)))
    columns = np.resize(cases, (-(-len(cases) // DM), DM, 3)).transpose(0, 2, 1)  # the first ones again at the end
    values, _ = run(simulate, columns, {"wide_shift": shift == 32}, np.random.default_rng(3), pause=0)
    exact = [[(int(t) * int(f) + (int(b) << shift - 16)) >> shift for t, f, b in zip(*c, strict=True)] for c in columns]
    expected = np.clip(np.array(exact), LOWEST_VALUE, HIGHEST_VALUE)
    assert values.tolist() == expected.tolist()


@pytest.mark.parametrize("dm", [2, SETTLING + 3, 4 * SETTLING])
def test_rows_far_away_have_their_settings_in_time(simulate, dm):
    tiles = Tiles(dm, tiles=12, dm=dm)
    fields = {"wide_shift": 1, "relu": 1, "quantizer": 1 << 17, "clamp_low": 0, "clamp_high": 15}
    values, activations = run(simulate, tiles.each(), fields, np.random.default_rng(4))
    expected = tiles.values(32, True)
    assert values.tolist() == expected.tolist()
    assert activations.tolist() == to_activations(expected, 1 << 17, 0, 15).tolist()


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
    _, activations = run(simulate, tiles.each(), fields, np.random.default_rng(2))
    expected = to_activations(tiles.values(32, False), quantizer, -low, high)
    assert activations.tolist() == (expected & 0xFF).tolist()  # two's complement
    assert quantizer == 1 or {-low, high} <= set(expected.reshape(-1).tolist())
