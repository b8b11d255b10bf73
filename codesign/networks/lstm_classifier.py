"""A recurrent classifier of texts: embedding, LSTM or GRU, fully connected layers on the last state.

Small by default, for ``python-topics``. AutoQNN's network for THUCNews (Gong et al., JCST 39(2), 2024, arXiv
2304.03782) is ``LSTMClassifier(vocabulary, classes, embedding=300, hidden=512, fully_connected=(256, 128))``.
"""

from itertools import pairwise

import torch
from torch import nn

from hardware.errors import unknown

_CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


def recurrent(cell: str, features: int, hidden: int) -> nn.LSTM | nn.GRU:
    """A layer from ``(N, T, features)`` to ``(N, T, hidden)`` and its last state; ``cell`` is ``lstm`` or ``gru``."""
    if cell not in _CELLS:
        raise unknown("cell", cell, _CELLS)
    return _CELLS[cell](features, hidden, batch_first=True)


class LSTMClassifier(nn.Module):
    """Input: words' numbers, int64 ``(N, T)``; output ``(N, classes)``.

    Parameters
    ----------
    vocabulary:
        Words that the input can name.
    embedding, hidden:
        Features of a word, and of the state.
    fully_connected:
        Features of the layers between the state and the scores, with ReLU.
    cell:
        ``lstm`` or ``gru``.
    """

    def __init__(
        self,
        vocabulary: int = 3000,
        classes: int = 6,
        embedding: int = 64,
        hidden: int = 64,
        fully_connected: tuple[int, ...] = (),
        cell: str = "lstm",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.rnn = recurrent(cell, embedding, hidden)
        sizes = (hidden, *fully_connected)
        layers = [part for before, after in pairwise(sizes) for part in (nn.Linear(before, after), nn.ReLU())]
        self.classifier = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        states = self.rnn(self.embedding(tokens))[0]
        return self.classifier(states[:, -1])
