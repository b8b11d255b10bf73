"""The execute stage against plain nested loops over tiles, bit planes and chunks."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from hardware.instruction import FIELDS, OPCODE_MATRIX, OPCODE_SUM
from rtl.execute import Execute

DN, DEPTH = 4, {"lhs": 64, "rhs": 128}


@dataclass(frozen=True)
class Work:
    segments: tuple[tuple[int, int], ...] = ((1, 1),)  # weight bits, row tiles
    bits: int = 1
    chunks: int = 1
    column_tiles: int = 1
    group_tiles: int = 1
    resident: bool = False
    constants: bool = False
    last_columns: int = 3
    taps: int = 0  # of a vector pass, whose row tiles are groups of channels
    signed: tuple[int, int] = (1, 0)  # weights, activations
    planes: int = 1  # of the activations, side by side

    @property
    def activation_steps(self) -> int:
        return -(-self.bits // self.planes)

    @property
    def rows(self) -> list[int]:
        return [bits for bits, tiles in self.segments for _ in range(tiles)]

    def columns(self, tile: int) -> int:
        return self.last_columns if tile == self.column_tiles - 1 else DN

    def fields(self) -> dict[str, int]:
        fields = dict.fromkeys(FIELDS, 0) | {
            "opcode": OPCODE_SUM if self.taps else OPCODE_MATRIX,
            "signed_weights": self.signed[0],
            "signed_activations": self.signed[1],
            "lhs_resident": self.resident,
            "activation_bits": self.bits,
            "chunks": self.chunks,
            "row_tiles": len(self.rows),
            "groups": -(-self.column_tiles // self.group_tiles),
            "group_tiles": self.group_tiles,
            "last_group_tiles": (self.column_tiles - 1) % self.group_tiles + 1,
            "last_columns": self.last_columns,
            "rhs_tile_entries": self.activation_steps * self.chunks,
            "write_sums": not self.constants,
            "taps": self.taps,
            "pixel_words": len(self.rows),  # with four channels at a time and one lane
        }
        for i, (bits, tiles) in enumerate(self.segments):
            entries = bits * self.chunks + self.constants
            fields |= {f"segment_{i}_bits": bits, f"segment_{i}_tiles": tiles, f"segment_{i}_entries": entries}
            fields[f"segment_{i}_single"] = int(tiles == 1)
        return fields


@dataclass(frozen=True)
class Step:
    """One step: buffer entries and control bits, None where they do not matter."""

    lhs: int | None
    rhs: int | None
    bits: dict[str, bool | None]
    ends: bool = False  # last step of a tile, or of a vector pass's channels
    constants: bool = False
    freed: tuple[int | None, bool] = (None, False)  # entries of a row tile, a column tile
    place: dict[str, int] = field(default_factory=dict)  # of a step that ends something
    needs: tuple[int, int] = (0, 0)  # tiles that must have come


def tile_steps(work: Work, w: int, lhs: int, rhs: int, constants: bool):
    """Steps of one output tile whose operands lie from entries ``lhs`` and ``rhs`` on."""
    a, chunks, steps = work.activation_steps, work.chunks, []
    for diagonal in reversed(range(w + a - 1)) if w else ():
        pairs = [(i, diagonal - i) for i in reversed(range(w)) if 0 <= diagonal - i < a]
        for i, j in pairs:
            for chunk in range(chunks):
                starts = (i, j, chunk) == (*pairs[0], 0)
                negative = bool(work.signed[1] and j == a - 1 and work.planes == 1)  # else the array sees to it
                counts, starts_columns = i == 0, (j, chunk) == (a - 1, 0)
                bits = {
                    "clear": not steps,
                    "shift": starts if steps else None,
                    "negate": bool(work.signed[0] and i == w - 1) != negative,
                    "idle": False,
                    "count": counts,
                    "column_clear": starts_columns if counts else None,
                    "column_shift": chunk == 0 if counts and not starts_columns else None,
                    "column_negate": negative if counts else None,
                }
                step = Step((lhs + i * chunks + chunk) % DEPTH["lhs"], (rhs + j * chunks + chunk) % DEPTH["rhs"], bits)
                steps.append(step)
    if constants or not w:  # the constants lie behind all planes
        entry = (lhs + w * chunks) % DEPTH["lhs"] if constants else None
        steps.append(Step(entry, None, {"idle": True}, constants=constants))
    steps[-1] = replace(steps[-1], ends=True)
    return [replace(step, bits=step.bits | {"last": step.ends}) for step in steps]


def ref_matrix(work: Work):
    rows, fetched, lhs_tiles = work.rows, 0, 0
    for group in range(0, work.column_tiles, work.group_tiles):
        tiles = range(group, min(group + work.group_tiles, work.column_tiles))
        if work.resident:
            fetched = 0
        for row, w in enumerate(rows):
            lhs_tiles += group == 0 or not work.resident
            entries = w * work.chunks + work.constants
            for tile in tiles:
                last_row, needs = row == len(rows) - 1, (lhs_tiles, tile + 1)
                rhs = tile * work.activation_steps * work.chunks
                *others, last = tile_steps(work, w, fetched, rhs, work.constants and tile == group)
                yield from (replace(step, needs=needs) for step in others)
                place = {
                    "columns": work.columns(tile),
                    "plane_columns": work.columns(tile) if last_row else 0,
                    "last_in_group": tile == tiles[-1],
                    "last_row_tile": last_row,
                    "last": last_row and tile == work.column_tiles - 1,
                }
                freed = entries if tile == tiles[-1] and not work.resident else None
                yield replace(last, needs=needs, place=place, freed=(freed, last_row))
            fetched += entries


def ref_vector(work: Work):
    """Four channels at a time, one word of a pixel each."""
    words = len(work.rows)
    for tile in range(work.column_tiles):
        columns = work.columns(tile)
        for column in range(columns):
            for group in range(words):
                for tap in range(work.taps):
                    entry = (tile * work.chunks + tap * words + group) % DEPTH["rhs"]
                    ends, last_group = tap == work.taps - 1, group == words - 1
                    tile_ends = ends and last_group and column == columns - 1
                    place = {
                        "columns": 1,
                        "plane_columns": columns if tile_ends else 0,
                        "last_in_group": 1,
                        "last_row_tile": last_group,
                        "last": tile_ends and tile == work.column_tiles - 1,
                    }
                    bits = {"column": column, "first": tap == 0, "done": ends}
                    yield Step(None, entry, bits, ends, False, (None, tile_ends), place if ends else {}, (0, tile + 1))


WORKS = [
    Work(),
    Work(((1, 3),), 1, 1, 4, 2),  # every step is a last step
    Work(((2, 1),), 3, 2, 5, 1, constants=True),
    Work(((4, 1), (2, 2)), 2, 3, 3, 2, resident=True, constants=True),
    Work(((3, 1), (2, 1), (0, 2)), 4, 1, 5, 2, constants=True),  # pruned kernels have but their constants
    Work(((0, 2),), 2, 1, 3, 3, resident=True, constants=True),
    Work(((8, 2), (7, 1)), 8, 1, 2, 2),
    Work(((5, 1), (1, 1)), 1, 7, 3, 3),
    Work(((0, 3),), 1, 12, 5, 1, True, taps=4),
    Work(((0, 1),), 1, 1, 2, 1, True, taps=1),
]


def check_step(ctx, execute, expected: Step, vector: bool) -> None:
    """The step that is issued in this cycle."""
    bits = execute.vector_step if vector else execute.step
    assert (ctx.get(execute.step_valid), ctx.get(execute.vector_valid)) == (not vector, vector)
    assert expected.lhs is None or ctx.get(execute.lhs_entry) == expected.lhs
    assert expected.rhs is None or ctx.get(execute.rhs_entry) == expected.rhs
    known = {name: value for name, value in expected.bits.items() if value is not None}
    assert {name: ctx.get(getattr(bits, name)) for name in known} == known
    assert ctx.get(execute.constants) == expected.constants
    assert (ctx.get(execute.lhs_free), ctx.get(execute.rhs_free)) == (expected.freed[0] is not None, expected.freed[1])
    assert expected.freed[0] is None or ctx.get(execute.lhs_free_entries) == expected.freed[0]


async def begin(ctx, execute, work: Work) -> None:
    ctx.set(execute.instruction, work.fields())
    await ctx.tick()  # an instruction is there a cycle before its start
    ctx.set(execute.start, 1)
    await ctx.tick()
    ctx.set(execute.start, 0)


@pytest.mark.parametrize(("ports", "signed"), [(1, (0, 0)), (2, (1, 0)), (4, (0, 1)), (1, (1, 1))])
@pytest.mark.parametrize("often", [1.0, 0.15])
@pytest.mark.parametrize("kind", ["bit_serial", "serial_weight"])
def test_steps_are_those_of_the_loops_and_wait_for_their_tokens(simulate, machine, kind, often, ports, signed):
    rng = np.random.default_rng(4)
    depths = {f"{side}_entries": depth for side, depth in DEPTH.items()}
    accelerator = machine(kind=kind, dm=4, dn=DN, ports=ports, **depths)
    execute = Execute(accelerator)
    strobes = execute.lhs_ready, execute.rhs_ready

    async def testbench(ctx):
        for work in (replace(work, signed=signed, planes=accelerator.planes) for work in WORKS):
            steps = list(ref_vector(work) if work.taps else ref_matrix(work))
            totals, place = steps[-1].needs, {}
            await begin(ctx, execute, work)
            sent, registers_free, waited = np.zeros((2, ports), dtype=int), True, 0
            while steps:
                arrived = sent.min(axis=1)  # a strobe of this very cycle is too late for its step
                for side, strobe in enumerate(strobes):
                    arrives = (sent[side] < totals[side]) & (rng.random(ports) < often)
                    ctx.set(strobe, int(arrives @ (1 << np.arange(ports))))
                    sent[side] += arrives
                release = not registers_free and rng.random() < often
                ctx.set(execute.result_free, release)
                if ctx.get(execute.step_valid) | ctx.get(execute.vector_valid):
                    expected, waited = steps.pop(0), 0
                    check_step(ctx, execute, expected, bool(work.taps))
                    assert all(arrived >= expected.needs)
                    assert registers_free or not expected.ends
                    registers_free &= not expected.ends
                    place = expected.place or place
                else:
                    assert not ctx.get(execute.lhs_free) | ctx.get(execute.rhs_free)
                    waited += 1
                    assert waited < 1000, "the stage hangs"
                assert ctx.get(execute.busy) or not steps  # issued a cycle after it was taken
                for name, value in place.items():  # as long as a tile's sums are on their way
                    assert ctx.get(getattr(execute.place, name)) == value
                registers_free |= release
                await ctx.tick()
            ctx.set(execute.result_free, not registers_free)
            assert not ctx.get(execute.busy)
            assert (sent == np.array(totals)[:, None]).all()
            await ctx.tick()
            ctx.set(execute.result_free, 0)

    simulate(execute, testbench)
