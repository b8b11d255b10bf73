"""Integer programs over sensitivities: proven optima, fitted losses, and going on where a saved run ended."""

import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.agent import make_agent
from policies.budget import Budget
from policies.costs import Costs
from policies.integer_program import solve
from policies.losses import fit_losses
from policies.moves import make_units
from policies.replay import Answer
from policies.rewards import make_reward
from policies.space import Space
from policies.task import Task

WIDTHS = np.arange(1, 9.0)


class Separable:
    """Every bit taken away multiplies the accuracy; some layers need theirs more than others."""

    reference_accuracy = 1.0

    def __init__(self, layers):
        self.sensitivity = np.exp(np.random.default_rng(1).standard_normal((layers, 2)))

    def accuracy(self, policy):
        bits = np.array([(np.mean(entry.weights.bits), entry.activations.bits) for entry in policy.layers])
        return math.exp(-(self.sensitivity * 4.0**-bits).sum())


def make_task(layers=3, ratio=0.25, widths=range(2, 6), **space):
    """Latencies are products of both widths, times something per layer."""
    shapes = [Layer(f"layer{i}", "linear", 8 * (i + 1), 8) for i in range(layers)]
    table = np.random.default_rng(0).integers(1, 5, (layers, 1, 1)) * WIDTHS[:, None] * WIDTHS
    oracle = Oracle(shapes, load_accelerator("bitserial-tiny"), None if space else table)
    costs = Costs(Space("net", shapes, weight_widths=widths, activation_widths=widths, **space), oracle)
    return Task(costs, Separable(layers), (Budget((("latency", 1.0),), ratio),))


def run(agent, episodes):
    return [agent.episode() for _ in range(episodes)]


