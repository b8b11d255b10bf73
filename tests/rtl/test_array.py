"""The bit-serial array against plain integers and NumPy."""

import re
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import verilog

from hardware.timing import BUFFER_LATENCY, array_latency
from rtl.array import STEP, BitSerialArray
from rtl.interface import ACCUMULATOR_BITS
from sim.flat import Flat
from sim.yosys import run_yosys

BITS = list(STEP.members)


def drive(array: BitSerialArray, steps, pause: float, rng, finished: list, delays: list):
    """A testbench that issues ``steps``, each with its operands `BUFFER_LATENCY` later, and notes the finished sums.

    A step is (step bits, left vectors, right vectors). In a cycle in which none is issued, with probability
    ``pause``, the inputs hold noise.
    """
    bipolar = hasattr(array, "column_sums")

    async def testbench(ctx):
        waiting, coming = list(steps), [None] * BUFFER_LATENCY
        last_at = []  # cycles of steps marked last that are still in the array
        cycle = 0
        while waiting or last_at:
            issue = bool(waiting) and rng.random() >= pause
            step, *vectors = waiting.pop(0) if issue else ({name: int(rng.integers(2)) for name in BITS}, None, None)
            ctx.set(array.step_valid, issue)
            ctx.set(array.step, step)
            operands, *coming = coming
            for side, port in enumerate((array.lhs, array.rhs)):
                for i in range(len(port)):
                    noise = int.from_bytes(rng.bytes(8), "little")
                    ctx.set(port[i], operands[side][i] if operands and operands[side] is not None else noise)
            coming.append(vectors)
            if issue and step["last"]:
                last_at.append(cycle)
            if ctx.get(array.sums_valid):
                delays.append(cycle - last_at.pop(0))
                sums = [ctx.get(array.sums[i]) for i in range(len(array.sums))]
                finished.append((sums, [ctx.get(total) for total in array.column_sums] if bipolar else []))
            await ctx.tick()
            cycle += 1
            assert cycle < 100 * len(steps) + 100, "a sum never came"

    return testbench


def reference(steps, dm: int, dn: int, bipolar: bool = True) -> list[tuple[list[int], list[int]]]:
    """Sums and column sums after every step marked last, by the definition of the step bits."""
    totals = {"": np.zeros((dn, dm), dtype=np.int64), "column_": np.zeros(dn, dtype=np.int64)}
    finished = []
    for step, left, right in steps:
        counts = {
            "": np.array([[(row & column).bit_count() for row in left] for column in right]),
            "column_": np.array([column.bit_count() for column in right]),
        }
        for kind, count in counts.items():
            if step["idle"] or (kind and not step["count"]):
                continue
            base = 0 if step[f"{kind}clear"] else totals[kind] << step[f"{kind}shift"]
            totals[kind] = base - count if step[f"{kind}negate"] else base + count
        if step["last"]:
            finished.append((totals[""].reshape(-1).tolist(), totals["column_"].tolist() if bipolar else []))
    return finished


