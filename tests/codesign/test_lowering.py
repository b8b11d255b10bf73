"""The memory image against its documented layout and against a plain interpreter of instructions."""

from dataclasses import replace

import numpy as np
import pytest

from codesign.lowering import POISON, lower
from codesign.sampling import random_operands
from hardware.errors import InputError
from hardware.instruction import FIELDS, INSTRUCTION_WORDS
from hardware.layer import Layer
from hardware.operands import Operands
from sim.reference import integer_convolution

TINY_CONV = Layer("c", "conv", 2, 1, in_height=1, in_width=2, kernel=(1, 3), padding=(0, 1))


def operands_of(layer, weights, activations, weight_bits, activation_bits, signed_weights=True) -> Operands:
    weights = np.array(weights, dtype=np.int64).reshape(layer.out_channels, layer.in_channels, *layer.kernel)
    activations = np.array(activations, dtype=np.int64)
    shape = (layer.images, layer.in_channels, layer.in_height, layer.in_width)
    return Operands(layer, weights, activations.reshape(shape), tuple(weight_bits), activation_bits, signed_weights)


def program_of(image: np.ndarray) -> list[dict[str, int]]:
    """The instructions at the image's beginning, decoded."""
    program: list[dict[str, int]] = []
    while not program or not program[-1]["last"]:
        words = image[len(program) * INSTRUCTION_WORDS :][:INSTRUCTION_WORDS]
        bits, fields = sum(int(word) << (64 * i) for i, word in enumerate(words)), {}
        for name, width in FIELDS.items():
            fields[name], bits = bits & ((1 << width) - 1), bits >> width
        program.append(fields)
    return program


