"""Simulated annealing: its neighbours; the rest is in `test_replay.py`."""

import numpy as np

from policies.annealing import AnnealingAgent


def test_neighbours_are_one_or_two_variables_a_step_away_and_fit(make_task):
    task = make_task()
    agent, generator = AnnealingAgent(task, 50, 0), np.random.default_rng(0)
    start = agent.episode().vector
    drawn = [agent._neighbour(start - 2, generator) for _ in range(200)]
    steps = np.array([vector for vector in drawn if vector is not None]) - start
    assert set(np.abs(steps).sum(axis=1).tolist()) <= {0, 1, 2}
    assert set(np.unique(steps).tolist()) == {-1, 0, 1}
    assert (np.abs(steps.sum(axis=1)) <= 1).all()  # of two variables, one goes up and one down
