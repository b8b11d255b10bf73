"""QSS: which quantization scheme a tensor gets, learned by gradient descent through a Gumbel-softmax mixture.

After Gong et al., AutoQNN (arXiv 2304.03782), section 3.2. A quantizing vertex has n candidates, a scheme at a width
each, and a state vector theta. With Gumbel noise g and a temperature t the candidates' shares are
``b = softmax((theta + g) / t)``. Soft (equation 2), the vertex gives ``sum_j b_j Q_j(x)``; hard (equation 1),
``Q_k(x)`` of the largest ``theta + g``, and the gradient is that of the shares (straight-through Gumbel, Jang et al.,
arXiv 1611.01144: ours, since equation 1 alone has none). While t falls to zero soft becomes hard, while it grows all
shares become 1/n.

The paper states only that t falls from a large value to 0 by an exponential coefficient; forms and values of
`temperature` are ours.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from hardware.errors import InputError, unknown
from policies.scheme_base import Scheme

Candidate = tuple[Scheme, int]
"""A scheme and its bits."""

FLOOR = 1e-3
"""Least temperature."""


def temperature(
    epoch: float, epochs: float, first: float = 5.0, gamma: float = 3.0, schedule: Literal["A", "B"] = "A"
) -> float:
    """Temperature of an epoch, ``first`` at epoch 0 and never below `FLOOR`.

    A: ``first * (1 - epoch / epochs)**gamma``, which reaches 0; B: ``first * exp(-gamma * epoch / epochs)``.

    The noise stays large to the end, so that candidates of nearly the same error may change places: theta alone,
    trained by 1,000 steps of Adam on the error of normal weights at 3 bits (clip .0375, pot .0461), ended at pot in 14
    of 256 runs with the learning rate 0.02, in 11 where ``first`` and ``gamma`` were 1, in 1 with the rate 0.01 too.

    Raises
    ------
    InputError
        An unknown schedule, or an epoch not within 0 to ``epochs``.
    """
    if schedule not in ("A", "B"):
        raise unknown("schedule", schedule, ("A", "B"))
    if not (epochs > 0 and 0 <= epoch <= epochs):
        raise InputError(f"expected an epoch from 0 to the number of epochs, got {epoch} of {epochs}: count from 0.")
    part = epoch / epochs
    return max(first * ((1 - part) ** gamma if schedule == "A" else math.exp(-gamma * part)), FLOOR)


def candidates(schemes: Sequence[Scheme], bits: int) -> tuple[Candidate, ...]:
    """Each scheme at its widest width up to ``bits``; those that have none are left out."""
    fitting = [(scheme, [width for width in scheme.widths if width <= bits]) for scheme in schemes]
    return tuple((scheme, max(widths)) for scheme, widths in fitting if widths)


class SchemeSearch:
    """State vectors of all vertices of a network.

    Parameters
    ----------
    vertices:
        The candidates of every quantizing vertex, by name.
    groups:
        The group of every vertex; vertices of a group share one state vector and its noise (coarse-grained), and so
        have the same candidates. None: each has its own (fine-grained).
    hard:
        Equation 1 instead of 2.
    seed:
        Of the noise.

    Raises
    ------
    InputError
        No candidates, a vertex without a group, or different candidates in one group.
    """

    def __init__(
        self,
        vertices: Mapping[str, Sequence[Candidate]],
        groups: Mapping[str, str] | None = None,
        hard: bool = False,
        seed: int = 0,
    ) -> None:
        self.hard = hard
        self._candidates: dict[str, tuple[Candidate, ...]] = {}  # by group
        self._groups: dict[str, str] = {}
        for vertex, given in vertices.items():
            group = vertex if groups is None else groups.get(vertex)
            if group is None:
                raise InputError(f"expected a group for every vertex, got none for {vertex!r}: add it to the groups.")
            if not given:
                raise InputError(f"expected candidates for vertex {vertex!r}, got none: give it a scheme at least.")
            if self._candidates.setdefault(group, tuple(given)) != tuple(given):
                raise InputError(
                    f"expected the same candidates in all of group {group!r}, got others for vertex {vertex!r}: give "
                    "it a group of its own."
                )
            self._groups[vertex] = group
        self._generator = torch.Generator().manual_seed(seed)
        self._theta = {
            group: torch.zeros(len(c), dtype=torch.float64, requires_grad=True) for group, c in self._candidates.items()
        }
        self._noise = {group: torch.zeros_like(theta, requires_grad=False) for group, theta in self._theta.items()}
        self.temperature = 1.0

    def parameters(self) -> list[torch.Tensor]:
        """The state vectors, float64 ``(n,)`` each, all 0 at the start, for an optimizer."""
        return list(self._theta.values())

    def draw(self, temperature: float) -> None:
        """New noise, and the temperature, for what follows: once per step of training.

        Raises
        ------
        InputError
            A temperature that is not positive.
        """
        if not temperature > 0:
            raise InputError(f"expected a positive temperature, got {temperature}: {FLOOR} is as good as 0.")
        self.temperature = temperature
        for noise in self._noise.values():
            # An exponential variable is never 0, and is -log u of a uniform one.
            noise.exponential_(generator=self._generator).log_().neg_()

    def shares(self, vertex: str) -> torch.Tensor:
        """b of a vertex, ``(n,)``, which sum to 1: differentiable in theta. Without noise until the first `draw`."""
        group = self._group(vertex)
        logits = self._theta[group] + self._noise[group]
        soft = torch.softmax(logits / self.temperature, 0)
        return _OneHot.apply(soft, logits.detach().argmax()) if self.hard else soft

    def mix(self, vertex: str, x: torch.Tensor, parameters: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        """What the vertex makes of a tensor.

        Parameters
        ----------
        x:
            Float, any shape.
        parameters:
            By candidate what its scheme's `fit` returns, averaged for activations; None: of x itself, per tensor.

        Returns
        -------
        Float, shaped as x; differentiable in theta and, as the schemes say, in x.
        """
        shares, offered = self.shares(vertex).to(x), self.candidates(vertex)
        if parameters is None:
            parameters = [scheme.fit(x, bits) for scheme, bits in offered]
        parts = [s.fake_quantize(x, bits, given) for (s, bits), given in zip(offered, parameters, strict=True)]
        return sum((share * part for share, part in zip(shares, parts, strict=True)), torch.zeros_like(x))

    def price(self, vertex: str, prices: Sequence[float] | torch.Tensor) -> torch.Tensor:
        """``sum_j b_j c_j`` of the candidates' prices c, for the loss: a scalar, differentiable in theta and in c.

        Raises
        ------
        InputError
            Not one finite price per candidate.
        """
        shares, given = self.shares(vertex), torch.as_tensor(prices, dtype=torch.float64)
        if given.shape != shares.shape or not given.isfinite().all():
            raise InputError(
                f"expected {len(shares)} finite prices for vertex {vertex!r}, one per candidate, got "
                f"{given.tolist()}: leave out candidates that have no price."
            )
        return (shares * given).sum()

    def candidates(self, vertex: str) -> tuple[Candidate, ...]:
        """In the order of all vectors here."""
        return self._candidates[self._group(vertex)]

    def probabilities(self, vertex: str) -> torch.Tensor:
        """``softmax(theta)``, ``(n,)``: how often noise would make each candidate the largest. Without gradient."""
        return torch.softmax(self._theta[self._group(vertex)].detach(), 0)

    def choice(self, vertex: str) -> Candidate:
        """The candidate of the largest theta, the first of equal ones."""
        return self.candidates(vertex)[int(self._theta[self._group(vertex)].argmax())]

    def _group(self, vertex: str) -> str:
        if vertex not in self._groups:
            raise unknown("vertex", vertex, self._groups)
        return self._groups[vertex]

    def _description(self) -> dict[str, Any]:
        offered = {v: [(repr(s), bits) for s, bits in self.candidates(v)] for v in self._groups}
        return {"groups": dict(self._groups), "candidates": offered, "hard": self.hard}

    def state_dict(self) -> dict[str, Any]:
        """State vectors, noise, temperature and generator; a copy."""
        return copy.deepcopy(
            {
                **self._description(),
                "theta": {group: theta.detach() for group, theta in self._theta.items()},
                "noise": self._noise,
                "temperature": self.temperature,
                "generator": self._generator.get_state(),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, bit for bit.

        Raises
        ------
        InputError
            The state is of other vertices, groups or candidates.
        """
        want = self._description()
        if {key: state.get(key) for key in want} != want:
            raise InputError(
                "expected the state of a scheme search with the same vertices, groups, candidates and kind of shares, "
                "got another one's: build the search as the saved one was."
            )
        with torch.no_grad():
            for group in self._theta:
                self._theta[group].copy_(state["theta"][group])
                self._noise[group].copy_(state["noise"][group])
        self.temperature = state["temperature"]
        self._generator.set_state(state["generator"])


class _OneHot(torch.autograd.Function):
    """1 at an index and 0 elsewhere; the gradient passes to the soft shares."""

    @staticmethod
    def forward(ctx: Any, soft: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(soft).index_fill_(0, index, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None
