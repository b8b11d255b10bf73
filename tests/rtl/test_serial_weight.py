"""The serial-weight array: masked sums of whole activations, accumulated over weight planes, against plain integers."""

import numpy as np
import pytest

from hardware.timing import BUFFER_LATENCY, array_latency, masked_sum_latency
from rtl.serial_weight import PLANES, MaskedSum, SerialWeightArray


def planes_of(values, bits: int) -> int:
    """``bits`` planes of a vector behind one another, value k at bit k of each."""
    width = len(values)
    return sum(((int(v) >> p) & 1) << (p * width + k) for p in range(bits) for k, v in enumerate(values))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("width", [64, 128, 256])
def test_a_masked_sum_comes_every_cycle(simulate, width, masked):
    rng = np.random.default_rng(width + masked)
    unit, latency = MaskedSum(width, masked), masked_sum_latency(width)
    values = rng.integers(-128, 256, (50, width))
    values[0], values[1] = -128, 255  # the largest sums
    masks = rng.random((50, width)) < rng.random((50, 1))
    masks[:2] = True
    sums = []

    async def testbench(ctx):
        for cycle in range(50 + latency):
            if cycle < 50:
                if masked:
                    ctx.set(unit.mask, planes_of(masks[cycle], 1))
                    ctx.set(unit.values, values[cycle].tolist())
                ctx.set(unit.pairs, values[cycle].reshape(-1, 2).sum(1).tolist())
            if cycle >= latency:
                sums.append(ctx.get(unit.sum))
            await ctx.tick()

    simulate(unit, testbench)
    assert sums == np.where(masks | (not masked), values, 0).sum(1).tolist()


def tile(weights, w_bits: int, signed_w: bool, chunks: int):
    """Control bits, and weight planes of every row, of the steps of one tile: planes from the top, chunks in a row."""
    dk = weights.shape[1] // chunks
    for plane in reversed(range(w_bits)):
        for chunk in range(chunks):
            first = (plane, chunk) == (w_bits - 1, 0)
            bits = {
                "clear": first,
                "shift": chunk == 0 and not first,
                "negate": signed_w and plane == w_bits - 1,
                "last": (plane, chunk) == (0, chunks - 1),
                "idle": False,
                "count": plane == 0,
                "column_clear": plane == 0 and chunk == 0,
                "column_shift": chunk == 0,
                "column_negate": False,
            }
            part = weights[:, chunk * dk : (chunk + 1) * dk]
            yield bits, chunk, [planes_of((row >> plane) & 1, 1) for row in part]


def run(simulate, dm, dk, dn, tiles, signed_a: bool, pause: float, rng):
    """Sums, column sums and delays of tiles: (weights, w_bits, signed_w, activations, chunks) each."""
    array, finished, delays = SerialWeightArray(dm, dk, dn), [], []
    steps = []
    for weights, w_bits, signed_w, activations, chunks in tiles:
        for bits, chunk, left in tile(weights, w_bits, signed_w, chunks):
            part = activations[:, chunk * dk : (chunk + 1) * dk]
            steps.append((bits, left, [planes_of(column, PLANES) for column in part]))

    async def testbench(ctx):
        ctx.set(array.signed_activations, signed_a)
        await ctx.tick().repeat(8)
        waiting, ended, left, now = [], [], list(steps), 0
        while left or len(finished) < len(tiles):
            ctx.set(array.step_valid, 0)
            ctx.set(array.step, {name: int(rng.integers(2)) for name in steps[0][0]})
            if left and rng.random() >= pause:
                bits, *operands = left.pop(0)
                ctx.set(array.step_valid, 1)
                ctx.set(array.step, bits)
                waiting.append((now + BUFFER_LATENCY, operands))
                ended += [now] if bits["last"] else []
            come = waiting.pop(0)[1] if waiting and waiting[0][0] == now else None
            for vectors, ready in zip((array.lhs, array.rhs), come or (None, None), strict=True):
                width = dk * (PLANES if vectors is array.rhs else 1)
                for i in range(dn if vectors is array.rhs else dm):
                    noise = int.from_bytes(rng.bytes(width // 8), "little")
                    ctx.set(vectors[i], ready[i] if ready else noise)
            if ctx.get(array.sums_valid):
                sums = np.array([ctx.get(one) for one in array.sums]).reshape(dn, dm)
                finished.append((sums, [ctx.get(one) for one in array.column_sums]))
                delays.append(now - ended[len(finished) - 1])
            await ctx.tick()
            now += 1

    simulate(array, testbench)
    return finished, delays


@pytest.mark.parametrize("pause", [0.0, 0.4])
@pytest.mark.parametrize("signed_a", [False, True])
@pytest.mark.parametrize(("dm", "dk", "dn"), [(2, 64, 2), (4, 64, 1), (2, 128, 1)])
def test_tiles_of_all_widths_are_their_products(simulate, integers, dm, dk, dn, signed_a, pause):
    rng = np.random.default_rng(dm + dk + signed_a)
    tiles = []
    for w_bits in (1, 8, 3, 2, 5):
        for signed_w in (False, True):
            chunks = int(rng.integers(1, 3))
            weights = integers(rng, (dm, chunks * dk), w_bits, signed_w)
            tiles.append((weights, w_bits, signed_w, integers(rng, (dn, chunks * dk), PLANES, signed_a), chunks))
    finished, delays = run(simulate, dm, dk, dn, tiles, signed_a, pause, rng)
    assert set(delays) == {array_latency(dk, "serial_weight")}
    for (weights, _, _, activations, _), (sums, column_sums) in zip(tiles, finished, strict=True):
        assert (sums == activations @ weights.T).all()
        assert column_sums == activations.sum(1).tolist()
