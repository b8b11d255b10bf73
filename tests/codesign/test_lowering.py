"""The memory image against its documented layout and against a plain interpreter of instructions."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from codesign.lowering import POISON, lower
from codesign.sampling import random_operands
from hardware.accelerator import Accelerator
from hardware.errors import InputError
from hardware.instruction import FIELDS, INSTRUCTION_WORDS
from hardware.layer import Layer
from hardware.operands import Operands
from sim.reference import integer_convolution, reference_sums

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


def windows(i: dict[str, int], pixels: int, ports: int) -> list[int]:
    """Every output pixel's window address: each port walks its own pixels by the instruction's steps."""
    addresses = [0] * pixels
    for port in range(ports):
        x, y, address = (i[f"port_{port}_{name}"] for name in ("x", "y", "start"))
        for pixel in range(port, pixels, ports):
            addresses[pixel] = address % 2**32
            x, y, address = x + i["port_columns"], y + i["port_rows"], address + i["port_step"]
            if x >= i["out_width"]:
                x, y, address = x - i["out_width"], y + 1, address + i["row_correction"]
            if y >= i["out_height"]:
                y, address = y - i["out_height"], address + i["image_correction"]
    return addresses


def interpret(image: np.ndarray, accelerator: Accelerator) -> dict[int, int]:
    """Result words by address, from the instructions' meaning alone: no tiles, no buffers, no schedule."""
    dm, dn, lanes = accelerator.array.dm, accelerator.array.dn, accelerator.lanes
    results: dict[int, int] = {}
    for i in program_of(image):
        pixels = ((i["groups"] - 1) * i["group_tiles"] + i["last_group_tiles"] - 1) * dn + i["last_columns"]
        destination = i["result_base"]
        for pixel, window in enumerate(windows(i, pixels, accelerator.memory.ports)):
            words = [
                int(image[window + row * i["window_row_step"] + run * i["run_step"] + word])
                for row in range(i["kernel_rows"])
                for run in range(i["row_runs"])
                for word in range(i["run_words"])
            ]
            assert len(words) == i["window_words"] * i["activation_bits"]
            columns = [joined(words[plane :: i["activation_bits"]]) for plane in range(i["activation_bits"])]
            negative = [i["signed_activations"] and q == i["activation_bits"] - 1 for q in range(len(columns))]
            total = sum((-1 if negative[q] else 1) * (c.bit_count() << q) for q, c in enumerate(columns))
            sums, address = [], i["lhs_base"]
            for segment in range(9):
                bits, entries = i[f"segment_{segment}_bits"], i[f"segment_{segment}_entries"]
                for _ in range(i[f"segment_{segment}_tiles"] * dm):
                    each, plane_words = 0, i["chunks"] * lanes
                    assert entries * lanes == bits * plane_words
                    for p in range(bits):
                        plane = joined(image[address + p * plane_words :][:plane_words])
                        minus = i["signed_weights"] and p == bits - 1
                        for q, column in enumerate(columns):
                            each += (-1 if minus != negative[q] else 1) * ((plane & column).bit_count() << (p + q))
                    sums.append((2 * each + total if i["bipolar"] else each) & 0xFFFFFFFF)
                    address += entries * lanes
            for word in range(len(sums) // 2):
                assert destination + word not in results, "two results in one word"
                results[destination + word] = sums[2 * word] | sums[2 * word + 1] << 32
            destination += i["result_step"]
            if (pixel + 1) % i["out_width"] == 0:
                destination += i["result_row_correction"]
            if (pixel + 1) % (i["out_width"] * i["out_height"]) == 0:
                destination += i["result_image_correction"]
            destination %= 2**32
    return results


def joined(words) -> int:
    """One integer of words, the first least significant."""
    return sum(int(word) << (64 * k) for k, word in enumerate(words))


def test_the_image_of_a_tiny_layer_is_laid_out_by_hand(machine):
    # 2 bits each, entries of two words. Kernel: taps (1, -2), (0, -1), (1, 0) over the two channels.
    accelerator, base = machine(dk=128), INSTRUCTION_WORDS
    operands = operands_of(TINY_CONV, [[[1, 0, 1]], [[-2, -1, 0]]], [[[3, 0]], [[1, 2]]], [2], 2)
    lowered = lower(operands, accelerator)
    _, weights, activations, results = np.split(lowered.image, [base, base + 16, base + 24])
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
    addresses = lowered.weights_address, lowered.activations_address, lowered.result_address
    assert addresses == (base, base + 16, base + 24)
    assert lowered.result_words == 2
    (fields,) = program_of(lowered.image)
    expected = {"last": 1, "taps": 3, "kernel_rows": 1, "row_runs": 1, "run_words": 6, "window_words": 3, "chunks": 2}
    expected |= {"segment_0_bits": 2, "segment_0_tiles": 1, "segment_0_entries": 4, "segment_1_tiles": 0}
    expected |= {"lhs_base": base, "port_0_start": base + 16, "result_base": base + 24, "result_step": 1}
    expected |= {"port_step": 2, "row_correction": 4, "image_correction": 0, "out_width": 2, "out_height": 1}
    expected |= {"signed_weights": 1, "signed_activations": 0, "bipolar": 0, "last_columns": 2, "write_sums": 1}
    assert {name: fields[name] for name in expected} == expected
    # Pixel 0 sees padding, pixels 0 and 1: -1*1 + 1*0 = -1. Pixel 1 sees pixels 0 and 1 and padding: 3 - 2*1 - 2 = -1.
    assert interpret(lowered.image, accelerator) == {base + 24: 0xFFFFFFFF, base + 25: 0xFFFFFFFF}


@pytest.mark.parametrize("seed", range(16))
def test_a_plain_interpreter_of_the_program_gets_the_convolution(machine, seed):
    rng = np.random.default_rng(seed)
    ports = [1, 2, 4][seed % 3]
    array = {"dm": 4 << seed % 2, "dk": 64 << seed % 3, "dn": ports * (1 + seed % 2), "ports": ports}
    accelerator = machine(**array, lhs_entries=64, rhs_entries=32)
    operands = random_operands(rng, accelerator, seed)
    while operands.layer.pixels * operands.layer.weight_count > 400_000:  # plain Python
        operands = random_operands(rng, accelerator, seed)
    lowered = lower(operands, accelerator)
    results = interpret(lowered.image, accelerator)
    assert sorted(results) == list(range(lowered.result_address, lowered.result_address + lowered.result_words))
    words = np.array([results[address] for address in sorted(results)], dtype=np.uint64)
    expected = reference_sums(operands)
    assert (lowered.outputs(words) == expected).all()
    kept = np.array([bits > 0 for bits in operands.weight_bits])
    assert (lowered.outputs(lowered.results(expected)) == expected).all()
    assert not expected[:, ~kept].any()
    assert len(lowered.image) == lowered.result_address + lowered.result_words


def test_row_tiles_of_every_width_lie_one_after_the_other(tiny):
    layer = Layer("fc", "linear", in_channels=3, out_channels=4, images=2)
    weights = [[1, 2, 3], [0, 0, 0], [-1, 0, -1], [-8, 7, 0]]
    lowered = lower(operands_of(layer, weights, [[1, 1, 1], [0, 2, 3]], [4, 0, 1, 4], 2), tiny)
    (fields,) = program_of(lowered.image)
    assert [(fields[f"segment_{s}_bits"], fields[f"segment_{s}_tiles"]) for s in range(3)] == [(4, 1), (1, 1), (0, 0)]
    assert lowered.activations_address - lowered.weights_address == 2 * 4 + 2 * 1
    # Kernels 0 and 3, then kernel 2 and an empty row; first image, second image.
    words = np.array([(6, -1), (-2, 0), (2 * 2 + 3 * 3, 14), (-3, 0)], dtype="<i4").view("<u8").reshape(-1)
    assert lowered.outputs(words)[:, :, 0, 0].tolist() == [[6, 0, -2, -1], [13, 0, -3, 14]]
    assert (lowered.results(lowered.outputs(words)) == words).all()
    read = interpret(lowered.image, tiny)
    assert [read[address] for address in sorted(read)] == words.tolist()


def test_passes_lie_one_after_the_other_and_the_last_is_marked(tiny):
    layer = Layer("dw", "conv", 130, 130, 2, 2, kernel=(2, 1), groups=130)
    weights = np.arange(260).reshape(130, 1, 2, 1) % 4
    activations = np.arange(520).reshape(1, 130, 2, 2) % 4
    lowered = lower(Operands(layer, weights, activations, (3,) * 130, 2), tiny)
    program = program_of(lowered.image)
    assert [fields["last"] for fields in program] == [0, 0, 1]
    assert lowered.weights_address == 3 * INSTRUCTION_WORDS
    for fields, following in pairwise(program):
        assert following["lhs_base"] == fields["lhs_base"] + fields["row_tiles"] * 2 * fields["segment_0_entries"]
        assert following["port_0_start"] == fields["port_0_start"] + 2  # one word of two planes per 64 channels
        assert following["result_base"] == fields["result_base"] + 2 * fields["result_step"]
        assert fields["row_tiles"] == 32
    assert program[0]["port_0_start"] == lowered.activations_address


def test_outputs_and_results_are_inverse_for_every_sum(tiny):
    rng = np.random.default_rng(0)
    operands = replace(random_operands(rng, tiny, 0), bipolar=False)
    layer, lowered = operands.layer, lower(operands, tiny)
    assert 0 not in operands.weight_bits
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


@pytest.mark.parametrize(
    ("bits", "kind", "weight", "activation", "problem"),
    [
        ((3, 2), {}, [3, 1], 3, None),
        ((3, 2), {}, [-4, -2], 0, None),
        ((3, 2), {}, [3, 2], 3, "weights from 2 to 3"),  # the second kernel has two bits
        ((3, 2), {}, [3, -3], 3, "weights from -3 to 3"),
        ((3, 2), {"signed_weights": False}, [7, 3], 3, None),
        ((3, 2), {"signed_weights": False}, [7, 4], 3, "weights from 4 to 7"),
        ((3, 2), {"signed_weights": False}, [-1, 0], 3, "weights from -1 to 0"),
        ((3, 0), {}, [3, 0], 3, None),
        ((3, 0), {}, [3, 1], 3, "weights from 1 to 3"),
        ((3, 2), {}, [0, 0], 4, "activations from 4 to 4"),
        ((3, 2), {}, [0, 0], -1, "activations from -1 to -1"),
    ],
)
def test_integers_that_do_not_fit_their_width_are_refused(tiny, bits, kind, weight, activation, problem):
    layer = Layer("fc", "linear", in_channels=1, out_channels=2)
    operands = replace(operands_of(layer, weight, [activation], bits, 2), **kind)
    if problem is None:
        assert len(lower(operands, tiny).image)
    else:
        with pytest.raises(InputError, match=rf"layer 'fc' has {problem}, which do not fit their width: quantize"):
            lower(operands, tiny)
