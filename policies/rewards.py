"""What an episode is worth, by the formulas of the papers.

A reward is a function of the accuracy, the accuracy of the network before quantization (fractions), and the costs by
metric as shares of the cost at 8/8 bits (`policies.costs`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from hardware.errors import InputError, unknown

Reward = Callable[[float, float, Mapping[str, float]], float]

LOWEST_RELEQ = 2 / 8
"""ReLeQ's lowest over its highest width."""


def haq(accuracy: float, reference: float, ratios: Mapping[str, float]) -> float:
    """A tenth of the change of accuracy in percentage points (Wang et al., CVPR 2019; its public code)."""
    return 0.1 * 100 * (accuracy - reference)


@dataclass(frozen=True)
class Releq:
    """ReLeQ's asymmetric shaping: little quantized is little worth, and accuracy below the margin nothing.

    ``-1`` if the relative accuracy ``y`` is below the margin, else ``(1 - x**a) * max(y, margin)**(b / max(y,
    margin))``, with ``x`` the state of quantization (Elthakeb et al., arXiv 1811.01704; constants of the paper as
    recalled). Its code subtracts ``offset`` from the state of quantization and stretches the result to -1 to 1.

    Parameters
    ----------
    a, b, margin:
        The shaping's constants.
    metric:
        What ``x`` is: ``bits`` or ``quantization``.
    offset, stretched:
        0 and False in the paper; in the code the lowest over the highest width, and True.
    """

    a: float = 0.2
    b: float = 0.4
    margin: float = 0.4
    metric: str = "bits"
    offset: float = 0.0
    stretched: bool = False

    def __call__(self, accuracy: float, reference: float, ratios: Mapping[str, float]) -> float:
        """The reward of an accuracy (fraction) at these costs."""
        x, y = max(ratios[self.metric] - self.offset, 0.0), accuracy / reference
        if y < self.margin:
            return -1.0
        shaped = (1 - x**self.a) * y ** (self.b / y)
        return 2 * (shaped - 0.5) if self.stretched else shaped


@dataclass(frozen=True)
class ReleqGrid:
    """The reward of the last script of ReLeQ's code, which quantizes all layers before it evaluates.

    ``2 * max(quantization * (offset - x) + accuracy * y, 0)``, with ``x`` the state of quantization and ``y`` the
    relative accuracy, both rounded down to a grid of 50 levels from 0 to 1; 0 where the rounded ``x`` is below
    ``offset``. As in the code a level begins at a multiple of 1/50 and stands for one of 1/49, so that the lowest
    widths everywhere (``x = offset``) are worth 0. On LeNet's table of accuracies three policies of mean width 2.5
    share the highest reward: {2,2,3,3}, {2,3,2,3} and {2,3,3,2}.

    Parameters
    ----------
    quantization, accuracy:
        How much either counts: 0.5 and 0.5 at first, then 5 and 5, in the end 4 and 6.
    metric, offset:
        As in `Releq`; the code's offset is the lowest over the highest width.
    """

    quantization: float
    accuracy: float
    metric: str = "bits"
    offset: float = LOWEST_RELEQ

    def __call__(self, accuracy: float, reference: float, ratios: Mapping[str, float]) -> float:
        """The reward of an accuracy (fraction) at these costs."""
        x, y = _level(ratios[self.metric]), _level(accuracy / reference)
        if x < self.offset:
            return 0.0
        return 2 * max(self.quantization * (self.offset - x) + self.accuracy * y, 0.0)


def _level(value: float, levels: int = 50) -> float:
    return min(max(int(value * levels) - 1, 0), levels - 1) / (levels - 1)


@dataclass(frozen=True)
class Autoq:
    """AutoQ's extrinsic reward: ``log(accuracy**a / (latency**l * energy**e * area**r))``, costs as shares of 8 bits.

    Lou et al., ICLR 2020 (arXiv 1902.05690); the form is recalled. As it stands here it is the resource-constrained
    mode: only the accuracy counts, under a hard budget that the task's back-off keeps. `guarantee` is the other mode.

    Parameters
    ----------
    accuracy, latency, energy, area:
        The exponents psi.

    Raises
    ------
    InputError
        An exponent that is negative or not finite.
    """

    accuracy: float = 1.0
    latency: float = 0.0
    energy: float = 0.0
    area: float = 0.0

    FLOOR = 1e-3
    """Accuracies and shares below it count as this, so that nothing is worth an infinity: accuracy 0 gives -6.9 (at an
    exponent of 1), about what guessing among a thousand classes is worth. Ours."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"AutoQ's exponent of {name} is at least 0, got {getattr(self, name):g}: write for example 0.5."
                )

    @classmethod
    def guarantee(cls, latency: float = 0.0, energy: float = 0.0, area: float = 0.0) -> "Autoq":
        """The accuracy-guaranteed mode: psi of the accuracy is 2, the others below 1; which, the paper does not say."""
        return cls(2.0, latency, energy, area)

    def __call__(self, accuracy: float, reference: float, ratios: Mapping[str, float]) -> float:
        """The reward of an accuracy (fraction) at these costs.

        Raises
        ------
        InputError
            A metric with an exponent above 0 is not among the costs, as energy on a machine without energies.
        """
        reward = self.accuracy * math.log(max(accuracy, self.FLOOR))
        for metric, exponent in (("latency", self.latency), ("energy", self.energy), ("area", self.area)):
            if exponent:
                if metric not in ratios:
                    raise InputError(
                        f"the reward counts {metric}, but what is known here is {', '.join(ratios)}: set its exponent "
                        "to 0, or choose an accelerator for which it is known."
                    )
                reward -= exponent * math.log(max(ratios[metric], self.FLOOR))
        return reward


REWARDS: dict[str, Reward] = {
    "autoq": Autoq(),
    "haq": haq,
    "releq": Releq(),
    "releq-lenet": Releq(0.6, 3, 0.8, offset=LOWEST_RELEQ, stretched=True),
    "releq-cifar": Releq(0.8, 1, 0.1, offset=LOWEST_RELEQ, stretched=True),
    "releq-lstm": Releq(0.8, 1, 0.6, offset=LOWEST_RELEQ, stretched=True),
    "releq-mobilenet": Releq(0.8, 1, 0.7, offset=LOWEST_RELEQ, stretched=True),
    "releq-grid": ReleqGrid(4, 6),
}
"""By name; those with a word after ``releq`` have the constants of ReLeQ's code (he-actlab/releq)."""


def make_reward(name: str) -> Reward:
    """A reward by its name in `REWARDS`.

    After ``autoq`` exponents can be written, for the accuracy-guaranteed mode: ``autoq:latency=0.5,energy=0.2``.

    Raises
    ------
    InputError
        An unknown name, or exponents of another form.
    """
    if name.startswith("autoq:"):
        return Autoq.guarantee(**dict(_exponent(term) for term in name.removeprefix("autoq:").split(",")))
    if name not in REWARDS:
        raise unknown("reward", name, REWARDS)
    return REWARDS[name]


def _exponent(term: str) -> tuple[str, float]:
    metric, _, number = (part.strip() for part in term.partition("="))
    try:
        exponent = float(number)
    except ValueError:
        exponent = math.nan
    if metric not in ("latency", "energy", "area") or math.isnan(exponent):
        raise InputError(
            f"expected an exponent of latency, energy or area, got {term!r}: write for example autoq:latency=0.5."
        )
    return metric, exponent
