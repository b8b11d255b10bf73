"""Coverage bins: what a layer hits is what its shape says, and what no layer hits is listed."""

from dataclasses import replace

import numpy as np
import pytest

from codesign.sampling import Numbers, random_operands
from hardware.accelerator import Accelerator
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.passes import Output
from hardware.schedule import schedule
from sim.coverage import ACTIVATIONS, NUMBERS, TAILS, WEIGHTS, bins, count_hits, coverage_rows, hits


def hits_of(layer: Layer, accelerator: Accelerator, widths: tuple[int, ...] | None = None, **kind) -> set:
    """Of a layer of 3-bit weights and 5-bit activations; no bin depends on the integers."""
    widths = widths or (3,) * layer.out_channels
    none = np.zeros(0, dtype=np.int64)
    operands = Operands(layer, none, none, widths, 5, **kind)
    plan = schedule(layer, widths, 5, accelerator, operands.signed_weights, operands.bipolar)
    return hits(operands, plan.passes)


def one_of(found: set[tuple[str, str]], group: str) -> str:
    (name,) = [name for of, name in found if of == group]
    return name


@pytest.mark.parametrize(("kind", "weights"), [({}, 1), ({"signed_weights": False}, 0), ({"bipolar": True}, 2)])
@pytest.mark.parametrize("signed", [False, True])
def test_widths_and_kinds(tiny, kind, weights, signed):
    found = hits_of(Layer("fc", "linear", 9, 4, signed_activations=signed), tiny, **kind)
    assert one_of(found, NUMBERS) == f"3x5 {WEIGHTS[weights]} x {ACTIVATIONS[signed]}"


def test_every_width_of_a_layer_counts_as_the_machine_runs_it(tiny):
    found = hits_of(
        Layer("fc", "linear", 9, 6), tiny, (0, 2, 4, 4, 1, 1)
    )  # row tiles of 4, 2 and 1 bits, 2 kernels each
    assert {name for group, name in found if group == NUMBERS} == {f"{b}x5 signed x unsigned" for b in (4, 2, 1)}
    assert one_of(found, "kernel widths") == "several with 0"
    assert one_of(hits_of(Layer("fc", "linear", 9, 2), tiny, (2, 4)), "kernel widths") == "several"


@pytest.mark.parametrize("rows", ["full", "cut"])
@pytest.mark.parametrize("columns", ["full", "cut"])
@pytest.mark.parametrize("lanes", ["full", "cut"])
@pytest.mark.parametrize("channels", ["full", "cut"])
def test_tails(machine, rows, columns, lanes, channels):
    accelerator = machine(dm=4, dn=4, dk=128)
    layer = Layer(
        *("fc", "linear", {"full": 256, "cut": 192}[lanes] - (channels == "cut")),
        *(8 - (rows == "cut"),),
        images=8 - (columns == "cut"),
    )
    assert one_of(hits_of(layer, accelerator), TAILS) == f"{rows} {columns} {lanes} {channels}"


@pytest.mark.parametrize(("groups", "name"), [(1, "one"), (3, "several"), (6, "depthwise")])
def test_shapes(tiny, groups, name):
    layer = Layer("conv", "conv", 6, 6, 9, 9, (2, 3), (1, 2), (2, 0), groups, images=2, dilation=(3, 1))
    assert hits_of(layer, tiny) >= {
        ("kernel", "2x3"),
        ("stride", "1x2"),
        ("padding", "2x0"),
        ("dilation", "3x1"),
        ("groups", name),
        ("images", "several"),
        ("kernel widths", "one"),
        ("row tiles", "several"),
        ("column tiles", "several"),
        ("passes", "one"),
        ("output", "sums"),
        ("ports", "1"),
    }


@pytest.mark.parametrize(
    ("output", "name"),
    [
        (Output(values=True), "values"),
        (Output(plane_bits=3), "planes"),
        (Output(values=True, plane_bits=3), "values and planes"),
    ],
)
def test_outputs(tiny, output, name):
    layer = Layer("fc", "linear", 9, 4)
    none = np.zeros(0, dtype=np.int64)
    plan = schedule(layer, 3, 5, tiny, output=output)
    assert one_of(hits(Operands(layer, none, none, (3,) * 4, 5), plan.passes), "output") == name


def test_what_no_layer_hits_is_listed(machine):
    accelerator = machine(dk=128)
    rng = np.random.default_rng(0)
    drawn = [random_operands(rng, accelerator, number) for number in range(30)]
    plans = [
        schedule(o.layer, o.weight_bits, o.activation_bits, accelerator, o.signed_weights, o.bipolar).passes
        for o in drawn
    ]
    counts = count_hits(zip(drawn, plans, strict=True))
    every = bins(accelerator)
    assert all(name in every[group] for group, name in counts)
    for row in coverage_rows(accelerator, counts):
        group, listed = row["what"], [] if row["not hit"] == "-" else str(row["not hit"]).split("; ")
        missing = [name for name in every[group] if counts[group, name] == 0]
        assert row["hit"] == len(every[group]) - len(missing)
        assert listed[:20] == missing[:20]
        assert listed[20:] == ([f"{len(missing) - 20} more"] if len(missing) > 20 else [])
        assert row["fewest layers"] == min(counts[group, name] for name in every[group])
    assert sum(counts["groups", name] for name in every["groups"]) == 30


def test_given_numbers_are_kept_and_the_rest_is_random(tiny):
    rng = np.random.default_rng(0)
    numbers = Numbers(7, 2, signed_weights=False, signed_activations=True, bipolar=False)
    plain = [numbers, replace(numbers, signed_weights=True, bipolar=True)]
    drawn = [random_operands(rng, tiny, number, plain[number % 2]) for number in range(80)]
    for number, operands in enumerate(drawn):
        assert max(operands.weight_bits) == 7
        assert operands.activation_bits == 2
        assert operands.layer.signed_activations
        assert operands.signed_weights == operands.bipolar == bool(number % 2)
        assert operands.weights.min() >= (-64 if number % 2 else 0)
        assert not (operands.bipolar and 0 in operands.weight_bits), "a pruned kernel has no weights of 1"
    assert any(0 in operands.weight_bits for operands in drawn)
    assert len({operands.layer.in_channels for operands in drawn}) > 30
    assert any(operands.layer.in_channels % 64 == 0 for operands in drawn)
