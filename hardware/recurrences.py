"""The cycle model's recurrences, compiled: the state of the machine in cycles, and how one tile moves it on.

Everything that later tiles can notice of earlier ones is a handful of points in time, the *state*. Loops of the
schedule that repeat themselves move it on by the same number of cycles once they have settled; so when a state comes
back, only later, the loop is not walked any further but multiplied out (max-plus recurrences become periodic; Cohen,
Dubois, Quadrat, Viot, IEEE TAC 1985). That is exact: the state is compared to the cycle, and what can no longer matter
is not part of the comparison.

Numba compiles this module and keeps the result on disk, where it notices changes of this file but not of others: what
comes from other modules are arguments.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

_OPTIONS = {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_inner = njit(cache=True, **_OPTIONS)  # type: ignore[call-overload]  # not all are in its stub
"""For functions that only compiled ones call: inlined, as copying their many arguments takes as long as what they do,
and nothing is compiled to call them from Python."""


class Latencies(NamedTuple):
    """The constants of `hardware.timing` that are needed here, in cycles, by their names there."""

    start_to_request: int
    request_to_address: int
    address_to_word: int
    word_latency: int
    instruction_to_stages: int
    walk_latency: int
    word_to_ready: int
    ready_to_step: int
    dispatch_interval: int
    issue_latency: int
    step_to_free: int
    free_to_request: int
    tile_interval: int
    tile_to_tile: int
    tile_queue: int
    end_to_request: int
    vector_latency: int
    sums_to_column: int
    column_to_free: int
    column_to_sum_word: int
    column_to_value_word: int
    column_to_plane_word: int
    pending_jobs: int
    next_job: int
    values_to_planes: int
    write_queue: int
    issue_to_writer: int
    writer_to_beat: int
    write_response: int
    response_to_end: int


class Work(NamedTuple):
    """What the recurrences need to know of a `hardware.passes.Pass`."""

    matrix: bool
    row_tiles: int
    column_tiles: int
    dn: int
    last_columns: int
    group_tiles: int
    lhs_resident: bool
    requantized: bool
    sums: bool
    result_words: int
    """Words of raw sums or values of a row tile for a pixel."""
    plane_words: int
    """Words of all bit planes of a pixel."""
    rhs_entries: int
    column_requests: int
    run_words: int
    ports: int
    lhs_depth: int
    rhs_depth: int
    sums_latency: int
    instruction_words: int


# The state, cycles all of it. What the fetch stage knows ...
OFFER = 0
"""Cycle in which the next tile's first request can come at the earliest."""
ROOM, MOVED, ADDRESS = 1, 2, 3
"""Cycles from which on the skid register takes the next request, and the AXI unit's two registers do."""
CHANNEL = 4
"""... and the memory."""
EXECUTE = 5
"""Here begins what execute and result stage know."""
LAST_STEP = 5
"""The last step so far."""
DISPATCH, LHS_READY = 6, 7
REGISTERS = 8
"""Cycle from which on a tile's last step may be taken: the result registers are free."""
NEXT_JOB = 9
WRITTEN, WRITTEN_BEFORE = 10, 11
"""Cycles in which the memory has accepted the last word so far, and the one before it."""
QUEUES = 12
"""Here begin: when the last jobs were asked for in full, when the last words left the write queue, and when the last
words of the tiles came that leave the queue of tiles next."""


PACKED = 2048
"""Longest state that is compared."""


@njit(cache=True)
def make_ring(depth: int, releases: int) -> np.ndarray:
    """Space of an operand buffer: entries taken by tiles in fetch order, given back by tiles in the same order.

    int64, (2, releases + 2): free entries and place of the first release in column 0, place behind the last one in
    column 1; behind them the entries and the cycle of every release.
    """
    ring = np.empty((2, releases + 2), dtype=np.int64)
    ring[0, 0], ring[1, 0], ring[0, 1] = depth, 2, 2
    return ring


@njit(cache=True)
def release(ring: np.ndarray, entries: int, cycle: int) -> None:
    """``entries`` are seen as free from ``cycle`` on."""
    end = ring[0, 1]
    ring[0, end], ring[1, end] = entries, cycle
    ring[0, 1] = end + 1


