"""The table of joules against layers whose every tile is followed, point by point."""

from dataclasses import replace

import numpy as np
import pytest

from codesign.energy import energy_of, machine_energy, typical_operands
from codesign.energy_table import DRAWN, NODES, _polynomials, energy_table
from codesign.switching.streams import layer_switching
from hardware.cost import PRICED_OUTPUT, cost_table
from hardware.cycles import layer_cycles
from hardware.energy import layer_energy
from hardware.errors import InputError
from hardware.kernel_wise import histogram
from hardware.kinds import KINDS
from hardware.layer import Layer
from hardware.oracle import Oracle
from hardware.schedule import schedule

CONV = Layer("conv", "conv", 96, 40, 5, 5, kernel=(3, 3), padding=(1, 1))
LAYERS = {
    "conv": CONV,
    "depthwise": Layer("dw", "conv", 80, 80, 6, 6, kernel=(3, 3), padding=(1, 1), groups=80),
    "pointwise": Layer("pw", "conv", 64, 32, 8, 8),
    "linear": Layer("fc", "linear", 300, 24),
    "input": Layer("in", "conv", 3, 16, 12, 12, kernel=(3, 3), stride=(2, 2), signed_activations=True),
}


@pytest.fixture(scope="module")
def accelerator(machine):
    return machine(dm=4, dn=4, dk=128, plane_words=256)


def exact(layer: Layer, w: int, a: int, accelerator) -> float:
    """Joules of a layer of which every tile is followed."""
    plan = schedule(layer, w, a, accelerator, output=PRICED_OUTPUT)
    switching = layer_switching(typical_operands(layer, (w,) * layer.out_channels, a), plan, everything=True)
    priced = machine_energy(accelerator)
    assert priced is not None
    return layer_energy(plan, layer_cycles(plan), switching, priced[0]).dynamic


@pytest.mark.parametrize("name", LAYERS)
def test_joules_are_close_to_those_of_a_layer_whose_every_tile_is_followed(accelerator, name):
    layer = LAYERS[name]
    (table,), basis = energy_table([layer], accelerator)
    assert basis.startswith("switching scaled from bitserial-tiny")
    for w, a in ((1, 1), (1, 6), (4, 2), (6, 1), (4, 7), (8, 8)):
        assert table[w, a - 1] == pytest.approx(exact(layer, w, a, accelerator), rel=0.015), (w, a)


def test_pruned_layers_switch_nothing_and_are_exact(accelerator):
    (table,), _ = energy_table([CONV], accelerator)
    assert table[0, 4] == exact(CONV, 0, 5, accelerator)
    assert (np.diff(table, axis=0) > 0).all()
    assert (np.diff(table, axis=1) > 0).all()


def test_layers_of_one_shape_are_alike_the_seed_repeats_them_and_the_first_row_can_be_left_out(accelerator):
    other_shape = replace(LAYERS["linear"], out_channels=16)
    layers = [LAYERS["linear"], other_shape, replace(LAYERS["linear"], name="again")]
    table, _ = energy_table(layers, accelerator)
    assert (table.shape, table.dtype) == ((3, 9, 8), np.float64)
    assert (table[0] == table[2]).all()
    np.testing.assert_array_equal(energy_table(layers, accelerator, lowest=1)[0], table[:, 1:])
    other = energy_table(layers, accelerator, seed=1)[0]
    assert (other != table)[:, 1:].all()
    np.testing.assert_allclose(other, table, rtol=0.03)
    assert energy_table([], accelerator)[0].shape == (0, 9, 8)


def test_a_layer_too_large_to_be_drawn_whole_takes_what_one_takes_that_is_drawn(accelerator, monkeypatch):
    layer = Layer("conv", "conv", 64, 128, 12, 12, kernel=(3, 3), padding=(1, 1))
    whole = energy_table([layer], accelerator)[0]
    assert layer.weight_count < DRAWN
    monkeypatch.setattr("codesign.energy_table.DRAWN", 2**12)
    np.testing.assert_allclose(energy_table([layer], accelerator)[0], whole, rtol=0.02)


