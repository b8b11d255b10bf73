"""The result stage against NumPy: what it writes where, and when, behind a moody write channel."""

from dataclasses import dataclass

import numpy as np
import pytest

from hardware.arithmetic import HALF, requantize, to_activations
from hardware.instruction import FIELDS, OPCODE_MATRIX, OPCODE_SUM
from hardware.timing import BUFFER_LATENCY, ISSUE_LATENCY, VECTOR_LATENCY, sums_latency
from rtl.result import Result

IMAGE = 3, 2  # output pixels of an image: width, height
MEMORY, PLANES = 6000, 3000
IN_FLIGHT = sums_latency(64)


@dataclass(frozen=True)
class Work:
    row_tiles: int = 1
    column_tiles: int = 1
    group_tiles: int = 1
    last_columns: int = 1
    sums: bool = False
    values: bool = False
    plane_bits: int = 0
    vector: bool = False
    bipolar: bool = False
    relu: bool = False
    shift: int = 16


class Case:
    """A work's random sums, its instruction, and the memory that it must leave."""

    def __init__(self, work: Work, dm: int, dn: int, seed: int = 0):
        self.work, self.dm, self.dn, rng = work, dm, dn, np.random.default_rng(seed)
        self.pixels, channels = (work.column_tiles - 1) * dn + work.last_columns, work.row_tiles * dm
        self.sums = rng.integers(-(2**20), 2**20, size=(self.pixels, channels))
        self.column_sums = rng.integers(-(2**20), 2**20, size=self.pixels)
        self.multipliers = rng.integers(1 << 12, size=channels) << (work.shift - 16)
        self.biases = rng.integers(-(2**30), 2**30, size=channels)
        if work.vector:
            self.multipliers[:], self.biases[:] = self.multipliers[0], HALF
        self.words = channels // 2 if work.sums else -(-channels // 4)
        self.plane_words = -(-channels // 64)
        self.before = np.random.default_rng(99).integers(2**63, size=MEMORY, dtype=np.uint64)

    def address(self, base: int, words: int, pixel: int) -> int:
        """Of a pixel of ``words`` words; rows are two pixels longer and images a row and a word more than needed."""
        y, x = divmod(pixel, IMAGE[0])
        image, y = divmod(y, IMAGE[1])
        row = words * (IMAGE[0] + 2)
        return base + x * words + y * row + image * (row * (IMAGE[1] + 1) + 1)

    def fields(self) -> dict[str, int]:
        work, bits = self.work, self.work.plane_bits
        fields = dict.fromkeys(FIELDS, 0) | {
            "opcode": OPCODE_SUM if work.vector else OPCODE_MATRIX,
            "bipolar": work.bipolar,
            "row_tiles": work.row_tiles,
            "out_width": IMAGE[0],
            "out_height": IMAGE[1],
            "write_sums": work.sums,
            "write_values": work.values,
            "write_planes": bits > 0,
            "relu": work.relu,
            "wide_shift": work.shift == 32,
            "multiplier": int(self.multipliers[0]),
            "quantizer": 1 << 13,
            "clamp_low": 1 << bits >> 1,
            "clamp_high": (1 << bits >> 1) - 1 if bits > 1 else 0,
            "plane_bits": bits,
            "plane_words": self.plane_words,
            "plane_tile_words": self.dn * self.plane_words,
            "last_segments": work.row_tiles - (self.plane_words - 1) * (64 // self.dm),
        }
        for prefix, base, words in (("result", 100, self.words), ("plane", PLANES, self.plane_words * bits)):
            rows = [self.address(0, words, pixel) for pixel in (IMAGE[0], IMAGE[0] * IMAGE[1])]
            fields |= {
                f"{prefix}_base": base,
                f"{prefix}_step": words,
                f"{prefix}_row_correction": rows[0] - IMAGE[0] * words,
                f"{prefix}_image_correction": (rows[1] - IMAGE[1] * rows[0]) % 2**32,
            }
        return fields

    def after(self) -> np.ndarray:
        """The memory when all is written."""
        work, memory = self.work, self.before.copy()
        totals = 2 * self.sums + self.column_sums[:, None] if work.bipolar else self.sums
        values = requantize(totals, self.multipliers, self.biases, work.shift)
        values = np.maximum(values, 0) if work.relu else values
        fields = self.fields()
        activations = to_activations(values, fields["quantizer"], -fields["clamp_low"], fields["clamp_high"])
        padded = np.pad(activations, ((0, 0), (0, -activations.shape[1] % 64)))
        for pixel in range(self.pixels):
            start = self.address(100, self.words, pixel)
            if work.sums:
                memory.view("<i4")[2 * start :][: totals.shape[1]] = totals[pixel]
            if work.values:
                memory.view("<i2")[4 * start :][: values.shape[1]] = values[pixel]
            start = self.address(PLANES, self.plane_words * work.plane_bits, pixel)
            for plane in range(work.plane_bits):
                bits = np.packbits(padded[pixel] >> plane & 1, bitorder="little").view("<u8")
                memory[start + plane :: work.plane_bits][: self.plane_words] = bits
        return memory

    def tiles(self):
        """(row tile, columns, place) of every group of sums, in the order of the loops."""
        work = self.work
        for group in range(0, work.column_tiles, work.group_tiles):
            tiles = range(group, min(group + work.group_tiles, work.column_tiles))
            pixels = [range(tile * self.dn, min((tile + 1) * self.dn, self.pixels)) for tile in tiles]
            if work.vector:
                parts = [
                    (row, range(pixel, pixel + 1), tile, True) for tile in pixels for pixel in tile for row in self.rows
                ]
            else:
                parts = [(row, tile, tile, tile == pixels[-1]) for row in self.rows for tile in pixels]
            for row, columns, tile, last_in_group in parts:
                last_row, tile_ends = row == work.row_tiles - 1, columns[-1] == tile[-1]
                yield row, columns, {
                    "columns": len(columns),
                    "plane_columns": len(tile) if last_row and tile_ends else 0,
                    "last_in_group": last_in_group,
                    "last_row_tile": last_row,
                    "last": last_row and columns[-1] == self.pixels - 1,
                }  # fmt: skip

    @property
    def rows(self) -> range:
        return range(self.work.row_tiles)


def noise(ctx, result, rng) -> None:
    for signal in (*result.sums, *result.column_sums, *result.totals, *result.lhs):
        ctx.set(signal, int(rng.integers(2**31)))


async def send(ctx, result, case: Case, part, rng, tick) -> None:
    """One tile's sums as the array would bring them, from its last step on until the registers are free."""
    (row, columns, place), vector, dm = part, case.work.vector, case.dm
    await tick()
    ctx.set(result.place, place)
    rows = slice(row * dm, (row + 1) * dm)
    first_in_group = columns[0] // case.dn % case.work.group_tiles == 0
    for cycle in range(ISSUE_LATENCY + 1, 1 + (ISSUE_LATENCY + VECTOR_LATENCY if vector else IN_FLIGHT)):
        await tick()
        reads = first_in_group and not vector and not case.work.sums and cycle == ISSUE_LATENCY + BUFFER_LATENCY
        ctx.set(result.constants, reads)
        for i, (multiplier, bias) in enumerate(zip(case.multipliers[rows], case.biases[rows], strict=True)):
            constants = (int(bias) % 2**32) << 32 | int(multiplier)
            ctx.set(result.lhs[i], constants if reads else int(rng.integers(2**63)))
    for position, pixel in enumerate(columns):
        for i in range(dm):
            target = result.totals[i] if vector else result.sums[position * dm + i]
            ctx.set(target, int(case.sums[pixel, row * dm + i]))
        ctx.set(result.column_sums[position], int(case.column_sums[pixel]))
    ctx.set(result.totals_valid if vector else result.sums_valid, 1)
    while True:
        now = await tick()
        ctx.set(result.sums_valid, 0)
        ctx.set(result.totals_valid, 0)
        noise(ctx, result, rng)
        if ctx.get(result.free):
            return
        assert now < 50_000, "the registers never get free"


def run(simulate, machine, case: Case, memory, pause: float = 0.0, plane_words: int = 512) -> None:
    """All sums of a case, twice in a row."""
    result = Result(machine(dm=case.dm, dn=case.dn, plane_words=plane_words))
    rng = np.random.default_rng(5)

    async def testbench(ctx):
        async def tick():
            memory.write(ctx, result)
            await memory.tick(ctx)
            return memory.now

        for _ in range(2):
            memory.words, memory.writes, memory.taken = [int(word) for word in case.before], [], []
            ctx.set(result.instruction, case.fields())
            ctx.set(result.start, 1)
            await tick()
            ctx.set(result.start, 0)
            for part in case.tiles():
                while rng.random() < pause:
                    await tick()
                assert ctx.get(result.busy)
                await send(ctx, result, case, part, rng, tick)
                await tick()
            while ctx.get(result.busy):
                await tick()
                assert memory.now < 50_000, "the stage hangs"
            assert memory.now == memory.taken[-1][0] + 1  # the last word has left
            assert not ctx.get(result.writing)
            while not memory.idle:
                await tick()

    simulate(result, testbench)


RUNS = [  # dm, dn, words of the plane buffer, work
    (2, 3, 512, Work(3, 5, 2, 1, sums=True)),
    (8, 2, 512, Work(2, 3, 3, 2, sums=True, bipolar=True)),
    (2, 2, 512, Work(5, 4, 2, 1, values=True, relu=True)),  # two row tiles share a word
    (2, 2, 512, Work(4, 5, 2, 2, values=True)),
    (4, 3, 512, Work(2, 5, 3, 2, values=True, shift=32, bipolar=True)),
    (16, 4, 512, Work(2, 3, 1, 3, values=True)),
    (2, 16, 512, Work(3, 5, 2, 13, values=True, bipolar=True)),  # sums come as the registers' last column leaves
    (2, 2, 16, Work(3, 13, 6, 1, plane_bits=3)),  # a ring of 16 words with room for two more tiles than a group has
    (8, 2, 16, Work(9, 5, 2, 2, plane_bits=2)),  # 72 channels: one part of the second word
    (16, 1, 16, Work(6, 9, 6, 1, values=True, plane_bits=8)),
    (2, 3, 64, Work(33, 2, 2, 2, values=True, plane_bits=1, relu=True)),
    (4, 4, 16, Work(3, 4, 1, 3, values=True, plane_bits=5, vector=True)),
    (2, 2, 16, Work(3, 4, 1, 1, values=True, vector=True)),
    (16, 2, 16, Work(5, 3, 1, 2, plane_bits=4, vector=True, shift=32)),
]


@pytest.mark.parametrize(("refuse", "pause"), [(0.0, 0.0), (0.7, 0.0), (0.2, 0.9)])
@pytest.mark.parametrize(("dm", "dn", "plane_words", "work"), RUNS)
def test_every_word_is_written_once_where_it_belongs(
    simulate, machine, plain_memory, dm, dn, plane_words, work, refuse, pause
):
    case = Case(work, dm, dn)
    memory = plain_memory([], refuse=refuse)
    run(simulate, machine, case, memory, pause, plane_words)
    assert (np.array(memory.words, dtype=np.uint64) == case.after()).all()
    places = [(address, strobe) for _, address, strobe in memory.writes]
    assert len(set(places)) == len(places)
    pixel_words = work.row_tiles * (dm // 2 if work.sums else -(-dm // 4) if work.values else 0)
    assert len(places) == case.pixels * (pixel_words + case.plane_words * work.plane_bits)
