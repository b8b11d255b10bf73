"""Bits that are learned by gradient descent: AutoQNN's precision learning (QPL; Gong et al., arXiv 2304.03782, 4).

A quantizer projects ``x / alpha`` on its levels and multiplies by its step ``alpha``, which shrinks as bits are added.
Rounding is passed straight through, so bits ``b`` move a quantized value ``q`` only by way of the step:

    d loss / d b = -slope * sum(d loss / d q * (q - x)),    slope = -d ln(alpha) / d b

where values are within the range, and by ``q * (d ln(outer level) / d b)`` where they are clipped to the outer level.
The paper gives the chain of factors (its equation 5); what each of them is was derived for this module. `range_slope`
is the paper's average step, and the rule for any quantizer whose step follows it; `interval_slope` agrees best with
how squared errors fall, by a factor of 4 per bit; `clip_slope` is for ClipQ, whose steps come from a table.

A caution: of the parametrizations that Uhlich et al. (DQ, arXiv 1905.11452) compare, those with the bits as a parameter
consistently did worse than learning the step and the range, from which the bits follow. A step's gradient here also
depends on the bits themselves: few bits, large errors, large gradients. `LearnedBits` can scale them.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from hardware.errors import InputError
from hardware.schedule import MAX_BITS
from policies.space import ACTIVATIONS, WEIGHTS, Space

START = 4.0
"""Bits that learning begins with, as in the author's code."""

_CLIP = (7.0052e-4, -0.0185943, -0.452442)
"""ln(step / deviation) of ClipQ is cubic in the bits, to 0.0015 for 2 to 8: coefficients of b^3, b^2 and b."""
_CLIP_UNSIGNED = (-5.24827e-4, 6.04948e-3, -0.628579)
"""The same of the best steps for ReLU outputs (a normal variable's positive part, zero a level), to 0.0016."""


def range_slope(bits: float) -> float:
    """-d ln(step) / d bits of a step that is a fixed range over ``2**bits - 1``: the paper's average step."""
    return math.log(2) * 2**bits / (2**bits - 1)


def interval_slope(bits: float) -> float:
    """-d ln(step) / d bits of a step that is a fixed range over ``2**bits``: ln 2, whatever the bits."""
    return math.log(2)


def clip_slope(bits: float, signed: bool = True) -> float:
    """-d ln(step) / d bits of ClipQ's steps, which suit normal values; unsigned: of those for ReLU outputs."""
    cubic, square, linear = _CLIP if signed else _CLIP_UNSIGNED
    return -(3 * cubic * bits**2 + 2 * square * bits + linear)


def outer_slope(bits: float, slope: float, symmetric: bool = False) -> float:
    """d ln(outer level) / d bits: the outermost level is ``2**bits - 1`` steps (or half steps) of this slope away.

    ``symmetric``: ``2**(bits - 1) - 1`` steps, mid-tread levels in the sign and magnitude of at least 2 bits.
    """
    return range_slope(bits - 1 if symmetric else bits) - slope


class _BitsGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, quantized: Any, original: Any, bits: Any, slope: float, clipped: Any, outer: float) -> Any:
        moved = (original - quantized) * slope
        if clipped is not None:
            moved = torch.where(clipped, outer * quantized, moved)
        ctx.save_for_backward(moved, clipped)
        ctx.bits = bits.shape, bits.dtype
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        moved, clipped = ctx.saved_tensors
        (gradient,), (shape, dtype) = gradients, ctx.bits
        to_bits = (gradient * moved).sum().to(dtype).reshape(shape)
        return None, gradient if clipped is None else gradient.masked_fill(clipped, 0), to_bits, None, None, None


def bits_gradient(
    quantized: torch.Tensor,
    original: torch.Tensor,
    bits: torch.Tensor,
    slope: float,
    clipped: torch.Tensor | None = None,
    outer: float = 0.0,
) -> torch.Tensor:
    """``quantized``, but gradients pass to ``original`` straight through and to ``bits`` by the rule of this module.

    Parameters
    ----------
    quantized, original:
        Float, of one shape: values after and before the quantizer. No gradient passes into ``quantized`` itself.
    bits:
        One number: what the values were quantized with.
    slope:
        -d ln(step) / d bits there, for example ``range_slope(float(bits))``.
    clipped:
        bool, of that shape: values beyond the outer levels. They pass no gradient to ``original``. None, for schemes
        that clip nothing or pass gradients everywhere: all values count as within the range.
    outer:
        d ln(outer level) / d bits, `outer_slope`, for clipped values; 0 where the range does not depend on the bits.

    Raises
    ------
    InputError
        Other shapes, or several bits.
    """
    shapes = {tuple(values.shape) for values in (quantized, original, clipped) if values is not None}
    if len(shapes) > 1 or bits.numel() != 1:
        raise InputError(
            f"expected values of one shape and one number of bits, got shapes {sorted(shapes)} and {bits.numel()} "
            "numbers: pass one tensor's bits at a time."
        )
    return _BitsGradient.apply(quantized, original, bits, slope, clipped, outer)


def element_counts(space: Space) -> torch.Tensor:
    """How many elements each variable's bits are for: float64, (variables,); 0 for pinned variables.

    A layer's weights, or all elements of its input, which is what this project quantizes. AutoQNN quantizes outputs
    before pooling and counts these; there as here, what is left at 8 bits does not count.
    """
    return torch.tensor(
        [len(variable.widths) > 1 and _elements(space, index) for index, variable in enumerate(space.variables)],
        dtype=torch.float64,
    )


