"""LSTM, GRU and plain recurrent networks with their gate matrices as linear layers, which quantizers then take the
place of.

PyTorch's own modules hold the matrices as parameters and multiply by them out of sight. Here every direction of every
layer has two ``nn.Linear``: ``ih_l0`` for its input, all gates and all steps at once, and ``hh_l0`` for its state, step
by step; names and order of the gates are PyTorch's. The quantizer on the input of ``hh`` is that of the state, which
AutoQNN (Gong et al., JCST 39(2), 2024) quantizes along with the matrices. Gates are added and squashed in floats.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hardware.errors import InputError

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
"""Gates by PyTorch's name of the mode."""
_PLAIN = {kind.forward for kind in (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)}
State = tuple[torch.Tensor, ...]
"""The hidden state, and of an LSTM the cell's: ``(N, H)`` each."""


def _step(mode: str, from_input: torch.Tensor, from_state: torch.Tensor, state: State) -> State:
    """The next state of the gates' sums ``(N, gates * H)``, by the equations in PyTorch's documentation."""
    if mode == "LSTM":
        i, f, g, o = (from_input + from_state).chunk(4, 1)
        cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell
    if mode == "GRU":
        (r_x, z_x, n_x), (r_h, z_h, n_h) = from_input.chunk(3, 1), from_state.chunk(3, 1)
        new = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
        z = torch.sigmoid(z_x + z_h)
        return ((1 - z) * new + z * state[0],)
    squash = torch.tanh if mode == "RNN_TANH" else torch.relu
    return (squash(from_input + from_state),)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A linear layer of a matrix; without a bias its bias is zeros, as every layer that is quantized has one."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight.detach().clone())
    layer.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias.detach().clone())
    return layer


def _prepared(layer: nn.Module) -> AbstractContextManager[nn.Module]:
    """The layer as it serves many steps: a quantized one with its weights quantized once for all."""
    prepare: Any = getattr(layer, "prepared", None)
    return prepare() if prepare else nullcontext(layer)


class Recurrent(nn.Module):
    """Does what an ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` does.

    Parameters
    ----------
    source:
        The module; its weights are copied.

    Raises
    ------
    InputError
        A projection of the state (``proj_size``).
    """

    def __init__(self, source: nn.RNNBase) -> None:
        super().__init__()
        if source.proj_size:
            raise InputError(
                "an LSTM that projects its state (proj_size) cannot be converted: leave the projection out."
            )
        self.mode, self.hidden_size, self.num_layers = source.mode, source.hidden_size, source.num_layers
        self.input_size, self.bidirectional = source.input_size, source.bidirectional
        self.batch_first, self.dropout = source.batch_first, source.dropout
        self.directions = ("", "_reverse") if source.bidirectional else ("",)
        for layer in range(self.num_layers):
            for direction in self.directions:
                for part in ("ih", "hh"):
                    name = f"{part}_l{layer}{direction}"
                    weight: Any = getattr(source, f"weight_{name}")
                    setattr(self, name, _linear(weight, getattr(source, f"bias_{name}", None)))

    def forward(self, input: torch.Tensor, hx: Any = None) -> tuple[torch.Tensor, Any]:
        """As PyTorch's: all outputs ``(N, T, directions * H)`` (or by ``batch_first``), and the last state.

        Raises
        ------
        InputError
            A packed sequence.
        """
        x, state = input, hx
        if not isinstance(x, torch.Tensor):
            raise InputError(f"a recurrent layer got a {type(x).__name__}, expected a tensor: pad it instead.")
        single = x.ndim == 2
        x = x[None] if single else x if self.batch_first else x.transpose(0, 1)
        given = None if state is None else state if isinstance(state, tuple) else (state,)
        last: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for number, direction in enumerate(self.directions):
                index = layer * len(self.directions) + number
                start = tuple(part[index].reshape(len(x), -1) for part in given) if given else self._zeros(x)
                output, end = self._run(x, start, f"l{layer}{direction}")
                outputs.append(output)
                last.append(end)
            x = torch.cat(outputs, 2)
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        x = x[0] if single else x if self.batch_first else x.transpose(0, 1)
        ends = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
        ends = tuple(part[:, 0] for part in ends) if single else ends
        return x, ends if self.mode == "LSTM" else ends[0]

    def flatten_parameters(self) -> None:
        """Nothing: there is nothing to flatten."""

    def _zeros(self, x: torch.Tensor) -> State:
        return tuple(x.new_zeros(len(x), self.hidden_size) for _ in range(2 if self.mode == "LSTM" else 1))

    def _run(self, x: torch.Tensor, state: State, name: str) -> tuple[torch.Tensor, State]:
        """One direction of one layer: ``(N, T, H)`` and the last state."""
        from_input = self.get_submodule(f"ih_{name}")(x)
        steps = range(x.shape[1])
        outputs: list[torch.Tensor] = [x] * len(steps)
        with _prepared(self.get_submodule(f"hh_{name}")) as hidden:
            for step in reversed(steps) if name.endswith("_reverse") else steps:
                state = _step(self.mode, from_input[:, step], hidden(state[0]), state)
                outputs[step] = state[0]
        return torch.stack(outputs, 1), state


class RecurrentCell(nn.Module):
    """Does what an ``nn.LSTMCell``, ``nn.GRUCell`` or ``nn.RNNCell`` does; its layers are ``ih`` and ``hh``."""

    def __init__(self, source: nn.RNNCellBase) -> None:
        super().__init__()
        nonlinearity = f"RNN_{getattr(source, 'nonlinearity', '')}".upper()
        self.mode = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU"}.get(type(source), nonlinearity)
        self.hidden_size = source.hidden_size
        self.ih, self.hh = _linear(source.weight_ih, source.bias_ih), _linear(source.weight_hh, source.bias_hh)

    def forward(self, input: torch.Tensor, hx: Any = None) -> Any:
        """As PyTorch's: the next state, ``(N, H)`` or ``(H,)``, of an LSTM with the cell's."""
        x, state = input, hx
        single = x.ndim == 1
        x = x[None] if single else x
        parts = 2 if self.mode == "LSTM" else 1
        given = state if isinstance(state, tuple) else (state,) * parts
        start = tuple(
            x.new_zeros(len(x), self.hidden_size) if part is None else part.reshape(len(x), -1) for part in given
        )
        end = _step(self.mode, self.ih(x), self.hh(start[0]), start)
        end = tuple(part[0] for part in end) if single else end
        return end if self.mode == "LSTM" else end[0]


def expand(module: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """Put `Recurrent` and `RecurrentCell` in the place of PyTorch's own modules, in place.

    Returns
    -------
    The module, another one if it is recurrent itself; and what could not be taken, and why, by the module's path.
    """
    refused: dict[str, str] = {}
    mine: dict[nn.Module, nn.Module] = {}
    for path, child in list(module.named_modules(remove_duplicate=False)):
        if not isinstance(child, nn.RNNBase | nn.RNNCellBase):
            continue
        if type(child).forward not in _PLAIN:
            refused[path] = f"{type(child).__name__} computes in a way of its own"
            continue
        if child not in mine:
            try:
                new = Recurrent(child) if isinstance(child, nn.RNNBase) else RecurrentCell(child)
            except InputError as error:
                refused[path] = str(error)
                continue
            mine[child] = new.train(child.training)
        if not path:
            return mine[child], refused
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, mine[child])
    return module, refused
