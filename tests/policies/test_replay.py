"""What all agents must do whose state is their history: find an easy task's optimum, and go on where a run ended."""

import io

import pytest
import torch

from hardware.errors import InputError
from policies.agent import make_agent

EPISODES = {"greedy": 60, "annealing": 150, "nsga2": 200, "ilp": 24}
"""Enough for the optimum."""
AGENTS = list(EPISODES)
SHORT = {"ilp": 25}
"""Episodes of a long run where 80 take too long: the integer program solves one for each."""


def through_a_file(state):
    """The state after ``torch.save`` and a load that refuses everything but plain data."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def texts(task, outcomes):
    return [(task.space.text(outcome.vector), outcome.reward) for outcome in outcomes]


@pytest.mark.parametrize(("name", "episodes"), EPISODES.items())
def test_the_optimum_of_a_separable_task_is_found(make_task, run, optimum, name, episodes):
    task = make_task(ratio=0.15, widths=range(2, 5))
    found = run(make_agent(name, task, episodes=episodes, seed=0), episodes)
    best = optimum(make_task(ratio=0.15, widths=range(2, 5)))
    assert max(outcome.reward for outcome in found) == pytest.approx(best)


@pytest.mark.parametrize("name", AGENTS)
def test_every_policy_fits_and_none_is_asked_for_twice(make_task, run, name):
    task, episodes = make_task(layers=4), SHORT.get(name, 80)
    found = run(make_agent(name, task, episodes=episodes, seed=1), episodes)
    assert all(task.limits.used(outcome.vector) <= 1 for outcome in found)
    assert len({task.space.text(outcome.vector) for outcome in found}) == episodes
    assert not any(outcome.cached for outcome in found)


@pytest.mark.parametrize("name", AGENTS)
def test_the_same_seed_gives_the_same_run_and_another_seed_another(make_task, run, name):
    episodes = min(50, SHORT.get(name, 50))
    first, again, other = (
        texts(task, run(make_agent(name, task, episodes=episodes, seed=seed), episodes))
        for task, seed in ((make_task(), 3), (make_task(), 3), (make_task(), 4))
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("before", [0, 1, 12])
def test_a_saved_agent_continues_bit_for_bit_and_evaluates_nothing_again(make_task, run, name, before):
    task, other, after = make_task(), make_task(), 6 if name in SHORT else 20
    agent, resumed = (make_agent(name, one, episodes=50, seed=seed) for one, seed in ((task, 3), (other, 99)))
    run(agent, before)
    resumed.load_state_dict(through_a_file(agent.state_dict()))
    assert not other.asked
    assert texts(task, run(agent, after)) == texts(other, run(resumed, after))
    assert agent.state_dict() == resumed.state_dict()


@pytest.mark.parametrize("name", AGENTS)
def test_a_state_of_another_agent_or_another_task_is_refused(make_task, run, name):
    agent = make_agent(name, make_task(), episodes=20, seed=0)
    run(agent, 3)
    for state in (
        make_agent("annealing" if name == "greedy" else "greedy", make_task(), episodes=20, seed=0).state_dict(),
        make_agent("random", make_task(), episodes=20, seed=0).state_dict(),
        make_agent(name, make_task(ratio=0.3), episodes=20, seed=0).state_dict(),
        make_agent(name, make_task(layers=4), episodes=20, seed=0).state_dict(),
    ):
        with pytest.raises(InputError, match=f"expected the state of agent '{name}'"):
            agent.load_state_dict(state)


@pytest.mark.parametrize("name", AGENTS)
def test_an_exhausted_space_is_asked_again(make_task, run, name):
    task = make_task(layers=1, ratio=1.0, widths=(2, 8))
    assert len(run(make_agent(name, task, episodes=8, seed=0), 8)) == 8
    assert len(task.asked) == 4


@pytest.mark.parametrize("name", AGENTS)
def test_kernel_wise_spaces_are_searched(make_task, run, name):
    task, episodes = make_task(layers=2, ratio=0.5, widths=range(1, 9), group=1), 16 if name in SHORT else 30
    found = run(make_agent(name, task, episodes=episodes, seed=0), episodes)
    assert len(task.asked) == episodes
    if name == "nsga2":  # it starts with random policies, some of them good
        assert len({outcome.reward for outcome in found}) > 20
    else:
        assert max(outcome.reward for outcome in found[1:]) > found[0].reward


@pytest.mark.parametrize("name", ["greedy", "annealing", "nsga2"])
def test_a_history_that_this_search_would_not_have_walked_is_refused(make_task, run, name):
    agent = make_agent(name, make_task(), episodes=20, seed=0)
    run(agent, 5)
    state = agent.state_dict()
    state["history"][3][0] = "22 22 22"
    with pytest.raises(InputError, match="asked for other policies than this one"):
        make_agent(name, make_task(), episodes=20, seed=0).load_state_dict(state)
