"""What `codesign search` and `codesign compare` share: the options that make a task, and the training before it."""

from pathlib import Path
from typing import Annotated

import typer

from codesign import text_training
from codesign.checkpoint import save_tensors
from codesign.commands.common import note, progress_bar
from codesign.data import TEXTS, load_data
from codesign.networks import create_network, default_data
from codesign.training import train
from hardware.errors import InputError

TRAIN_EPOCHS = {"digits": 60, "python-topics": 10}
"""Data sets on which training a network from nothing takes less than a minute."""

BUDGET = typer.Option(
    "--budget",
    help="Share of the cost with 8 bits everywhere: latency=0.6, a mix such as 0.5*latency+0.5*size=0.4, "
    "several with commas, or none. Metrics: latency, energy, size, bits, quantization.",
)
LOWEST_BITS = typer.Option("--lowest-bits", min=0, max=8, help="Fewest bits a variable may get; 0 prunes weights.")
RewardOption = Annotated[
    str, typer.Option("--reward", help="What is maximized: haq, autoq, autoq:latency=0.5, releq, releq-lenet, ...")
]
LutOption = Annotated[
    Path | None,
    typer.Option("--lut", help="Price policies by this table (.npy, layers x 8 x 8, HAQ's), not by ours."),
]
GroupOption = Annotated[
    int | None,
    typer.Option("--group", min=1, help="Kernels that share a width: 1 is kernel-wise. Default: whole layers."),
]
WeightsOnlyOption = Annotated[bool, typer.Option("--weights-only", help="Leave activations at 8 bits.")]
PinEndsOption = Annotated[
    bool, typer.Option("--pin-ends", help="Keep the first and the last layer at 8 bits, as HAQ does.")
]
TrainEpochsOption = Annotated[
    int | None, typer.Option("--train-epochs", min=1, help="Without --weights: epochs of float training.")
]
TuneEpochsOption = Annotated[int, typer.Option("--tune-epochs", min=0, help="Fine-tuning epochs per policy.")]
TuneRateOption = Annotated[float, typer.Option("--tune-rate", help="Learning rate of the fine-tuning.")]
TuneImagesOption = Annotated[
    int | None, typer.Option("--tune-images", min=1, help="Fine-tune on this many training images (default: all).")
]
ValidationImagesOption = Annotated[
    int | None, typer.Option("--validation-images", min=1, help="Judge on this many images (default: all).")
]
TestImagesOption = Annotated[
    int | None, typer.Option("--test-images", min=1, help="Test the final policy on this many images (default: all).")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="Threads of PyTorch; more than 1 pays for large networks only.")
]


def train_network(network: str, data: str | None, epochs: int | None, seed: int, path: Path) -> None:
    """Train a network from nothing and keep its weights.

    Raises
    ------
    InputError
        It has no data set, or one that takes long and ``epochs`` are not given.
    """
    data = data or default_data(network)
    if data is None:
        raise InputError(f"network {network!r} has no data set of its own: pass --data.")
    epochs = epochs or TRAIN_EPOCHS.get(data)
    if epochs is None:
        raise InputError(f"training on {data!r} takes long: pass a trained network's --weights, or --train-epochs N.")
    module = create_network(network, seed)
    with progress_bar(f"training {network} on {data}", epochs) as progress:
        start = text_training.train if data in TEXTS else train
        start(module, load_data(data), epochs=epochs, seed=seed, progress=progress)
    note(f"trained {network} on {data} for {epochs} epochs")
    save_tensors(module.state_dict(), path)
