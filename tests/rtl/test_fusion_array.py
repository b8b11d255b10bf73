"""The array of fusion units: tiles of packed values in every mode against plain integers."""

from itertools import product

import numpy as np
import pytest

from hardware.timing import BUFFER_LATENCY, array_latency
from rtl.array import STEP
from rtl.datapath import SETTLING
from rtl.fusion_array import FusionArray
from rtl.fusion_routing import WIDTHS

FLAGS = list(STEP.members)


def packed(values, bits: int) -> int:
    """Values one after another, the first in the lowest bits."""
    return sum((int(v) & ((1 << bits) - 1)) << i * bits for i, v in enumerate(values))


def entries(values, bits: int, dk: int) -> list[int]:
    """A vector's packed values in entries, zeros behind the last."""
    words, each = packed(values, bits), dk // bits
    return [words >> dk * i & ((1 << dk) - 1) for i in range(-(-len(values) // each))]


def run(simulate, dm, dk, dn, mode, tiles, pause, rng):
    """Sums and delays of tiles of (weights, activations)."""
    w, a, *_ = mode
    array, finished, delays, steps = FusionArray(dm, dk, dn), [], [], []
    for weights, activations in tiles:
        left, right = ([entries(v, bits, dk) for v in values] for values, bits in ((weights, w), (activations, a)))
        count = min(len(left[0]) * a, len(right[0]) * w) // 2
        for number in range(count):
            (i, lhs_part), (j, rhs_part) = divmod(number, a // 2), divmod(number, w // 2)
            flags = dict.fromkeys(FLAGS, 0) | {"clear": number == 0, "last": number == count - 1}
            steps.append((flags, {"lhs": lhs_part, "rhs": rhs_part}, [v[i] for v in left], [v[j] for v in right]))

    async def testbench(ctx):
        names = ("weight_bits", "activation_bits", "signed_weights", "signed_activations")
        ctx.set(array.mode, dict(zip(names, mode, strict=True)))
        await ctx.tick().repeat(SETTLING + 4)
        left, waiting, ended, now = list(steps), [], [], 0
        while left or len(finished) < len(tiles):
            ctx.set(array.step_valid, 0)
            ctx.set(array.step, {name: int(rng.integers(2)) for name in FLAGS})
            ctx.set(array.parts, {"lhs": int(rng.integers(4)), "rhs": int(rng.integers(4))})
            if left and rng.random() >= pause:
                flags, parts, *operands = left.pop(0)
                ctx.set(array.step_valid, 1)
                ctx.set(array.step, flags)
                ctx.set(array.parts, parts)
                waiting.append((now + BUFFER_LATENCY, operands))
                ended += [now] if flags["last"] else []
            come = waiting.pop(0)[1] if waiting and waiting[0][0] == now else (None, None)
            for vectors, count, ready in ((array.lhs, dm, come[0]), (array.rhs, dn, come[1])):
                for i in range(count):
                    noise = int.from_bytes(rng.bytes(dk // 8), "little")
                    ctx.set(vectors[i], ready[i] if ready else noise)
            if ctx.get(array.sums_valid):
                finished.append(np.array([ctx.get(one) for one in array.sums]).reshape(dn, dm))
                delays.append(now - ended[len(finished) - 1])
            await ctx.tick()
            now += 1

    simulate(array, testbench)
    return finished, delays


def check(simulate, integers, shape, mode, pause, rng):
    dm, dk, dn = shape
    w, a, signed_w, signed_a = mode
    tiles = []
    for _ in range(6):
        count = int(rng.integers(1, 3 * dk // min(w, a)))
        tiles.append((integers(rng, (dm, count), w, signed_w), integers(rng, (dn, count), a, signed_a)))
    finished, delays = run(simulate, dm, dk, dn, mode, tiles, pause, rng)
    assert set(delays) == {array_latency(dk, "bit_fusion")}
    for (weights, activations), sums in zip(tiles, finished, strict=True):
        assert (sums == activations @ weights.T).all()


@pytest.mark.parametrize("mode", list(product(WIDTHS, WIDTHS, (False, True), (False, True))), ids=str)
def test_tiles_are_their_products_in_every_mode(simulate, integers, mode):
    check(simulate, integers, (2, 64, 1), mode, 0.2, np.random.default_rng(sum(mode)))


@pytest.mark.parametrize("shape", [(2, 64, 2), (2, 128, 1), (2, 256, 1)], ids=str)
def test_arrays_of_other_shapes(simulate, integers, shape):
    check(simulate, integers, shape, (4, 2, True, False), 0.0, np.random.default_rng(shape[1]))
