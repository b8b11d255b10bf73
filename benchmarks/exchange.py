"""QONNX exports in qonnx's executor and in onnxruntime beside the fake-quantized network and the integer one."""

import argparse
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
from agents import codesign
from common import add_options, markdown, write_report
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

from codesign.integers import IntegerNetwork
from codesign.qonnx.exporting import export_qonnx
from codesign.qonnx.integers import export_integers
from codesign.quantize import QuantizedNetwork
from codesign.workload import Workload, load_workload, quantized_network
from policies.policy import ActivationChoice, LayerPolicy, Policy, WeightChoice

BATCH, EXACT_BATCH = 50, 250
IR_VERSION = 10
"""onnxruntime may not know onnx's newest."""
SAME = 1e-4
"""Scores are the same within this part of the largest."""


def policies(workload: Workload) -> dict[str, Policy]:
    """Uniform ones, and one with random widths of 2 to 6 bits for every kernel."""
    layers, rng = workload.traced.layers, np.random.default_rng(0)
    made = {f"{w},{a}": Policy.uniform(workload.network, layers, w, a) for w, a in ((8, 8), (4, 4), (3, 4))}
    entries = []
    for layer in layers:
        weights = WeightChoice(bits=tuple(rng.integers(2, 7, layer.out_channels).tolist()))
        entries.append(LayerPolicy(name=layer.name, weights=weights, activations=ActivationChoice(bits=5)))
    return made | {"per kernel,5": Policy(network=workload.network, layers=tuple(entries))}


def to_powers_of_two(quantized: QuantizedNetwork) -> None:
    """Round scales up to powers of two, and biases to multiples of 1/256, as fixed-point tools have them."""
    with torch.no_grad():
        for layer in quantized.layers.values():
            for scale in (layer.activation_scale, layer.weight_scales):
                scale.copy_(2 ** scale.abs().log2().ceil())
            layer.bias.copy_((layer.bias * 256).round() / 256)


def with_rounding(model: onnx.ModelProto, mode: str) -> onnx.ModelProto:
    """The same model with another rounding mode in every `Quant`."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        for attribute in node.attribute:
            if attribute.name == "rounding_mode":
                attribute.s = mode.encode()
    return changed


def executed(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Scores by qonnx's executor."""
    wrapped = ModelWrapper(model)
    name = wrapped.graph.input[0].name
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    parts = [execute_onnx(wrapped, {name: images[i : i + batch]}) for i in range(0, len(images), batch)]
    return np.concatenate([next(iter(part.values())) for part in parts])


def standard(model: onnx.ModelProto, images: np.ndarray, optimized: bool) -> np.ndarray:
    """Scores by onnxruntime, after qonnx has turned every `Quant` into standard operators."""
    session_options = onnxruntime.SessionOptions()
    if not optimized:
        session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    converted = ModelWrapper(model).transform(QuantToQCDQ()).model
    converted.ir_version = IR_VERSION
    session = onnxruntime.InferenceSession(converted.SerializeToString(), session_options)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[i : i + BATCH]})[0] for i in range(0, len(images), BATCH)])


def compared(found: np.ndarray, expected: np.ndarray) -> dict[str, str]:
    """Differences of scores, relative to the largest."""
    difference, largest = np.abs(found - expected), np.abs(expected).max()
    return {
        "largest difference": f"{difference.max() / largest:.2%}",
        "mean difference": f"{difference.mean() / largest:.3%}",
        "images that differ": f"{(difference.max(1) > SAME * largest).mean():.1%}",
        "same top-1": f"{(found.argmax(1) == expected.argmax(1)).mean():.1%}",
    }


