"""Accuracy from a table: for benchmarks in which every policy was trained once, by somebody else perhaps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hardware.errors import InputError
from policies.policy import Policy

PERCENT = ("top1_percent", "accuracy_percent")
FRACTION = ("accuracy", "top1")


class TableEvaluator:
    """Answers from a table of policies.

    Parameters
    ----------
    path:
        CSV: columns ``w1`` to ``wN``, weight bits of the layers in order; optionally ``a1`` to ``aN``, activation bits
        (without them activations are not part of the table); and one of ``top1_percent``, ``accuracy_percent``,
        ``accuracy`` or ``top1`` (the last two fractions).
    reference:
        Accuracy before quantization, a fraction; the table's highest if not given.

    Attributes
    ----------
    layers: int
    weight_widths, activation_widths: tuple[int, ...]
        Widths that the table holds, rising; no activation widths if it has no such columns.
    accuracies: dict[tuple[int, ...], float]
        Fractions by weight bits, then activation bits.

    Raises
    ------
    InputError
        No such file, other columns, a policy twice, or entries that are not widths or accuracies.
    """

    def __init__(self, path: Path, reference: float | None = None) -> None:
        try:
            frame = pd.read_csv(path)
        except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
            raise InputError(f"cannot read {path} as CSV ({error}): give a table of policies.") from None
        figure = next((name for name in (*PERCENT, *FRACTION) if name in frame), None)
        self.layers = next(count for count in range(len(frame.columns) + 1) if f"w{count + 1}" not in frame)
        if figure is None or not self.layers:
            raise InputError(
                f"{path}: expected columns w1, w2, ... and one of {', '.join((*PERCENT, *FRACTION))}, got "
                f"{', '.join(map(str, frame.columns))}: name them so."
            )
        names = [f"w{index + 1}" for index in range(self.layers)]
        activations = [f"a{index + 1}" for index in range(self.layers)]
        with_activations = all(name in frame for name in activations)
        columns = names + (activations if with_activations else [])
        keys, figures = frame[columns].to_numpy(), frame[figure].to_numpy()
        numbers = keys.dtype.kind == "i" and figures.dtype.kind in "if"
        fractions = figures / 100 if numbers and figure in PERCENT else figures
        if not (numbers and ((fractions >= 0) & (fractions <= 1)).all()):
            raise InputError(
                f"{path}: expected whole widths and {figure} between 0 and {100 if figure in PERCENT else 1}: "
                "mend the table."
            )
        self.accuracies = {tuple(key): float(value) for key, value in zip(keys.tolist(), fractions, strict=True)}
        if len(self.accuracies) < len(frame):
            raise InputError(f"{path}: {len(frame) - len(self.accuracies)} policies stand twice: keep one row of each.")
        self._path, self._with_activations = path, with_activations
        self._reference = float(fractions.max()) if reference is None else reference
        self.weight_widths = _widths(keys[:, : self.layers])
        self.activation_widths = _widths(keys[:, self.layers :]) if with_activations else ()

    @property
    def reference_accuracy(self) -> float:
        """As given, or the table's highest."""
        return self._reference

    def accuracy(self, policy: Policy) -> float:
        """The table's entry.

        Raises
        ------
        InputError
            The table does not hold the policy.
        """
        weights: Sequence[object] = [entry.weights.bits for entry in policy.layers]
        activations = [entry.activations.bits for entry in policy.layers] if self._with_activations else []
        key = (*weights, *activations)
        if key not in self.accuracies:
            raise InputError(
                f"{self._path} holds no policy {' '.join(map(str, key))}: search only widths that the table holds."
            )
        return self.accuracies[key]


def _widths(columns: np.ndarray) -> tuple[int, ...]:
    return tuple(int(width) for width in np.unique(columns))
