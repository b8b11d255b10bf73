"""Networks that ship with the toolkit, and the registry that finds them, or anybody's own, by name."""

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from codesign.networks.alexnet import AlexNet
from codesign.networks.lenet import LeNet
from codesign.networks.lstm_classifier import LSTMClassifier
from codesign.networks.lstm_language_model import LSTMLanguageModel
from codesign.networks.mobilenetv1 import MobileNetV1
from codesign.networks.mobilenetv2 import MobileNetV2
from codesign.networks.resnet import resnet18, resnet50
from codesign.networks.resnet20 import ResNet20
from codesign.networks.squeezenet import SqueezeNet
from codesign.networks.vgg11 import VGG11
from codesign.networks.vgg_like import VGGLike
from hardware.errors import InputError, unknown

_NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "alexnet": (AlexNet, "imagenet"),
    "lenet": (LeNet, "digits"),
    "lstm-classifier": (LSTMClassifier, "python-topics"),
    "lstm-lm": (LSTMLanguageModel, "python-text"),
    "lstm-lm-ptb": (partial(LSTMLanguageModel, 10_000, embedding=300, hidden=300), "ptb"),
    "mobilenetv1": (partial(MobileNetV1, imagenet=True), "imagenet"),
    "mobilenetv1-cifar": (MobileNetV1, "cifar10"),
    "mobilenetv2": (MobileNetV2, "imagenet"),
    "resnet18": (resnet18, "imagenet"),
    "resnet20": (ResNet20, "cifar10"),
    "resnet50": (resnet50, "imagenet"),
    "squeezenet1_1": (SqueezeNet, "imagenet"),
    "vgg-like": (VGGLike, "cifar10"),
    "vgg11": (VGG11, "imagenet"),
}
"""Name: what makes the network, and the data set, or at least the image format, that it was drawn for."""


def network_names() -> list[str]:
    """The built-in networks."""
    return sorted(_NETWORKS)


def default_data(name: str) -> str | None:
    """The data set, or image format, a built-in network was drawn for; None for anybody else's network."""
    return _NETWORKS[name][1] if name in _NETWORKS else None


def is_file(name: str) -> bool:
    """Whether a network's name is that of a QONNX file."""
    return name.endswith(".onnx")


def create_network(name: str, seed: int) -> nn.Module:
    """A network with random weights.

    Parameters
    ----------
    name:
        A built-in name (see `network_names`) or ``package.module:callable``: the callable takes no argument and
        returns an ``nn.Module``. Modules in the current folder are found too. Or a QONNX file, ``....onnx``, whose
        weights come with it, see `codesign.qonnx.importing`.
    seed:
        Seed of the initial weights. PyTorch's global random state is left as it was.

    Raises
    ------
    InputError
        Unknown name, no such module or attribute, a callable that fails or returns something else, or a file that
        cannot be taken.
    """
    if is_file(name):
        from codesign.qonnx.importing import import_qonnx  # it imports what imports this

        return import_qonnx(Path(name)).module
    if name in _NETWORKS:
        make = _NETWORKS[name][0]
    elif ":" in name:
        make = _find_callable(name)
    else:
        raise unknown("network", name, [*network_names(), "package.module:callable", "file.onnx"])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            network = make()
        except InputError:
            raise
        except Exception as error:  # a user's code may raise anything
            raise InputError(
                f"network {name!r} could not be made: {type(error).__name__}: {error}; "
                "give a callable that needs no arguments."
            ) from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"network {name!r} returned {type(network).__name__}, expected a torch.nn.Module: "
            "give a function that returns one, or the class itself."
        )
    return network


def _find_callable(name: str) -> Callable[[], nn.Module]:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise InputError(f"network {name!r} is not of the form package.module:callable: write it so.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the installed command does not look in the current folder by itself
    try:
        found = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything when it is imported
        raise InputError(
            f"network {name!r}: cannot import {module_name!r} ({type(error).__name__}: {error}); "
            "install it, or run from the folder that holds it."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"network {name!r}: {module_name!r} has no {attribute!r}; check the name after the colon.")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"network {name!r}: {attribute!r} is {type(found).__name__}, expected a callable.")
    return found


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict (``torch.save``) into a network.

    A ``{"state_dict": ...}`` wrapper and the ``module.`` prefix of ``nn.DataParallel`` are taken off. Only tensors
    are read (``weights_only=True``): a weights file cannot run code.

    Raises
    ------
    InputError
        The file is missing, damaged, not a state dict, or its keys or shapes are not the network's.
    """
    if not path.is_file():
        raise InputError(f"no weights file at {path}: check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch.load raise nearly anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"cannot read weights from {path}: {reason[0].rstrip('.')}; expected a state dict that torch.save wrote."
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise InputError(f"{path} holds {type(state).__name__}, expected a state dict: save module.state_dict().")
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}

    own = module.state_dict()
    # Counters of batch norm do not matter for inference, and old files lack them.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = [
        f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for what, found in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if found
    ]
    if problems:
        raise InputError(f"the weights in {path} are not this network's: {'; '.join(problems)}: pass its own file.")
    for key in own:
        if key in state and not torch.isfinite(state[key]).all():
            raise InputError(f"the weights in {path} hold numbers that are not finite ({key}): train again.")
    module.load_state_dict(state, strict=False)
