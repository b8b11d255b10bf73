"""ReLeQ's agent: it learns, the same seed gives the same run, and a saved agent goes on where it was."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.agent import Player, make_agent
from policies.costs import Costs
from policies.environment import BitWidthEnv
from policies.haq import HaqAgent
from policies.observations import Progress, ReleqObservation
from policies.releq import PRESETS, ActorCritic, ReleqAgent, ReleqOptions
from policies.space import Space
from policies.task import Task

LAYERS = (
    Layer("stem", "conv", 3, 8, 16, 16, (3, 3), (1, 1), (1, 1)),
    Layer("wide", "conv", 8, 24, 16, 16, (5, 5), (2, 2), (2, 2)),
    Layer("head", "linear", 36, 10),
)
OPTIMUM = (8, 2, 8)
SHORT = PRESETS["short"]


class Near:
    """Accuracy falls with the distance from the optimum, and remembers how often it was asked."""

    reference_accuracy = 0.8

    def __init__(self):
        self.calls = 0

    def accuracy(self, policy):
        self.calls += 1
        bits = np.array([entry.weights.bits for entry in policy.layers])
        return 1 - float(abs(np.log2(bits) - np.log2(OPTIMUM)).mean()) / 3


@pytest.fixture
def task(tiny):
    """``task(activation_widths=...)``: widths 2, 4 and 8 for the weights of three layers, or another space."""

    def build(weight_deviation=None, evaluator=None, **space):
        space = Space("net", LAYERS, **({"weight_widths": (2, 4, 8), "activation_widths": None} | space))
        costs = Costs(space, Oracle(LAYERS, tiny))
        return Task(costs, evaluator or Near(), weight_deviation=weight_deviation)

    return build


def player(task, seed=0, options=SHORT):
    choices = [len(variable.widths) for variable in task.space.variables]
    return Player(BitWidthEnv(task, "releq", options.every_step), ReleqAgent(choices, seed, options))


def run(agent, episodes):
    return [agent.episode().vector.tolist() for _ in range(episodes)]


def through_a_file(state):
    """The state after ``torch.save`` and a load that refuses everything but plain data."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def distance(vectors):
    """From the optimum, in doublings of a width; random widths: 1."""
    return abs(np.log2(vectors) - np.log2(OPTIMUM)).mean()


@pytest.mark.parametrize("options", [SHORT, replace(SHORT, every_step=True)])
def test_releq_learns_the_best_widths(task, options):
    runs = [run(player(task(), seed, options), 100) for seed in range(3)]
    assert all(list(OPTIMUM) in vectors for vectors in runs)
    assert np.mean([distance(vectors[-20:]) for vectors in runs]) < 0.4


@pytest.mark.parametrize("preset", PRESETS)
def test_all_presets_learn_which_of_three_actions_pays(preset):
    agent = ReleqAgent((3,), 0, replace(PRESETS[preset], rate=2e-3))  # the published ones are twenty times slower
    actions = []
    for _ in range(120):
        actions.append(float(agent.act(np.zeros(8, dtype=np.float32))[0]))
        agent.finish_episode([float(actions[-1] == 0.5)])
    assert np.mean([action == 0.5 for action in actions[-20:]]) > 0.8


def test_the_same_seed_gives_the_same_run(task):
    first, second, other = (run(make_agent("releq", task(), episodes=30, seed=seed), 30) for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_the_global_random_generator_is_left_alone(task):
    before = torch.get_rng_state()
    run(player(task()), 6)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("episodes", [4, 13])  # before the first update, and between two
@pytest.mark.parametrize("options", [SHORT, PRESETS["paper"]])
def test_a_saved_agent_goes_on_bit_for_bit(task, episodes, options):
    agent, resumed = player(task(), 5, options), player(task(), 0, options)
    run(agent, episodes)
    state = agent.state_dict()
    resumed.load_state_dict(through_a_file(state))
    assert run(agent, 12) == run(resumed, 12)  # the state is a copy: what the agent learns does not change it
    again = player(task(), 1, options)
    again.load_state_dict(state)
    run(again, 12)
    for one, two in ((agent, resumed), (agent, again)):
        for key, weights in one.agent.state_dict()["network"].items():
            assert torch.equal(weights, two.agent.state_dict()["network"][key])


def test_an_agent_saved_within_an_episode_goes_on_with_it():
    agent, resumed = ReleqAgent((3, 3), 0), ReleqAgent((3, 3), 1)
    observation = np.full(8, 0.5, dtype=np.float32)
    agent.act(observation)
    resumed.load_state_dict(through_a_file(agent.state_dict()))
    assert agent.act(observation) == resumed.act(observation)
    for one in (agent, resumed):
        one.finish_episode([0.0, 1.0])


def test_the_state_of_another_agent_is_refused():
    agent = ReleqAgent((3, 3), 0)
    others = (
        ReleqAgent((3, 3, 3), 0),
        ReleqAgent((3, 2), 0),
        ReleqAgent((3, 3), 0, ReleqOptions(clip=0.25)),
        HaqAgent(2, 10, 0),
    )
    for other in others:
        with pytest.raises(InputError, match="expected the state of a ReLeQ agent with"):
            agent.load_state_dict(other.state_dict())


def test_a_pinned_variable_has_one_width_and_others_are_never_chosen(task):
    pinned = task(pin_ends=True)
    assert [len(variable.widths) for variable in pinned.space.variables] == [1, 3, 1]
    agent = player(pinned)
    vectors = np.array(run(agent, 40))
    assert (vectors[:, [0, 2]] == 8).all()
    assert set(vectors[:, 1]) == {2, 4, 8}


def test_every_variable_may_have_its_own_number_of_widths():
    network = ActorCritic(8, (1, 4, 2), 1.0)
    logarithms, values, _ = network(torch.rand(5, 3, 8))
    probabilities = logarithms.exp()
    assert probabilities.shape == (5, 3, 4)
    assert values.shape == (5, 3)
    assert (probabilities > 0).sum(-1).tolist() == [[1, 4, 2]] * 5
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(5, 3))
    logarithms[..., 0].sum().backward()
    assert all(torch.isfinite(weights.grad).all() for weights in network.policy.parameters())


