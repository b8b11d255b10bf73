"""What is exported computes what the quantized network computes, in qonnx's executor and in onnxruntime."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.integers import IntegerNetwork
from codesign.qonnx.exporting import POLICY, export_qonnx, save_qonnx
from codesign.qonnx.importing import import_qonnx
from codesign.qonnx.integers import IntegerExporter, export_integers
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.tracing import Traced, trace
from codesign.workload import load_workload, quantized_network
from hardware.errors import InputError
from policies.policy import ActivationChoice, LayerPolicy, Policy, WeightChoice

SHAPE = (2, 9, 8)


class Forms(nn.Module):
    """Every form that a traced graph has."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, (3, 2), stride=(2, 1), padding=(1, 0))
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False), nn.BatchNorm2d(6))
        self.side = nn.Conv2d(2, 3, 1)
        self.pool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
        self.last = nn.Linear(60, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.first(images))
        x = F.relu(x + self.body(x))
        side = F.pad(self.side(images)[:, :2, ::2, 1:], (0, 0, 0, 0, 1, 1))
        x = torch.cat((x, side + side), 1)
        x = F.avg_pool2d(self.pool(F.max_pool2d(x, 2, 1)), (1, 2))
        return self.last(x.view(x.size(0), 60, 1, 1)[:, :, :1].flatten(1))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def traced() -> Traced:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Forms().eval()
        module.body[1].running_var.uniform_(0.2, 0.6)
    return trace(module, SHAPE)


def kernel_wise(traced: Traced) -> Policy:
    """A width for every kernel, 0 and 1 among them."""
    rng, entries = np.random.default_rng(0), []
    for layer in traced.layers:
        widths = (1, 0, *rng.integers(1, 9, layer.out_channels - 2).tolist())
        entries.append(
            LayerPolicy(name=layer.name, weights=WeightChoice(bits=widths), activations=ActivationChoice(bits=5))
        )
    return Policy(network="forms", layers=tuple(entries))


@pytest.mark.parametrize("bits", [(1, 1), (2, 3), (8, 8), "kernels"])
def test_the_export_computes_what_the_quantized_network_computes(traced, images, bits, execute_qonnx, tmp_path):
    policy = kernel_wise(traced) if bits == "kernels" else Policy.uniform("forms", traced.layers, *bits)
    quantized = QuantizedNetwork(traced, policy, Calibration(traced, images))
    model = export_qonnx(quantized, SHAPE, batch=8)
    onnx.checker.check_model(model)
    with torch.no_grad():
        expected = quantized(images).numpy()
    error, largest = np.abs(execute_qonnx(model, images.numpy()) - expected).max(1), np.abs(expected).max()
    # float32 sums in another order: where one crosses the middle between two levels, an activation is a step off.
    assert (error < 1e-5 * largest).mean() >= 0.9
    save_qonnx(model, tmp_path / "forms.onnx")
    again = import_qonnx(tmp_path / "forms.onnx")
    assert again.policy == policy
    with torch.no_grad():
        scores = again.quantized(Calibration(again.traced, images))(images).numpy()
    assert np.abs(scores - expected).max() < 1e-5 * largest


def test_every_layer_reads_one_quant_and_the_policy_stands_in_the_file(traced, images):
    policy = Policy.uniform("forms", traced.layers, 3, 5)
    quantized = QuantizedNetwork(traced, policy, Calibration(traced, images))
    model = export_qonnx(quantized, SHAPE)
    made = {node.output[0]: node for node in model.graph.node}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert [node.name for node in layers] == [layer.name for layer in traced.layers]
    assert {made[name].op_type for node in layers for name in node.input[:2]} == {"Quant"}
    assert {one.key: one.value for one in model.metadata_props}[POLICY] == policy.as_yaml()
    again = export_qonnx(quantized, SHAPE)
    assert model.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)


def test_what_was_trained_differs_from_the_machine_by_the_steps_of_its_values(execute_qonnx):
    workload = load_workload("lenet", seed=0)
    quantized = quantized_network(workload, Policy.uniform("lenet", workload.traced.layers, 8, 8), None)
    images = workload.images(64)
    scores = execute_qonnx(export_qonnx(quantized, workload.input_shape, batch=32), images.numpy())
    network = IntegerNetwork(quantized)
    difference = np.abs(scores - network.run(images).scores * 2.0**-network.fraction_bits)
    assert 0 < difference.max() < 0.01 * np.abs(scores).max()


