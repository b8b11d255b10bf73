"""QONNX files, ours and Brevitas', as networks that compute what qonnx's executor computes; what cannot is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from codesign.data import load_data
from codesign.integers import IntegerNetwork
from codesign.qonnx.exporting import export_qonnx, save_qonnx
from codesign.qonnx.importing import import_qonnx
from codesign.quantizer_fit import Calibration
from codesign.workload import load_workload, quantized_network
from hardware.errors import InputError
from policies.policy import ActivationChoice, LayerPolicy, Policy, WeightChoice

BREVITAS = Path(__file__).parent / "data" / "brevitas_digits.onnx"
"""See make_brevitas_digits.py beside it."""


@pytest.fixture
def compare(tmp_path, execute_qonnx):
    """``compare(model, images)``: the imported network, after its scores were compared with the executor's."""

    def run(model: onnx.ModelProto, images: torch.Tensor):
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        imported = import_qonnx(path)
        quantized = imported.quantized(Calibration(imported.traced, images))
        given = images if len(model.graph.input[0].type.tensor_type.shape.dim) == 4 else images.flatten(1)
        expected = execute_qonnx(model, given.numpy())
        with torch.no_grad():
            scores = quantized(images).numpy()
        assert len(np.unique(expected.round(3))) > 10  # or nothing is compared
        np.testing.assert_allclose(scores, expected, atol=2e-5 * np.abs(expected).max())
        integers = IntegerNetwork(quantized)
        values = integers.run(images).scores * 2.0**-integers.fraction_bits
        assert np.abs(values - expected).max() < 0.1 * np.abs(expected).max()
        return imported

    return run


@pytest.mark.parametrize("kernels", [False, True])
def test_our_own_export_comes_back_with_its_policy_and_its_integers(tmp_path, kernels):
    workload = load_workload("lenet", seed=0)
    entries = []
    for number, layer in enumerate(workload.traced.layers):
        bits = tuple((kernel + number) % 9 for kernel in range(layer.out_channels)) if kernels else 3 + number
        weights, activations = WeightChoice(bits=bits), ActivationChoice(bits=1 + number)
        entries.append(LayerPolicy(name=layer.name, weights=weights, activations=activations))
    policy = Policy(network="lenet", layers=tuple(entries))
    quantized = quantized_network(workload, policy, None)
    path = tmp_path / "lenet.onnx"
    save_qonnx(export_qonnx(quantized, workload.input_shape), path)
    again = load_workload(str(path), seed=0)
    assert (again.input_shape, again.signed_input) == (workload.input_shape, workload.signed_input)
    assert again.imported is not None
    assert again.imported.policy.as_yaml() == policy.as_yaml()
    before, after = IntegerNetwork(quantized), IntegerNetwork(quantized_network(again, again.imported.policy, None))
    images = workload.images(20)
    first, second = before.run(images, record=True), after.run(images, record=True)
    assert np.array_equal(first.scores, second.scores)
    for one, other in zip(first.layers, second.layers, strict=True):
        assert np.array_equal(one.operands.weights, other.operands.weights)
        assert np.array_equal(one.sums, other.sums)


def test_what_brevitas_trained_and_wrote(execute_qonnx):
    data = load_data("digits")
    imported = import_qonnx(BREVITAS)
    widths = [(entry.weights.bits, entry.activations.bits) for entry in imported.policy.layers]
    # The two operands of the addition are quantized values: a layer of ones makes each.
    assert widths == [(4, 8), (3, 4), (2, 5), (2, 4), (4, 4)]
    images = data.test.batch(slice(None))
    expected = execute_qonnx(onnx.load(BREVITAS), images.numpy())
    quantized = imported.quantized(Calibration(imported.traced, images))
    with torch.no_grad():
        error = np.abs(quantized(images).numpy() - expected).max(1)
    assert (error < 1e-5 * np.abs(expected).max()).mean() > 0.99
    integers = IntegerNetwork(quantized)
    assert (integers.run(images).scores.argmax(1) == expected.argmax(1)).mean() > 0.99
    assert integers.accuracy(data.test) > 0.97
    unsigned = import_qonnx(BREVITAS, ((1, 8, 8), False))  # the digits are not negative: a bit less
    assert unsigned.policy.layers[0].activations.bits == 7


