"""The drain on buffers in plain Python: words, addresses, strobes, and the cycles between them."""

from collections import deque

import numpy as np
import pytest

from hardware.instruction import FIELDS
from hardware.timing import (
    ISSUE_TO_WRITER,
    NEXT_JOB,
    PENDING_JOBS,
    VALUES_TO_PLANES,
    WALK_LATENCY,
    WRITE_QUEUE,
    WRITER_TO_BEAT,
)
from rtl.drain import Drain, WriteQueue

DN, PIXEL_WORDS = 2, 5
PLANE_BITS, PLANE_PIXEL_WORDS = 3, 2
READ_LATENCY = 3
"""Cycles from asking the buffers to what they answer."""


def fields_of(sums: bool, values: bool, planes: bool) -> dict[str, int]:
    """One image of many pixels in a row, ``PIXEL_WORDS`` words of sums or values each; planes elsewhere."""
    return dict.fromkeys(FIELDS, 0) | {
        "write_sums": sums,
        "write_values": values,
        "write_planes": planes,
        "out_width": 1000,
        "out_height": 1,
        "result_base": 700,
        "result_step": PIXEL_WORDS,
        "plane_base": 9000,
        "plane_step": PLANE_BITS * PLANE_PIXEL_WORDS,
        "plane_bits": PLANE_BITS,
        "plane_words": PLANE_PIXEL_WORDS,
    }


def jobs_of(row_tiles: int, tiles: int, groups: int, planes: bool):
    """((first pixel, row tile), job) of a nest of full column tiles."""
    for group in range(groups):
        for row in range(row_tiles):
            for tile in range(tiles):
                last_row, last = row == row_tiles - 1, tile == tiles - 1
                yield (
                    ((group * tiles + tile) * DN, row),
                    {
                        "columns": DN,
                        "plane_columns": DN if planes and last_row else 0,
                        "last_in_group": last,
                        "last_row_tile": last_row,
                        "last": last_row and last and group == groups - 1,
                    },
                )


