"""What a command works on: a network traced to layers, its weights, its data, its policy."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from codesign.checkpoint import save_tensors
from codesign.data import TEXTS, Data, data_names, image_format, load_data
from codesign.networks import create_network, default_data, is_file, load_weights
from codesign.qag import convert
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.tracing import Traced, trace
from codesign.training import calibrate
from hardware.errors import InputError
from hardware.specification import read_yaml
from policies.policy import Policy

if TYPE_CHECKING:
    from codesign.qonnx.importing import ImportedNetwork

QUANTIZED = "codesign-quantized-2"
"""Marks a file of `save_quantized`."""
RANDOM_IMAGES = 64
EXAMPLES = 32
"""Images or texts that show what a network that is no program does."""
RANDOM_PIXELS = 2**20
"""Random images that a network is calibrated on: so many, or as many as have so many pixels (channels count)."""


@dataclass(frozen=True, eq=False)
class Workload:
    """A network and where its inputs come from.

    Parameters
    ----------
    traced:
        Folded graph and layers, with the weights that were given, or random ones.
    data:
        None when there is no data: images are random then (see `images`).
    imported:
        What a QONNX file says of weights, scales and widths; None for other networks, and where the weights come from
        elsewhere.
    """

    network: str
    traced: Traced
    input_shape: tuple[int, ...]
    signed_input: bool
    data: Data | None
    seed: int
    imported: "ImportedNetwork | None" = None

    def images(self, count: int) -> torch.Tensor:
        """The first ``count`` test images, float32 ``(count, C, H, W)``, or texts; random images without data."""
        if self.data is None:
            return self._random_images(count, self.seed + 1)
        if count > len(self.data.test):
            raise InputError(
                f"{self.data.name} has {len(self.data.test)} test images, asked for {count}: ask for fewer."
            )
        return self.data.test.batch(slice(count))

    def calibration(self, check_signs: bool = True) -> Calibration:
        """What activation scales are chosen from: the network on training images, or on random ones."""
        if self.data is None:
            count = min(RANDOM_IMAGES, max(1, RANDOM_PIXELS // math.prod(self.input_shape)))
            return Calibration(self.traced, self._random_images(count, self.seed), check_signs)
        return calibrate(self.traced, self.data, check_signs)

    def _random_images(self, count: int, seed: int) -> torch.Tensor:
        return random_images(count, self.input_shape, self.signed_input, seed)


def load_workload(
    network: str, seed: int, data: str | None = None, weights: Path | None = None, quantized: bool = True
) -> Workload:
    """Load a network, its weights and its data.

    Parameters
    ----------
    network:
        Built-in name, ``package.module:callable``, or a QONNX file.
    data:
        Name of the data set; by default the built-in network's own, which is loaded only with ``weights``, and only if
        it is more than an image format. Anybody's own network needs one, because it says how large an image is; a QONNX
        file says that itself.
    weights:
        State dict; without it the weights are random, from ``seed``. A file of `save_quantized` is left to
        `quantized_network`.
    quantized:
        Whether ``weights`` may be a file of `save_quantized`.
    """
    chosen = data or default_data(network)
    imported = _read_file(network, chosen) if is_file(network) else None
    module = imported.module if imported else create_network(network, seed)
    texts = load_data(chosen) if chosen in TEXTS else None  # they say themselves what they look like
    image: tuple[tuple[int, ...], bool]
    if imported:
        image = imported.input_shape, imported.signed_input
    elif texts:
        image = texts.input_shape, False
    elif chosen:
        image = image_format(chosen)
    else:
        raise InputError(
            f"network {network!r} has no data set of its own: pass --data, which also gives the image size."
        )
    shape, signed = image
    if weights is not None and _read_quantized(weights) is None:
        load_weights(module, weights)
    elif weights is not None and not quantized:
        raise InputError(
            f"{weights} holds a network quantized under a policy: pass float weights, such as its float.pt."
        )
    loaded = texts or (load_data(chosen) if chosen and (data or (weights and chosen in data_names())) else None)
    traced = (
        convert(module, texts.train.batch(slice(EXAMPLES))) if texts else read_network(module, shape, signed, loaded)
    )
    if loaded is not None:
        scores = traced.graph_module(loaded.train.batch(slice(1))).shape[-1]
        if scores < len(loaded.classes):
            raise InputError(
                f"network {network!r} gives {scores} scores, but {chosen} has {len(loaded.classes)} classes: "
                "use a network with one score per class."
            )
    return Workload(network, traced, shape, signed, loaded, seed, imported if weights is None else None)


def _read_file(network: str, data: str | None) -> "ImportedNetwork":
    from codesign.qonnx.importing import import_qonnx  # half a second that other networks need not pay

    return import_qonnx(Path(network), image_format(data) if data else None)


def read_network(module: nn.Module, shape: tuple[int, ...], signed: bool, data: Data | None = None) -> Traced:
    """A network as one program for the machine, or, if it is none, as layers in what the host runs.

    Parameters
    ----------
    data:
        Gives images of which the host's network is shown some; else they are random.

    Raises
    ------
    InputError
        It is neither: what `codesign.tracing.trace` says of it.
    """
    try:
        return trace(module, shape, signed)
    except InputError as error:
        try:
            example = data.train.batch(slice(EXAMPLES)) if data else random_images(EXAMPLES, shape, signed, seed=0)
            return replace(convert(module, example), host=str(error))
        except InputError:
            raise error from None


def random_images(count: int, shape: tuple[int, ...], signed: bool, seed: int) -> torch.Tensor:
    """Uniformly random images, float32 ``(count, C, H, W)``, of -2 to 2, or of 0 to 1."""
    images = torch.rand((count, *shape), generator=torch.Generator().manual_seed(seed))
    return 4 * images - 2 if signed else images


def quantized_network(workload: Workload, policy: Policy, weights: Path | None) -> QuantizedNetwork:
    """The network under a policy: as `save_quantized` or a QONNX file has it, or quantized now from float weights."""
    if workload.imported and workload.imported.policy.layers == policy.layers:
        return workload.imported.quantized(workload.calibration())
    saved = _read_quantized(weights) if weights else None
    if saved is not None and workload.traced.host:
        # Signs that were seen of the weights to come, which the network does not have yet.
        layers = [
            replace(layer, signed_activations=saved.get("signed", {}).get(layer.name, layer.signed_activations))
            for layer in workload.traced.layers
        ]
        workload = replace(workload, traced=replace(workload.traced, layers=tuple(layers)))
    quantized = QuantizedNetwork(workload.traced, policy, workload.calibration(check_signs=saved is None))
    if saved is not None:
        if saved["policy"] != policy.as_yaml():
            raise InputError(f"{weights} was made for another policy: pass the policy.yaml that lies beside it.")
        try:
            quantized.load_state_dict(saved["state"])
        except RuntimeError:
            raise InputError(
                f"{weights} does not hold this network's tensors: let `codesign search` write it."
            ) from None
        quantized.largest_value = saved["largest_value"]
    return quantized.eval()


def save_quantized(quantized: QuantizedNetwork, path: Path) -> None:
    """Write a quantized network's float weights, ranges and policy."""
    content = {
        "format": QUANTIZED,
        "policy": quantized.policy.as_yaml(),
        "largest_value": quantized.largest_value,
        "signed": {name: layer.layer.signed_activations for name, layer in quantized.layers.items()},
        "state": quantized.state_dict(),
    }
    save_tensors(content, path)


