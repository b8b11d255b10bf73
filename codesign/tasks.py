"""Search tasks from the names that a user gives: what to choose, what it costs and is worth, and who judges it.

In two steps, because a network may have to be trained between them: a `Problem` checks all that can be checked in
moments, and becomes a task with an evaluator: fine-tuning (`LiveTask`) or a table (`read_benchmark`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codesign.data import Split
from codesign.energy_table import energy_table
from codesign.host_network import HostNetwork, executable
from codesign.integers import IntegerNetwork
from codesign.training import FineTune, FineTuneEvaluator, kernel_deviations, weight_deviation
from codesign.weight_only import Scheme
from codesign.workload import Workload, load_workload, save_quantized
from hardware.accelerator import Accelerator
from hardware.errors import InputError, unknown
from hardware.layer import Layer
from hardware.oracle import Oracle, read_table
from hardware.schedule import MAX_BITS
from policies.budget import NONE, Limits, parse_budgets
from policies.co_design import MachineChoice
from policies.costs import Costs
from policies.evaluators import TableEvaluator
from policies.policy import SYMMETRIC, UNIFORM, Policy
from policies.rewards import make_reward
from policies.schemes import ACTIVATION_SCHEMES, WEIGHT_SCHEMES
from policies.space import Schemes, Space
from policies.task import Evaluator, Task

LOWEST_BITS = 2
FEATURES = 64
"""Inputs and outputs of the layers that stand for those of a table without a network."""


@dataclass(frozen=True)
class Choices:
    """What a policy may choose: ``--lowest-bits``, ``--group``, ``--weights-only``, ``--pin-ends`` and the schemes.

    Activations that can be negative stay ``uniform``: for them the machine has no other scheme within a program.
    """

    lowest_bits: int = LOWEST_BITS
    group: int | None = None
    weights_only: bool = False
    pin_ends: bool = False
    weight_scheme: str = SYMMETRIC
    activation_scheme: str = UNIFORM

    def space(self, network: str, layers: Sequence[Layer], schemes: Sequence[Schemes] | None = None) -> Space:
        """The space of these choices; ``schemes`` of every layer instead of those of all."""
        if schemes is None:
            check_scheme("weights", self.weight_scheme, (SYMMETRIC, *WEIGHT_SCHEMES))
            check_scheme("activations", self.activation_scheme, (UNIFORM, *ACTIVATION_SCHEMES))
            schemes = [
                (self.weight_scheme, UNIFORM if layer.signed_activations else self.activation_scheme)
                for layer in layers
            ]
        return Space(
            network,
            layers,
            weight_widths=range(self.lowest_bits, MAX_BITS + 1),
            activation_widths=None if self.weights_only else range(max(self.lowest_bits, 1), MAX_BITS + 1),
            group=self.group,
            pin_ends=self.pin_ends,
            schemes=schemes,
        )


def check_scheme(operand: str, name: str, known: Sequence[str]) -> None:
    """Raise `InputError` unless a scheme is known."""
    if name not in known:
        raise unknown(f"scheme for {operand}", name, known)


class Problem:
    """A search task that nobody judges yet.

    Parameters
    ----------
    space:
        What to choose.
    accelerator:
        What it runs on.
    budget, reward:
        As a user writes them, see `policies.budget.parse_budgets` and `policies.rewards.REWARDS`.
    lut:
        Price by this table, see `hardware.oracle.read_table`.
    energies:
        Price energy, too: seconds of work. It is done in any case where the budget or the reward names energy.
    machines:
        Accelerators to choose from together with the bits (`policies.co_design`); ratios are to ``accelerator``.
    progress:
        Called with the number of machines priced so far.

    Attributes
    ----------
    budget: str
        In its plain form.
    settings: dict
        Numbers and strings: all that has a part in what a policy costs and is worth.

    Raises
    ------
    InputError
        Unknown names, a budget that cannot be reached, or a table that is not of these layers.
    """

    def __init__(
        self,
        space: Space,
        accelerator: Accelerator,
        budget: str,
        reward: str,
        lut: Path | None = None,
        energies: bool = False,
        machines: Sequence[Accelerator] = (),
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.space, self.accelerator = space, accelerator
        self.budgets, self.reward = parse_budgets(budget), make_reward(reward)
        self.budget = ",".join(map(str, self.budgets)) or NONE
        table = read_table(lut, len(space.layers)) if lut else None
        joules = None
        if energies or ("energy" in budget + reward and not machines):
            joules, _ = energy_table(space.layers, accelerator)
        oracle = Oracle(space.layers, accelerator, table, joules)
        self.costs = MachineChoice(space, oracle, machines, progress) if machines else Costs(space, oracle)
        # What cannot be reached or priced ends here, not after training.
        Limits(self.budgets, self.costs)
        self.reward(1.0, 1.0, self.costs.ratios(space.widest))
        self.settings: dict[str, Any] = {
            "network": space.network,
            "hardware": accelerator.model_dump_json(),
            "budget": self.budget,
            "reward": reward,
            "lut": None if table is None else hashlib.sha256(table.tobytes()).hexdigest(),
            "machines": len(machines),
            "codesign": version("codesign"),
            "torch": str(torch.__version__),
        }

    def machine(self, vector: np.ndarray) -> Accelerator:
        """What a policy runs on: the accelerator, or the best of the machines to choose from."""
        return self.costs.machine(vector) if isinstance(self.costs, MachineChoice) else self.accelerator

    def task(
        self,
        evaluator: Evaluator,
        weight_deviation: np.ndarray | None = None,
        kernel_deviations: Sequence[np.ndarray] | None = None,
    ) -> Task:
        """The task with somebody who judges policies; deviations as of `policies.task.Task`."""
        return Task(self.costs, evaluator, self.budgets, self.reward, weight_deviation, kernel_deviations)


class LiveTask:
    """A task whose policies are fine-tuned and judged on validation images.

    Parameters
    ----------
    weights:
        The network's float weights.
    seed:
        Chooses the images and their order.
    scheme:
        Quantize weights alone, see `codesign.weight_only`.

    Attributes
    ----------
    task: Task
    digest: str
        Names the float weights.

    Raises
    ------
    InputError
        The network has no images here, or weights that are not its own.
    """

    def __init__(
        self,
        problem: Problem,
        data: str | None,
        weights: Path,
        tune: FineTune,
        seed: int,
        scheme: Scheme | None = None,
    ) -> None:
        self.workload: Workload = load_workload(problem.space.network, seed, data, weights, quantized=False)
        if self.workload.data is None:
            raise InputError(f"network {problem.space.network!r} has no images here to judge a policy by: pass --data.")
        traced = self.workload.traced
        self.evaluator = FineTuneEvaluator(traced, self.workload.data, tune, seed, scheme)
        self.pose(problem)
        self.digest = _digest(traced.graph_module)

    def pose(self, problem: Problem) -> None:
        """Another problem of the same network, for the same evaluator."""
        traced = self.workload.traced
        self.task: Task = problem.task(self.evaluator, weight_deviation(traced), kernel_deviations(traced))

    def test_images(self, count: int | None) -> Split:
        """The first ``count`` held-out images, or all."""
        assert self.workload.data is not None
        test = self.workload.data.test
        return test if count is None else test.take(slice(count))

    def save(self, policy: Policy, policy_path: Path, quantized_path: Path) -> IntegerNetwork | HostNetwork:
        """Write a policy and its fine-tuned network; returns that in the machine's arithmetic."""
        quantized = self.evaluator.quantized(policy)
        policy.save(policy_path)
        save_quantized(quantized, quantized_path)
        return executable(quantized)