@pytest.mark.parametrize("pause", [0.0, 0.5])
@pytest.mark.parametrize(
    ("dm", "dk", "dn", "bipolar"),
    [(2, 64, 2, True), (4, 64, 3, True), (2, 128, 1, True), (2, 256, 1, True), (2, 512, 1, True), (2, 64, 2, False)],
)
def test_sums_follow_the_step_bits_and_come_array_latency_cycles_later(simulate, dm, dk, dn, bipolar, pause):
    rng = np.random.default_rng(dn + dk)

    def vectors(count):
        return [int.from_bytes(rng.bytes(dk // 8), "little") for _ in range(count)]

    steps = []
    for number in range(60):
        bits = {name: int(rng.random() < 0.4) for name in BITS}
        if number % 12 == 0:  # a sum of 12 doublings stays below 2**31
            bits |= {"idle": 0, "clear": 1, "count": 1, "column_clear": 1}
        steps.append((bits, vectors(dm), vectors(dn)))
    steps[-1][0]["last"] = 1
    finished, delays = [], []
    array = BitSerialArray(dm, dk, dn, bipolar=bipolar)
    simulate(array, drive(array, steps, pause, rng, finished, delays))
    assert finished == reference(steps, dm, dn, bipolar)
    assert set(delays) == {array_latency(dk)}


def planes(values: np.ndarray, bits: int) -> list[list[int]]:
    """``[plane][vector]``: bit planes as integers, element k at bit k."""
    return [[sum(((int(v) >> p) & 1) << k for k, v in enumerate(vector)) for vector in values] for p in range(bits)]


def tile(
    weights: np.ndarray, activations: np.ndarray, w_bits: int, a_bits: int, signed_w: bool, signed_a: bool, dk: int
):
    """The steps of one output tile: anti-diagonals from the most significant, all chunks of a plane pair in a row."""
    chunks = range(0, weights.shape[1], dk)
    left, right = ([planes(v[:, k : k + dk], b) for k in chunks] for v, b in ((weights, w_bits), (activations, a_bits)))
    steps = []
    for diagonal in range(w_bits + a_bits - 2, -1, -1):
        pairs = [(i, diagonal - i) for i in reversed(range(w_bits)) if 0 <= diagonal - i < a_bits]
        for i, j in pairs:
            for chunk in range(len(chunks)):
                negative = signed_a and j == a_bits - 1
                bits = {
                    "clear": not steps,
                    "shift": (i, j, chunk) == (*pairs[0], 0),
                    "negate": (signed_w and i == w_bits - 1) != negative,
                    "last": (i, j, chunk) == (0, 0, len(chunks) - 1),
                    "idle": False,
                    "count": i == 0,
                    "column_clear": (i, j, chunk) == (0, a_bits - 1, 0),
                    "column_shift": i == 0 and chunk == 0,
                    "column_negate": negative,
                }
                steps.append(({name: int(bit) for name, bit in bits.items()}, left[chunk][i], right[chunk][j]))
    return steps


@pytest.mark.parametrize(("signed_w", "signed_a"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("dk", [64, 128])
def test_tiles_back_to_back_make_dot_products_also_of_bipolar_weights(simulate, integers, dk, signed_w, signed_a):
    rng = np.random.default_rng(dk + 2 * signed_w + signed_a)
    steps, expected = [], []
    for w_bits, a_bits, chunks in [
        (1, 1, 1),
        (1, 1, 1),
        (1, 3, 2),
        (2, 3, 1),
        (8, 8, 1),
        (3, 1, 3),
        (1, 8, 1),
        (4, 4, 2),
    ]:
        weights = integers(rng, (2, chunks * dk), w_bits, signed_w)
        activations = integers(rng, (2, chunks * dk), a_bits, signed_a)
        steps += tile(weights, activations, w_bits, a_bits, signed_w, signed_a, dk)
        expected.append((activations @ weights.T, activations @ (2 * weights + 1).T))
    finished: list[tuple[list[int], list[int]]] = []
    delays: list[int] = []
    array = BitSerialArray(2, dk, 2)
    simulate(array, drive(array, steps, 0.0, rng, finished, delays))
    assert len(finished) == len(expected)
    for (sums, column_sums), (plain, bipolar) in zip(finished, expected, strict=True):
        assert np.reshape(sums, (2, 2)).tolist() == plain.tolist()
        assert (2 * np.reshape(sums, (2, 2)) + np.reshape(column_sums, (2, 1))).tolist() == bipolar.tolist()
    assert set(delays) == {array_latency(dk)}


def test_an_idle_step_may_end_the_tile_and_changes_no_sum(simulate, integers):
    rng = np.random.default_rng(5)
    steps, expected = [], []
    for _ in range(3):
        weights, activations = integers(rng, (2, 64), 3, True), integers(rng, (1, 64), 2, True)
        work = tile(weights, activations, 3, 2, True, True, 64)
        work[-1][0]["last"] = 0
        idle = [
            (dict.fromkeys(BITS, 1) | {"last": last}, [int.from_bytes(rng.bytes(8))] * 2, [2**64 - 1])
            for last in (0, 0, 1)
        ]
        steps += [*work[:3], *idle[:2], *work[3:], idle[2]]
        expected.append(((activations @ weights.T).reshape(-1).tolist(), activations.sum(axis=1).tolist()))
    finished: list[tuple[list[int], list[int]]] = []
    array = BitSerialArray(2, 64, 1)
    simulate(array, drive(array, steps, 0.0, rng, finished, []))
    assert finished == expected


@pytest.mark.parametrize("bits", [16, 20, ACCUMULATOR_BITS])
def test_an_accumulator_wraps_at_its_width_and_is_sign_extended(simulate, bits):
    rng = np.random.default_rng(bits)
    ones = 2**64 - 1
    bit = dict.fromkeys(BITS, 0) | {"shift": 1, "count": 1, "column_shift": 1, "last": 1}
    steps = [(bit | {"clear": int(n == 0), "column_clear": int(n == 0)}, [ones, 3], [ones]) for n in range(30)]
    finished: list[tuple[list[int], list[int]]] = []
    array = BitSerialArray(2, 64, 1, accumulator_bits=bits)
    simulate(array, drive(array, steps, 0.0, rng, finished, []))
    half = 1 << (bits - 1)
    for (sums, column_sums), (exact, exact_columns) in zip(finished, reference(steps, 2, 1), strict=True):
        assert sums == [(value + half) % (2 * half) - half for value in exact]
        assert column_sums == [(value + half) % (2 * half) - half for value in exact_columns]


def synthesized(directory: Path, dm: int, dk: int, dn: int, command: str) -> dict[str, int]:
    """Cells of the array after synthesis."""
    (directory / "array.v").write_text(verilog.convert(Flat(BitSerialArray(dm, dk, dn)), name="array", emit_src=False))
    output = run_yosys(directory, f"read_verilog array.v; {command} -top array; check -assert; stat")
    return {cell: int(count) for count, cell in re.findall(r"^ +(\d+) (?:.* )?([A-Z]\w+)$", output, re.MULTILINE)}


def luts(cells: dict[str, int]) -> int:
    return sum(count for cell, count in cells.items() if re.fullmatch(r"LUT\d", cell) or cell.startswith("SRL"))


def test_the_small_arrays_units_fit_in_lut4_too(tmp_path: Path):
    cells = synthesized(tmp_path, 2, 64, 1, "synth_ecp5")
    assert luts(cells) <= 3 * 260  # two units and a column counter; measured
    assert "CCU2C" in cells


@pytest.mark.slow  # minutes of synthesis
def test_the_edge_array_takes_less_than_1_8_lut_per_binary_mac(tmp_path: Path):
    cells = synthesized(tmp_path, 8, 256, 8, "synth_xilinx -family xc7 -flatten")
    assert luts(cells) <= 1.8 * 8 * 256 * 8
    assert cells["FDRE"] <= 40_000
    assert cells["CARRY4"] <= 900
