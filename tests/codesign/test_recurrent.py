"""Recurrent layers taken apart against PyTorch's own."""

import pytest
import torch
from torch import nn

from codesign.recurrent import Recurrent, RecurrentCell, expand
from hardware.errors import InputError

OPTIONS = (
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"bias": False, "batch_first": True},
    {"num_layers": 3, "dropout": 0.5},
)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN, lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k)])
def test_it_does_what_pytorchs_layer_does(make, options):
    torch.manual_seed(0)
    source = make(5, 7, **options).eval()
    mine = Recurrent(source).eval()
    x = torch.randn(3, 4, 5)
    for inputs in (x, x[0]):
        expected, state = source(inputs)
        output, own = mine(inputs)
        assert_same((expected, *parts(state)), (output, *parts(own)))
        expected, again = source(inputs, state)  # from a state
        output, own = mine(inputs, own)
        assert_same((expected, *parts(again)), (output, *parts(own)))


def test_gradients_reach_every_matrix_and_are_pytorchs():
    torch.manual_seed(0)
    source = nn.LSTM(5, 7, num_layers=2, batch_first=True)
    mine = Recurrent(source)
    x = torch.randn(3, 4, 5)
    source(x)[0].square().sum().backward()
    mine(x)[0].square().sum().backward()
    for name, parameter in source.named_parameters():
        kind, rest = name.split("_", 1)
        torch.testing.assert_close(
            parameter.grad, mine.get_submodule(rest).get_parameter(kind).grad, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("make", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_does_what_pytorchs_does(make):
    torch.manual_seed(0)
    source, x = make(5, 7), torch.randn(3, 5)
    mine = RecurrentCell(source)
    for inputs in (x, x[0]):
        state = source(inputs)
        assert_same(parts(state), parts(mine(inputs)))
        assert_same(parts(source(inputs, state)), parts(mine(inputs, state)))


def test_modules_are_exchanged_wherever_they_are_and_shared_ones_stay_shared():
    shared = nn.GRU(4, 4, batch_first=True)
    network = nn.ModuleDict({"a": shared, "b": nn.ModuleList([shared, nn.LSTMCell(4, 4)])})
    expanded, refused = expand(network)
    assert expanded is network
    assert not refused
    assert isinstance(network["a"], Recurrent)
    assert network["a"] is network["b"][0]
    assert isinstance(network["b"][1], RecurrentCell)
    alone, _ = expand(nn.LSTM(3, 3))
    assert isinstance(alone, Recurrent)


def test_a_projection_is_refused_by_name_and_a_packed_sequence_by_type():
    network = nn.Sequential(nn.LSTM(4, 4, proj_size=2))
    _, refused = expand(network)
    assert list(refused) == ["0"]
    assert "proj_size" in refused["0"]
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 4)])
    with pytest.raises(InputError, match="PackedSequence"):
        Recurrent(nn.LSTM(4, 4))(packed)


def test_it_is_called_and_asked_as_pytorchs_layer_is():
    torch.manual_seed(0)
    source = nn.LSTM(4, 3, num_layers=2, bidirectional=True)
    mine = Recurrent(source)
    mine.flatten_parameters()
    assert (mine.num_layers, mine.hidden_size, mine.input_size, mine.bidirectional) == (2, 3, 4, True)
    state = (torch.randn(4, 2, 3), torch.randn(4, 2, 3))
    x = torch.randn(5, 2, 4)
    torch.testing.assert_close(mine(input=x, hx=state)[0], source(input=x, hx=state)[0], rtol=1e-5, atol=1e-6)