def _elements(space: Space, index: int) -> int:
    variable = space.variables[index]
    layer = space.layers[variable.layer]
    if variable.operand == WEIGHTS:
        return layer.weight_count
    return layer.images * layer.in_channels * layer.in_height * layer.in_width


class LearnedBits(nn.Module):
    """Real-valued master copies of the widths of a layer-wise space, in the order of its variables.

    Parameters
    ----------
    initial:
        Bits to begin with, one for all or one per variable; brought within each variable's widths.
    widths:
        Rising widths per variable, some or all of the space's; None for the space's own. A variable with a single one
        is pinned: it keeps it and gets no gradient. (So are the weights of a scheme that has only one width.)
    scaled:
        Multiply the gradients that come through `for_quantizers` by ``1 / sqrt(elements * largest level)``, as LSQ does
        its steps' (Esser et al., arXiv 1902.08153; recalled), so that large tensors do not move faster than small ones.

    Attributes
    ----------
    bits: torch.nn.Parameter
        float32, (variables,): the master copies. Call `clamp_` after every step of the optimizer.
    widths: tuple[tuple[int, ...], ...]

    Raises
    ------
    InputError
        A space finer than layers or with 0 bits (a pruned layer has no step to learn), or widths or initial bits that
        are not the variables'.
    """

    def __init__(
        self,
        space: Space,
        initial: float | Sequence[float] = START,
        widths: Sequence[Sequence[int]] | None = None,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        if not space.layer_wise or space.narrowest.min() < 1:
            raise InputError("bits are learned for whole layers, and of 1 bit or more: leave out --group and 0 bits.")
        count = len(space.variables)
        given = [variable.widths for variable in space.variables] if widths is None else widths
        start = [float(initial)] * count if isinstance(initial, int | float) else list(initial)
        if len(given) != count or len(start) != count:
            raise InputError(
                f"expected widths and initial bits of {count} variables, got {len(given)} and {len(start)}: "
                "give one entry per variable, layer by layer, weights first."
            )
        for variable, some in zip(space.variables, given, strict=True):
            if not some or list(some) != sorted(set(some) & set(variable.widths)):
                raise InputError(
                    f"expected rising widths among {list(variable.widths)}, got {list(some)}: make the space with "
                    "every width that a layer may have."
                )
        self.space, self.widths, self.scaled = space, tuple(tuple(some) for some in given), scaled
        self._layer = torch.tensor([variable.layer for variable in space.variables])
        self._operand = torch.tensor([variable.operand for variable in space.variables])
        # Widths as rows of one length, and where the next one is nearer: halfway, the upper one.
        longest = max(map(len, self.widths))
        rows = torch.tensor([[*some, *[some[-1]] * (longest - len(some))] for some in self.widths]).float()
        middles = torch.where(rows[:, 1:] > rows[:, :-1], (rows[:, 1:] + rows[:, :-1]) / 2, math.inf)
        self._rows: torch.Tensor
        self._middles: torch.Tensor
        self.register_buffer("_rows", rows, persistent=False)
        self.register_buffer("_middles", middles, persistent=False)
        self.bits = nn.Parameter(torch.tensor(start, dtype=torch.float32))
        self.clamp_()

    def rounded(self) -> torch.Tensor:
        """The nearest widths, (variables,) float32; the gradient passes unchanged, but for pinned variables."""
        inside = self.bits.clamp(self._rows[:, 0], self._rows[:, -1])
        index = (inside.detach()[:, None] >= self._middles).sum(1, keepdim=True)
        nearest = self._rows.gather(1, index)[:, 0]
        free = self._rows[:, 0] < self._rows[:, -1]
        return torch.where(free, nearest + (inside - inside.detach()), nearest)

    def for_quantizers(self) -> torch.Tensor:
        """`rounded`, whose gradient is scaled if it shall be: what a quantizer's `bits_gradient` takes.

        What the hardware costs goes by `rounded` itself: it is not summed over a tensor's elements.
        """
        nearest = self.rounded()
        if not self.scaled:
            return nearest
        whole = nearest.detach()
        scale = torch.tensor(
            [1 / math.sqrt(_elements(self.space, i) * self._levels(i, width)) for i, width in enumerate(whole.tolist())]
        ).to(whole)
        return whole + scale * (nearest - whole)

    def layer_bits(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and activation bits, (layers,) each, of ``values`` (variables,); 8 where a layer has no variable."""
        found = []
        for operand in (WEIGHTS, ACTIVATIONS):
            mine = torch.nonzero(self._operand == operand)[:, 0].to(values.device)
            full = values.new_full((len(self.space.layers),), MAX_BITS)
            found.append(full.index_put((self._layer.to(values.device)[mine],), values[mine]))
        return found[0], found[1]

    def vector(self) -> np.ndarray:
        """The nearest widths as the space's vector: int64, (variables,)."""
        return self.rounded().detach().cpu().numpy().astype(np.int64)

    @torch.no_grad()
    def set_(self, vector: np.ndarray) -> None:
        """Put the master copies on a vector (variables,), for example one that was repaired."""
        self.bits.copy_(torch.from_numpy(vector))
        self.clamp_()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring the master copies back within their widths: to be called after every step of the optimizer."""
        self.bits.copy_(self.bits.clamp(self._rows[:, 0], self._rows[:, -1]))

    def _levels(self, index: int, width: float) -> float:
        """Largest integer of a variable's tensor."""
        variable = self.space.variables[index]
        signed = variable.operand == WEIGHTS or self.space.layers[variable.layer].signed_activations
        return max(2 ** (width - signed) - 1, 1)