def test_constants_and_batch_norm_after_a_layer_and_all_kinds_of_weights(compare, qonnx_file):
    file = qonnx_file((4, 2, 6, 6))
    x = file.quant("x", 0.05, 6, signed=1)
    x = file.node("Conv", x, file.weights(4, 2, 3, 3, narrow=0), kernel_shape=[3, 3], pads=[0, 1, 1, 1])
    numbers = [file.constant(file.rng.uniform(*span, 4)) for span in ((0.5, 2), (-1, 1), (-0.5, 0.5), (0.5, 2))]
    x = file.node("Relu", file.node("BatchNormalization", x, *numbers))
    x = file.quant(x, 0.1, 5, signed=1)  # never negative: unsigned, of four bits
    bipolar = file.node("BipolarQuant", file.constant(file.rng.normal(0, 1, (4, 1, 3, 3))), file.constant(0.2))
    x = file.node("Conv", x, bipolar, file.constant([0.1, 0.2, 0.3, 0.4]), group=4, pads=[1, 1, 1, 1])
    x = file.node("Mul", x, file.constant(np.array([1.5, -0.5, 2, 1]).reshape(1, 4, 1, 1)))
    x = file.node("Sub", file.constant(0.25), x)
    x = file.quant(x, 0.2, 3, signed=0)  # of what may be negative: a ReLU before it
    x = file.node("GlobalAveragePool", file.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    shape = file.node("Shape", x)
    images = file.node("Gather", shape, file.constant(0, np.int64), axis=0)
    images = file.node("Unsqueeze", images, file.constant([0], np.int64))
    shape = file.node("Concat", images, file.constant([-1], np.int64), axis=0)
    x = file.quant(file.node("Reshape", x, shape), 0.02, 8, signed=0, rounding_mode="HALF_UP")
    x = file.node("MatMul", x, file.weights(4, 5, bits=3, signed=0, scale=np.full((1, 5), 0.1)))
    x = file.node("Div", file.node("Add", x, file.constant(np.arange(5))), file.constant(2.0))
    imported = compare(file.model(x), torch.randn(32, 2, 6, 6, generator=torch.Generator().manual_seed(0)))
    assert [(entry.weights.bits, entry.activations.bits) for entry in imported.policy.layers] == [
        (4, 6),
        (2, 4),
        (2, 3),  # the average of quantized values
        (4, 8),
    ]


def test_a_perceptron_whose_every_value_is_quantized(compare, qonnx_file):
    file = qonnx_file((1, 12))
    x = file.quant("x", 1 / 15, 4, signed=0)
    bias = file.quant(file.constant(file.rng.normal(0, 1, 6)), 0.01, 16, signed=1)
    x = file.node("Gemm", x, file.weights(6, 12, scale=np.full((6, 1), 0.05)), bias, transB=1)
    x = file.quant(file.node("Identity", file.node("Relu", file.quant(x, 0.1, 6, signed=1))), 0.17, 4, signed=0)
    x = file.node("Gemm", x, file.weights(6, 3), alpha=1.0)
    imported = compare(file.model(file.quant(x, 0.01, 8, signed=1)), torch.rand(16, 12, 1, 1))
    assert (imported.input_shape, imported.signed_input) == ((12, 1, 1), False)
    assert len(imported.policy.layers) == 4


def test_of_what_forms_a_file_may_be(compare, qonnx_file):
    file = qonnx_file((4, 2, 6, 6))
    x = file.quant("x", 0.05, 6, signed=1, narrow=1)
    a = file.node("Clip", file.node("Conv", x, file.weights(2, 2, 1, 1)), file.constant(0), file.constant(6))
    starts, ends, axes, steps = (file.constant(n, np.int64) for n in ([0, 1], [6, 2**31], [2, -1], [1, 2]))
    b = file.node("Slice", file.quant(a, 0.1, 5, signed=0), starts, ends, axes, steps)
    b = file.node("Pad", b, file.constant([0, 0, 0, 1, 0, 0, 0, 2], np.int64))
    x = file.node("Concat", b, b, axis=1)
    x = file.node(
        "IntQuant", x, *(file.constant(n) for n in (0.1, 0, 5)), signed=0, narrow=0, rounding_mode="HALF_EVEN"
    )
    x = file.node("Relu", file.node("Conv", x, file.weights(3, 4, 2, 2)))
    x = file.node("AveragePool", file.node("Add", x, x), kernel_shape=[2, 2], strides=[2, 2])
    x = file.node("ReduceMean", x, axes=[2, 3], keepdims=0)
    x = file.node("Gemm", file.quant(x, 0.05, 8, signed=0), file.weights(3, 4))
    compare(file.model(x), torch.randn(32, 2, 6, 6, generator=torch.Generator().manual_seed(0)))


def refused_parts(file, case: str) -> str:
    """The scores of a small network in which one thing is wrong."""
    x = "x"
    if case == "input mean":
        x = file.node("Sub", x, file.constant(0.5))
    options = {"zero": {"zero": 1.0}, "floor": {"rounding_mode": "FLOOR"}}.get(case, {})
    scale = np.linspace(0.1, 0.2, 2).reshape(1, 2, 1, 1) if case == "per channel" else {"no scale": 0.0}.get(case, 0.1)
    bits = {"nine": 9, "half": 2.5, "bipolar": 1}.get(case, 4)
    if case != "no quant":
        x = file.quant(x, scale, bits, signed=1, narrow=0, **options)
    if case == "trunc":
        x = file.node("Trunc", x, *(file.constant(n) for n in (0.1, 0, 8, 4)), rounding_mode="FLOOR")
    wide = 8 if case == "wide weights" else 4
    weights = file.weights(3, 2, 3, 3, bits=wide, signed=0 if wide == 8 else 1)
    if case == "float weights":
        weights = file.constant(np.ones((3, 2, 3, 3)))
    if case == "in kernel":
        weights = file.weights(3, 2, 3, 3, scale=np.array([0.1, 0.2]).reshape(1, 2, 1, 1))
    x = file.node("Conv", x, weights, **({"auto_pad": "SAME_UPPER"} if case == "auto" else {}))
    if case == "sigmoid":
        x = file.node("Sigmoid", x)
    if case == "qcdq":
        x = file.node("QuantizeLinear", x, file.constant(0.1), file.constant(0, np.uint8))
    if case == "mean of images":
        x = file.node("Reshape", x, file.constant([2, -1], np.int64))
    return x if case == "images" else file.node("Flatten", x)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("zero", "Quant node 'quant_0': its zero point is not 0"),
        ("floor", "Quant node 'quant_0': activations are rounded to the nearest level here, not by FLOOR"),
        ("nine", "Quant node 'quant_0': it has 9 bits, but the machine's activations at most 8"),
        ("half", "Quant node 'quant_0': its bit width is 2.5"),
        ("bipolar", "Quant node 'quant_0': bipolar activations"),
        ("no scale", "Quant node 'quant_0': its scale holds 0"),
        ("per channel", "Quant node 'quant_0': activations have one scale per tensor here"),
        ("no quant", "Conv node 'conv_1': its input is not quantized"),
        ("float weights", "Conv node 'conv_2': its weights are not quantized constants"),
        ("wide weights", "Conv node 'conv_2': its weights need 9 signed bits"),
        ("in kernel", "Conv node 'conv_3': its weights' scale or width changes within a kernel"),
        ("auto", "Conv node 'conv_2': only convolutions of images with explicit pads"),
        ("trunc", "Trunc node 'trunc_1': it is not supported"),
        ("sigmoid", "Sigmoid node 'sigmoid_3': it is not supported"),
        (
            "qcdq",
            "QuantizeLinear node 'quantizelinear_3': it is not supported; qonnx's QCDQToQuant turns it into Quant",
        ),
        ("input mean", "Sub node 'sub_0': it scales or shifts what is not a layer's output"),
        ("images", "the scores have shape"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(tmp_path, qonnx_file, case, sentence):
    file = qonnx_file((1, 2, 6, 6))
    path = tmp_path / "model.onnx"
    path.write_bytes(file.model(refused_parts(file, case)).SerializeToString())
    with pytest.raises(InputError) as caught:
        import_qonnx(path)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_none_and_images_of_another_size(tmp_path):
    with pytest.raises(InputError, match="no QONNX file at"):
        import_qonnx(tmp_path / "absent.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(BREVITAS.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot read"):
        import_qonnx(damaged)
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="it has 0 inputs, 0 nodes and 0 outputs"):
        import_qonnx(tmp_path / "empty.onnx")
    with pytest.raises(InputError, match=r"it takes images of shape \(1, 8, 8\), not \(3, 32, 32\)"):
        load_workload(str(BREVITAS), seed=0, data="cifar10")
