import pytest
import torch
from torch import fx, nn

from codesign.networks import create_network, load_weights
from codesign.networks.lstm_classifier import LSTMClassifier
from codesign.networks.lstm_language_model import LSTMLanguageModel
from hardware.errors import InputError


@pytest.mark.parametrize(
    ("name", "vocabulary", "scores", "parameters"),
    [
        ("lstm-classifier", 3000, (2, 6), 225_670),
        ("lstm-lm", 3000, (2, 5, 3000), 903_096),
        ("lstm-lm-ptb", 10_000, (2, 5, 10_000), 6_732_400),
    ],
)
def test_built_in_recurrent_networks_score_texts(name, vocabulary, scores, parameters):
    network = create_network(name, seed=0)
    assert network(torch.tensor([[0, 1, 2, 3, 4], [vocabulary - 1] * 5])).shape == scores
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert isinstance(network.rnn, nn.LSTM)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_cells_and_sizes(cell):
    tokens = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))
    classifier = LSTMClassifier(20, 4, embedding=6, hidden=8, fully_connected=(5, 3), cell=cell)
    assert type(classifier.rnn) is {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
    assert [part.weight.shape for part in classifier.classifier if isinstance(part, nn.Linear)] == [
        (5, 8),
        (3, 5),
        (4, 3),
    ]
    assert classifier(tokens).shape == (3, 4)
    model = LSTMLanguageModel(20, embedding=6, hidden=8, cell=cell)
    scores = model(tokens)
    assert scores.shape == (3, 7, 20)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 20
    assert torch.equal(model(changed)[:, :4], scores[:, :4])  # a word tells nothing about those before it
    assert not torch.equal(model(changed)[:, 4], scores[:, 4])
    for network in (classifier, model):
        torch.testing.assert_close(fx.symbolic_trace(network)(tokens), network(tokens))


def test_papers_sizes_are_arguments():
    network = LSTMClassifier(100, 10, embedding=300, hidden=512, fully_connected=(256, 128))
    assert network.rnn.weight_ih_l0.shape == (4 * 512, 300)
    assert [part.out_features for part in network.classifier if isinstance(part, nn.Linear)] == [256, 128, 10]


def test_weights_are_kept_and_an_unknown_cell_refused(tmp_path):
    first, other = (create_network("lstm-classifier", seed) for seed in (0, 1))
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    load_weights(other, tmp_path / "weights.pt")
    assert all(torch.equal(value, first.state_dict()[key]) for key, value in other.state_dict().items())
    with pytest.raises(InputError, match="unknown cell 'grus': did you mean 'gru'"):
        LSTMLanguageModel(cell="grus")
