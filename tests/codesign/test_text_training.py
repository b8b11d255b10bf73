import math

import pytest
import torch
from torch import nn

from codesign.networks.lstm_classifier import LSTMClassifier
from codesign.networks.lstm_language_model import LSTMLanguageModel
from codesign.text import TextData, TextSplit
from codesign.text_training import bigram_perplexity, perplexity, train, unigram_perplexity
from codesign.training import accuracy
from hardware.errors import InputError

WORDS = 12


def random_tokens(count, length, seed):
    return torch.randint(0, WORDS, (count, length), generator=torch.Generator().manual_seed(seed))


def made(splits, classes):
    vocabulary = tuple(f"word{number}" for number in range(WORDS))
    return TextData("made", *splits, classes=classes, signed_input=False, vocabulary=vocabulary)


def topics():
    """Which third of the vocabulary the last word but one is from."""
    splits = [TextSplit(tokens, tokens[:, -2] // 4) for tokens in (random_tokens(n, 5, n) for n in (400, 60, 61))]
    return made(splits, ("a", "b", "c"))


def stream():
    """The word after the next one in the vocabulary follows, whatever the first is."""
    splits = []
    for count in (120, 30, 31):
        tokens = (random_tokens(count, 1, count) + 2 * torch.arange(9)) % WORDS
        splits.append(TextSplit(tokens[:, :-1], tokens[:, 1:]))
    return made(splits, tuple(map(str, range(WORDS))))


def classifier(seed=0, cell="lstm"):
    torch.manual_seed(seed)
    return LSTMClassifier(WORDS, 3, embedding=8, hidden=16, cell=cell)


def language_model(seed=0):
    torch.manual_seed(seed)
    return LSTMLanguageModel(WORDS, embedding=8, hidden=16)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_classifier_learns_and_is_judged_as_images_are(cell):
    data, network, epochs = topics(), classifier(cell=cell), []
    assert accuracy(network, data.test) < 0.7
    train(network, data, epochs=12, seed=0, learning_rate=0.02, progress=epochs.append)
    assert epochs == list(range(1, 13))
    assert not network.training
    assert accuracy(network, data.test) > 0.95


def test_a_language_model_learns_what_follows():
    data, network = stream(), language_model()
    assert perplexity(network, data.test) == pytest.approx(WORDS, rel=0.2)
    train(network, data, epochs=15, seed=0, learning_rate=0.02)
    assert perplexity(network, data.test) < 1.1
    assert perplexity(network, data.test, batch=4) == pytest.approx(perplexity(network, data.test), rel=1e-5)
    assert accuracy(network, data.test) > 0.99


@pytest.mark.parametrize(("make", "data"), [(classifier, topics()), (language_model, stream())])
def test_one_seed_gives_one_network_and_leaves_the_global_state(make, data):
    states = []
    for seed in (3, 3, 4):
        network = make()
        before = torch.get_rng_state()
        train(network, data, epochs=2, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(network.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["embedding.weight"], states[2]["embedding.weight"])


def test_perplexity_is_the_exponential_of_the_mean_loss():
    class Even(nn.Module):
        def forward(self, tokens):
            assert not self.training
            return torch.zeros(*tokens.shape, WORDS)

    network = Even()
    assert perplexity(network, stream().test) == pytest.approx(WORDS)
    assert network.training  # as it was


def test_baselines_of_word_counts():
    data = stream()
    assert unigram_perplexity(data) == pytest.approx(WORDS, rel=0.05)
    assert bigram_perplexity(data) < 1.1  # what follows depends on one word only
    tokens, test = torch.zeros(1, 30, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64)
    labels = torch.tensor([[0] * 10 + [1] * 20])
    split = TextSplit(test, torch.tensor([[0, 1, 1, 2]]))
    small = made([TextSplit(tokens, labels), split, split], tuple(map(str, range(WORDS))))
    chances = [count / (30 + WORDS) for count in (11, 21, 21, 1)]  # every count one more than it was
    assert unigram_perplexity(small) == pytest.approx(math.prod(chances) ** (-1 / 4))
    blends = [
        math.prod((n + k * p) / (30 + k) for n, p in zip((10, 20, 20, 0), chances, strict=True)) for k in (1, 1000)
    ]
    assert bigram_perplexity(small) == pytest.approx(max(blends) ** (-1 / 4))


def test_bad_training_is_refused():
    with pytest.raises(InputError, match="at least 1 epoch"):
        train(classifier(), topics(), epochs=0, seed=0)
    network = classifier()
    network.embedding.weight.data[:] = torch.inf
    with pytest.raises(InputError, match="diverged"):
        train(network, topics(), epochs=1, seed=0)
