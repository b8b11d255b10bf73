"""Fixtures of the QONNX tests: qonnx's executor, a builder of files; what can be wrong with a package on its board."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def execute_qonnx(monkeypatch: pytest.MonkeyPatch) -> Callable[..., np.ndarray]:
    """``execute(model, images)``: what qonnx makes of images, as many per run as the model takes."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    # It wraps every node in a model of onnx's newest format, which onnxruntime may not know yet.
    monkeypatch.setattr(onnx, "IR_VERSION", 10)

    def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
        wrapped = ModelWrapper(model).transform(InferShapes())
        name, batch = wrapped.graph.input[0].name, wrapped.get_tensor_shape(wrapped.graph.input[0].name)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that depend on a Shape node
            parts = [execute_onnx(wrapped, {name: images[i : i + batch]}) for i in range(0, len(images), batch)]
        return np.concatenate([next(iter(part.values())) for part in parts])

    return run


class QonnxFile:
    """Writes a QONNX graph in the form of Brevitas' exporter, node by node; a tensor is its name."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.nodes, self.constants = shape, [], []
        self.rng = np.random.default_rng(0)

    def constant(self, value: Any, kind: type = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        domain = "qonnx.custom_op.general" if kind in ("Quant", "IntQuant", "BipolarQuant", "Trunc") else ""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def quant(
        self, x: str, scale: Any, bits: float, signed: int, narrow: int = 0, zero: float = 0.0, **more: str
    ) -> str:
        scale = np.asarray(scale) * self.rng.uniform(
            0.9, 1.1
        )  # round numbers would make ties, which tools round as they like
        constants = (self.constant(scale), self.constant(zero), self.constant(bits))
        return self.node("Quant", x, *constants, signed=signed, narrow=narrow, **({"rounding_mode": "ROUND"} | more))

    def weights(self, *shape: int, bits: float = 4, signed: int = 1, narrow: int = 1, scale: Any = 0.1) -> str:
        source = self.constant(self.rng.normal(0, 0.25, shape))
        return self.quant(source, scale, bits, signed, narrow)

    def model(self, scores: str) -> onnx.ModelProto:
        output = onnx.ValueInfoProto(name=scores)
        output.type.tensor_type.elem_type = TensorProto.FLOAT
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        graph = helper.make_graph(self.nodes, "graph", [given], [output], self.constants)
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("qonnx.custom_op.general", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.fixture
def qonnx_file() -> type[QonnxFile]:
    """The class `QonnxFile`."""
    return QonnxFile


PACKAGE_FAULTS: dict[str, tuple[Callable[[Path, dict[str, Any]], Any], str]] = {
    "another bitstream": (
        lambda package, manifest: manifest.update(rtl_hash="0" * 16),
        "the register build_hash reads .*: load this",
    ),
    "another program": (
        lambda package, manifest: manifest["program"].update(address=0),
        "the machine stopped with ILLEGAL_INSTRUCTION",
    ),
    "another memory": (
        lambda package, manifest: (package / "program/memory.bin").write_bytes(b""),
        "program/memory.bin is not the file that was",
    ),
}


@pytest.fixture(params=PACKAGE_FAULTS)
def complaint(request: pytest.FixtureRequest, copy: Path) -> str:
    """How a driver's complaint begins, after the fixture `copy` of the test's module, a package, was spoiled."""
    change, sentence = PACKAGE_FAULTS[request.param]
    manifest = json.loads((copy / "manifest.json").read_text())
    change(copy, manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return sentence