def _read_quantized(path: Path) -> dict | None:
    """A file of `save_quantized`; None for everything else, which `load_weights` will judge."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # missing, damaged or of another kind: load_weights says which
        return None
    marker = content.get("format") if isinstance(content, dict) else None
    if isinstance(marker, str) and marker.startswith(QUANTIZED.rstrip("0123456789")) and marker != QUANTIZED:
        raise InputError(f"{path} is a {marker} file, expected {QUANTIZED}: let `codesign search` write it again.")
    if marker != QUANTIZED:
        return None
    return content if {"policy", "largest_value", "state"} <= content.keys() else None


def choose_policy(workload: Workload, policy: Path | None, bits: tuple[int, int] | None) -> Policy:
    """The policy of ``--policy`` or ``--bits``; without them a QONNX file's own."""
    if workload.imported and policy is None and bits is None:
        return workload.imported.policy
    if (policy is None) == (bits is None):
        raise InputError("expected exactly one of --policy and --bits: pass a policy file, or N or W,A.")
    if policy is not None:
        names = (workload.network, *([workload.imported.policy.network] if workload.imported else []))
        chosen = Policy.from_mapping(read_yaml(policy), str(policy))
        chosen.check(chosen.network if chosen.network in names else workload.network, workload.traced.layers)
        return chosen
    assert bits is not None
    return Policy.uniform(workload.network, workload.traced.layers, *bits)
