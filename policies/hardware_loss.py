"""What bits cost, as losses that gradients flow through: AutoQNN's mean precision, and a machine's cycles and joules.

AutoQNN's precision learning (Gong et al., arXiv 2304.03782) pulls the mean bits, weighted by elements, to a target.
That mean knows no machine: the bits that the paper finds take 2.24 times the bit operations of 3 bits everywhere. So
here a price per layer takes the mean's place: `HardwareLoss` is ``h(cost / budget - 1)`` of the same budgets that the
other agents keep. Everything is relative to its budget, so that weights of losses need no units.

Prices are for the bits that they are given: with `LearnedBits.rounded` for those that will be deployed, and gradients
go to the master copies. At whole bits the gradient is what one bit less would save.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hardware.errors import InputError, unknown
from hardware.layer import Layer
from policies.budget import Budget
from policies.costs import Costs
from policies.space import ACTIVATIONS, WEIGHTS, Space
from policies.torch_oracle import TorchOracle

Price = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What each layer costs: float64 (..., layers), of weight and activation bits (..., layers)."""

PENALTIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "square": lambda excess: excess.clamp(min=0).square(),
    "absolute": torch.abs,
    "linear": lambda excess: excess,
}
"""h of ``cost / budget - 1``. ``square`` is one-sided and lets go below the budget; ``absolute`` (FracBits) holds on to
it from both sides; ``linear`` is for `DualAscent`, whose weight knows the sign."""


class PrecisionLoss:
    """AutoQNN's precision loss (equation 6): mean bits against a target, weights and activations apart.

    Parameters
    ----------
    counts:
        Elements of each variable, (variables,), for example `policies.learned_bits.element_counts`: the paper's mean
        counts elements, so a large layer's bits matter most. 0 leaves a variable out.
    weights, activations:
        Target mean bits.
    norm:
        ``square`` or ``absolute`` difference; the paper does not say which.

    Raises
    ------
    InputError
        An unknown norm, or counts that are not one per variable.
    """

    def __init__(
        self, space: Space, counts: torch.Tensor, weights: float, activations: float, norm: str = "square"
    ) -> None:
        if norm not in ("square", "absolute"):
            raise unknown("norm of the precision loss", norm, ("square", "absolute"))
        if counts.shape != (len(space.variables),):
            raise InputError(
                f"expected element counts of {len(space.variables)} variables, got shape {tuple(counts.shape)}: "
                "give one per variable."
            )
        operand = torch.tensor([variable.operand for variable in space.variables])
        shares = [torch.where(operand == which, counts.double(), 0.0) for which in (WEIGHTS, ACTIVATIONS)]
        self._shares = torch.stack([share / share.sum().clamp(min=1e-300) for share in shares])
        self._counted = self._shares.sum(1) > 0
        self._targets, self._norm = torch.tensor([weights, activations], dtype=torch.float64), norm

    def means(self, bits: torch.Tensor) -> torch.Tensor:
        """Mean bits of weights and of activations, float64 (2,), of bits (variables,); 0 where there are none."""
        return self._shares.to(bits.device) @ bits.double()

    def __call__(self, bits: torch.Tensor) -> torch.Tensor:
        """The two losses, float64 (2,); 0 for an operand without elements."""
        off = (self.means(bits) - self._targets.to(bits.device)) * self._counted.to(bits.device)
        return off.square() if self._norm == "square" else off.abs()


def table_price(costs: Costs, metric: str) -> Price:
    """The price of a layer by a metric of `policies.costs.METRICS`.

    Raises
    ------
    InputError
        A metric that cannot be priced, costs that are not sums over layers of whole-layer widths, or a layer that does
        not fit the buffers at all widths.
    """
    costs.check(metric)
    if not (costs.additive and costs.space.layer_wise):
        raise InputError(
            "a hardware loss adds up what whole layers cost: leave out --group, and choose the accelerator beforehand."
        )
    if metric == "size":
        return product_price([layer.weight_count for layer in costs.space.layers], activations=False)
    return TorchOracle(costs.tables[metric], below=True).by_layer


def bit_operations(layers: Sequence[Layer]) -> Price:
    """Multiply-accumulates times both widths: easy, and a poor proxy of latency on most machines."""
    return product_price([layer.macs for layer in layers])


def product_price(factors: Sequence[float], activations: bool = True) -> Price:
    """``factor * weight bits * activation bits`` of each layer, or without the activation bits."""
    factor = torch.tensor(factors, dtype=torch.float64)

    def price(weight_bits: torch.Tensor, activation_bits: torch.Tensor) -> torch.Tensor:
        cost = factor.to(weight_bits.device) * weight_bits.double()
        return cost * activation_bits.double() if activations else cost + 0 * activation_bits.double()

    return price


