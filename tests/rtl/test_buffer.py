"""Operand buffers against a table in plain Python."""

import numpy as np
import pytest

from hardware.timing import BUFFER_LATENCY
from rtl.buffer import OperandBuffer


@pytest.mark.parametrize(("vectors", "entries", "dk"), [(2, 16, 64), (3, 20, 256), (1, 16, 128)])
@pytest.mark.parametrize("writes", [1.0, 0.3])
def test_entries_read_are_the_words_written_in_the_cycles_before(simulate, vectors, entries, dk, writes):
    rng = np.random.default_rng(entries)
    lanes = dk // 64
    table = np.zeros((vectors, entries, lanes), dtype=np.uint64)
    compared = []

    async def testbench(ctx):
        coming = [None] * BUFFER_LATENCY
        for _ in range(600):
            expected, *coming = coming
            if expected is not None:
                seen = [
                    [ctx.get(buffer.vectors[i]) >> (64 * k) & (2**64 - 1) for k in range(lanes)] for i in range(vectors)
                ]
                compared.append((seen, expected))
            read, written = (int(e) for e in rng.integers(entries, size=2))
            ctx.set(buffer.entry, read)
            now = table[:, read].tolist()
            select = int(rng.integers(1 << vectors)) if rng.random() < writes else 0
            lane, word = int(rng.integers(lanes)), int.from_bytes(rng.bytes(8), "little")
            ctx.set(
                buffer.write,
                {"select": select, "entry": written, "lane": [k == lane for k in range(lanes)], "word": word},
            )
            for i in range(vectors):
                if select >> i & 1:
                    if lane == 0:
                        table[i, written, :] = 0  # lanes that no word follows for
                    table[i, written, lane] = word
            if read == written and select:
                now = None  # what is read while it is written is not promised
            coming.append(now)
            await ctx.tick()

    buffer = OperandBuffer(vectors, entries, dk)
    simulate(buffer, testbench)
    assert len(compared) > 300
    assert all(seen == expected for seen, expected in compared)
    assert table.any()
