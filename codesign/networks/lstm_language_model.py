"""A recurrent language model: embedding, LSTM or GRU, and at every position the scores of the word that follows.

Small by default, for ``python-text``. AutoQNN's network for Penn Treebank (Gong et al., JCST 39(2), 2024, arXiv
2304.03782) is ``LSTMLanguageModel(10_000, embedding=300, hidden=300)``.
"""

import torch
from torch import nn

from codesign.networks.lstm_classifier import recurrent


class LSTMLanguageModel(nn.Module):
    """Input: words' numbers, int64 ``(N, T)``; output ``(N, T, vocabulary)``. Every text starts at a state of zeros.

    Parameters
    ----------
    vocabulary:
        Words that the input can name, and that are scored.
    embedding, hidden:
        Features of a word, and of the state.
    cell:
        ``lstm`` or ``gru``.
    """

    def __init__(self, vocabulary: int = 3000, embedding: int = 128, hidden: int = 128, cell: str = "lstm") -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.rnn = recurrent(cell, embedding, hidden)
        self.decoder = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of the words that may follow each one."""
        return self.decoder(self.rnn(self.embedding(tokens))[0])
