"""Places in memory: walked from last to first they are the same, and one out of range is named to its last bit."""

from collections.abc import Iterator

import numpy as np
import pytest

from codesign.requantized import RequantizedLayer, lower_requantized, random_rules
from codesign.sampling import random_operands
from hardware.accelerator import Accelerator
from hardware.cycles import layer_cycles
from hardware.instruction import FIELDS, INSTRUCTION_WORDS, encode
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.passes import Output
from hardware.registers import ErrorCode
from sim.job import Job
from sim.reference import reference_sums
from sim.run import simulate_jobs

ADDRESSES = 1 << 32
OUTPUT = Output(values=True, plane_bits=3)
WALKS = {  # first place, step, what is added where a row and where an image ends
    "windows": ("port_0_start", "port_step", "row_correction", "image_correction"),
    "values": ("result_base", "result_step", "result_row_correction", "result_image_correction"),
    "planes": ("plane_base", "plane_step", "plane_row_correction", "plane_image_correction"),
}
FIRST, STEP, ROW, IMAGE = range(4)
ASTRAY = {  # width, height and images, the pixel that is astray, and what leads there
    "the first": ((2, 2, 1), 0, FIRST),
    "the second": ((2, 2, 1), 1, STEP),
    "a row's first, the third": ((2, 2, 1), 2, ROW),
    "a row's first, the fourth": ((3, 2, 1), 3, ROW),
    "an image's first, behind a row of two": ((2, 1, 2), 2, IMAGE),
    "an image's first, behind a row of three": ((3, 1, 2), 3, IMAGE),
    "an image's first, behind a column of two": ((1, 2, 2), 2, IMAGE),
    "an image's first, behind a column of three": ((1, 3, 2), 3, IMAGE),
}


def fields_of(words: np.ndarray) -> dict[str, int]:
    """An instruction's fields."""
    word, fields = sum(int(w) << (64 * i) for i, w in enumerate(words[:INSTRUCTION_WORDS])), {}
    for name, bits in FIELDS.items():
        fields[name], word = word & ((1 << bits) - 1), word >> bits
    return fields


def places(fields: dict[str, int], walk: str, pixels: int) -> list[int]:
    """Addresses of the pixels in their order."""
    first, step, row, image = (fields[name] for name in WALKS[walk])
    # With a single column a port's next window is a row further; results always go column by column.
    columns, rows = (fields["port_columns"], fields["port_rows"]) if walk == "windows" else (1, 0)
    x = y = 0
    found, address = [], first
    for _ in range(pixels):
        found.append(address)
        x, y, address = x + columns, y + rows, address + step
        if x >= fields["out_width"]:
            x, y, address = x - fields["out_width"], y + 1, address + row
        if y >= fields["out_height"]:
            y, address = y - fields["out_height"], address + image
        address %= ADDRESSES
    return found


def small(rng: np.random.Generator, width: int, height: int, images: int) -> Operands:
    """A single row tile."""
    layer = Layer("small", "conv", 3, 2, height, width, images=images)
    activations = rng.integers(8, size=(images, 3, height, width))
    return Operands(layer, rng.integers(-2, 2, size=(2, 3, 1, 1)), activations, (2, 2), 3)


def lowered_layer(accelerator: Accelerator, operands: Operands, seed: int = 0) -> RequantizedLayer:
    sums = reference_sums(operands)
    rules = random_rules(np.random.default_rng(seed), operands, sums, OUTPUT.plane_bits)
    return lower_requantized(operands, accelerator, OUTPUT, rules)


def job_of(lowered: RequantizedLayer, image: np.ndarray) -> Job:
    limit = 4 * layer_cycles(lowered.schedule) + 10_000
    return Job(image, 0, lowered.result_address, lowered.result_words, cycle_limit=limit)


def backwards(fields: dict[str, int], pixels: int) -> dict[str, int]:
    """The same pixels from the last to the first."""
    turned = dict(fields)
    for walk, names in WALKS.items():
        turned[names[FIRST]] = places(fields, walk, pixels)[-1]
        turned |= {name: -fields[name] % ADDRESSES for name in names[STEP:]}
    return turned


def test_pixels_may_be_computed_from_the_last_to_the_first(tiny):
    rng = np.random.default_rng(7)
    work = [small(rng, *shape) for shape in ((1, 3, 2), (3, 1, 2), (3, 2, 2))]
    while len(work) < 12:
        operands = random_operands(rng, tiny, len(work))
        if operands.layer.pixels > 3:
            work.append(operands)
    lowered, jobs = [lowered_layer(tiny, operands) for operands in work], []
    for one in lowered:
        image = one.image.copy()
        for start in range(0, len(one.schedule.passes) * INSTRUCTION_WORDS, INSTRUCTION_WORDS):
            turned = backwards(fields_of(image[start:]), one.schedule.layer.pixels)
            image[start : start + INSTRUCTION_WORDS] = encode(turned)
        jobs.append(job_of(one, image))
    outcomes = simulate_jobs(jobs, tiny).outcomes
    for operands, one, outcome in zip(work, lowered, outcomes, strict=True):
        assert outcome.error == ErrorCode.NONE
        assert one.count_mismatches(outcome.results, reference_sums(operands))[1] == 0, operands.layer
        assert outcome.cycles == layer_cycles(one.schedule), operands.layer


def astray(accelerator: Accelerator, walk: str, count: int) -> Iterator[tuple[Job, int]]:
    """Programs whose windows, values or planes lead to an address, and this address."""
    rng = np.random.default_rng(len(walk))
    for (width, height, images), pixel, how in ASTRAY.values():
        lowered = lowered_layer(accelerator, small(rng, width, height, images))
        fields = fields_of(lowered.image)
        for _ in range(count):
            address = int(rng.integers(len(lowered.image), ADDRESSES))
            name = WALKS[walk][how]
            changed = (fields[name] + address - places(fields, walk, pixel + 1)[-1]) % ADDRESSES
            image = lowered.image.copy()
            image[:INSTRUCTION_WORDS] = encode(fields | {name: changed})
            yield job_of(lowered, image), address


@pytest.mark.parametrize("walk", WALKS)
def test_an_address_out_of_range_is_named_to_its_last_bit(tiny, walk):
    jobs, addresses = zip(*astray(tiny, walk, 16), strict=True)
    outcomes = simulate_jobs(jobs, tiny).outcomes
    assert [outcome.error for outcome in outcomes] == [ErrorCode.ADDRESS_RANGE] * len(jobs)
    assert [hex(outcome.error_address) for outcome in outcomes] == [hex(address) for address in addresses]


def test_a_run_that_leaves_the_memory_is_refused_as_a_whole(tiny):
    layer = Layer("one run", "linear", 3, 2)
    operands = Operands(layer, np.ones((2, 3, 1, 1), dtype=np.int64), np.ones((1, 3, 1, 1), dtype=np.int64), (2, 2), 1)
    lowered, jobs = lowered_layer(tiny, operands), []
    fields = fields_of(lowered.image)
    for bit in range(len(lowered.image).bit_length(), FIELDS["run_words"]):
        image = lowered.image.copy()
        image[:INSTRUCTION_WORDS] = encode(fields | {"run_words": 1 << bit | 1})
        jobs.append(job_of(lowered, image))
    for outcome in simulate_jobs(jobs, tiny).outcomes:
        assert (outcome.error, outcome.error_address) == (ErrorCode.ADDRESS_RANGE, fields["port_0_start"])
