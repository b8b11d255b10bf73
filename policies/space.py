"""What there is to choose: a variable per width, for whole layers, for groups of kernels or for single kernels.

A candidate policy is an int vector, one width per variable, in the order in which an episode walks them: layer by
layer, the weights' variables first, then the activations'. Agents and baselines work on such vectors and need not know
how fine they are; only here they become policies, histograms and text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hardware.errors import InputError
from hardware.layer import Layer
from hardware.schedule import MAX_BITS
from policies.policy import SYMMETRIC, UNIFORM, ActivationChoice, LayerPolicy, Policy, WeightChoice
from policies.schemes import weight_scheme

Schemes = tuple[str, str]
"""Of a layer's weights and of its activations."""
WEIGHTS, ACTIVATIONS = 0, 1
"""Operands, and columns of (layers, 2) arrays of bits."""


@dataclass(frozen=True)
class Variable:
    """One width to choose.

    Parameters
    ----------
    layer:
        Index of its layer.
    operand:
        `WEIGHTS` or `ACTIVATIONS`.
    kernels:
        The layer's kernels that it is for; all of them for activations.
    widths:
        Rising. A single one for a pinned layer, which still takes its steps.
    """

    layer: int
    operand: int
    kernels: range
    widths: tuple[int, ...]


class Space:
    """All policies of one network that a search may choose from.

    Parameters
    ----------
    network:
        Name written into the policies.
    layers:
        The layers in the network's order.
    weight_widths:
        Bits that weights may have, within 0 to 8; 0 prunes a kernel. ``highest`` of them need not be 8.
    activation_widths:
        Bits that activations may have, within 1 to 8; None leaves them at 8 and has no variables for them.
    group:
        Kernels per variable: None for whole layers, 1 for every kernel its own (AutoQ).
    pin_ends:
        Keep the first and the last layer at 8/8 bits, as HAQ does.
    schemes:
        For every layer those of its weights and of its activations; None for plain integers everywhere. A layer has the
        widths that its schemes have; one with a single width takes that.

    Attributes
    ----------
    variables: tuple[Variable, ...]
    schemes: tuple[Schemes, ...]

    Raises
    ------
    InputError
        No layers, widths out of range, or schemes of `policies.schemes` for single kernels.
    """

    def __init__(
        self,
        network: str,
        layers: Sequence[Layer],
        *,
        weight_widths: Sequence[int] = range(2, MAX_BITS + 1),
        activation_widths: Sequence[int] | None = range(2, MAX_BITS + 1),
        group: int | None = None,
        pin_ends: bool = False,
        schemes: Sequence[Schemes] | None = None,
    ) -> None:
        if not layers:
            raise InputError("expected at least one layer to choose bits for, got none: pass a network that has one.")
        self.network, self.layers, self.group = network, tuple(layers), group
        weights = _check_widths("weight", weight_widths, 0)
        activations = None if activation_widths is None else _check_widths("activation", activation_widths, 1)
        if group is not None and group < 1:
            raise InputError(f"expected at least 1 kernel per group, got {group}: raise it.")
        self.schemes = tuple(schemes or [(SYMMETRIC, UNIFORM)] * len(layers))
        if len(self.schemes) != len(layers):
            raise InputError(
                f"expected schemes of {len(layers)} layers, got {len(self.schemes)}: give one pair per layer."
            )
        if group is not None and any(own[WEIGHTS] != SYMMETRIC for own in self.schemes):
            raise InputError(f"kernels have widths of their own in scheme {SYMMETRIC} only: leave out --group.")
        variables = []
        for index, layer in enumerate(layers):
            pinned = pin_ends and index in (0, len(layers) - 1)
            count, own = layer.out_channels, self.schemes[index]
            step = count if group is None or pinned else group
            for start in range(0, count, step):
                kernels = range(start, min(start + step, count))
                widths = (MAX_BITS,) if pinned else weights
                variables.append(
                    Variable(index, WEIGHTS, kernels, _scheme_widths(own[WEIGHTS], WEIGHTS, layer, widths))
                )
            if activations:
                widths = (MAX_BITS,) if pinned else activations
                widths = _scheme_widths(own[ACTIVATIONS], ACTIVATIONS, layer, widths)
                variables.append(Variable(index, ACTIVATIONS, range(count), widths))
        self.variables = tuple(variables)
        operand = np.array([variable.operand for variable in variables])
        self._layer = np.array([variable.layer for variable in variables])
        self._weights, self._activations = np.flatnonzero(operand == WEIGHTS), np.flatnonzero(operand == ACTIVATIONS)
        self._sizes = np.array([len(variable.kernels) for variable in variables])

    @property
    def layer_wise(self) -> bool:
        """Whether all kernels of a layer have one width."""
        return self.group is None

    @cached_property
    def widest(self) -> np.ndarray:
        """The vector of highest widths."""
        return np.array([variable.widths[-1] for variable in self.variables])

    @cached_property
    def narrowest(self) -> np.ndarray:
        """The vector of lowest widths."""
        return np.array([variable.widths[0] for variable in self.variables])

    def width(self, index: int, action: float) -> int:
        """The width of a variable for an action in [0, 1]: every width has an equal share of the interval.

        HAQ's formula (``round`` goes half to even), clipped: HAQ's own gives 0 bits for a lowest width of 1 at action
        0, and one bit too many for an odd highest width at action 1.
        """
        widths = self.variables[index].widths
        rank = round(widths[0] - 0.5 + action * len(widths)) - widths[0]  # whole widths: the parity is HAQ's
        return widths[min(max(rank, 0), len(widths) - 1)]

    def action(self, index: int, width: int) -> float:
        """The middle of a width's share of [0, 1]."""
        widths = self.variables[index].widths
        return (widths.index(width) + 0.5) / len(widths)

    def lower(self, index: int, width: int) -> int:
        """The next lower width of a variable; ``width`` itself if it is the lowest."""
        widths = self.variables[index].widths
        return widths[max(widths.index(width) - 1, 0)]

    def pairs(self, vectors: np.ndarray) -> np.ndarray:
        """Weight and activation bits of the layers, int (..., layers, 2), of layer-wise vectors (..., variables)."""
        pairs = np.full((*vectors.shape[:-1], len(self.layers), 2), MAX_BITS)
        pairs[..., self._layer[self._weights], WEIGHTS] = vectors[..., self._weights]
        pairs[..., self._layer[self._activations], ACTIVATIONS] = vectors[..., self._activations]
        return pairs

    def histograms(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many kernels of every layer have each width 0 to 8, and the layers' activation bits.

        Returns
        -------
        int (..., layers, 9) and int (..., layers), of vectors (..., variables).
        """
        flat = vectors.reshape(-1, len(self.variables))
        counts = np.zeros((len(flat), len(self.layers), MAX_BITS + 1), dtype=np.int64)
        rows = np.arange(len(flat))[:, None]
        np.add.at(counts, (rows, self._layer[self._weights], flat[:, self._weights]), self._sizes[self._weights])
        activations = np.full((len(flat), len(self.layers)), MAX_BITS)
        activations[:, self._layer[self._activations]] = flat[:, self._activations]
        shape = vectors.shape[:-1]
        return counts.reshape(*shape, *counts.shape[1:]), activations.reshape(*shape, len(self.layers))

    def policy(self, vector: np.ndarray) -> Policy:
        """The vector as a policy: one width per layer, or one per kernel where the space is finer."""
        weights: list[list[int]] = [[] for _ in self.layers]
        activations = [MAX_BITS] * len(self.layers)
        for variable, width in zip(self.variables, vector.tolist(), strict=True):
            if variable.operand == WEIGHTS:
                weights[variable.layer] += [width] * (1 if self.layer_wise else len(variable.kernels))
            else:
                activations[variable.layer] = width
        return Policy(
            network=self.network,
            layers=tuple(
                LayerPolicy(
                    name=layer.name,
                    weights=WeightChoice.model_validate(
                        {"bits": widths[0] if self.layer_wise else tuple(widths), "scheme": own[WEIGHTS]}
                    ),
                    activations=ActivationChoice.model_validate({"bits": bits, "scheme": own[ACTIVATIONS]}),
                )
                for layer, own, widths, bits in zip(self.layers, self.schemes, weights, activations, strict=True)
            ),
        )

    def text(self, vector: np.ndarray) -> str:
        """A digit per variable, a word per layer: weight widths, then the activation's, if there is one."""
        words = [""] * len(self.layers)
        for variable, width in zip(self.variables, vector.tolist(), strict=True):
            words[variable.layer] += str(width)
        return " ".join(words)

    def parse(self, text: str) -> np.ndarray:
        """The vector of a `text`."""
        return np.array([int(digit) for digit in text.replace(" ", "")])


def machine_planes(scheme: str, operand: int, layer: Layer) -> dict[int, int]:
    """Bit planes on the machine by the width of a scheme, of those of its widths that the machine has for the layer.

    Raises
    ------
    InputError
        The machine has none of them; says why.
    """
    if scheme in (SYMMETRIC, UNIFORM):
        return {bits: bits for bits in range(MAX_BITS + 1)}
    found, refused = {}, None
    for bits in weight_scheme(scheme).widths:
        try:
            if operand == WEIGHTS:
                choice = WeightChoice.model_validate({"bits": bits, "scheme": scheme})
                found[bits] = choice.machine_bits(layer)[0]
            else:
                found[bits] = ActivationChoice.model_validate({"bits": bits, "scheme": scheme}).machine_bits(layer)
        except InputError as error:
            refused = error
    if not found:
        assert refused is not None
        raise refused
    return found


def _scheme_widths(scheme: str, operand: int, layer: Layer, widths: tuple[int, ...]) -> tuple[int, ...]:
    has = tuple(machine_planes(scheme, operand, layer))
    found = has if len(has) == 1 else tuple(width for width in widths if width in has)
    if not found:
        raise InputError(
            f"layer {layer.name!r} can have scheme {scheme!r} at {has[0]} to {has[-1]} bits, but not at any of "
            f"{list(widths)}: allow some of these."
        )
    return found


def _check_widths(what: str, widths: Sequence[int], lowest: int) -> tuple[int, ...]:
    given = tuple(sorted(set(widths)))
    if not given or given[0] < lowest or given[-1] > MAX_BITS:
        raise InputError(
            f"expected {what} bits within {lowest} to {MAX_BITS}, got {list(widths)}: choose some of these, for "
            "example 2 to 8."
        )
    return given