def test_playing_step_by_step_is_the_same_as_the_whole_episode_at_once():
    network, observations, state = ActorCritic(8, (3, 2, 3), 0.5), torch.rand(1, 3, 8), None
    whole, _, _ = network(observations)
    for step in range(3):
        one, _, state = network(observations[:, step : step + 1], step, state)
        torch.testing.assert_close(one[0, 0], whole[0, step])


def test_activations_can_be_searched_too(task):
    vectors = np.array(run(player(task(activation_widths=(4, 8))), 30))
    assert set(vectors[:, 1::2].flat) == {4, 8}
    assert set(vectors[:, ::2].flat) == {2, 4, 8}


def test_advantages_are_the_sums_of_the_discounted_errors():
    agent = ReleqAgent((2, 2, 2), 0, replace(SHORT, discount=0.9, trace=0.5))
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 0.25, 1.0]])
    errors = [1 + 0.9 * 0.25 - 0.5, 0.9 * 1.0 - 0.25, 2 - 1.0]
    expected = [errors[0] + 0.45 * errors[1] + 0.45**2 * errors[2], errors[1] + 0.45 * errors[2], errors[2]]
    torch.testing.assert_close(agent._advantages(rewards, values), torch.tensor([expected]))


def test_a_single_episode_is_not_compared_with_itself():
    with pytest.raises(InputError, match="one episode has no other to compare it with"):
        ReleqOptions(episodes_per_update=1)


def test_episodes_that_are_all_alike_teach_nothing_but_entropy():
    agent = ReleqAgent((3, 3), 0, ReleqOptions(entropy=0.0, value=0.0))
    before = agent.state_dict()["network"]
    for _ in range(5):
        agent._trace = [(torch.full((8,), 0.5), 1), (torch.full((8,), 0.6), 2)]
        agent.finish_episode([0.0, 0.7])
    assert all(torch.equal(weights, before[key]) for key, weights in agent.state_dict()["network"].items())


def test_the_scale_of_the_reward_does_not_matter(task):
    near = task()
    far = task()
    far.reward = lambda accuracy, reference, ratios: 1000 * near.reward(accuracy, reference, ratios) - 3000
    assert run(player(near), 30) == run(player(far), 30)


def test_every_step_is_evaluated_only_if_asked_for(task):
    for options, most in ((SHORT, 1), (replace(SHORT, every_step=True), 3)):
        evaluator = Near()
        player(task(evaluator=evaluator), 1, options).episode()
        assert 1 <= evaluator.calls <= most
        assert (evaluator.calls > 1) == options.every_step


def test_observations_are_releqs_eight_numbers(task):
    observe = ReleqObservation(task(weight_deviation=np.array([0.2, 0.05, 0.1])))
    assert np.allclose(
        [
            observe(Progress(0, np.array([8, 8, 8]), 1.0)),
            observe(Progress(1, np.array([2, 8, 8]), 0.7)),
            observe(Progress(2, np.array([2, 4, 8]), 1.1)),
        ],
        # index, bits, state of quantization, accuracy, n 8-24, c 3-36, k 0-5, deviation
        [
            [0, 1, 1, 1, 0, 0, 3 / 5, 1],
            [1 / 3, 1, 18 / 24, 0.7, 1, 5 / 33, 1, 0.25],
            [2 / 3, 1, 14 / 24, 1, 2 / 16, 1, 0, 0.5],
        ],
    )


def test_observations_stay_within_0_and_1(task):
    env = BitWidthEnv(task(group=1, activation_widths=(1, 8), weight_widths=(0, 3, 8), evaluator=Half()), "releq", True)
    generator = np.random.default_rng(0)
    observation, _ = env.reset()
    over = False
    while not over:
        assert observation.dtype == np.float32
        assert observation in env.observation_space
        observation, _, over, _, _ = env.step(generator.random(1, dtype=np.float32))
    assert observation[7] == 0  # no deviations are known


class Half:
    reference_accuracy = 0.4

    def accuracy(self, policy):
        return 0.5