def test_what_the_buffers_cannot_hold_is_infinite_as_in_the_cost_table(machine):
    small = machine(lhs_entries=32, rhs_entries=16)  # 300 inputs are 5 entries per bit: 6 bits by 3 fit
    layer = replace(LAYERS["linear"], images=6)
    table = energy_table([layer], small)[0]
    np.testing.assert_array_equal(np.isinf(table), np.isinf(cost_table([layer], small, lowest=0)))
    assert table[0, 5, 1] == pytest.approx(exact(layer, 5, 2, small), rel=0.015)
    with pytest.raises(InputError, match="'wide' needs"):
        energy_table([Layer("wide", "linear", 64 * 17, 4)], machine(lhs_entries=16, rhs_entries=4096))


def test_without_a_calibration_there_is_no_table(accelerator, monkeypatch):
    monkeypatch.setattr("codesign.energy.load_energy", lambda hardware: None)
    with pytest.raises(InputError, match=r"nothing is known of what variant switches.*run `codesign calibrate"):
        energy_table([CONV], accelerator)


def test_an_array_of_a_kind_that_was_not_measured_has_no_energy(machine, monkeypatch):
    monkeypatch.setattr("codesign.energy.load_energy", lambda hardware: None)
    with pytest.raises(
        InputError, match=r"what variant switches.*`codesign calibrate --energy --store` on fusion-tiny"
    ):
        energy_table([CONV], machine(kind="bit_fusion"))


@pytest.mark.parametrize("name", LAYERS)
def test_joules_of_fusion_units_are_those_of_the_width_that_they_take(machine, name):
    accelerator = machine(kind="bit_fusion", dm=4, dn=4, plane_words=256)
    (table,), basis = energy_table([LAYERS[name]], accelerator)
    assert basis.startswith("switching scaled from fusion-tiny")
    for w, a in ((2, 2), (2, 8), (4, 2), (8, 4), (8, 8)):
        assert table[w, a - 1] == pytest.approx(exact(LAYERS[name], w, a, accelerator), rel=0.02), (w, a)
    assert (table[[1, 3, 5, 6]] == table[[2, 4, 8, 8]]).all()
    assert (table[:, [0, 2, 4, 5, 6]] == table[:, [1, 3, 7, 7, 7]]).all()


@pytest.mark.parametrize("name", LAYERS)
def test_joules_of_serial_weights_are_those_of_a_layer_that_is_followed(machine, name):
    accelerator = machine(kind="serial_weight", dm=4, dn=4)
    (table,), basis = energy_table([LAYERS[name]], accelerator)
    assert basis.startswith("switching scaled from stripes-tiny")
    for w, a in ((1, 8), (2, 2), (3, 5), (5, 8), (8, 4), (8, 8)):
        assert table[w, a - 1] == pytest.approx(exact(LAYERS[name], w, a, accelerator), rel=0.03), (w, a)


def test_between_the_nodes_whatever_happens_once_per_tile_or_diagonal_is_exact():
    widths, nodes = np.arange(1, 9), np.array(NODES)
    polynomials = _polynomials(NODES, KINDS["bit_serial"])
    np.testing.assert_allclose(polynomials @ ((nodes + 5) / nodes), (widths + 5) / widths, rtol=1e-12)
    np.testing.assert_allclose(polynomials[nodes - 1], np.eye(len(nodes)), atol=1e-12)


def test_widths_that_are_padded_are_those_that_they_are_padded_to():
    of_nodes = _polynomials((2, 4, 8), KINDS["bit_fusion"])
    np.testing.assert_allclose(of_nodes, np.eye(3)[[0, 0, 1, 1, 2, 2, 2, 2]], atol=1e-12)


def test_kernels_of_several_widths_take_about_the_mean_of_their_layers(accelerator):
    oracle = Oracle([CONV], accelerator, energy=energy_table([CONV], accelerator)[0])
    priced = machine_energy(accelerator)
    assert priced is not None
    rng = np.random.default_rng(0)
    for widths in (np.repeat([8, 4, 2, 1], 10), rng.integers(2, 7, 40)):
        plan = schedule(CONV, widths.tolist(), 4, accelerator, output=PRICED_OUTPUT)
        mixed = energy_of(plan, priced[0], typical_operands(CONV, widths.tolist(), 4)).dynamic
        assert oracle.kernel_wise_energy(histogram([widths]), np.array([4])) == pytest.approx(mixed, rel=0.15)
