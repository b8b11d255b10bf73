"""Where channels go in the plane buffer, and what comes out of it, against NumPy."""

import numpy as np
import pytest

from hardware.instruction import FIELDS
from rtl.planes import PlaneAddress, PlaneBuffer

DEPTH = 64
READ_LATENCY = 3
NESTS = [  # dm, dn, row tiles, column tiles, column tiles of a group
    (2, 2, 40, 3, 2),
    (8, 3, 8, 7, 3),
    (16, 4, 9, 4, 1),
    (64, 1, 3, 12, 5),
    (4, 5, 1, 8, 8),
]


def ref_columns(dm, dn, row_tiles, column_tiles, group_tiles, last_columns):
    """(pixel, channel word, part of it, last column, last in group, last row tile) of every column of sums."""
    parts = 64 // dm
    for group in range(0, column_tiles, group_tiles):
        tiles = range(group, min(group + group_tiles, column_tiles))
        for row in range(row_tiles):
            for tile in tiles:
                columns = last_columns if tile == column_tiles - 1 else dn
                for column in range(columns):
                    place = column == columns - 1, tile == tiles[-1], row == row_tiles - 1
                    yield tile * dn + column, *divmod(row, parts), *place


def ref_vector(dm, dn, row_tiles, column_tiles, _group_tiles, last_columns):
    for pixel in range((column_tiles - 1) * dn + last_columns):
        for row in range(row_tiles):
            yield pixel, *divmod(row, 64 // dm), True, True, row == row_tiles - 1


@pytest.mark.parametrize("reference", [ref_columns, ref_vector])
@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_pixels_lie_one_after_another_in_the_ring(simulate, machine, nest, reference, pause):
    rng = np.random.default_rng(3)
    dm, dn, row_tiles = nest[:3]
    address = PlaneAddress(machine(dm=dm, dn=dn, plane_words=DEPTH))
    pixel_words = -(-row_tiles * dm // 64)

    async def testbench(ctx):
        fields = {"plane_words": pixel_words, "plane_tile_words": dn * pixel_words}
        ctx.set(address.instruction, dict.fromkeys(FIELDS, 0) | fields)
        ctx.set(address.vector, reference is ref_vector)
        for last_columns in (1, dn):  # the second instruction begins at 0 again
            ctx.set(address.start, 1)
            await ctx.tick()
            ctx.set(address.start, 0)
            for pixel, word, part, last_column, last_in_group, last_row_tile in reference(*nest, last_columns):
                while rng.random() < pause:
                    await ctx.tick()
                ctx.set(address.column, 1)
                ctx.set(address.last_column, last_column)
                ctx.set(address.last_in_group, last_in_group)
                ctx.set(address.last_row_tile, last_row_tile)
                assert ctx.get(address.word) == (pixel * pixel_words + word) % DEPTH
                assert ctx.get(address.segment) == part
                await ctx.tick()
                ctx.set(address.column, 0)

    simulate(address, testbench)


@pytest.mark.parametrize("dm", [2, 8, 64])
def test_words_hold_the_planes_of_the_channels_and_the_last_is_masked(simulate, machine, dm):
    rng = np.random.default_rng(dm)
    parts, depth, reads = 64 // dm, 16, []
    buffer = PlaneBuffer(machine(dm=dm, plane_words=depth))
    table = np.zeros((depth, 64), dtype=np.uint8)  # [word][channel]

    async def testbench(ctx):
        last_segments, coming, just_written = parts, [None] * READ_LATENCY, None
        ctx.set(buffer.instruction, dict.fromkeys(FIELDS, 0) | {"last_segments": last_segments})
        for _ in range(400):
            plane, masked = int(rng.integers(8)), bool(rng.integers(2))
            wanted, *coming = coming
            if wanted is not None:  # the word asked for so many cycles before
                ctx.set(buffer.plane, plane)
                ctx.set(buffer.masked, masked)
                bits = wanted >> plane & 1
                bits = bits * (np.arange(64) < last_segments * dm) if masked else bits
                reads.append((ctx.get(buffer.data), int(np.packbits(bits, bitorder="little").view("<u8")[0])))
            word, part, read = int(rng.integers(depth)), int(rng.integers(parts)), int(rng.integers(depth))
            write = rng.random() < 0.7
            activations = rng.integers(256, size=dm, dtype=np.uint8)
            ctx.set(buffer.write, write)
            ctx.set(buffer.word, word)
            ctx.set(buffer.segment, part)
            for i, activation in enumerate(activations):
                ctx.set(buffer.activations[i], int(activation))
            ctx.set(buffer.read_word, read)
            promised = read != just_written and not (write and read == word)
            coming.append(table[read].copy() if promised else None)
            just_written = word if write else None
            if write:
                table[word, part * dm : (part + 1) * dm] = activations
            if rng.random() < 0.05:
                last_segments = int(rng.integers(1, parts + 1))
                ctx.set(buffer.instruction, dict.fromkeys(FIELDS, 0) | {"last_segments": last_segments})
            await ctx.tick()

    simulate(buffer, testbench)
    assert len(reads) > 300
    assert all(seen == expected for seen, expected in reads)
    assert len({expected for _, expected in reads}) > 100


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dm", [2, 16])
def test_packed_words_hold_the_values_of_the_channels(simulate, machine, dm, bits):
    rng = np.random.default_rng(dm + bits)
    parts, reads = 64 // dm, []
    buffer = PlaneBuffer(machine(kind="bit_fusion", dm=dm, plane_words=16))
    values = rng.integers(1 << bits, size=64, dtype=np.uint64)

    async def testbench(ctx):
        last = parts // 2
        fields = {"last_segments": last, "plane_bits": bits}
        ctx.set(buffer.instruction, dict.fromkeys(FIELDS, 0) | fields)
        ctx.set(buffer.write, 1)
        for part in range(parts):
            ctx.set(buffer.segment, part)
            for i, value in enumerate(values[part * dm : (part + 1) * dm]):
                ctx.set(buffer.activations[i], int(value))
            await ctx.tick()
        ctx.set(buffer.write, 0)
        await ctx.tick().repeat(READ_LATENCY + 2)
        for masked in (False, True):
            kept = values * (np.arange(64) < last * dm) if masked else values
            whole = sum(int(value) << bits * channel for channel, value in enumerate(kept))
            ctx.set(buffer.masked, masked)
            for word in range(bits):
                ctx.set(buffer.plane, word)
                reads.append((ctx.get(buffer.data), whole >> 64 * word & (2**64 - 1)))

    simulate(buffer, testbench)
    assert all(seen == expected for seen, expected in reads)
    assert len(reads) == 2 * bits
