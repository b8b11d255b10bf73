"""AutoQ's agent: it learns, relabels goals, runs the same under its seed, and goes on where it was saved."""

import io
import math

import numpy as np
import pytest
import torch

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.agent import make_agent
from policies.autoq import AutoqAgent, AutoqOptions, ranks
from policies.baselines import RandomAgent
from policies.budget import parse_budgets
from policies.costs import Costs
from policies.observations import AutoqObservation, Progress, relative_deviation
from policies.rewards import Autoq, make_reward
from policies.space import Space
from policies.task import Task

LAYERS = [
    Layer("a", "conv", 8, 16, 8, 8, (3, 3), (1, 1), (1, 1)),
    Layer("b", "conv", 16, 16, 8, 8, (3, 3), (1, 1), (1, 1), groups=16),
    Layer("c", "conv", 16, 24, 8, 8, (3, 3), (1, 1), (1, 1)),
]
ORACLES = {count: Oracle(LAYERS[:count], load_accelerator("bitserial-tiny")) for count in (2, 3)}
SMALL = AutoqOptions(hidden=16, batch=16, high_updates=4, low_updates=4)


class Sensitive:
    """Some kernels and activations need their bits more than others; a deterministic, known accuracy."""

    reference_accuracy = 1.0

    def __init__(self):
        generator = np.random.default_rng(1)
        self.deviations = [np.exp(generator.standard_normal(layer.out_channels)) for layer in LAYERS]
        self.layers = np.exp(1.5 * generator.standard_normal((len(LAYERS), 2)))

    def accuracy(self, policy):
        loss = 0.0
        for entry, deviations, (weights, activations) in zip(policy.layers, self.deviations, self.layers, strict=True):
            loss += weights * (deviations**2 * 4.0 ** -np.array(entry.weights.bits)).mean()
            loss += activations * 4.0**-entry.activations.bits
        return math.exp(-2 * loss)


def make_task(group=1, budget="latency=0.4", activation_widths=range(1, 9), **options):
    options = {"weight_widths": range(9), **options}
    space = Space("net", LAYERS, group=group, activation_widths=activation_widths, **options)
    evaluator = Sensitive()
    costs = Costs(space, ORACLES[3])
    return Task(costs, evaluator, parse_budgets(budget), kernel_deviations=evaluator.deviations)


def play(agent, episodes):
    return [outcome.reward for outcome in (agent.episode() for _ in range(episodes))]


