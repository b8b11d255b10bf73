"""Integer programs over sensitivities: proven optima, fitted losses; the rest is in `test_replay.py`."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.agent import make_agent
from policies.integer_program import solve
from policies.losses import fit_losses
from policies.moves import make_units
from policies.replay import Answer
from policies.rewards import make_reward
from policies.task import Task


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
def test_the_agent_finds_the_optimum_of_random_separable_tables(make_task, run, optimum, seed, ratio):
    task = make_task(layers=2, ratio=ratio)
    rises = np.random.default_rng(seed).exponential(0.1, (4, 4)) * 4.0 ** -np.arange(4)
    task.evaluator = Table(np.append(rises[:, :0:-1].cumsum(axis=1)[:, ::-1], np.zeros((4, 1)), axis=1))
    found = run(make_agent("ilp", task, episodes=20, seed=0), 20)
    assert max(outcome.reward for outcome in found) == pytest.approx(optimum(task))


def test_rewards_that_depend_on_cost_are_maximized(make_task, run, optimum):
    budgeted = make_task(layers=2)
    task = Task(budgeted.costs, budgeted.evaluator, (), make_reward("releq"))
    found = run(make_agent("ilp", task, episodes=10, seed=0), 10)
    assert max(outcome.reward for outcome in found) == pytest.approx(optimum(task))


def test_losses_of_separable_answers_are_recovered_up_to_noise(make_task, run):
    task = make_task(ratio=1.0)
    units = make_units(task.space)
    outcomes = run(make_agent("random", task, episodes=60, seed=0), 60)
    answers = [Answer(outcome.vector, outcome.accuracy, outcome.reward) for outcome in outcomes]
    losses = np.array(fit_losses(units, answers))
    noise = 4.0 ** -np.arange(2.0, 6.0)
    expected = task.evaluator.sensitivity.reshape(-1, 1) * (noise - noise[-1])
    assert np.allclose(losses, expected, rtol=0.1, atol=2e-3)
    assert (np.diff(losses, axis=1) < 0).all()
