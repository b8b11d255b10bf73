"""Greedy descent and exchanges: where it starts, and its moves; the rest is in `test_replay.py`."""

import numpy as np

from policies.agent import make_agent


def test_exchanges_lead_on_from_where_no_single_step_fits(make_task):
    task = make_task()
    agent = make_agent("greedy", task, episodes=60, seed=0)
    start = agent.episode()
    moves = agent._moves(start.vector, np.eye(6, dtype=int))
    assert (task.limits.used(moves) <= 1).all()
    steps = np.sign(moves - start.vector)
    assert ((steps > 0).sum(axis=1) <= 1).all()
    assert ((steps < 0).sum(axis=1) <= 1).all()
    assert (np.abs(steps).sum(axis=1) == 2).any()


def test_without_a_budget_the_start_is_the_widest_policy(make_task):
    task = make_task(ratio=1.0)
    assert (make_agent("greedy", task, episodes=60, seed=0).episode().vector == task.space.widest).all()