def through_a_file(state):
    """The state after ``torch.save`` and a load that refuses everything but plain data."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def texts(task, outcomes):
    return [(task.space.text(outcome.vector), outcome.reward) for outcome in outcomes]


def optimum(task):
    """The highest reward of all policies that fit."""
    candidates = np.array(list(itertools.product(*(variable.widths for variable in task.space.variables))))
    return max(task.evaluate(vector).reward for vector in candidates[task.limits.used(candidates) <= 1])


def test_the_optimum_of_a_separable_task_is_found():
    task = make_task(ratio=0.15, widths=range(2, 5))
    found = run(make_agent("ilp", task, episodes=24, seed=0), 24)
    assert max(outcome.reward for outcome in found) == pytest.approx(optimum(make_task(ratio=0.15, widths=range(2, 5))))


def test_every_policy_fits_and_none_is_asked_for_twice():
    task = make_task(layers=4)
    found = run(make_agent("ilp", task, episodes=25, seed=1), 25)
    assert all(task.limits.used(outcome.vector) <= 1 for outcome in found)
    assert len({task.space.text(outcome.vector) for outcome in found}) == 25
    assert not any(outcome.cached for outcome in found)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    first, again, other = (
        texts(task, run(make_agent("ilp", task, episodes=20, seed=seed), 20))
        for task, seed in ((make_task(), 3), (make_task(), 3), (make_task(), 4))
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("before", [0, 1, 12])
def test_a_saved_agent_continues_bit_for_bit_and_evaluates_nothing_again(before):
    task, other = make_task(), make_task()
    agent, resumed = (make_agent("ilp", one, episodes=20, seed=seed) for one, seed in ((task, 3), (other, 99)))
    run(agent, before)
    resumed.load_state_dict(through_a_file(agent.state_dict()))
    assert not other.asked
    assert texts(task, run(agent, 6)) == texts(other, run(resumed, 6))
    assert agent.state_dict() == resumed.state_dict()


def test_a_state_of_another_agent_or_another_task_is_refused():
    agent = make_agent("ilp", make_task(), episodes=20, seed=0)
    run(agent, 3)
    for state in (
        make_agent("greedy", make_task(), episodes=20, seed=0).state_dict(),
        make_agent("random", make_task(), episodes=20, seed=0).state_dict(),
        make_agent("ilp", make_task(ratio=0.3), episodes=20, seed=0).state_dict(),
        make_agent("ilp", make_task(layers=4), episodes=20, seed=0).state_dict(),
    ):
        with pytest.raises(InputError, match="expected the state of agent 'ilp'"):
            agent.load_state_dict(state)


def test_an_exhausted_space_is_asked_again():
    task = make_task(layers=1, ratio=1.0, widths=(2, 8))
    assert len(run(make_agent("ilp", task, episodes=8, seed=0), 8)) == 8
    assert len(task.asked) == 4


def test_kernel_wise_spaces_are_searched():
    task = make_task(layers=2, ratio=0.5, widths=range(1, 9), group=1)
    found = run(make_agent("ilp", task, episodes=16, seed=0), 16)
    assert len(task.asked) == 16
    assert max(outcome.reward for outcome in found[1:]) > found[0].reward


def brute_force(losses, limits, cuts):
    """The least sum over all selections, and whether there is any."""
    best = math.inf
    for chosen in itertools.product(*(range(len(layer)) for layer in losses)):
        fits = all(sum(p[i] for p, i in zip(prices, chosen, strict=True)) <= limit for prices, limit in limits)
        if fits and list(chosen) not in cuts:
            best = min(best, sum(layer[i] for layer, i in zip(losses, chosen, strict=True)))
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0.05, 1.0), st.integers(0, 5))
def test_the_integer_program_is_solved_to_the_optimum_of_brute_force(seed, layers, share, cuts):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 6, layers)
    losses = [generator.random(size) for size in sizes]
    prices = [[generator.integers(1, 20, size).astype(float) for size in sizes] for _ in range(2)]
    limits = [(price, math.floor(share * sum(layer.max() for layer in price))) for price in prices]
    limits = [(price, max(limit, 1)) for price, limit in limits]
    cut = [[int(generator.integers(size)) for size in sizes] for _ in range(cuts)]
    chosen, best = solve(losses, limits, cut), brute_force(losses, limits, cut)
    if chosen is None:
        assert best == math.inf
    else:
        assert chosen not in cut
        assert all(sum(p[i] for p, i in zip(price, chosen, strict=True)) <= limit for price, limit in limits)
        assert sum(layer[i] for layer, i in zip(losses, chosen, strict=True)) == pytest.approx(best, abs=1e-6)


def test_choices_of_infinite_price_are_not_made():
    losses, prices = [np.array([0.0, 1.0])], [np.array([math.inf, 5.0])]
    assert solve(losses, [(prices, math.inf)]) == [1]
    assert solve(losses, [(prices, 4.0)]) is None


class Table:
    """Losses of the logarithm of the accuracy by variable and width."""

    reference_accuracy = 1.0

    def __init__(self, losses):
        self.losses = losses

    def accuracy(self, policy):
        bits = [bits for entry in policy.layers for bits in (entry.weights.bits, entry.activations.bits)]
        return math.exp(-sum(loss[width - 2] for loss, width in zip(self.losses, bits, strict=True)))


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.25))
def test_the_agent_finds_the_optimum_of_random_separable_tables(seed, ratio):
    task = make_task(layers=2, ratio=ratio)
    rises = np.random.default_rng(seed).exponential(0.1, (4, 4)) * 4.0 ** -np.arange(4)
    task.evaluator = Table(np.append(rises[:, :0:-1].cumsum(axis=1)[:, ::-1], np.zeros((4, 1)), axis=1))
    found = run(make_agent("ilp", task, episodes=20, seed=0), 20)
    assert max(outcome.reward for outcome in found) == pytest.approx(optimum(task))


def test_rewards_that_depend_on_cost_are_maximized():
    budgeted = make_task(layers=2)
    task = Task(budgeted.costs, budgeted.evaluator, (), make_reward("releq"))
    found = run(make_agent("ilp", task, episodes=10, seed=0), 10)
    assert max(outcome.reward for outcome in found) == pytest.approx(optimum(task))


def test_losses_of_separable_answers_are_recovered_up_to_noise():
    task = make_task(ratio=1.0)
    units = make_units(task.space)
    outcomes = run(make_agent("random", task, episodes=60, seed=0), 60)
    answers = [Answer(outcome.vector, outcome.accuracy, outcome.reward) for outcome in outcomes]
    losses = np.array(fit_losses(units, answers))
    noise = 4.0 ** -np.arange(2.0, 6.0)
    expected = task.evaluator.sensitivity.reshape(-1, 1) * (noise - noise[-1])
    assert np.allclose(losses, expected, rtol=0.1, atol=2e-3)
    assert (np.diff(losses, axis=1) < 0).all()