def through_a_file(state):
    """The state after ``torch.save`` and a load that refuses everything but plain data."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_kernel_wise_it_finds_what_random_search_does_not_find():
    autoq = play(make_agent("autoq", make_task(), episodes=20, seed=0), 20)[1:]  # without the widest, backed off
    chance = play(RandomAgent(make_task(), 0), 19)
    assert max(autoq) > max(chance) + 0.5


@pytest.mark.parametrize("seed", range(2))
def test_it_learns_which_of_two_layers_needs_its_bits(seed):
    # No budget, one width per layer: the reward is what the second layer has more than the first.
    space = Space("net", LAYERS[:2], activation_widths=None)
    agent = AutoqAgent(space, 50, seed, AutoqOptions(actor_rate=5e-4, high_updates=10, low_updates=0))
    task = Task(Costs(space, ORACLES[2]), Sensitive())
    observe = AutoqObservation(task)
    observations = [observe(Progress(step, space.widest, 1.0)) for step in range(2)]
    for _ in range(50):
        actions = [float(agent.act(observation)[0]) for observation in observations]
        agent.finish_episode([0.0, actions[1] - actions[0]])
    first, second = (agent._high.act(torch.from_numpy(observation))[0] for observation in observations)
    assert first < 0.3
    assert second > 0.7


def test_the_low_controller_learns_which_kernels_need_their_bits():
    # The reward is what kernels of large deviations get more than others.
    task = make_task(budget="none", activation_widths=None)
    agent = AutoqAgent(task.space, 30, 0, AutoqOptions(high_updates=0))
    observe = AutoqObservation(task)
    observations = [observe(Progress(step, task.space.widest, 1.0)) for step in range(len(task.space.variables))]
    beyond = np.array([observation[AutoqObservation.DEVIATION] for observation in observations]) - 0.5
    for _ in range(30):
        actions = [float(agent.act(observation)[0]) for observation in observations]
        agent.finish_episode([float(beyond @ actions)])
    agent._tilt = 0.0
    for observation in observations:
        agent._choose(torch.from_numpy(observation), 0.5)
    assert np.corrcoef([distance for _, distance in agent._choices], beyond)[0, 1] > 0.5


def test_a_goal_is_relabeled_with_what_the_kernels_got():
    # Widths 0, 2, 8 have the ranks 1/6, 1/2, 5/6. Groups of 10 kernels: 10 and 6 of 16.
    space = Space("net", LAYERS[:2], weight_widths=[0, 2, 8], activation_widths=[4, 8], group=10)
    agent = AutoqAgent(space, 10, 0, SMALL)
    # a: 10 kernels at 8 and 6 at 0; b: 10 at 2 and 6 at 8. The widths of the activations do not count.
    achieved = agent.achieved([8, 0, 4, 2, 8, 8])
    assert achieved.tolist() == pytest.approx([(10 * 5 + 6 * 1) / 6 / 16, (10 * 3 + 6 * 5) / 6 / 16])


def test_what_is_remembered_is_the_relabeled_goal_and_its_distance_from_the_one_that_was_set():
    task = make_task(budget="none")
    agent = AutoqAgent(task.space, 10, 0, SMALL)
    observe = AutoqObservation(task)
    for _ in range(2):  # the first is not remembered
        widths, goals, states = task.space.widest.copy(), [], []
        for step in range(len(widths)):
            action = float(agent.act(observe(Progress(step, widths, 1.0)))[0])
            widths[step] = task.space.width(step, action)
        goals = [decision[0] for _, decision in agent._decisions]
        states = [state for state, _ in agent._choices]
        agent.finish_episode([-1.0])
    memory = agent.state_dict()["memory"]
    achieved = [np.mean([(w + 0.5) / 9 for w in words]) for words in kernel_widths(task.space, widths)]
    assert memory["high_actions"][0, :, 0].tolist() == pytest.approx(achieved, abs=1e-6)
    assert memory["gaps"][0].tolist() == pytest.approx([abs(g - a) for g, a in zip(goals, achieved, strict=True)])
    # The kernels' state keeps the goal that they were given.
    assert [float(state[-1]) for state in states] == pytest.approx(np.repeat(goals, [16, 16, 24]))
    assert torch.equal(memory["low"][0], torch.stack(states))


def kernel_widths(space, vector):
    return [[int(digit) for digit in word[:-1]] for word in space.text(vector).split()]


def test_activations_get_what_was_decided_when_their_layer_began():
    task = make_task()
    agent = AutoqAgent(task.space, 10, 5, SMALL)
    agent._episode = 1
    observe, actions = AutoqObservation(task), []
    for step in range(len(task.space.variables)):
        actions.append(float(agent.act(observe(Progress(step, task.space.widest, 1.0)))[0]))
    last = [16, 33, 58]  # of each layer
    decided = [decision[1] for _, decision in agent._decisions]
    assert [actions[step] for step in last] == pytest.approx(decided)


@pytest.mark.parametrize(
    "options",
    [
        {"group": None},
        {"group": 5},
        {"activation_widths": None},
        {"pin_ends": True, "budget": "none"},
        {"weight_widths": [2, 3, 8], "activation_widths": [8], "budget": "latency=0.6"},
        {"group": None, "weight_widths": [4], "activation_widths": None, "budget": "none"},
    ],
)
def test_it_walks_every_space(options):
    task = make_task(**options)
    agent = make_agent("autoq", task, episodes=5, seed=0)
    outcomes = [agent.episode() for _ in range(7)]  # more than it was made for
    for outcome in outcomes:
        assert outcome.budget_used <= 1
        for width, variable in zip(outcome.vector.tolist(), task.space.variables, strict=True):
            assert width in variable.widths


def test_the_first_episode_asks_for_the_widest_bits_and_is_not_remembered():
    task = make_task(budget="none")
    agent = make_agent("autoq", task, episodes=5, seed=0)
    assert (agent.episode().vector == task.space.widest).all()
    assert len(agent.state_dict()["memory"]["rewards"]) == 0
    agent.episode()
    assert len(agent.state_dict()["memory"]["rewards"]) == 1


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    first, again, other = (play(make_agent("autoq", make_task(), episodes=8, seed=seed), 8) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("episodes_before", [0, 1, 6])
def test_a_saved_agent_continues_bit_for_bit(episodes_before):
    options = {"budget": "none", "group": None}  # few policies, so that some repeat
    agent = make_agent("autoq", make_task(**options), episodes=10, seed=3)
    resumed = make_agent("autoq", make_task(**options), episodes=10, seed=99)
    play(agent, episodes_before)
    resumed.load_state_dict(through_a_file(agent.state_dict()))
    assert play(agent, 8) == play(resumed, 8)
    one, other = agent.state_dict(), resumed.state_dict()
    assert all(torch.equal(one["memory"][name], other["memory"][name]) for name in one["memory"])


def test_a_state_is_a_copy():
    agent = make_agent("autoq", make_task(), episodes=8, seed=3)
    play(agent, 4)
    state = agent.state_dict()
    weights = state["low"]["actor"]["0.weight"].clone()
    play(agent, 2)
    assert torch.equal(state["low"]["actor"]["0.weight"], weights)
    assert len(state["memory"]["rewards"]) == 3


def test_a_state_of_another_agent_is_refused():
    task = make_task()
    state = AutoqAgent(task.space, 8, 0, SMALL).state_dict()
    for other in (
        AutoqAgent(task.space, 8, 0),
        AutoqAgent(task.space, 9, 0, SMALL),
        AutoqAgent(make_task(None).space, 8, 0, SMALL),
    ):
        with pytest.raises(InputError, match="resume with the network and the agent of the saved run"):
            other.load_state_dict(state)
    with pytest.raises(InputError, match="expected the state of an AutoQ agent"):
        AutoqAgent(task.space, 8, 0, SMALL).load_state_dict(RandomAgent(task, 0).state_dict())


def test_the_global_random_generator_is_not_touched():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    play(make_agent("autoq", make_task(), episodes=4, seed=3), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_constant_for_a_quarter_of_the_run_then_falls_to_the_last_sigma():
    agent = AutoqAgent(make_task().space, 401, 0, SMALL)
    sigmas, zetas = [], []
    for agent._episode in range(401):
        sigmas.append(agent.sigma)
        zetas.append(agent.zeta)
    assert sigmas[:100] == [0.5] * 100
    assert np.allclose(np.diff(np.log(sigmas[101:])), np.log(0.1) / 299.75)
    assert sigmas[-1] == pytest.approx(0.05)
    assert (zetas[0], zetas[-1]) == pytest.approx((0.1, 0.8))
    assert np.allclose(np.diff(zetas), 0.7 / 400)


def test_repetitions_are_not_learned_from():
    agent = make_agent("autoq", make_task(None, "none", None, weight_widths=[4]), episodes=4, seed=0)
    play(agent, 4)  # there is only one policy
    assert len(agent.state_dict()["memory"]["rewards"]) == 0


def test_a_repetition_doubles_the_noise_and_a_new_policy_halves_it_again():
    space = Space("net", LAYERS[:1], activation_widths=None)
    agent, sigmas = AutoqAgent(space, 2, 0, AutoqOptions(hidden=8, last_sigma=0.1)), []
    observation = np.zeros(AutoqObservation.size, dtype=np.float32)
    agent._episode = 5  # the schedule is over
    for action in (0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.9, 0.7, 0.3):
        agent.act(observation)
        agent._actions[0] = action
        agent.finish_episode([0.0])
        sigmas.append(agent.sigma)
    assert sigmas == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5, 0.4, 0.2, 0.1, 0.1])


def test_ranks_do_not_depend_on_the_size_of_rewards():
    assert ranks(torch.tensor([-90.0, -1.0, 3.0])).tolist() == pytest.approx([-math.sqrt(3), 0, math.sqrt(3)])
    assert ranks(torch.tensor([2.0, 2.0, 7.0])).tolist() == pytest.approx([-math.sqrt(3) / 2] * 2 + [math.sqrt(3)])
    assert ranks(torch.tensor([4.0])).tolist() == [0.0]
    assert float(ranks(torch.arange(500.0)).std()) == pytest.approx(1, abs=0.01)


def test_the_observation_of_a_kernel():
    task = make_task(group=8)
    observe = AutoqObservation(task)
    vector = task.space.widest.copy()
    vector[:] = 3
    first, second = (observe(Progress(step, vector, 1.0)) for step in (0, 1))
    # Layer, kernel, channels in and out, kernel size, stride, feature size, depthwise, weight step, bits before.
    assert first[:10].tolist() == pytest.approx([0, 0.25, 0, 0, 0, 0, 0, 0, 1, 1])
    assert second[:10].tolist() == pytest.approx([0, 0.75, 0, 0, 0, 0, 0, 0, 1, 3 / 8])
    deviations = task.kernel_deviations[0]
    assert first[10] == pytest.approx(relative_deviation(deviations)[:8].mean())
    activation = observe(Progress(5, vector, 1.0))  # of the depthwise layer
    assert activation[:10].tolist() == pytest.approx([0.5, 0.5, 1, 0, 0, 0, 0, 1, 0, 3 / 8])
    for step in range(len(vector)):
        seen = observe(Progress(step, vector, 1.0))
        assert seen.shape == (AutoqObservation.size,)
        assert seen.dtype == np.float32
        assert ((seen >= 0) & (seen <= 1)).all()


def test_a_doubling_of_the_deviation_is_an_eighth():
    assert relative_deviation(np.array([1.0, 4.0, 2.0])).tolist() == [0.375, 0.625, 0.5]
    assert relative_deviation(np.array([1.0, 0.0, 1.0])).tolist() == [0.5, 0.0, 0.5]
    assert relative_deviation(np.array([1e-9, 1.0])).tolist() == [0.0, 1.0]
    assert relative_deviation(np.zeros(2)).tolist() == [0.5, 0.5]


def test_deviations_that_are_not_one_per_kernel_are_refused():
    task = make_task()
    with pytest.raises(InputError, match="expected deviations of the kernels of 3 layers"):
        Task(task.costs, task.evaluator, kernel_deviations=[np.ones(16)])


def test_the_reward_in_both_modes():
    ratios = {"latency": 0.5, "energy": 0.25, "size": 0.1}
    assert make_reward("autoq")(0.8, 0.9, ratios) == pytest.approx(math.log(0.8))
    both = make_reward("autoq:latency=0.5, energy=0.25")
    assert both == Autoq.guarantee(latency=0.5, energy=0.25)
    assert both(0.8, 0.9, ratios) == pytest.approx(math.log(0.8**2 / (0.5**0.5 * 0.25**0.25)))
    assert Autoq.guarantee(area=0.5)(1.0, 1.0, ratios | {"area": 0.25}) == pytest.approx(math.log(2))


def test_no_accuracy_at_all_is_worth_a_finite_reward():
    assert make_reward("autoq")(0.0, 0.9, {}) == pytest.approx(math.log(1e-3))
    assert math.isfinite(make_reward("autoq:latency=0.5")(0.0, 0.9, {"latency": 0.0}))


@pytest.mark.parametrize("wrong", ["autoq:", "autoq:size=0.5", "autoq:latency", "autoq:latency=much"])
def test_exponents_of_another_form_are_refused(wrong):
    with pytest.raises(InputError, match="write for example autoq:latency=0"):
        make_reward(wrong)


def test_exponents_out_of_range_or_of_unknown_metrics_are_refused():
    with pytest.raises(InputError, match="exponent of energy is at least 0, got -1"):
        Autoq(energy=-1)
    with pytest.raises(InputError, match="the reward counts area, but what is known here is latency"):
        Autoq.guarantee(area=0.5)(1.0, 1.0, {"latency": 0.5})