@njit(cache=True)
def take(ring: np.ndarray, entries: int, now: int) -> int:
    """Take ``entries`` at ``now`` or later; the cycle from which on they are free, 0 if they have been by then."""
    first, end, cycle = ring[1, 0], ring[0, 1], 0
    while first < end and (ring[0, 0] < entries or ring[1, first] <= now):
        ring[0, 0] += ring[0, first]
        cycle = ring[1, first]
        first += 1
    ring[1, 0] = first
    if ring[0, 0] < entries:
        raise IndexError("a tile waits for buffer space that no tile will give back: the schedule is wrong")
    ring[0, 0] -= entries
    return cycle if cycle > now else 0


@_inner
def _push(state: np.ndarray, begin: int, length: int, value: int) -> None:
    """Append to a queue of fixed length."""
    for place in range(begin, begin + length - 1):
        state[place] = state[place + 1]
    state[begin + length - 1] = value


@_inner
def _fetch(state: np.ndarray, requests: int, words: int, space: int, interval: int, latency: int, at: Latencies) -> int:
    """Fetch a tile with requests of ``words`` words each; the cycle in which the execute stage sees it.

    A request waits in the skid register, then in the first of the AXI unit's two registers, each until the one before
    has moved on, and in the second one until the memory accepts its address; so the fetch stage is up to three
    requests ahead.
    """
    ends = QUEUES + at.pending_jobs + at.write_queue
    occupied = words * interval
    begun = offered = max(state[OFFER], space, state[ends] + at.end_to_request)
    asked = offered
    alone = min(requests, 5)
    for _ in range(alone):
        asked = max(offered, state[ROOM])
        taken = max(asked, state[MOVED])
        state[MOVED] = max(taken + 1, state[ADDRESS])
        state[ADDRESS] = max(state[MOVED] + at.request_to_address - 1, state[CHANNEL])
        state[CHANNEL] = state[ADDRESS] + occupied
        state[ROOM], offered = taken + 1, asked + 1
    more = (requests - alone) * occupied  # by now the memory sets the pace
    for place in (ROOM, MOVED, ADDRESS, CHANNEL):
        state[place] += more
    state[OFFER] = max(asked + more + at.tile_interval, begun + at.tile_to_tile)
    last_word = state[CHANNEL] - interval + at.address_to_word + latency + at.word_latency
    _push(state, ends, at.tile_queue + 1, last_word)
    return last_word + at.word_to_ready


@_inner
def _stream(state: np.ndarray, first: int, words: int, interval: int, at: Latencies) -> int:
    """Words that can be asked for from cycle ``first`` on, one a cycle; the cycle in which the last one is."""
    if interval == 1:  # the queue never fills
        state[WRITTEN] = first + words - 1 + at.issue_to_writer + at.writer_to_beat
        return first + words - 1
    left = QUEUES + at.pending_jobs
    alone = min(words, 3 * at.write_queue)
    asked = first
    for _ in range(alone):
        asked = max(first, state[left] + 1)
        # One word may wait in the AXI unit behind the one on the bus.
        before = state[left + at.write_queue - 1]
        taken = max(asked + at.issue_to_writer, before + 1, state[WRITTEN_BEFORE] + 1)
        _push(state, left, at.write_queue, taken)
        beat = max(taken + at.writer_to_beat, state[WRITTEN] + interval)
        state[WRITTEN_BEFORE], state[WRITTEN] = state[WRITTEN], beat
        first = asked + 1
    more = (words - alone) * interval  # by now the memory sets the pace
    state[WRITTEN] += more
    state[WRITTEN_BEFORE] += more
    for place in range(left, left + at.write_queue):
        state[place] += more
    return asked + more


