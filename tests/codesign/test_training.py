import pytest
import torch
from torch import nn

from codesign.data import load_data
from codesign.networks import create_network
from codesign.tracing import trace
from codesign.training import FineTune, FineTuneEvaluator, accuracy, train
from hardware.errors import InputError
from policies.policy import Policy


@pytest.fixture(scope="module")
def data():
    return load_data("digits")


@pytest.fixture(scope="module")
def trained(data):
    network = create_network("lenet", seed=0)
    train(network, data, epochs=30, seed=0)
    return network


@pytest.fixture(scope="module")
def traced(trained, data):
    return trace(trained, data.input_shape, data.signed_input)


@pytest.fixture(scope="module")
def evaluator(traced, data):
    return FineTuneEvaluator(traced, data, FineTune(), seed=3)


def policy(traced, bits):
    return Policy.uniform("lenet", traced.layers, bits, bits)


def states_equal(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_lenet_learns_the_digits(trained, data):
    assert accuracy(trained, data.test) >= 0.97


def test_accuracy_counts_right_answers_and_restores_the_mode(trained, data):
    with torch.no_grad():
        right = [int(trained(data.test.batch(slice(i, i + 1))).argmax()) for i in range(50)]
    expected = sum(r == label for r, label in zip(right, data.test.labels.tolist(), strict=False)) / 50
    trained.train()
    assert accuracy(trained, data.test.take(slice(50)), batch=7) == expected
    assert trained.training
    trained.eval()


class Dropping(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10)
        )


def test_training_follows_its_seed_and_leaves_the_global_state(data):
    """With dropout and batch norm, and a batch size that leaves a single image over."""

    def run(seed):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Dropping()
        finished = []
        train(network, data, epochs=2, seed=seed, batch=538, progress=finished.append)
        assert finished == [1, 2]
        return network

    assert len(data.train) % 538 == 1
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = run(1)
    assert torch.equal(torch.rand(3), expected)
    assert not first.training
    assert states_equal(first, run(1))
    assert not states_equal(first, run(2))


def test_accuracy_of_a_policy_does_not_depend_on_what_came_before(evaluator, traced, data):
    first = evaluator.accuracy(policy(traced, 3))
    evaluator.accuracy(policy(traced, 2))
    assert evaluator.accuracy(policy(traced, 3)) == first
    again = FineTuneEvaluator(traced, data, FineTune(), seed=3)
    assert states_equal(again.quantized(policy(traced, 3)), evaluator.quantized(policy(traced, 3)))
    other = FineTuneEvaluator(traced, data, FineTune(), seed=4)
    assert not states_equal(other.quantized(policy(traced, 3)), evaluator.quantized(policy(traced, 3)))


def test_quantized_network_is_the_one_whose_accuracy_was_given(evaluator, traced, data):
    network = evaluator.quantized(policy(traced, 3))
    assert not network.training
    assert network.policy == policy(traced, 3)
    assert accuracy(network, data.validation) == evaluator.accuracy(policy(traced, 3))


def test_many_bits_keep_the_accuracy_and_few_lose_it(evaluator, trained, traced, data):
    assert evaluator.reference_accuracy == accuracy(trained, data.validation)
    eight, four, two = (evaluator.accuracy(policy(traced, bits)) for bits in (8, 4, 2))
    assert abs(eight - evaluator.reference_accuracy) <= 0.01
    assert four >= evaluator.reference_accuracy - 0.03
    assert 0.5 < two < four


def test_fine_tuning_helps(traced, data):
    """On the training images, where it must."""
    losses = []
    for epochs in (0, 6):
        evaluator = FineTuneEvaluator(traced, data, FineTune(epochs=epochs, learning_rate=1e-2), seed=0)
        network = evaluator.quantized(policy(traced, 2))
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(network(data.train.batch()), data.train.labels)))
    assert losses[1] < 0.85 * losses[0]


def test_subsets_are_used(traced, data):
    evaluator = FineTuneEvaluator(traced, data, FineTune(images=50, validation_images=40), seed=0)
    assert (evaluator.accuracy(policy(traced, 8)) * 40).is_integer()
    assert (evaluator.reference_accuracy * 40).is_integer()


@pytest.mark.parametrize(
    "options", [{"epochs": -1}, {"batch": 1}, {"images": 0}, {"validation_images": 0}, {"learning_rate": 0.0}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        FineTune(**options)


def test_training_for_no_epoch_is_refused(data):
    with pytest.raises(InputError, match="at least 1 epoch"):
        train(create_network("lenet", seed=0), data, epochs=0, seed=0)