def interpret(image: np.ndarray, dm: int, dn: int) -> dict[int, int]:
    """Result words by address, from the instructions' meaning alone: no tiles, no buffers, no schedule."""
    results: dict[int, int] = {}
    for i in program_of(image):
        pixels = (i["column_tiles"] - 1) * dn + i["last_columns"]
        plane_words = i["lhs_tile_words"] // dm // i["weight_bits"]
        for pixel in range(pixels):
            rest, x = divmod(pixel, i["out_width"])
            number, y = divmod(rest, i["out_height"])
            window = i["rhs_base"] + number * i["image_step"] + y * i["row_step"] + x * i["pixel_step"]
            columns = [0] * i["activation_bits"]
            for tap in range(i["taps"]):
                row, across = divmod(tap, i["taps"] // i["kernel_rows"])
                for plane in range(i["activation_bits"]):
                    for word in range(i["channel_words"]):
                        address = (across * i["activation_bits"] + plane) * i["channel_words"] + word
                        value = int(image[window + row * i["window_row_step"] + address])
                        columns[plane] |= value << (64 * (tap * i["channel_words"] + word))
            sums = []
            for kernel in range(i["row_tiles"] * dm):
                total = 0
                for p in range(i["weight_bits"]):
                    start = i["lhs_base"] + (kernel * i["weight_bits"] + p) * plane_words
                    plane = sum(int(word) << (64 * k) for k, word in enumerate(image[start : start + plane_words]))
                    for q in range(i["activation_bits"]):
                        negative = (i["signed_weights"] and p == i["weight_bits"] - 1) != (
                            i["signed_activations"] and q == i["activation_bits"] - 1
                        )
                        total += (-1 if negative else 1) * ((plane & columns[q]).bit_count() << (p + q))
                sums.append(total & 0xFFFFFFFF)
            for word in range(len(sums) // 2):
                address = i["result_base"] + pixel * i["result_column_step"] + word
                assert address not in results, "two results in one word"
                results[address] = sums[2 * word] | sums[2 * word + 1] << 32
    return results


def test_the_image_of_a_tiny_layer_is_laid_out_by_hand(machine):
    # 2 bits each, entries of two words. Kernel: taps (1, -2), (0, -1), (1, 0) over the two channels.
    operands = operands_of(TINY_CONV, [[[1, 0, 1]], [[-2, -1, 0]]], [[[3, 0]], [[1, 2]]], [2], 2)
    lowered = lower(operands, machine(dk=128))
    program, weights, activations, results = np.split(lowered.image, [9, 25, 33])
    assert weights.tolist() == [
        *(0b01, 0b10, 0b01, 0),  # plane 0 of taps 0 1 2, filled up to two entries
        *(0b10, 0b10, 0b00, 0),  # plane 1, the sign plane
        *(0, 0, 0, 0, 0, 0, 0, 0),  # the second row holds no kernel
    ]
    assert activations.tolist() == [
        *(0, 0),  # padding: plane 0, plane 1
        *(0b11, 0b01),  # pixel 0 holds 3 and 1
        *(0b00, 0b10),  # pixel 1 holds 0 and 2
        *(0, 0),
    ]
    assert results.tolist() == [POISON, POISON]  # two pixels, dm / 2 words each
    assert (lowered.weights_address, lowered.activations_address, lowered.result_address) == (9, 25, 33)
    assert lowered.result_words == 2
    (fields,) = program_of(program)
    expected = {"last": 1, "taps": 3, "kernel_rows": 1, "run_words": 6, "channel_words": 1, "chunks": 2}
    expected |= {"lhs_base": 9, "rhs_base": 25, "result_base": 33, "result_column_step": 1}
    expected |= {"pixel_step": 2, "row_step": 8, "image_step": 8, "window_row_step": 8, "out_width": 2, "out_height": 1}
    expected |= {"signed_weights": 1, "signed_activations": 0, "lhs_tile_words": 16, "last_columns": 2}
    assert {name: fields[name] for name in expected} == expected
    # Pixel 0 sees padding, pixels 0 and 1: -1*1 + 1*0 = -1. Pixel 1 sees pixels 0 and 1 and padding: 3 - 2*1 - 2 = -1.
    assert interpret(lowered.image, 2, 2) == {33: 0xFFFFFFFF, 34: 0xFFFFFFFF}


@pytest.mark.parametrize("seed", range(6))
def test_a_plain_interpreter_of_the_program_gets_the_convolution(machine, seed):
    rng = np.random.default_rng(seed)
    accelerator = machine(dm=[2, 4][seed % 2], dk=64 << seed % 3, dn=1 + seed % 3, lhs_entries=80, rhs_entries=48)
    operands = random_operands(rng, accelerator, seed)
    if seed >= 3:  # a width for every kernel, some pruned
        bits = rng.integers(0, operands.weight_bits[0] + 1, size=operands.layer.out_channels)
        shift = np.where(bits > 0, operands.weight_bits[0] - bits, 63)  # keeps sign and range
        weights = operands.weights >> shift[:, None, None, None]
        weights[bits == 0] = 0
        operands = replace(operands, weights=weights, weight_bits=tuple(map(int, bits)))
    lowered = lower(operands, accelerator)
    results = interpret(lowered.image, accelerator.array.dm, accelerator.array.dn)
    assert sorted(results) == list(range(lowered.result_address, lowered.result_address + lowered.result_words))
    words = np.array([results[address] for address in sorted(results)], dtype=np.uint64)
    expected = integer_convolution(operands.weights, operands.activations, operands.layer)
    assert (lowered.outputs(words) == expected).all()
    assert (lowered.results(expected) == words).all()
    assert len(lowered.image) == lowered.result_address + lowered.result_words


def test_passes_lie_one_after_the_other_and_the_last_is_marked(tiny):
    layer = Layer("fc", "linear", in_channels=3, out_channels=4, images=2)
    weights = [[1, 2, 3], [0, 0, 0], [-1, 0, -1], [-8, 7, 0]]
    lowered = lower(operands_of(layer, weights, [[1, 1, 1], [0, 2, 3]], [4, 0, 1, 4], 2), tiny)
    wide, narrow = program_of(lowered.image)
    assert (wide["last"], narrow["last"]) == (0, 1)
    assert (wide["weight_bits"], narrow["weight_bits"]) == (4, 1)
    assert narrow["lhs_base"] == wide["lhs_base"] + wide["row_tiles"] * wide["lhs_tile_words"]
    assert narrow["rhs_base"] == wide["rhs_base"] == lowered.activations_address
    assert narrow["result_base"] == wide["result_base"] + 2 * wide["result_column_step"]
    pairs = [(6, -1), (2 * 2 + 3 * 3, 14)]  # kernels 0 and 3, pixel by pixel
    pairs += [(-2, 0), (-3, 0)]  # kernel 2 and an empty row
    words = np.array(pairs, dtype="<i4").view("<u8").reshape(-1)
    assert lowered.outputs(words)[:, :, 0, 0].tolist() == [[6, 0, -2, -1], [13, 0, -3, 14]]
    assert (lowered.results(lowered.outputs(words)) == words).all()


def test_outputs_and_results_are_inverse_for_every_sum(tiny):
    rng = np.random.default_rng(0)
    operands = random_operands(rng, tiny, 0)
    layer, lowered = operands.layer, lower(operands, tiny)
    shape = (layer.images, layer.out_channels, layer.out_height, layer.out_width)
    sums = rng.integers(-(2**31), 2**31, size=shape)
    assert (lowered.outputs(lowered.results(sums)) == sums).all()


def test_nothing_is_lowered_where_every_kernel_is_pruned(tiny):
    layer = Layer("fc", "linear", in_channels=3, out_channels=2, images=4)
    lowered = lower(operands_of(layer, np.zeros((2, 3)), np.ones((4, 3)), [0, 0], 2), tiny)
    assert (len(lowered.image), lowered.result_words, len(lowered.schedule.passes)) == (0, 0, 0)
    nothing = lowered.outputs(np.zeros(0, dtype="<u8"))
    assert nothing.shape == (4, 2, 1, 1)
    assert not nothing.any()


def test_results_that_were_never_written_do_not_look_right(tiny):
    layer = Layer("fc", "linear", in_channels=3, out_channels=2, images=4)
    operands = operands_of(layer, np.zeros((2, 3)), np.ones((4, 3)), [2, 2], 2)
    lowered = lower(operands, tiny)
    untouched = lowered.image[lowered.result_address :]
    expected = integer_convolution(operands.weights, operands.activations, layer)
    assert not expected.any()  # zeros, what fresh memory would hold
    assert (lowered.outputs(untouched) != expected).all()


def test_a_layer_beyond_the_instruction_is_refused_with_the_field(machine):
    layer = Layer("huge", "conv", 1, 1, in_height=300, in_width=1, kernel=(257, 1))
    operands = operands_of(layer, np.zeros(257), np.zeros(300), [1], 1)
    with pytest.raises(InputError, match=r"needs kernel_rows = 257, but the instruction holds 8 bits"):
        lower(operands, machine(lhs_entries=512, rhs_entries=512))
