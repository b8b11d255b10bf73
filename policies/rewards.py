"""What an episode is worth, by the formulas of the papers.

A reward is a function of the accuracy, the accuracy of the network before quantization (fractions), and the costs by
metric as shares of the cost at 8/8 bits (`policies.costs`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hardware.errors import unknown

Reward = Callable[[float, float, Mapping[str, float]], float]


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


LOWEST_RELEQ = 2 / 8
"""ReLeQ's lowest over its highest width."""

REWARDS: dict[str, Reward] = {
    "haq": haq,
    "releq": Releq(),
    "releq-lenet": Releq(0.6, 3, 0.8, offset=LOWEST_RELEQ, stretched=True),
    "releq-cifar": Releq(0.8, 1, 0.1, offset=LOWEST_RELEQ, stretched=True),
    "releq-mobilenet": Releq(0.8, 1, 0.7, offset=LOWEST_RELEQ, stretched=True),
}
"""By name; the last three with the constants of ReLeQ's code."""


def make_reward(name: str) -> Reward:
    """A reward by its name in `REWARDS`.

    Raises
    ------
    InputError
        An unknown name.
    """
    if name not in REWARDS:
        raise unknown("reward", name, REWARDS)
    return REWARDS[name]
