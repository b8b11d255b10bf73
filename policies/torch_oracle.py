"""The oracle for gradient methods: cycles of real-valued bits, which autograd differentiates."""

import numpy as np
import torch

from hardware.errors import InputError
from hardware.oracle import check_table
from hardware.schedule import MAX_BITS


class TorchOracle:
    """Interpolates a cost table between whole bits, bilinearly: at whole bits it is the table.

    In a cell between whole bits a layer's cycles are linear in its weight bits and linear in its activation bits. At a
    whole width, where two cells meet, the gradient is that of the cell above (the right-hand one), or below if asked
    for; at either end that of the only cell. Away from the ends a machine may be cheaper with one bit more, so
    gradients can be negative.

    Parameters
    ----------
    table:
        Cycles, (layers, 9, 8) for weight bits 0 to 8, as `hardware.oracle.Oracle.table`, or (layers, 8, 8) for 1 to 8.
        Any other cost that adds up over layers will do.
    below:
        At whole widths, give the gradient of the cell below: what one bit less would save.

    Raises
    ------
    InputError
        A table that `hardware.oracle.check_table` refuses, or infinite entries: between a width that the buffers hold
        and one that they do not, there is no slope to follow.
    """

    def __init__(self, table: np.ndarray, below: bool = False):
        table = check_table(table, len(table))
        if np.isinf(table).any():
            layer = int(np.argwhere(np.isinf(table))[0, 0])
            raise InputError(
                f"layer {layer} does not fit the buffers at all widths, so its cost has no gradient: choose an "
                "accelerator with larger buffers."
            )
        self.lowest = MAX_BITS + 1 - table.shape[1]
        """Fewest weight bits, 0 or 1."""
        self._table, self._below = torch.from_numpy(table), below

    def __call__(self, weight_bits: torch.Tensor, activation_bits: torch.Tensor) -> torch.Tensor:
        """Cycles of policies, float64: a scalar, or one for each policy of a batch.

        Parameters
        ----------
        weight_bits, activation_bits:
            Any floating type, (layers,) or (..., layers); weights in [`lowest`, 8], activations in [1, 8]. The cycles
            are float64 whatever the type, because float32 cannot hold a network's cycles; gradients have its own.

        Raises
        ------
        InputError
            Other shapes, or bits outside these ranges (nan included).
        """
        return self.by_layer(weight_bits, activation_bits).sum(dim=-1)

    def by_layer(self, weight_bits: torch.Tensor, activation_bits: torch.Tensor) -> torch.Tensor:
        """Cycles of the layers, float64 in the shape of the bits; as a call, which adds them up."""
        table = self._table.to(weight_bits.device)
        layers = len(table)
        if weight_bits.shape != activation_bits.shape or weight_bits.shape[-1:] != (layers,):
            raise InputError(
                f"expected weight and activation bits of one shape (..., {layers}), got {tuple(weight_bits.shape)} and "
                f"{tuple(activation_bits.shape)}: give every layer both."
            )
        w_cell, w = _cell(weight_bits, self.lowest, "weight", self._below)
        a_cell, a = _cell(activation_bits, 1, "activation", self._below)
        layer = torch.arange(layers, device=table.device)
        low, wide = table[layer, w_cell, a_cell], table[layer, w_cell + 1, a_cell]
        deep, both = table[layer, w_cell, a_cell + 1], table[layer, w_cell + 1, a_cell + 1]
        return low + (wide - low) * w + (deep - low) * a + (both - wide - deep + low) * w * a


def _cell(bits: torch.Tensor, lowest: int, operand: str, below: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Table index of the whole width at or below ``bits`` (or below), and how far above it they are, 0 to 1."""
    values = bits.detach()
    if not ((values >= lowest) & (values <= MAX_BITS)).all():
        raise InputError(
            f"expected {operand} bits from {lowest} to {MAX_BITS}, got {values.min().item():g} to "
            f"{values.max().item():g}: clamp them first."
        )
    cell = (values.ceil() - 1 if below else values.floor()).clamp(lowest, MAX_BITS - 1).long() - lowest
    return cell, bits.to(torch.float64) - (cell + lowest)