def ref_words(dm: int, kind: str, jobs, ring: list[int]):
    """[job][word]: (address, data under the strobes, strobe); planes' data is their place in the buffer."""
    done, plane_word, words = 0, 0, []
    for (pixel, row), job in jobs:
        words.append([])
        for column in range(DN if kind != "planes" else 0):
            data, address = ring[done], 700 + (pixel + column) * PIXEL_WORDS
            done += 1
            if kind == "values" and dm == 2:  # two row tiles share a word
                half, value = row % 2, data & 0xFFFFFFFF
                words[-1].append((address + row // 2, value << 32 * half, 0xF0 if half else 0x0F))
                continue
            count = dm // 2 if kind == "sums" else dm // 4
            words[-1] += [
                (address + row * count + i, data >> 64 * i & (2**64 - 1), 0xFF) for i in range(count)
            ]  # fmt: skip
        for column in range(job["plane_columns"] if kind == "planes" else 0):
            start = 9000 + (pixel + column) * PLANE_BITS * PLANE_PIXEL_WORDS
            for word in range(PLANE_PIXEL_WORDS):
                masked = word == PLANE_PIXEL_WORDS - 1
                planes = range(PLANE_BITS)
                words[-1] += [(start + word * PLANE_BITS + p, plane_word << 8 | masked << 4 | p, 0xFF) for p in planes]
                plane_word += 1
    return words


@pytest.mark.parametrize("refuse", [0.0, 0.6])
@pytest.mark.parametrize("dm", [2, 4, 16, 64])
@pytest.mark.parametrize("kind", ["sums", "values", "planes", "both"])
@pytest.mark.parametrize("row_tiles", [3, 4])
def test_jobs_are_written_in_order_and_without_a_gap_but_their_latencies(
    simulate, machine, plain_memory, row_tiles, kind, dm, refuse
):
    """All jobs are complete as soon as they are known, so the drain alone sets the pace."""
    rng = np.random.default_rng(dm)
    drain, memory = Drain(machine(dm=dm, dn=DN, plane_words=64)), plain_memory(np.zeros(10_000), refuse=refuse, seed=dm)
    has_values, has_planes = kind in ("values", "both"), kind in ("planes", "both")
    jobs = [job for job in jobs_of(row_tiles, 2, 2, has_planes) if kind != "planes" or job[1]["plane_columns"]]
    ring = [int.from_bytes(rng.bytes(dm * 4), "little") for _ in range(DN * len(jobs))]
    expected = ref_words(dm, "values" if kind == "both" else kind, jobs, ring)
    if kind == "both":
        planes = ref_words(dm, "planes", jobs, ring)
        expected = [[*values, *plane] for values, plane in zip(expected, planes, strict=True)]
    done: list[tuple[int, bool]] = []

    async def testbench(ctx):
        ctx.set(drain.instruction, fields_of(kind == "sums", has_values, has_planes))
        ctx.set(drain.start, 1)
        await memory.tick(ctx)
        ctx.set(drain.start, 0)
        for _ in range(WALK_LATENCY):  # no machine is faster with its first sums
            await memory.tick(ctx)
        sent, turns, column = 0, 0, 0
        coming: deque[tuple[int, int] | None] = deque([None] * READ_LATENCY)
        while len(done) < len(jobs) or not ctx.get(drain.empty) or not memory.idle:
            answer = coming.popleft()
            if answer is not None:
                masked, plane = ctx.get(drain.masked), ctx.get(drain.plane)
                ctx.set(drain.column, answer[0])
                ctx.set(drain.plane_data, answer[1] << 8 | masked << 4 | plane)
            send = sent < len(jobs) and sent - len(done) < PENDING_JOBS
            ctx.set(drain.job_valid, send)
            ctx.set(drain.columns_ready, send and kind != "planes")
            ctx.set(drain.planes_ready, send and has_planes and jobs[sent][1]["plane_columns"] > 0)
            if send:
                ctx.set(drain.job, jobs[sent][1])
                sent += 1
            memory.write(ctx, drain)
            if ctx.get(drain.job_done):
                done.append((memory.now, bool(ctx.get(drain.last))))
            before, column = column, ctx.get(drain.read_column)
            turns += column < before
            coming.append((ring[(column + turns * depth) % len(ring)], ctx.get(drain.read_word)))  # it looks one ahead
            await memory.tick(ctx)
            assert memory.now < 5000, "the drain hangs"

    depth = 1 << len(drain.read_column)
    simulate(drain, testbench)
    flat = [word for job in expected for word in job]
    assert [(address, strobe) for _, address, strobe in memory.writes] == [(word[0], word[2]) for word in flat]
    assert [data for _, data, _ in memory.taken] == [word[1] for word in flat]
    ends = np.cumsum([len(job) for job in expected]) - 1
    assert [last for _, last in done] == [end == ends[-1] for end in ends]
    if not refuse:
        to_beat = ISSUE_TO_WRITER + WRITER_TO_BEAT
        assert [cycle for cycle, _ in done] == [memory.writes[end][0] - to_beat for end in ends]
        gaps = np.diff([cycle for cycle, _, _ in memory.writes])
        wanted = np.ones(len(flat) - 1, dtype=int)
        wanted[ends[:-1]] = NEXT_JOB
        if kind == "both":
            starts = [i for i in range(1, len(flat)) if flat[i][0] >= 9000 > flat[i - 1][0]]
            wanted[np.array(starts) - 1] = VALUES_TO_PLANES
        assert gaps.tolist() == wanted.tolist()


PICK = {"valid": 1, "planes": 0, "word": 0, "plane": 0, "masked": 0, "odd": 0}
ASK_TO_REQUEST = 3
"""Word asked for to the request of its run being offered."""


@pytest.mark.parametrize("dm", [2, 4, 16])
@pytest.mark.parametrize("refuse", [0.0, 0.7])
@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_queued_words_keep_their_order_and_have_room(simulate, plain_memory, dm, refuse, pause):
    """Runs of 1 to 4 words from columns and planes, asked for whenever there is room."""
    rng = np.random.default_rng(dm)
    queue, memory = WriteQueue(dm), plain_memory(np.zeros(1000), refuse=refuse, seed=dm)
    words = []  # pick, column, plane data, and the word and strobe that they make
    for _ in range(60):
        planes, odd, run = bool(rng.integers(2)), bool(rng.integers(2)), int(rng.integers(1, 5))
        address = int(rng.integers(900))
        for position in range(run):
            column, plane = (int.from_bytes(rng.bytes(size), "little") for size in (4 * dm, 8))
            part = int(rng.integers(dm // 2))
            pick = PICK | {"planes": planes, "odd": odd, "word": part, "first": position == 0}
            pick["run"] = {"address": address, "words": run}
            word, strobe = (plane if planes else column >> 64 * part & (2**64 - 1)), 0xFF
            if dm == 2 and not planes:  # values of two channels: the half that is not written does not matter
                word, strobe = (column & 0xFFFFFFFF) << 32 * odd, 0xF0 if odd else 0x0F
            words.append((pick, column, plane, word, strobe, address + position))
    noise = PICK | {"planes": 1, "plane": 5, "masked": 1, "odd": 1, "run": {"address": 999, "words": 9}}
    asked: list[int] = []
    held: deque[int] = deque()  # level of the queue in each cycle

    async def testbench(ctx):
        ctx.set(queue.write_values, 1)
        coming: deque[tuple | None] = deque([None] * READ_LATENCY)
        while len(memory.writes) < len(words):
            memory.write(ctx, queue)
            ask = len(asked) < len(words) and bool(ctx.get(queue.room)) and rng.random() >= pause
            now = words[len(asked)] if ask else None
            ctx.set(queue.pick, now[0] if ask else noise | {"valid": 0, "first": int(rng.integers(2))})
            read = coming.popleft()
            coming.append(now)
            assert ctx.get(queue.arriving.valid) == (read is not None)
            if read is not None:
                assert {name: ctx.get(getattr(queue.arriving, name)) for name in PICK} == {n: read[0][n] for n in PICK}
            ctx.set(queue.column, read[1] if read else int.from_bytes(rng.bytes(4 * dm), "little"))
            ctx.set(queue.plane_data, read[2] if read else int.from_bytes(rng.bytes(8), "little"))
            level = len(asked) - len([taken for taken in memory.taken if taken[0] < memory.now])
            held.append(level)
            assert level <= WRITE_QUEUE
            assert bool(ctx.get(queue.empty)) == (level == 0)
            if ask:
                asked.append(memory.now)
            await memory.tick(ctx)
            assert memory.now < 5000, "the queue hangs"

    simulate(queue, testbench)
    assert [(data, strobe) for _, data, strobe in memory.taken] == [word[3:5] for word in words]
    assert [address for _, address, _ in memory.writes] == [word[5] for word in words]
    if not refuse:
        before = 0
        for (cycle, _, _), begun in zip(memory.taken, asked, strict=True):
            assert cycle == max(before + 1, begun + ISSUE_TO_WRITER)
            before = cycle
        requests = [begun + ASK_TO_REQUEST for begun, word in zip(asked, words, strict=True) if word[0]["first"]]
        assert [cycle for cycle, _, _ in memory.write_requests] == requests
        assert [cycle for cycle, _, _ in memory.writes] == [cycle + WRITER_TO_BEAT for cycle, _, _ in memory.taken]
    if not refuse and not pause:
        assert asked == list(range(asked[0], asked[0] + len(words)))  # one a cycle
    if refuse and not pause:
        assert max(held) == WRITE_QUEUE


def test_a_queue_that_nobody_empties_has_room_for_write_queue_words(simulate):
    queue, asked = WriteQueue(4), []

    async def testbench(ctx):
        for _ in range(3 * WRITE_QUEUE):
            ask = bool(ctx.get(queue.room))
            ctx.set(queue.pick, PICK | {"valid": ask, "first": 0, "run": {"address": 0, "words": 1}})
            asked.append(ask)
            await ctx.tick()

    simulate(queue, testbench)
    assert sum(asked) == WRITE_QUEUE
