"""The walk over an image's pixels against divmod."""

import numpy as np
import pytest

from hardware.timing import WALK_LATENCY
from rtl.walk import PixelWalk

MODULO = 1 << 32


class Image:
    """Images of ``width x height`` pixels, ``pixel``, ``row`` and ``image`` words apart, walked ``count`` at a time."""

    def __init__(self, width, height, pixel, row, image, base, count):
        self.width, self.height, self.steps, self.base, self.count = width, height, (pixel, row, image), base, count

    def place(self, number: int) -> tuple[int, int, int]:
        """Column, row and address of a pixel."""
        y, x = divmod(number, self.width)
        image, y = divmod(y, self.height)
        pixel_step, row_step, image_step = self.steps
        return x, y, (self.base + x * pixel_step + y * row_step + image * image_step) % MODULO

    def stride(self) -> dict[str, int]:
        pixel_step, row_step, image_step = self.steps
        rows, columns = divmod(self.count, self.width)
        images, rows = divmod(rows, self.height)
        if self.count == 1:  # also where the width is 1, as `unit_stride` has it
            columns, rows, images = 1, 0, 0
        return {
            "width": self.width,
            "height": self.height,
            "columns": columns,
            "rows": rows,
            "step": (columns * pixel_step + rows * row_step + images * image_step) % MODULO,
            "row_correction": (row_step - self.width * pixel_step) % MODULO,
            "image_correction": (image_step - self.height * row_step) % MODULO,
        }


def random_images() -> list[Image]:
    rng = np.random.default_rng(11)
    shapes = [
        (1, 1, 1),
        (1, 1, 4),
        (1, 5, 1),
        (1, 5, 2),
        (5, 1, 1),
        (7, 1, 4),
        (65535, 3, 1),
        (2, 65535, 4),
        (3, 2, 30),
    ]
    shapes += [tuple(map(int, rng.integers(1, 9, size=3))) for _ in range(30)]
    return [
        Image(width, height, *map(int, rng.integers(-1000, 1000, size=3)), int(rng.integers(MODULO)), count)
        for width, height, count in shapes
    ]


async def load(ctx, walk, image: Image, number: int) -> None:
    x, y, address = image.place(number)
    ctx.set(walk.stride, image.stride())  # new in the cycle before, as late as the machine does it
    ctx.set(walk.start, {"x": x, "y": y, "address": address})
    await ctx.tick()
    ctx.set(walk.load, 1)
    await ctx.tick()
    ctx.set(walk.load, 0)
    await ctx.tick().repeat(WALK_LATENCY - 1)
    ctx.set(walk.start, {"x": 1, "y": 2, "address": 3})


def check(ctx, walk, image: Image, number: int) -> None:
    assert ctx.get(walk.address) == image.place(number)[2]
    assert ctx.get(walk.next_address) == image.place(number + image.count)[2]


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_addresses_are_those_of_divmod(simulate, pause):
    rng = np.random.default_rng(1)
    walk = PixelWalk()
    wrapped = set()

    async def testbench(ctx):
        for image in random_images():
            start = number = int(rng.integers(3 * image.width * image.height))
            await load(ctx, walk, image, number)
            for _ in range(60):
                check(ctx, walk, image, number)
                step = rng.random() >= pause
                ctx.set(walk.step, step)
                await ctx.tick()
                ctx.set(walk.step, 0)
                number += step * image.count
            wrapped.add(number // (image.width * image.height) > start // (image.width * image.height))

    simulate(walk, testbench)
    assert wrapped == {False, True}


def test_restore_goes_back_to_where_save_was(simulate):
    rng = np.random.default_rng(2)
    walk = PixelWalk()

    async def testbench(ctx):
        for image in random_images():
            number = saved = int(rng.integers(image.width * image.height))
            await load(ctx, walk, image, number)
            action = "load"  # which saves, too, and may be followed by a restore
            for _ in range(60):
                check(ctx, walk, image, number)
                just_saved = action == "save"
                action = rng.choice(["step", "save", "restore", "pause"], p=[0.6, 0.1, 0.1, 0.2])
                if action == "restore" and just_saved:
                    action = "pause"
                ctx.set(walk.step, action in ("step", "save"))
                ctx.set(walk.save, action == "save" or (action != "step" and rng.random() < 0.5))  # it needs a step
                ctx.set(walk.restore, action == "restore")
                await ctx.tick()
                if action in ("step", "save"):
                    number += image.count
                if action == "save":
                    saved = number
                if action == "restore":
                    number = saved
            for signal in (walk.step, walk.save, walk.restore):
                ctx.set(signal, 0)

    simulate(walk, testbench)
