"""Runs the whole engine; a made-up layer for the tests of the fetch stage."""

from dataclasses import dataclass

import pytest

from hardware.instruction import FIELDS, OPCODE_MATRIX, OPCODE_SUM
from rtl.engine import Engine


def _serve(ctx, engine, memory, ports: int) -> None:
    for port in range(ports):
        memory.read(ctx, getattr(engine, f"read_{port}"), port)
    ctx.set(engine.write.idle, memory.idle)
    memory.write(ctx, engine.write)


async def _run_program(ctx, engine, memory, ports, address, meddle, limit=20_000) -> tuple[int, int]:
    """Start the engine and serve its memory until it is done: busy cycles and error code."""
    ctx.set(engine.program, address)
    ctx.set(engine.start, 1)
    busy_cycles = 0
    while True:
        _serve(ctx, engine, memory, ports)
        await memory.tick(ctx)
        ctx.set(engine.start, meddle)
        ctx.set(engine.program, 12345 if meddle else address)
        if not ctx.get(engine.busy):
            ctx.set(engine.start, 0)
            return busy_cycles, ctx.get(engine.error)
        busy_cycles += 1
        assert busy_cycles < limit, "the engine hangs"


@pytest.fixture
def run_engine(simulate):
    """``run_engine(accelerator, memory)``: (busy cycles, error code) of the program at ``address``.

    With ``meddle`` it is started again and again while it is busy. ``then`` is called once it has ended and nothing
    has moved for a while; the program then runs once more.
    """

    def run(accelerator, memory, address=0, meddle=False, then=None) -> list[tuple[int, int]]:
        engine, ports, ends = Engine(accelerator), accelerator.memory.ports, []

        async def testbench(ctx):
            ends.append(await _run_program(ctx, engine, memory, ports, address, meddle))
            if then is None:
                return
            moved = memory.words_read, memory.words_written
            for _ in range(50):
                _serve(ctx, engine, memory, ports)
                await memory.tick(ctx)
            assert moved == (memory.words_read, memory.words_written)
            assert ctx.get(engine.error) == ends[0][1]
            then()
            ends.append(await _run_program(ctx, engine, memory, ports, address, meddle))

        simulate(engine, testbench)
        return ends

    return run


LHS_BASE, RHS_BASE = 40, 1200


@dataclass(frozen=True)
class FetchWork:
    """A made-up layer in plain numbers."""

    size: tuple[int, int] = (1, 1)  # of an image, padding included
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    images: int = 1
    words: tuple[int, int, int] = (0, 1, 1)  # of a pixel's plane: first and behind the last one read, and all of them
    segments: tuple[tuple[int, int], ...] = ((1, 1),)  # weight bits, row tiles
    bits: int = 1  # of the activations
    signed: bool = False  # the activations
    constants: bool = False
    group_tiles: int = 1
    resident: bool = False
    vector: bool = False