@_inner
def _result(
    state: np.ndarray,
    work: Work,
    sums: int,
    columns: int,
    plane_columns: int,
    in_flight: int,
    interval: int,
    at: Latencies,
) -> None:
    """A tile's sums are complete in cycle ``sums``; ``plane_columns`` pixels have all their channels with it."""
    column = sums + at.sums_to_column
    planes = plane_columns * work.plane_words
    is_job = work.result_words > 0 or planes > 0
    if is_job:
        column = max(column, state[QUEUES] + 1)
    state[REGISTERS] = column + max(0, columns - 1 - in_flight) + at.column_to_free
    if not is_job:
        return
    begin, asked = state[NEXT_JOB], 0
    if work.result_words:
        to_word = at.column_to_sum_word if work.sums else at.column_to_value_word
        asked = _stream(state, max(column + to_word, begin), columns * work.result_words, interval, at)
        begin = asked + at.values_to_planes
    if planes:
        ready = column + columns - 1 + at.column_to_plane_word
        asked = _stream(state, max(ready, begin), planes, interval, at)
    _push(state, QUEUES, at.pending_jobs, asked)
    state[NEXT_JOB] = asked + at.next_job


@_inner
def _pack(
    state: np.ndarray, lhs: np.ndarray, rhs: np.ndarray, fetches: bool, interval: int, at: Latencies, packed: np.ndarray
) -> int:
    """Write what later tiles can notice, relative to the last step, into ``packed``; how much of it there is.

    A cycle that is too early to matter is written as the earliest that does. Without ``fetches`` what the fetch stage
    knows is left out: it stands still.
    """
    now, count = state[LAST_STEP], 0
    ends = QUEUES + at.pending_jobs + at.write_queue
    packed[0] = max(state[DISPATCH] + at.dispatch_interval, now) - now
    packed[1] = max(state[WRITTEN] + interval, now) - now
    count = 2
    for place in range(LHS_READY, ends):
        if place != WRITTEN:
            packed[count] = max(state[place], now) - now
            count += 1
    if not fetches:
        return count
    offer = state[OFFER]
    packed[count] = offer - now
    count += 1
    for place in range(ROOM, EXECUTE):
        packed[count] = max(state[place], offer) - now
        count += 1
    for place in range(ends, len(state)):
        packed[count] = max(state[place] + at.end_to_request, offer) - now
        count += 1
    for ring in (lhs, rhs):
        first, end, free = ring[1, 0], ring[0, 1], ring[0, 0]
        while first < end and ring[1, first] <= offer:
            free += ring[0, first]
            first += 1
        if count + 2 * (end - first) + 2 > len(packed):
            return 0  # too much to compare
        packed[count], packed[count + 1] = free, end - first
        count += 2
        for place in range(first, end):
            packed[count], packed[count + 1] = ring[0, place], ring[1, place] - now
            count += 2
    return count


@_inner
def _period(packed: np.ndarray, count: int, saved: np.ndarray, seen: np.ndarray, now: int) -> int:
    """After how many calls the state has come back; 0: it has not, as far as is known.

    One state is kept, for longer and longer (as in Brent's algorithm, BIT 1980, but most periods are of one call).
    ``seen``: length of the state that is kept (0: none), calls since then, its cycle, and states kept so far.
    """
    seen[1] += 1
    if count and count == seen[0]:
        same = True
        for place in range(count):
            if packed[place] != saved[place]:
                same = False
                break
        if same:
            return seen[1]
    if seen[1] > seen[3] // 8:
        saved[:count] = packed[:count]
        seen[0], seen[1], seen[2], seen[3] = count, 0, now, seen[3] + 1
    return 0


@_inner
def _move_on(state: np.ndarray, lhs: np.ndarray, rhs: np.ndarray, fetches: bool, cycles: int, at: Latencies) -> None:
    """Let a whole state happen so many cycles later."""
    ends = QUEUES + at.pending_jobs + at.write_queue
    state[EXECUTE:ends] += cycles
    if fetches:
        state[:EXECUTE] += cycles
        state[ends:] += cycles
        for ring in (lhs, rhs):
            ring[1, ring[1, 0] : ring[0, 1]] += cycles


@_inner
def _multiply_out(
    state: np.ndarray,
    lhs: np.ndarray,
    rhs: np.ndarray,
    fetches: bool,
    interval: int,
    at: Latencies,
    packed: np.ndarray,
    saved: np.ndarray,
    seen: np.ndarray,
    alike: int,
) -> int:
    """After a turn of a loop: how many of the ``alike`` turns that come the state has just been moved beyond."""
    count = _pack(state, lhs, rhs, fetches, interval, at, packed)
    period = _period(packed, count, saved, seen, state[LAST_STEP])
    if not period:
        return 0
    times = alike // period
    _move_on(state, lhs, rhs, fetches, times * (state[LAST_STEP] - seen[2]), at)
    return int(times * period)


