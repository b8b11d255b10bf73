"""An easy task, and what several agents' tests do with it."""

import itertools
import math

import numpy as np
import pytest

from hardware.accelerator import load_accelerator
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.budget import Budget
from policies.costs import Costs
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


def _task(layers=3, ratio=0.25, widths=range(2, 6), **space):
    shapes = [Layer(f"layer{i}", "linear", 8 * (i + 1), 8) for i in range(layers)]
    table = np.random.default_rng(0).integers(1, 5, (layers, 1, 1)) * WIDTHS[:, None] * WIDTHS
    oracle = Oracle(shapes, load_accelerator("bitserial-tiny"), None if space else table)
    costs = Costs(Space("net", shapes, weight_widths=widths, activation_widths=widths, **space), oracle)
    return Task(costs, Separable(layers), (Budget((("latency", 1.0),), ratio),))


def _optimum(task):
    candidates = np.array(list(itertools.product(*(variable.widths for variable in task.space.variables))))
    return max(task.evaluate(vector).reward for vector in candidates[task.limits.used(candidates) <= 1])


@pytest.fixture(scope="session")
def make_task():
    """``make_task(layers, ratio, widths, ...)``: latencies are products of both widths, times something per layer."""
    return _task


@pytest.fixture(scope="session")
def optimum():
    """``optimum(task)``: the highest reward of all policies that fit."""
    return _optimum


@pytest.fixture(scope="session")
def run():
    """``run(agent, episodes)``: their outcomes."""
    return lambda agent, episodes: [agent.episode() for _ in range(episodes)]