class FetchGeometry:
    """Where every word of a work's tiles lies in memory and belongs in the buffers of one port."""

    def __init__(self, accelerator, work: FetchWork, port: int):
        self.work, self.port, self.ports = work, port, accelerator.memory.ports
        self.array, self.lanes, self.buffers = accelerator.array, accelerator.lanes, accelerator.buffers
        spans = [d * (k - 1) + 1 for d, k in zip(work.dilation, work.kernel, strict=True)]
        self.out = [(n - w) // s + 1 for n, w, s in zip(work.size, spans, work.stride, strict=True)]
        self.pixels = work.images * self.out[0] * self.out[1]
        self.column_tiles = -(-self.pixels // self.array.dn)
        self.read_words = work.words[1] - work.words[0]
        self.window_words = work.kernel[0] * work.kernel[1] * self.read_words
        self.chunks = -(-self.window_words // self.lanes)
        self.rows = [b * self.chunks + work.constants for b, tiles in work.segments for _ in range(tiles)]
        self.side_by_side = accelerator.planes
        self.column_entries = -(-work.bits // self.side_by_side) * self.chunks
        self.entries = {"lhs": self.rows, "rhs": [self.column_entries] * self.column_tiles}
        self.pixel = work.words[2] * work.bits
        self.image_words = work.size[0] * work.size[1] * self.pixel

    def window(self, number: int) -> int:
        """Address of an output pixel's first pixel."""
        y, x = divmod(number, self.out[1])
        image, y = divmod(y, self.out[0])
        down, across = self.work.stride
        inside = (y * down * self.work.size[1] + x * across) * self.pixel + self.work.words[0] * self.work.bits
        return RHS_BASE + image * self.image_words + inside

    def fields(self) -> dict[str, int]:
        work, row_words = self.work, self.work.size[1] * self.pixel
        dense = work.dilation[1] == 1 and self.read_words == work.words[2]
        rows, columns = divmod(self.ports, self.out[1])
        images, rows = divmod(rows, self.out[0])
        row, pixel = work.stride[0] * row_words, work.stride[1] * self.pixel
        fields = dict.fromkeys(FIELDS, 0) | {
            "opcode": OPCODE_SUM if work.vector else OPCODE_MATRIX,
            "lhs_resident": work.resident or work.vector,
            "activation_bits": work.bits,
            "chunks": self.chunks,
            "row_tiles": len(self.rows),
            "groups": -(-self.column_tiles // work.group_tiles),
            "group_tiles": work.group_tiles,
            "last_group_tiles": (self.column_tiles - 1) % work.group_tiles + 1,
            "last_columns": self.pixels - (self.column_tiles - 1) * self.array.dn,
            "rhs_tile_entries": self.column_entries,
            "signed_activations": work.signed,
            "lhs_base": LHS_BASE,
            "window_words": self.window_words,
            "pixel_words": self.read_words,
            "taps": work.kernel[0] * work.kernel[1],
            "kernel_rows": work.kernel[0],
            "row_runs": 1 if dense else work.kernel[1],
            "run_words": self.read_words * work.bits * (work.kernel[1] if dense else 1),
            "run_step": work.dilation[1] * self.pixel,
            "window_row_step": work.dilation[0] * row_words,
            "out_width": self.out[1],
            "out_height": self.out[0],
            "port_columns": columns,
            "port_rows": rows,
            "port_step": columns * pixel + rows * row + images * self.image_words,
            "row_correction": (row - self.out[1] * pixel) % 2**32,
            "image_correction": (self.image_words - self.out[0] * row) % 2**32,
        }
        for i, (bits, tiles) in enumerate(work.segments):
            entries = bits * self.chunks + work.constants
            fields |= {f"segment_{i}_bits": bits, f"segment_{i}_tiles": tiles, f"segment_{i}_entries": entries}
            fields[f"segment_{i}_single"] = int(tiles == 1)
        for port in range(4):
            fields[f"port_{port}_x"] = port % self.out[1]
            fields[f"port_{port}_y"] = port // self.out[1] % self.out[0]
            fields[f"port_{port}_start"] = self.window(port)
        return fields

    def order(self):
        """(side, number) of the tiles in fetch order, as in the schedule's documentation."""
        work = self.work
        for group in range(0, self.column_tiles, work.group_tiles):
            fetched = not work.vector and (group == 0 or not work.resident)
            rows = [("lhs", row) for row in range(len(self.rows))] if fetched else []
            yield from rows[:1]
            yield from (("rhs", tile) for tile in range(group, min(group + work.group_tiles, self.column_tiles)))
            yield from rows[1:]

    def row_tile(self, row: int) -> list[tuple[tuple[int, int, int], int]]:
        """((vector, entry of the tile, lane), address) of the port's words, in the order in which they lie."""
        tile = LHS_BASE + sum(self.rows[:row]) * self.array.dm * self.lanes
        mine = self.array.dm // self.ports
        return [
            ((vector, entry, lane), tile + ((self.port * mine + vector) * self.rows[row] + entry) * self.lanes + lane)
            for vector in range(mine)
            for entry in range(self.rows[row])
            for lane in range(self.lanes)
        ]

    def column_tile(self, tile: int) -> list[tuple[tuple[int, int, int], int]]:
        """The same; empty where none of the tile's valid columns is the port's."""
        work, places = self.work, []
        for column in range(self.port, min(self.array.dn, self.pixels - tile * self.array.dn), self.ports):
            window = self.window(tile * self.array.dn + column)
            for tap in range(work.kernel[0] * work.kernel[1]):
                down, across = divmod(tap, work.kernel[1])
                row, step = down * work.dilation[0], across * work.dilation[1]
                for word in range(self.read_words):
                    entry, lane = divmod(tap * self.read_words + word, self.lanes)
                    for plane in range(work.bits):
                        address = window + (row * work.size[1] + step) * self.pixel + word * work.bits + plane
                        vector = column // self.ports
                        if self.side_by_side == 1:
                            places.append(((vector, plane * self.chunks + entry, lane), address))
                            continue
                        top = plane == work.bits - 1 and work.signed  # is the sign of all planes above it
                        copies = range(plane, self.side_by_side if top else plane + 1)
                        places += [((vector, entry, copy * self.lanes + lane), address) for copy in copies]
        return places

    def places(self, side: str, number: int):
        return self.row_tile(number) if side == "lhs" else self.column_tile(number)


@pytest.fixture(scope="session")
def fetch_geometry():
    """``fetch_geometry(accelerator, port, kernel=(3, 3), ...)``: the geometry of a `FetchWork`."""

    def build(accelerator, port, **work) -> FetchGeometry:
        return FetchGeometry(accelerator, FetchWork(**work), port)

    return build