@_inner
def _forget(seen: np.ndarray) -> None:
    seen[:] = 0


@_inner
def _matrix(
    state: np.ndarray, work: Work, segments: np.ndarray, interval: int, latency: int, at: Latencies, skip: bool
) -> None:
    """Row tiles by column tiles, see `hardware.schedule`."""
    groups = -(-work.column_tiles // work.group_tiles)
    lhs = make_ring(work.lhs_depth, work.row_tiles * (1 if work.lhs_resident else groups))
    rhs = make_ring(work.rhs_depth, work.column_tiles)
    rhs_ready = np.zeros(work.group_tiles, dtype=np.int64)
    packed, row_saved, group_saved = np.empty((3, PACKED), dtype=np.int64)
    row_seen, group_seen = np.empty(4, dtype=np.int64), np.empty(4, dtype=np.int64)
    _forget(group_seen)
    group = 0
    while group < groups:
        first = group * work.group_tiles
        behind = min(first + work.group_tiles, work.column_tiles)
        fetches, row = group == 0 or not work.lhs_resident, 0
        for segment in range(len(segments)):
            tiles, steps, entries, words = segments[segment]
            end = row + tiles
            _forget(row_seen)
            while row < end:
                if fetches:
                    space = take(lhs, entries, state[OFFER])
                    state[LHS_READY] = _fetch(state, 1, words, space, interval, latency, at)
                for tile in range(first, behind):
                    columns = work.last_columns if tile == work.column_tiles - 1 else work.dn
                    if row == 0:
                        space = take(rhs, work.rhs_entries, state[OFFER])
                        requests = -(-columns // work.ports) * work.column_requests
                        rhs_ready[tile - first] = _fetch(state, requests, work.run_words, space, interval, latency, at)
                    taken = max(1, steps + (work.requantized and tile == first))
                    ready = max(state[LHS_READY], rhs_ready[tile - first])
                    state[DISPATCH] = max(state[LAST_STEP], ready, state[DISPATCH] + at.dispatch_interval)
                    last_step = max(state[DISPATCH] + at.ready_to_step + taken - 1, state[REGISTERS])
                    state[LAST_STEP] = last_step
                    free = last_step + at.step_to_free + at.free_to_request
                    if tile == behind - 1 and not work.lhs_resident:
                        release(lhs, entries, free)
                    if row == work.row_tiles - 1:
                        release(rhs, work.rhs_entries, free)
                    planes = columns if row == work.row_tiles - 1 else 0
                    sums = last_step + work.sums_latency
                    _result(state, work, sums, columns, planes, work.sums_latency, interval, at)
                row += 1
                alike = min(end, work.row_tiles - 1) - row  # the last row tile's results are not like the others'
                if skip and alike > 0:
                    row += _multiply_out(state, lhs, rhs, fetches, interval, at, packed, row_saved, row_seen, alike)
        group += 1
        alike = groups - 1 - group  # the last group may be smaller
        if skip and alike > 0:
            group += _multiply_out(state, lhs, rhs, True, interval, at, packed, group_saved, group_seen, alike)


@_inner
def _vector(state: np.ndarray, work: Work, steps: int, interval: int, latency: int, at: Latencies, skip: bool) -> None:
    """Column tiles by columns by row tiles, which are groups of channels."""
    lhs, rhs = make_ring(work.lhs_depth, 0), make_ring(work.rhs_depth, work.column_tiles)
    packed, saved = np.empty((2, PACKED), dtype=np.int64)
    seen = np.empty(4, dtype=np.int64)
    _forget(seen)
    in_flight = work.sums_latency
    tile = 0
    while tile < work.column_tiles:
        columns = work.last_columns if tile == work.column_tiles - 1 else work.dn
        space = take(rhs, work.rhs_entries, state[OFFER])
        requests = -(-columns // work.ports) * work.column_requests
        ready = _fetch(state, requests, work.run_words, space, interval, latency, at)
        state[LAST_STEP] = max(state[LAST_STEP], ready) + at.ready_to_step - 1
        for column in range(columns):
            for row in range(work.row_tiles):
                state[LAST_STEP] = max(state[LAST_STEP] + steps, state[REGISTERS])
                ends = column == columns - 1 and row == work.row_tiles - 1
                sums = state[LAST_STEP] + at.issue_latency + at.vector_latency
                _result(state, work, sums, 1, columns if ends else 0, in_flight, interval, at)
        release(rhs, work.rhs_entries, state[LAST_STEP] + at.step_to_free + at.free_to_request)
        tile += 1
        alike = work.column_tiles - 1 - tile  # the last tile may be smaller
        if skip and alike > 0:
            tile += _multiply_out(state, lhs, rhs, True, interval, at, packed, saved, seen, alike)


@_inner
def _pass_times(
    work: Work, segments: np.ndarray, interval: int, latency: int, channel_free: int, at: Latencies, skip: bool
) -> tuple[int, int]:
    """When one instruction ends and when it leaves the read channel free."""
    address = max(at.start_to_request + at.request_to_address, channel_free)
    first_word = address + at.address_to_word + latency + at.word_latency
    start = first_word + (work.instruction_words - 1) * interval + at.instruction_to_stages
    state = np.zeros(QUEUES + at.pending_jobs + at.write_queue + at.tile_queue + 1, dtype=np.int64)
    state[OFFER] = start + at.walk_latency
    state[CHANNEL] = address + work.instruction_words * interval
    state[LAST_STEP] = start
    jobs, left, ends = QUEUES, QUEUES + at.pending_jobs, QUEUES + at.pending_jobs + at.write_queue
    state[WRITTEN] = state[WRITTEN_BEFORE] = -interval
    state[jobs:left], state[left:ends] = -1, -interval
    if work.matrix:
        _matrix(state, work, segments, interval, latency, at, skip)
    else:
        _vector(state, work, segments[0, 1], interval, latency, at, skip)
    return state[WRITTEN] + at.write_response + at.response_to_end, state[CHANNEL]


@njit(cache=True)
def program_times(
    works: np.ndarray,
    segments: np.ndarray,
    order: np.ndarray,
    ends: np.ndarray,
    interval: int,
    latency: int,
    channel_free: int,
    at: Latencies,
    skip: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """When programs end and when they leave the read channel free, see `hardware.cycles.pass_cycles`.

    Parameters
    ----------
    works:
        int64, (works, 20): the fields of `Work`, and the number of segments.
    segments:
        int64, (segments, 4): of all works, row tiles, steps, entries and words per port of a row tile.
    order:
        Numbers of the works that the programs do, one program's behind another's.
    ends:
        Where in ``order`` each program ends.
    skip:
        False: walk every tile, for tests.

    Returns
    -------
    int64, (programs,), twice.
    """
    behind = np.cumsum(works[:, -1])
    known, before, took, left = np.zeros((4, len(works)), dtype=np.int64)
    cycles, free = np.zeros((2, len(ends)), dtype=np.int64)
    place = 0
    for program in range(len(ends)):
        free[program] = channel_free
        while place < ends[program]:
            number = order[place]
            place += 1
            # Works of one program are often alike, and but for the first one find the channel alike.
            if not known[number] or before[number] != free[program]:
                row = works[number]
                work = Work(
                    row[0] != 0,
                    row[1],
                    row[2],
                    row[3],
                    row[4],
                    row[5],
                    row[6] != 0,
                    row[7] != 0,
                    row[8] != 0,
                    row[9],
                    row[10],
                    row[11],
                    row[12],
                    row[13],
                    row[14],
                    row[15],
                    row[16],
                    row[17],
                    row[18],
                )
                mine = segments[behind[number] - row[-1] : behind[number]]
                known[number], before[number] = 1, free[program]
                took[number], left[number] = _pass_times(work, mine, interval, latency, free[program], at, skip)
            cycles[program] += took[number]
            free[program] = left[number] - took[number]
    return cycles, free
