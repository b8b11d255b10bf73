"""Functional coverage: the kinds of layers that have run on the machine, as bins that every layer hits or not.

A bin is named by its group and itself. The first group crosses all widths with all kinds of integers; the second
crosses the ways in which a layer does not fill the machine; the others count one property each.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from hardware.accelerator import Accelerator
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.passes import Output, Pass
from hardware.schedule import MAX_BITS

WIDTHS = range(1, MAX_BITS + 1)
WEIGHTS = ("unsigned", "signed", "bipolar")
ACTIVATIONS = ("unsigned", "signed")
NUMBERS = "weight bits x activation bits x weights x activations"
TAILS = "tails: rows x columns x lanes x channels"
"""Whether the last row tile has fewer than ``dm`` kernels, the last column tile fewer than ``dn`` pixels, the last
entry of a bit plane fewer than ``dk`` bits' words, the last word of a pixel fewer than 64 channels."""
FULL = ("full", "cut")
LISTED = 20
"""Names of bins that a table has room for."""


def bins(accelerator: Accelerator) -> dict[str, tuple[str, ...]]:
    """All bins by group, as far as layers can hit them: an array of one lane cuts no lanes."""

    def pairs(first: Iterable[int], second: Iterable[int]) -> tuple[str, ...]:
        return tuple(f"{a}x{b}" for a, b in product(first, second))

    lanes = FULL if accelerator.lanes > 1 else FULL[:1]
    return {
        NUMBERS: tuple(_numbers(*one) for one in product(WIDTHS, WIDTHS, WEIGHTS, ACTIVATIONS)),
        TAILS: tuple(map(" ".join, product(FULL, FULL, lanes, FULL))),
        "kernel": pairs(range(1, 6), range(1, 6)),
        "stride": pairs(range(1, 4), range(1, 4)),
        "padding": pairs(range(3), range(3)),
        "dilation": pairs(range(1, 4), range(1, 4)),
        "groups": ("one", "several", "depthwise"),
        "images": ("one", "several"),
        "kernel widths": ("one", "several", "several with 0"),
        "weights stay": ("resident", "streamed once", "streamed again"),
        "row tiles": ("one", "several"),
        "column tiles": ("one", "several"),
        "passes": ("one", "several"),
        "output": ("sums", "values", "planes", "values and planes"),
        "ports": (str(accelerator.memory.ports),),
    }


def hits(operands: Operands, passes: Sequence[Pass]) -> set[tuple[str, str]]:
    """The (group, bin) pairs of one layer that ran as these passes."""
    layer, widths = operands.layer, set(operands.weight_bits)
    weights = "bipolar" if operands.bipolar else "signed" if operands.signed_weights else "unsigned"
    several = "several with 0" if 0 in widths else "several"
    found = {
        ("kernel", _pair(layer.kernel)),
        ("stride", _pair(layer.stride)),
        ("padding", _pair(layer.padding)),
        ("dilation", _pair(layer.dilation)),
        ("groups", "one" if layer.groups == 1 else "depthwise" if layer.groups == layer.in_channels else "several"),
        ("images", _count(layer.images)),
        ("kernel widths", "one" if len(widths) == 1 else several),
        ("passes", _count(len(passes))),
    }
    for work in passes:
        found |= {
            (NUMBERS, _numbers(bits, work.activation_bits, weights, ACTIVATIONS[work.signed_activations]))
            for bits, _ in work.segments
        }
        streamed = "streamed once" if work.groups == 1 else "streamed again"
        found |= {
            (TAILS, tails(layer, work)),
            ("weights stay", "resident" if work.lhs_resident else streamed),
            ("row tiles", _count(work.row_tiles)),
            ("column tiles", _count(work.column_tiles)),
            ("output", _output(work.output)),
            ("ports", str(work.ports)),
        }
    return found


def tails(layer: Layer, work: Pass) -> str:
    """Which parts of a pass do not fill the machine: the bin of `TAILS`."""
    cut = (
        len(work.kernels) % work.dm != 0,
        work.last_columns != work.dn,
        work.window_words % work.lanes != 0,
        layer.in_channels % 64 != 0,
    )
    return " ".join(FULL[one] for one in cut)


def coverage_rows(accelerator: Accelerator, counts: Mapping[tuple[str, str], int]) -> list[dict[str, object]]:
    """One row per group, of the layers that hit each (group, bin).

    Returns
    -------
    Per group: ``bins``, ``hit``, ``fewest layers`` of any bin, and ``not hit``, the first `LISTED` names.
    """
    rows: list[dict[str, object]] = []
    for group, names in bins(accelerator).items():
        missing = [name for name in names if not counts.get((group, name))]
        more = f"; {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        rows.append(
            {
                "what": group,
                "bins": len(names),
                "hit": len(names) - len(missing),
                "fewest layers": min(counts.get((group, name), 0) for name in names),
                "not hit": "; ".join(missing[:LISTED]) + more or "-",
            }
        )
    return rows


def count_hits(layers: Iterable[tuple[Operands, Sequence[Pass]]]) -> Counter[tuple[str, str]]:
    """How many of the layers hit each (group, bin)."""
    return Counter(hit for operands, passes in layers for hit in hits(operands, passes))


def _numbers(weight_bits: int, activation_bits: int, weights: str, activations: str) -> str:
    return f"{weight_bits}x{activation_bits} {weights} x {activations}"


def _pair(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}x{numbers[1]}"


def _count(number: int) -> str:
    return "one" if number == 1 else "several"


def _output(output: Output) -> str:
    if output.sums:
        return "sums"
    return " and ".join(["values"] * output.values + ["planes"] * bool(output.plane_bits))