def expected_cost(
    price: Price,
    weight_bits: torch.Tensor,
    activation_bits: torch.Tensor,
    weight_shares: torch.Tensor | None = None,
    activation_shares: torch.Tensor | None = None,
) -> torch.Tensor:
    """What every layer costs on average if its schemes are drawn: float64, (layers,); differentiable in everything.

    With ``shares = softmax(theta / temperature)`` a scheme's gradient is ``share / temperature * (its own cost - the
    layer's)``: the choice of a scheme learns what its planes cost.

    Parameters
    ----------
    weight_bits, activation_bits:
        (layers,); or (layers, schemes): the planes that each scheme takes on the machine at the layer's bits, from 1
        to 8 where the price is a table's.
    weight_shares, activation_shares:
        (layers, schemes): probabilities of the schemes, rows of sum 1; None where there is one. Weights and
        activations are drawn independently.

    Raises
    ------
    InputError
        Shares that are not of the bits' shape.
    """
    (w_bits, w_shares), (a_bits, a_shares) = (
        _mixture(bits, shares) for bits, shares in ((weight_bits, weight_shares), (activation_bits, activation_shares))
    )
    w, a = torch.broadcast_tensors(w_bits.T[:, None], a_bits.T[None])  # (weight schemes, activation schemes, layers)
    return (w_shares.T[:, None] * a_shares.T[None] * price(w, a)).sum((0, 1))


def _mixture(bits: torch.Tensor, shares: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    if shares is None and bits.ndim == 1:
        return bits[:, None], torch.ones_like(bits)[:, None]
    if shares is None or bits.ndim != 2 or shares.shape != bits.shape:
        raise InputError(
            f"expected bits (layers,), or bits and probabilities (layers, schemes), got {tuple(bits.shape)} and "
            f"{None if shares is None else tuple(shares.shape)}: give every scheme both."
        )
    return bits, shares


@dataclass(frozen=True)
class Target:
    """A limit on a cost.

    Parameters
    ----------
    price:
        Of the layers.
    most:
        What they may cost together, in the price's unit; above 0.
    """

    price: Price
    most: float

    def __post_init__(self) -> None:
        if not 0 < self.most < math.inf:
            raise InputError(f"expected a target above 0 to measure costs by, got {self.most:g}: raise it.")


def budget_targets(budgets: Sequence[Budget], costs: Costs) -> list[Target]:
    """The budgets as targets: shares of what 8 bits everywhere cost.

    Raises
    ------
    InputError
        What `table_price` refuses.
    """
    return [Target(_mix([(table_price(costs, m), s / costs.full[m]) for m, s in b.shares]), b.ratio) for b in budgets]


def _mix(parts: Sequence[tuple[Price, float]]) -> Price:
    return lambda w, a: torch.stack([share * price(w, a) for price, share in parts]).sum(0)


class HardwareLoss:
    """``h(cost / target - 1)`` of one or several targets.

    Parameters
    ----------
    targets:
        `budget_targets`, or anybody's.
    penalty:
        Name of h, one of `PENALTIES`.

    Raises
    ------
    InputError
        An unknown penalty, or no target.
    """

    def __init__(self, targets: Sequence[Target], penalty: str = "square") -> None:
        if penalty not in PENALTIES:
            raise unknown("penalty", penalty, tuple(PENALTIES))
        if not targets:
            raise InputError("a hardware loss needs a budget to keep, got none: write for example latency=0.6.")
        self.targets, self._penalty = tuple(targets), PENALTIES[penalty]

    def used(
        self,
        weight_bits: torch.Tensor,
        activation_bits: torch.Tensor,
        weight_shares: torch.Tensor | None = None,
        activation_shares: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Share of each target that the network uses, float64 (targets,); arguments as of `expected_cost`."""
        mixture = weight_bits, activation_bits, weight_shares, activation_shares
        return torch.stack([expected_cost(target.price, *mixture).sum() / target.most for target in self.targets])

    def __call__(self, used: torch.Tensor) -> torch.Tensor:
        """The penalties of what is `used`, float64 (targets,): multiply by weights (`ramp`, `DualAscent`) and sum."""
        return self._penalty(used - 1)


def ramp(progress: float, start: float = 0.01, end: float = 0.5) -> float:
    """The weight of a loss that comes in slowly: from ``start`` to 1 over the first part of training, then 1.

    After DUCCIO (in PLiNIO), which goes from 1 % to 100 % over the first half; straight, here.

    Parameters
    ----------
    progress:
        How much of training is done, 0 to 1.
    end:
        Where 1 is reached.
    """
    return start + (1 - start) * min(max(progress / end, 0.0), 1.0)


class DualAscent:
    """Weights that grow as long as their target is exceeded: ``weight <- max(0, weight + rate * (used - 1))``.

    For the penalty ``linear``: the sum ``weights * (used - 1)`` then is a Lagrangian, and no weight has to be chosen.

    Attributes
    ----------
    weights: torch.Tensor
        float64, (targets,): 0 at first. Save and assign it to go on later.
    """

    def __init__(self, targets: int, rate: float) -> None:
        self.weights, self.rate = torch.zeros(targets, dtype=torch.float64), rate

    def update(self, used: torch.Tensor) -> None:
        """Take one step after what was used, (targets,)."""
        self.weights = (self.weights + self.rate * (used.detach().to(self.weights) - 1)).clamp(min=0)
