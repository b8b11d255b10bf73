"""Tensors, packed words and instruction fields against plain Python that knows only what they mean."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from codesign.tensors import Tensor, activation_words, bit_planes, instruction, pack_words, row_tile_words
from hardware.accelerator import load_accelerator
from hardware.instruction import FIELDS, OPCODE_MATRIX, OPCODE_MAXIMUM, OPCODE_SUM, encode
from hardware.kinds import KINDS
from hardware.layer import Layer
from hardware.passes import Output
from hardware.schedule import schedule, vector_passes


def test_addresses_of_pixels_count_the_border(tiny):
    tensor = Tensor(base=1000, images=2, height=4, width=5, pixel_words=3, border=(1, 2))
    assert (tensor.row_step, tensor.image_step, tensor.words) == (3 * 9, 27 * 6, 2 * 162)
    assert tensor.address(-1, -2) == 1000
    assert tensor.address() == 1000 + 27 + 6
    assert tensor.address(3, 4) == 1000 + 4 * 27 + 6 * 3
    assert replace(tensor, border=(0, 0)).address() == 1000


def test_inside_is_a_view_of_the_pixels_without_their_border():
    tensor = Tensor(base=7, images=2, height=4, width=5, pixel_words=3, border=(1, 2))
    words = np.arange(tensor.words)
    inside = tensor.inside(words)
    assert inside.shape == (2, 4, 5, 3)
    for image in range(2):
        for row in range(4):
            for column in range(5):
                first = tensor.address(row, column) - 7 + image * tensor.image_step
                assert inside[image, row, column].tolist() == [first, first + 1, first + 2]
    inside[:] = -1
    assert (words == -1).sum() == 2 * 4 * 5 * 3


@given(st.lists(st.integers(-128, 255), min_size=1, max_size=5), st.integers(1, 9))
def test_bit_planes_are_twos_complement(values, bits):
    planes = bit_planes(np.array(values), bits)
    assert planes.shape == (bits, len(values))
    for column, value in zip(planes.T, values, strict=True):
        assert sum(int(bit) << plane for plane, bit in enumerate(column)) == value % (1 << bits)


def test_words_hold_the_first_bit_least_significant():
    bits = np.zeros((2, 128), dtype=np.uint8)
    bits[0, 0] = bits[0, 3] = bits[0, 127] = bits[1, 64] = 1
    assert pack_words(bits).tolist() == [[0b1001, 1 << 63], [0, 1]]


@pytest.mark.parametrize(
    ("channels", "bits", "border"), [(1, 1, (0, 0)), (64, 3, (1, 0)), (70, 4, (1, 2)), (130, 8, (0, 1))]
)
def test_planes_lie_pixel_by_pixel_word_by_word(channels, bits, border):
    rng = np.random.default_rng(channels)
    activations = rng.integers(-(1 << bits - 1), 1 << bits - 1, size=(2, channels, 3, 2))
    words = activation_words(activations, bits, border, KINDS["bit_serial"])
    assert (words.ndim, words.dtype) == (1, np.uint64)
    per_pixel = -(-channels // 64) * bits
    tensor = Tensor(0, 2, 3, 2, per_pixel, border)
    assert len(words) == tensor.words
    for image, channel, row, column in np.ndindex(activations.shape):
        first = tensor.address(row, column) + image * tensor.image_step + channel // 64 * bits
        integer = sum((int(words[first + plane]) >> channel % 64 & 1) << plane for plane in range(bits))
        assert integer == activations[image, channel, row, column] % (1 << bits)
    tensor.inside(words)[:] = 0
    assert not words.any()  # the border, and with the count of bits that of channels beyond the last
    ones = activation_words(0 * activations - 1, bits, border, KINDS["bit_serial"])
    assert np.bitwise_count(ones).sum() == activations.size * bits


@pytest.mark.parametrize("seed", range(12))
def test_row_tiles_hold_every_weight_where_its_activation_lies(machine, seed):
    rng = np.random.default_rng(seed)
    accelerator = machine(dm=[2, 4, 8][seed % 3], dk=[64, 128, 256][seed % 3])
    groups = [1, 1, 3, 100][seed % 4]
    inputs, outputs = (1, 1) if groups == 100 else (int(rng.integers(1, 90)), int(rng.integers(1, 9)))
    layer = Layer(*("x", "conv", inputs * groups, outputs * groups, 4, 4), kernel=(2, 3), groups=groups)
    output = [Output(sums=True), Output(values=True)][seed % 2]
    widths = rng.integers(0, 6, size=layer.out_channels)
    weights = np.stack(
        [rng.integers(-(1 << w - 1) if w else 0, 1 << w - 1 if w else 1, size=(inputs, 2, 3)) for w in widths]
    )
    constants = None if output.sums else rng.integers(0, 2**63, size=layer.out_channels, dtype=np.uint64)
    lanes, dm = accelerator.lanes, accelerator.array.dm
    order = range(layer.out_channels) if groups > 1 else None  # so that not every pass needs all channels
    passes = schedule(layer, [int(w) for w in widths], 2, accelerator, output=output, order=order).passes
    assert (passes[-1].channel_words[0] > 0) == (groups == 100)
    for work in passes:
        words = row_tile_words(weights, work, groups, constants)
        tile_widths = [bits for bits, tiles in work.segments for _ in range(tiles)]
        sizes = [work.lhs_tile_words(bits) for bits in tile_widths]
        assert len(words) == sum(sizes)
        for place in range(work.row_tiles * dm):
            tile, row = divmod(place, dm)
            bits, rows = tile_widths[tile], words[sum(sizes[:tile]) :][: sizes[tile]].reshape(dm, -1)
            if place >= len(work.kernels):
                assert not rows[row].any()
                continue
            kernel = work.kernels[place]
            planes = rows[row][: bits * work.chunks * lanes].reshape(bits, work.chunks * lanes)
            for channel, y, x in np.ndindex(inputs, 2, 3):
                position = channel + kernel // outputs * inputs - 64 * work.channel_words[0]
                word = (3 * y + x) * work.pixel_words + position // 64
                stored = sum((int(planes[p, word]) >> position % 64 & 1) << p for p in range(bits))
                assert stored == weights[kernel, channel, y, x] % (1 << bits)
            bits_set = np.bitwise_count(planes).sum()
            assert bits_set == sum(int(w % (1 << bits)).bit_count() for w in weights[kernel].flat)  # and nothing else
            if constants is not None:
                assert rows[row][-lanes:].tolist() == [constants[kernel], *[0] * (lanes - 1)]


tensors = st.tuples(st.integers(0, 2), st.integers(0, 2))


@given(
    images=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 140), st.integers(1, 5)),
    groups=st.sampled_from([1, 1, 2, 70]),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=tensors,
    wider=tensors,
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    ports=st.sampled_from([1, 2, 4]),
    bits=st.integers(1, 3),
)
def test_windows_are_walked_as_the_layer_defines_them(
    machine, images, channels, groups, size, kernel, stride, padding, wider, dilation, ports, bits
):
    inputs, outputs = channels[0] if groups == 1 else 2, channels[1]
    layer = Layer(
        *("x", "conv", inputs * groups, outputs * groups, *size),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        images=images,
    )
    assume(min(layer.out_height, layer.out_width) >= 1)
    accelerator = machine(dm=4, dn=4, ports=ports)
    words = -(-layer.in_channels // 64)
    border = padding[0] + wider[0], padding[1] + wider[1]  # another reader of the tensor may want more
    source = Tensor(5000, images, *size, words * bits, border)
    for work in schedule(layer, 1, bits, accelerator).passes:
        fields = instruction(work, layer, source)
        encode(fields)  # every field fits
        assert fields["taps"] == kernel[0] * kernel[1]
        assert fields["run_words"] * fields["row_runs"] * fields["kernel_rows"] == fields["window_words"] * bits
        places = [[fields[f"port_{port}_{name}"] for name in ("x", "y", "start")] for port in range(ports)]
        for number in range(layer.pixels):
            rest, x = divmod(number, layer.out_width)
            image, y = divmod(rest, layer.out_height)
            place = places[number % ports]
            assert place[:2] == [x, y]
            read = [
                (place[2] + row * fields["window_row_step"] + run * fields["run_step"] + word) % 2**32
                for row in range(fields["kernel_rows"])
                for run in range(fields["row_runs"])
                for word in range(fields["run_words"])
            ]
            defined = [
                source.address(
                    y * stride[0] - padding[0] + i * dilation[0], x * stride[1] - padding[1] + j * dilation[1]
                )
                + image * source.image_step
                + word
                for i in range(kernel[0])
                for j in range(kernel[1])
                for word in range(work.channel_words[0] * bits, work.channel_words[1] * bits)
            ]
            assert read == defined
            place[0], place[1] = place[0] + fields["port_columns"], place[1] + fields["port_rows"]
            place[2] += fields["port_step"]
            if place[0] >= layer.out_width:
                place[0], place[1], place[2] = (
                    place[0] - layer.out_width,
                    place[1] + 1,
                    place[2] + fields["row_correction"],
                )
            if place[1] >= layer.out_height:
                place[1], place[2] = place[1] - layer.out_height, place[2] + fields["image_correction"]


@given(
    images=st.integers(1, 3),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    border=tensors,
    offset=st.integers(0, 3),
    larger=tensors,
)
def test_results_and_planes_go_to_their_tensors_pixels(machine, images, size, border, offset, larger):
    # The layer's output may be a part of the tensor: what is moved into a padded one.
    layer = Layer("x", "conv", 10, 100, *size, images=images)
    (work,) = schedule(layer, 1, 1, machine(), output=Output(values=True, plane_bits=3)).passes
    results = Tensor(700, images, size[0] + larger[0], size[1] + larger[1], 30, border)
    planes = Tensor(100_000, images, *size, 6, border)
    fields = instruction(work, layer, planes, 0, results, offset, planes, 3 * offset)
    for prefix, tensor, shift in (("result", results, offset), ("plane", planes, 3 * offset)):
        address = fields[f"{prefix}_base"]
        for image in range(images):
            for row in range(size[0]):
                for column in range(size[1]):
                    expected = tensor.address(row, column) + image * tensor.image_step + shift
                    assert address == expected
                    address = (address + fields[f"{prefix}_step"]) % 2**32
                address = (address + fields[f"{prefix}_row_correction"]) % 2**32
            address = (address + fields[f"{prefix}_image_correction"]) % 2**32


def test_what_is_not_written_has_no_address(tiny):
    layer = Layer("x", "conv", 10, 100, 3, 3)
    (work,) = schedule(layer, 1, 1, tiny).passes
    fields = instruction(work, layer, Tensor(0, 1, 3, 3, 1))
    assert fields.keys() == FIELDS.keys()
    assert not any(value for name, value in fields.items() if name.startswith(("result_", "plane_base", "plane_step")))
    assert (fields["write_sums"], fields["write_values"], fields["write_planes"], fields["plane_bits"]) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("dm", "channels", "words", "last_segments"),
    [(2, 5, 1, 3), (2, 64, 1, 32), (2, 66, 2, 1), (16, 70, 2, 1), (64, 70, 2, 1)],
)
def test_a_pixels_last_plane_word_has_the_row_tiles_that_are_left(machine, dm, channels, words, last_segments):
    layer = Layer("x", "conv", 3, channels, 2, 2)
    (work,) = schedule(layer, 1, 1, machine(dm=dm, dn=4), output=Output(plane_bits=2)).passes
    fields = instruction(work, layer, Tensor(0, 1, 2, 2, 1))
    assert (fields["plane_words"], fields["plane_tile_words"], fields["plane_bits"]) == (words, 4 * words, 2)
    assert fields["last_segments"] == last_segments


def test_segments_that_are_not_used_are_empty(tiny):
    layer = Layer("x", "linear", 70, 5)
    (work,) = schedule(layer, [3, 0, 3, 1, 0], 2, tiny, output=Output(values=True)).passes
    fields = instruction(work, layer, Tensor(0, 1, 1, 1, 4))
    segments = [tuple(fields[f"segment_{i}_{name}"] for name in ("bits", "tiles", "entries")) for i in range(9)]
    assert segments == [(3, 1, 7), (1, 1, 3), (0, 1, 1), *[(0, 0, 0)] * 6]


def test_a_vector_pass_reads_its_own_channels_words(machine):
    layer = Layer("pool", "conv", 30, 30, 9, 9, kernel=(3, 2), stride=(2, 2), padding=(1, 1))
    source = Tensor(64, 1, 9, 9, 8, (1, 1))
    for operation, opcode in (("sum", OPCODE_SUM), ("maximum", OPCODE_MAXIMUM)):
        first, *_, last = vector_passes(operation, layer, machine(rhs_entries=32), Output(values=True))
        for work in (first, last):
            fields = instruction(work, layer, source)
            assert fields["opcode"] == opcode
            assert fields["port_0_start"] == source.address(-1, -1) + work.channel_words[0]
            assert (fields["row_runs"], fields["run_step"], fields["run_words"]) == (2, 8, work.pixel_words)
            assert fields["segment_0_tiles"] == work.row_tiles
    assert instruction(*_matrix(machine()))["opcode"] == OPCODE_MATRIX


def _matrix(accelerator):
    layer = Layer("x", "linear", 3, 2)
    return schedule(layer, 1, 1, accelerator).passes[0], layer, Tensor(0, 1, 1, 1, 1)


def test_the_second_row_of_a_window_may_be_another_tensor(tiny):
    layer = Layer("add", "conv", 4, 4, 3, 2, kernel=(2, 1))  # one row more than the tensors have
    (work,) = vector_passes("sum", layer, tiny, Output(values=True))
    one, other = Tensor(5000, 1, 2, 2, 1), Tensor(100, 1, 2, 2, 1)
    fields = instruction(work, layer, one, window_row_step=other.base - one.base)
    encode(fields)
    assert (fields["port_0_start"] + fields["window_row_step"]) % 2**32 == 100


@given(st.integers(1, 130), st.sampled_from([2, 4, 8]), st.booleans())
def test_packed_activations_lie_value_by_value(channels, bits, signed):
    rng = np.random.default_rng(channels)
    low = -(1 << bits - 1) if signed else 0
    activations = rng.integers(low, low + (1 << bits), size=(2, channels, 3, 2))
    words = activation_words(activations, bits, (1, 0), KINDS["bit_fusion"])
    tensor = Tensor(0, 2, 3, 2, bits * -(-channels // 64), (1, 0))
    for image, row, column in ((0, 0, 0), (1, 2, 1), (1, 0, 1)):
        pixel = b"".join(int(word).to_bytes(8, "little") for word in tensor.inside(words)[image, row, column])
        number = int.from_bytes(pixel, "little")
        found = [number >> bits * channel & ((1 << bits) - 1) for channel in range(channels)]
        assert found == [int(v) & ((1 << bits) - 1) for v in activations[image, :, row, column]]
        assert number >> bits * channels == 0
    tensor.inside(words)[:] = 0
    assert not words.any()


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 200), st.sampled_from([64, 128, 256]))
def test_packed_weights_lie_value_by_value_in_the_order_of_the_activations(w, a, channels, dk):
    accelerator = load_accelerator("fusion-small")
    array = accelerator.array.model_copy(update={"dk": dk})
    accelerator = accelerator.model_copy(update={"array": array})
    layer = Layer("x", "conv", channels, 5, 4, 4, kernel=(2, 1))
    rng = np.random.default_rng(w + 9 * a)
    weights = rng.integers(-(1 << w - 1), 1 << w - 1, size=(5, channels, 2, 1))
    (work,) = schedule(layer, w, a, accelerator).passes
    ((bits, _),) = work.segments
    assert bits >= w
    tiles = row_tile_words(weights, work).reshape(work.row_tiles * 4, -1)
    padded = -(-channels // 64) * 64
    for kernel, words in enumerate(tiles[:5]):
        number = int.from_bytes(words.tobytes(), "little")
        found = [number >> bits * place & ((1 << bits) - 1) for place in range(2 * padded)]
        expected = np.zeros((2, padded), dtype=np.int64)
        expected[:, :channels] = weights[kernel, :, :, 0].T
        assert found == [int(v) & ((1 << bits) - 1) for v in expected.reshape(-1)]
        assert number >> bits * 2 * padded == 0
    assert not tiles[5:].any()