@dataclass(frozen=True)
class Benchmark:
    """A table of accuracies, and the space of its policies.

    Parameters
    ----------
    vectors:
        int, (policies, variables): every policy of the table that the space holds.
    digest:
        Names the table's contents.
    """

    evaluator: TableEvaluator
    space: Space
    vectors: np.ndarray
    digest: str


def read_benchmark(
    path: Path, network: str | None = None, reference: float | None = None, lowest_bits: int = 0
) -> Benchmark:
    """A tabular benchmark from a file of `policies.evaluators.TableEvaluator`.

    Parameters
    ----------
    network:
        Whose layers the table's are; without one, linear layers ``w1``, ``w2``, ..., all of one size, which are right
        for the costs that count bits alone.
    lowest_bits:
        Leave out what is below.

    Raises
    ------
    InputError
        The table cannot be read, lacks policies, has no such widths, or the network has another number of layers.
    """
    evaluator = TableEvaluator(path, reference)
    if network is None:
        names = (f"w{index + 1}" for index in range(evaluator.layers))
        layers = tuple(Layer(name, "linear", FEATURES, FEATURES) for name in names)
    else:
        layers = load_workload(network, seed=0).traced.layers
    if len(layers) != evaluator.layers:
        raise InputError(
            f"{path} is a table of {evaluator.layers} layers, but network {network!r} has {len(layers)}: pass its own "
            "network, or leave out --network."
        )
    weights, activations = (
        tuple(width for width in widths if width >= lowest_bits)
        for widths in (evaluator.weight_widths, evaluator.activation_widths)
    )
    if not weights or bool(activations) != bool(evaluator.activation_widths):
        raise InputError(f"{path} holds no policies of {lowest_bits} bits or more: lower --lowest-bits.")
    space = Space(network or path.stem, layers, weight_widths=weights, activation_widths=activations or None)
    keys = np.array(list(evaluator.accuracies))
    # The table has all weights first, the space's variables go layer by layer.
    vectors = keys.reshape(len(keys), -1, len(layers)).swapaxes(1, 2).reshape(len(keys), -1)
    vectors = vectors[(vectors >= lowest_bits).all(1)]
    complete = (len(weights) * max(len(activations), 1)) ** len(layers)
    if len(vectors) < complete:
        raise InputError(
            f"{path} holds {len(vectors)} of the {complete} policies of its widths: an agent may ask for any of them, "
            "so complete the table."
        )
    return Benchmark(evaluator, space, vectors, hashlib.sha256(path.read_bytes()).hexdigest())


def _digest(module: torch.nn.Module) -> str:
    """Names the float weights that a run started from."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
