"""NSGA-II: its objectives; the rest is in `test_replay.py`."""

import numpy as np

from policies.agent import make_agent
from policies.rewards import make_reward
from policies.task import Task


def test_the_objectives_are_the_loss_of_accuracy_and_the_budget_used(make_task):
    task = make_task()
    agent = make_agent("nsga2", task, episodes=10, seed=0)
    outcome = agent.episode()
    answer = next(iter(agent.answers.values()))
    assert agent.objectives(answer) == (-outcome.accuracy, outcome.budget_used)


def test_without_a_budget_the_cost_is_that_of_the_reward(make_task):
    budgeted = make_task()
    for reward, metric in (("haq", "latency"), ("releq", "bits")):
        task = Task(budgeted.costs, budgeted.evaluator, (), make_reward(reward))
        agent = make_agent("nsga2", task, episodes=10, seed=0)
        outcome = agent.episode()
        assert agent.objectives(next(iter(agent.answers.values()))) == (-outcome.accuracy, outcome.ratios[metric])


def test_the_global_random_generator_is_not_touched(make_task, run):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    run(make_agent("nsga2", make_task(), episodes=40, seed=0), 40)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
