"""QPL as an agent: gradients of bits through a whole network, budgets met exactly, one seed one run, resumed or not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.data import load_data
from codesign.gradient_agents import GRADIENT_AGENTS, QplAgent, make_live_agent, uniform_bits
from codesign.learned_network import LearnedLayer, LearnedNetwork, measured_slope
from codesign.networks import create_network
from codesign.qag import convert
from codesign.quantize import QuantizedNetwork
from codesign.tracing import trace
from codesign.training import FineTune, FineTuneEvaluator, train
from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.oracle import Oracle
from policies.budget import parse_budgets
from policies.costs import Costs
from policies.learned_bits import LearnedBits
from policies.space import Space
from policies.task import Task

TUNE = FineTune(images=192, validation_images=100)


@pytest.fixture(scope="module")
def evaluator():
    data = load_data("digits")
    module = create_network("lenet", seed=0)
    train(module, data, epochs=4, seed=0)
    return FineTuneEvaluator(trace(module, (1, 8, 8), signed_input=False), data, TUNE, seed=0)


def make_task(evaluator, budget="latency=0.3", schemes=("symmetric", "uniform")):
    layers = evaluator.traced.layers
    space = Space("lenet", layers, schemes=[schemes] * len(layers))
    costs = Costs(space, Oracle(layers, load_accelerator("bitserial-tiny")))
    return Task(costs, evaluator, parse_budgets(budget))


@pytest.mark.parametrize("schemes", [("symmetric", "uniform"), ("clip", "clip"), ("fixed", "fixed")])
def test_at_whole_bits_it_is_the_network_that_is_deployed(evaluator, schemes):
    task = make_task(evaluator, schemes=schemes)
    vector = np.array([3, 5, 4, 4, 2, 6, 8, 3, 5, 2])
    bits = LearnedBits(task.space, vector.tolist())
    learned = LearnedNetwork(evaluator.traced, bits, evaluator.calibration).eval()
    deployed = QuantizedNetwork(evaluator.traced, task.space.policy(vector), evaluator.calibration).eval()
    for own, other in zip(learned.learned, deployed.layers.values(), strict=True):
        assert torch.equal(own.weight, other.weight)
        if own._weights is None:  # the deployed scales moved with the weights, when its moments were put right
            own._scales[int(vector[2 * learned.learned.index(own)])] = other.weight_scales.abs()
    images = evaluator.train.batch(slice(40))
    with torch.no_grad():
        torch.testing.assert_close(learned(images), deployed(images), rtol=1e-4, atol=1e-4)


def test_more_bits_are_felt_to_lower_the_loss_of_a_coarsely_quantized_network(evaluator):
    task = make_task(evaluator)
    bits = LearnedBits(task.space, 2)
    network = LearnedNetwork(evaluator.traced, bits, evaluator.calibration)
    with torch.no_grad():
        target = evaluator.traced.graph_module(evaluator.train.batch(slice(192)))
    # Distance from the float network's scores: quantization error, and nothing else, makes it.
    F.mse_loss(network(evaluator.train.batch(slice(192))), target).backward()
    assert bits.bits.grad is not None
    assert float(bits.bits.grad.sum()) < 0
    assert (bits.bits.grad < 0).float().mean() >= 0.7


@pytest.mark.parametrize("name", GRADIENT_AGENTS)
@pytest.mark.parametrize("schemes", [("symmetric", "uniform"), ("clip", "uniform")])
def test_every_policy_keeps_the_budget_and_uses_most_of_it(evaluator, name, schemes):
    task = make_task(evaluator, schemes=schemes)
    agent = make_live_agent(name, task, evaluator=evaluator, episodes=4, seed=0)
    outcomes = [agent.episode() for _ in range(4)]
    assert all(outcome.budget_used <= 1 for outcome in outcomes)
    assert all(outcome.budget_used > (0.95 if name == "qpl" else 0.6) for outcome in outcomes)
    policy = task.space.policy(outcomes[-1].vector)
    assert {entry.weights.scheme for entry in policy.layers} == {schemes[0]}


def test_one_seed_gives_one_run_also_when_it_is_resumed(evaluator):
    def fresh(seed):
        return QplAgent(make_task(evaluator), evaluator, 4, seed)

    agent, other = fresh(0), fresh(1)
    first = [agent.episode() for _ in range(2)]
    saved = agent.state_dict()
    rest = [agent.episode() for _ in range(2)]
    resumed = fresh(0)
    resumed.load_state_dict(saved)
    for one, again in zip(rest, [resumed.episode() for _ in range(2)], strict=True):
        assert (one.vector == again.vector).all()
        assert one.accuracy == again.accuracy
    assert torch.equal(agent.bits.bits, resumed.bits.bits)
    for _ in range(4):
        other.episode()
    assert not torch.equal(agent.bits.bits, other.bits.bits)
    assert len(first) == 2


def test_the_bits_go_where_the_task_needs_them(evaluator):
    """Of two layers the one whose noise matters more keeps more bits: here by a loss that ignores the other layers."""
    task = make_task(evaluator, budget="latency=0.25")
    agent = QplAgent(task, evaluator, 10, 0)
    start = agent.bits.bits.detach().clone()
    for _ in range(10):
        agent.episode()
    moved = agent.bits.bits.detach() - start
    assert float(moved.abs().max()) > 0.5
    assert float(moved.max() - moved.min()) > 0.5  # not all alike


def test_the_uniform_width_that_fits_lies_between_two_that_do_and_do_not(evaluator):
    task = make_task(evaluator)
    bits = uniform_bits(task)
    used = [float(task.limits.used(np.full(10, width))) for width in (int(bits), int(bits) + 1)]
    assert used[0] <= 1 < used[1]
    assert bits - int(bits) == pytest.approx((1 - used[0]) / (used[1] - used[0]))


def test_slopes_are_those_of_the_steps():
    assert measured_slope(lambda bits: 3 * 0.5**bits, 4) == pytest.approx(np.log(2))
    assert measured_slope(lambda bits: 3 * 0.5**bits, 8) == pytest.approx(np.log(2))


def test_channels_of_zeros_do_not_change_what_the_others_bits_are_worth(evaluator):
    name = "conv1"
    (layer,) = (one for one in evaluator.traced.layers if one.name == name)
    module = evaluator.traced.graph_module.get_submodule(name)
    images = evaluator.train.batch(slice(20))

    def slopes(weight):
        learned = LearnedLayer(layer, weight, torch.zeros(len(weight)), ("symmetric", "uniform"), evaluator.calibration)
        learned.bits = tuple(torch.tensor(3.0, requires_grad=True) for _ in range(2))
        learned(images)[:, : len(module.weight)].square().sum().backward()
        return [float(bits.grad) for bits in learned.bits]

    dead = torch.cat([module.weight, torch.zeros_like(module.weight)]).detach()
    assert slopes(dead) == pytest.approx(slopes(module.weight.detach()), rel=1e-5)
    assert slopes(dead)[0] != 0
    assert slopes(torch.zeros_like(dead))[0] == 0


def test_without_a_budget_or_with_another_state_it_says_what_it_needs(evaluator):
    with pytest.raises(InputError, match="budget"):
        QplAgent(make_task(evaluator, budget="none"), evaluator, 4, 0)
    with pytest.raises(InputError, match="unknown agent"):
        make_live_agent("qlp", make_task(evaluator), evaluator=evaluator, episodes=4, seed=0)
    agent = QplAgent(make_task(evaluator), evaluator, 4, 0)
    state = QplAgent(make_task(evaluator), evaluator, 4, 0, precision=True).state_dict()
    with pytest.raises(InputError, match="resume with the agent of the saved run"):
        agent.load_state_dict(state)


def test_a_network_with_dropout_is_learned_without_it_and_resumes(evaluator):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.drop, self.last = nn.Conv2d(1, 6, 3), nn.Dropout(0.5), nn.Linear(6, 10)

        def forward(self, x):  # sigmoid: a network that the host runs, in which dropout stays
            return self.last(self.drop(torch.sigmoid(self.conv(x)).mean((2, 3))))

    torch.manual_seed(0)
    traced = convert(Dropping(), evaluator.train.batch(slice(16)))
    own = FineTuneEvaluator(traced, load_data("digits"), TUNE, seed=0)
    space = Space("dropping", traced.layers)
    costs = Costs(space, Oracle(traced.layers, load_accelerator("bitserial-tiny")))

    def agent():
        return QplAgent(Task(costs, own, parse_budgets("latency=0.5")), own, 2, 0)

    first, resumed = agent(), agent()
    first.episode()
    resumed.load_state_dict(first.state_dict())
    torch.manual_seed(1)
    first.episode()
    torch.manual_seed(2)
    resumed.episode()
    assert torch.equal(first.bits.bits, resumed.bits.bits)
    for one, other in zip(first.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)