def rows(bits: str, quantized: QuantizedNetwork, shape: tuple[int, int, int], images: torch.Tensor) -> list[dict]:
    """One row for every comparison."""
    model = export_qonnx(quantized, shape, batch=BATCH)
    with torch.no_grad():
        fake = np.concatenate([quantized(part).numpy() for part in images.split(BATCH)])
    network = IntegerNetwork(quantized)
    integers = np.concatenate([network.run(part).scores for part in images.split(BATCH)]) * 2.0**-network.fraction_bits
    scores = executed(model, images.numpy())
    exact = executed(export_integers(quantized, shape, batch=EXACT_BATCH), images.numpy())
    made = [
        {"bits W,A": bits, "qonnx's executor against": "fake-quantized network"} | compared(scores, fake),
        {"bits W,A": bits, "qonnx's executor against": "integer network"} | compared(scores, integers),
        {"bits W,A": bits, "qonnx's executor against": "integer network, exported --exact"} | compared(exact, integers),
    ]
    if bits.startswith("8,8"):
        half_up = executed(with_rounding(model, "HALF_UP"), images.numpy())
        made.append({"bits W,A": bits, "qonnx's executor against": "itself, HALF_UP"} | compared(scores, half_up))
    if bits == "8,8":
        for title, optimized in (("onnxruntime (QCDQ), as written", False), ("onnxruntime (QCDQ), optimized", True)):
            other = standard(model, images.numpy(), optimized)
            made.append({"bits W,A": bits, "qonnx's executor against": title} | compared(scores, other))
    return made


def searched(options: argparse.Namespace, workload: Workload, images: torch.Tensor) -> list[dict]:
    """The rows of a policy that QPL found and fine-tuned at half the latency of 8 bits."""
    arguments = ["search", "--network", options.network, "--data", options.data, "--weights", str(options.weights)]
    arguments += ["--agent", "qpl", "--hardware", "bitserial-edge", "--budget", "latency=0.5", "--episodes", "4"]
    arguments += ["--tune-images", "1024", "--validation-images", "500", "--out", str(options.out), "--resume"]
    codesign(arguments, options.out.with_suffix(".json"))
    policy = Policy.load(options.out / "policy.yaml", workload.network, workload.traced.layers)
    quantized = quantized_network(workload, policy, options.out / "quantized.pt")
    return rows("searched", quantized, workload.input_shape, images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500, help="Test images, a multiple of 250.")
    parser.add_argument("--out", type=Path, default=Path("runs/exchange"), help="Of the search, continued.")
    add_options(parser, weights=True)
    options = parser.parse_args()
    onnx.IR_VERSION = IR_VERSION  # qonnx wraps every node in a model of that version
    warnings.simplefilter("ignore")
    workload = load_workload(options.network, 0, options.data, options.weights)
    images = workload.images(options.images)
    table = searched(options, workload, images)
    for bits, policy in policies(workload).items():
        quantized = quantized_network(workload, policy, options.weights)
        table += rows(bits, quantized, workload.input_shape, images)
        if bits in ("8,8", "4,4"):
            to_powers_of_two(quantized)
            table += rows(f"{bits}, powers of 2", quantized, workload.input_shape, images)
    write_report(
        "qonnx",
        "QONNX: what others compute of an export",
        [
            f"{options.network} on {options.images} test images of {options.data}; differences of scores as parts of "
            f"the largest score. An image differs where a score does by more than {SAME:.0e}.",
            markdown(pd.DataFrame(table)),
            "Against the fake-quantized network only two things differ: float32 sums in another order, which at times "
            "put an activation on the next level, and ties, which QONNX's ROUND takes to the even level and we take "
            "up. Ties are accidents where scales are any numbers and the rule where they are powers of two: there a "
            "file is reproduced only up to such steps. The integer network rounds values between layers to 16 bits "
            "with one binary point for all, so that more activations come to lie on a neighbouring level; steps are "
            "larger with fewer bits. An export `--exact` has these roundings, too. onnxruntime's optimizations put "
            "integer operators in place of the standard ones. `searched` is QPL's policy at half the latency of 8 bits "
            "on `bitserial-edge`, fine-tuned.",
        ],
    )


if __name__ == "__main__":
    main()