def execute_without_quants(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """onnxruntime's answer; the exact export's ``Quant`` nodes change nothing."""
    for node in model.graph.node:
        if node.op_type == "Quant":
            standard = onnx.helper.make_node("Identity", node.input[:1], node.output, name=node.name)
            node.CopyFrom(standard)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {model.graph.input[0].name: images})[0]


@pytest.mark.parametrize("bits", [(1, 1), "kernels"])
def test_the_exact_export_computes_the_machines_integers(traced, images, bits, execute_qonnx):
    policy = kernel_wise(traced) if bits == "kernels" else Policy.uniform("forms", traced.layers, *bits)
    quantized = QuantizedNetwork(traced, policy, Calibration(traced, images))
    network = IntegerNetwork(quantized)
    model = export_integers(quantized, SHAPE, batch=32)
    onnx.checker.check_model(model, full_check=True)
    images = torch.cat((images[:16], 3 * images[16:]))  # beyond what was calibrated: values saturate
    expected = network.run(images).scores * 2.0**-network.fraction_bits
    assert (execute_qonnx(model, images.numpy()) == expected).all()
    assert (execute_without_quants(export_integers(quantized, SHAPE, batch=32), images.numpy()) == expected).all()
    made = {node.output[0]: node for node in model.graph.node}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert [node.name for node in layers] == [layer.name for layer in traced.layers]
    if bits != "kernels":
        assert {made[name].op_type for node in layers for name in node.input} == {"Quant"}


@pytest.mark.parametrize("network", ["lenet", "resnet20"])
@pytest.mark.parametrize("bits", [(2, 3), (8, 8)])
def test_whole_networks_exactly(network, bits):
    workload = load_workload(network, seed=0)
    quantized = quantized_network(workload, Policy.uniform(network, workload.traced.layers, *bits), None)
    images, integers = workload.images(8), IntegerNetwork(quantized)
    expected = integers.run(images).scores * 2.0**-integers.fraction_bits
    model = export_integers(quantized, workload.input_shape, batch=8)
    assert (execute_without_quants(model, images.numpy()) == expected).all()


def test_sums_that_float32_cannot_hold_are_refused(traced, images):
    quantized = QuantizedNetwork(traced, Policy.uniform("forms", traced.layers, 8, 8), Calibration(traced, images))
    exporter = IntegerExporter(quantized)
    last = exporter.network.layers["last"]
    last.weights = last.weights * 0 + 127 * 100
    with pytest.raises(InputError, match=r"layer 'last' can sum up to [\d,]+, but QONNX's float32 .* without --exact"):
        exporter.model(torch.zeros(1, *SHAPE))


@pytest.mark.filterwarnings("ignore")  # qonnx's and onnxscript's own
def test_at_eight_bits_standard_onnx_computes_the_same(traced, images):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

    policy = Policy.uniform("forms", traced.layers, 8, 8)
    quantized = QuantizedNetwork(traced, policy, Calibration(traced, images))
    model = ModelWrapper(export_qonnx(quantized, SHAPE, batch=len(images))).transform(QuantToQCDQ()).model
    assert not {node.op_type for node in model.graph.node} & {"Quant"}
    model.ir_version = 10  # what onnxruntime knows; the transformation writes onnx's newest
    options = onnxruntime.SessionOptions()  # optimized, it computes with integer operators, and a little else
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (scores,) = session.run(None, {model.graph.input[0].name: images.numpy()})
    with torch.no_grad():
        expected = quantized(images).numpy()
    error = np.abs(scores - expected).max(1)
    assert (error < 1e-5 * np.abs(expected).max()).mean() >= 0.9


def test_a_pooling_window_that_onnx_would_keep_is_refused():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)
            self.last = nn.Linear(18, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(F.max_pool2d(self.conv(images), 1, 2, ceil_mode=True).flatten(1))

    traced = trace(Pooled(), (1, 6, 6))
    policy = Policy.uniform("pooled", traced.layers, 4, 4)
    quantized = QuantizedNetwork(traced, policy, Calibration(traced, torch.randn(4, 1, 6, 6)))
    with pytest.raises(InputError, match=r"max_pool2d' of the network: max pooling with ceil_mode drops a window"):
        export_qonnx(quantized, (1, 6, 6))
