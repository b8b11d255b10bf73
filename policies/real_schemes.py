"""AutoQNN's schemes whose levels are no integers times a step: res and zoom, see `policies.schemes`."""

from typing import ClassVar, NoReturn

import torch

from hardware.errors import InputError
from policies.scheme_base import Scheme, divisor, sign, spread


class Real(Scheme):
    """A scheme whose levels are no integers times one step: no integer machine multiplies them in one pass."""

    reason: ClassVar[str]

    def machine_bits(self, bits: int, grouped: bool = False) -> NoReturn:
        self._check(bits)
        raise InputError(f"scheme {self.name!r} {self.reason}: choose another scheme for this layer.")

    def integers(self, x: torch.Tensor, bits: int, parameters: torch.Tensor, grouped: bool = False) -> NoReturn:
        self.machine_bits(bits, grouped)


class Res(Real):
    """The sum of as many binary approximations as there are bits, each of what the ones before left.

    Parameters: the scales, before them the mean where not `signed`.
    """

    name, letter = "res", "R"
    reason = "is as many binary layers as it has bits, with scales of their own, which the machine cannot add up"

    def _statistics(self, rows: torch.Tensor, bits: int) -> list[torch.Tensor]:
        mean = rows.mean(-1)
        found = [] if self.signed else [mean]
        total = (torch.zeros_like(mean) if self.signed else mean)[..., None].expand(rows.shape)
        for _ in range(bits):
            rest = rows - total
            scale = rest.abs().mean(-1)
            total = total + scale[..., None] * sign(rest)
            found.append(scale)
        return found

    def quantize(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        self._check(bits)
        x, parameters = x.detach(), spread(parameters.detach(), x)
        total = torch.zeros_like(x) if self.signed else parameters[..., 0].expand(x.shape)
        for scale in parameters.unbind(-1)[-bits:]:
            total = total + scale * sign(x - total)
        return total

    def levels(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        self._check(bits)
        parameters = parameters.detach()
        sums = torch.zeros_like(parameters[..., :1]) if self.signed else parameters[..., :1]
        for index in range(-bits, 0):
            scale = parameters[..., index, None]
            sums = torch.cat([sums - scale, sums + scale], -1)
        return sums.sort(-1).values


class Zoom(Real):
    """The middles of equal intervals from the least to the largest value. Parameters: least value, interval width."""

    name, letter = "zoom", "Z"
    reason = "has an offset, and so needs the sum of the activations times a constant, which the machine does not add"

    def _statistics(self, rows: torch.Tensor, bits: int) -> list[torch.Tensor]:
        least, largest = rows.aminmax(dim=-1)
        return [least, (largest - least) / 2**bits]

    def quantize(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        self._check(bits)
        least, width = spread(parameters.detach(), x).unbind(-1)
        interval = torch.floor((x.detach() - least) / divisor(width)).clamp(0, 2**bits - 1)
        return least + width * (interval + 0.5)

    def levels(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        self._check(bits)
        least, width = parameters.detach()[..., None].unbind(-2)
        return least + width * (torch.arange(2**bits).to(width) + 0.5)
