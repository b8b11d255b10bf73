"""The published BitFusion model: the authors' own figures, and plain loops over the equations on small layers.

The figures are those of results/bitfusion-eyeriss-sim-sweep.csv in github.com/hsharma35/bitfusion. Shapes and widths
are not in that file: they are those of the networks of its src/benchmarks, and follow from the figures.
``bitfusion_published_edge.csv`` holds four networks on the edge machine, ``bitfusion_published_rest.csv`` the other
four, and layers on the sweep's wider machines.
"""

import csv
import math
import time
from itertools import permutations, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.bitfusion_cost import FIGURES, PublishedCost, published_cost, total_cost
from hardware.bitfusion_energy import READ_WRITE_PORT, SINGLE_PORT, energy_constants, sram_basis
from hardware.bitfusion_published import PUBLISHED_MACHINES, PublishedLayer, PublishedMachine, published_machine
from hardware.errors import InputError

SHAPE = ("kernel", "output_size", "stride", "in_channels", "out_channels", "input_bits", "weight_bits")
MACHINE = ("rows_N", "columns_M", "wbuf_bytes", "ibuf_bytes", "obuf_bytes", "dram_bits_per_cycle")


def published(name: str) -> list[dict]:
    with (Path(__file__).parent / "data" / name).open(newline="") as file:
        return [{key: int(v) if v.isdecimal() else v for key, v in row.items()} for row in csv.DictReader(file)]


EDGE, REST = published("bitfusion_published_edge.csv"), published("bitfusion_published_rest.csv")


def priced(row: dict) -> PublishedCost:
    layer = PublishedLayer(*(row[key] for key in SHAPE), im2col=bool(row["im2col"]), batch=row["batch"])
    return published_cost(layer, PublishedMachine(*(row[key] for key in MACHINE)))


@pytest.mark.parametrize(
    "row",
    EDGE + REST,
    ids=lambda row: f"{row['network']}-{row['layer']}-{row['columns_M']}-{row['dram_bits_per_cycle']}",
)
def test_all_ten_figures_are_the_published_ones(row):
    assert priced(row).figures == {name: row[name] for name in FIGURES}


def test_the_fixtures_are_complete_and_quickly_priced():
    assert len(EDGE) == 33
    edge = published_machine("bitfusion-published-edge")
    assert {PublishedMachine(*(row[key] for key in MACHINE)) for row in EDGE} == {edge}
    begin = time.process_time()
    for row in EDGE:
        priced(row)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("network", "cycles"), [("AlexNet", 37666491), ("CIFAR10", 3293704), ("LeNet-5", 410352), ("VGG-7", 2822491)]
)
def test_totals_of_networks(network, cycles):
    assert total_cost(priced(row) for row in EDGE if row["network"] == network).cycles == cycles


# Milliseconds per image and milliwatts that the authors' notebook prints for the edge machine.
PRINTED = {
    "AlexNet": (4.708311375, 448.386241718),
    "SVHN": (0.164690375, 410.014092738),
    "CIFAR10": (0.411713, 450.464576981),
    "LeNet-5": (0.051294, 356.024253811),
    "VGG-7": (0.352811375, 419.433333242),
    "RESNET-18": (6.13499775, 442.486265848),
    "RNN": (0.049322875, 407.720807613),
    "LSTM": (0.042146875, 410.009320233),
}


@pytest.mark.parametrize("network", PRINTED)
def test_time_and_energy_of_networks_are_those_that_the_authors_print(network):
    rows = [row for row in EDGE + REST if row["network"] == network and row["dram_bits_per_cycle"] == 192]
    total, (milliseconds, milliwatts) = total_cost(map(priced, rows)), PRINTED[network]
    assert total.cycles / 500e3 / 16 == pytest.approx(milliseconds, rel=1e-12)
    # Its milliwatts are nanojoules of the batch per millisecond of an image, times 16 * 1e-6.
    joules = milliwatts * milliseconds / 16 * 1e-3
    assert total.energy.total == pytest.approx(joules, rel=2e-4)  # our constants have three digits


def test_energy_of_a_layer_by_hand():
    row = next(row for row in EDGE if (row["network"], row["layer"]) == ("AlexNet", "fc3"))
    energy = priced(row).energy
    assert energy.array == pytest.approx((398679 - 136535) * 235.104e-12)
    assert energy.wbuf == pytest.approx((1073741824 * 0.0214 + 67108864 * 0.0289) * 1e-12)
    assert energy.ibuf == pytest.approx((1073741824 * 0.0595 + 1048576 * 0.1137) * 1e-12)
    assert energy.obuf == pytest.approx(8388608 * (0.0332 + 0.0731) * 1e-12)
    assert energy.dram == pytest.approx((72351744 + 4194304) * 15e-12)
    assert energy.total == pytest.approx(61.6309e-6 + 24.9175e-6 + 64.0069e-6 + 0.8917e-6 + 1148.1907e-6, rel=1e-5)


def sizes(dimension: int, first: int = 1) -> list[int]:
    """Powers of two times ``first`` up to the dimension, which ends the list."""
    found = [first]
    while found[-1] < dimension:
        found.append(2 * found[-1])
    return [min(size, dimension) for size in found]


def traffic(order, counts, indexes, bits, half):
    """Bits moved and bits resident, literally: promotable until the product exceeds half the buffer."""
    moved = resident = bits
    promotable = True
    for loop in order:
        if promotable and loop in indexes:
            moved *= counts[loop]
            promotable = moved <= half
            resident = moved if promotable else resident
        elif not promotable:
            moved *= counts[loop]
    return moved, resident


def plainly(layer: PublishedLayer, machine: PublishedMachine) -> list[tuple]:
    """``(cycles, energy, figures)`` of every tiling and order that fits."""
    up, ip, wp = math.ceil, layer.input_bits, layer.weight_bits
    columns, area = machine.columns, layer.kernel * layer.kernel
    lanes = machine.rows * int(8 / max(ip, 2)) * int(8 / max(wp, 2))
    bw, found = machine.dram_bits_per_cycle, []
    outs = sizes(layer.out_channels) if layer.im2col else sizes(layer.out_channels, columns)
    tilings = product(sizes(layer.batch), sizes(layer.output_size), sizes(layer.in_channels), outs)
    for b, o, ic, oc in tilings:
        counts = {"B": up(layer.batch / b), "W": up(layer.output_size / o), "H": up(layer.output_size / o)}
        counts |= {"I": up(layer.in_channels / ic), "O": up(layer.out_channels / oc)}
        steps = up(area * ic / lanes) if layer.im2col else area * up(ic / lanes)
        seen = o * o * area if layer.im2col else (layer.kernel + (o - 1) * layer.stride) ** 2
        wgt, act = up(area * ic / lanes) * lanes * oc * wp, seen * ic * b * ip
        out = o * o * up(oc / columns) * columns * b * 32
        if act > machine.ibuf_bytes * 4 or wgt > machine.wbuf_bytes * 4 or out > machine.obuf_bytes * 4:
            continue
        tiles = math.prod(counts.values())
        compute = tiles * b * o * o * up(oc / columns) * steps
        i, s, w, q = up(oc / columns) * columns, steps * lanes, b * o * o, area * ic
        work = s * w * (ip + i * (wp + 32)), i * w * (32 + s * (ip + wp)), s * i * (wp + w * (ip + 32))
        kept = work.index(min(work))
        ibuf = tiles * q * w * ip * (1, oc, oc)[kept]
        obuf = tiles * w * oc * 32 * (q, 1, q)[kept]
        wbuf = tiles * q * oc * wp * (w, w, 1)[kept]
        for order in permutations("BWHIO"):
            act_moved, act_kept = traffic(order, counts, "BWHI", act, machine.ibuf_bytes * 4)
            wgt_moved, wgt_kept = traffic(order, counts, "IO", wgt, machine.wbuf_bytes * 4)
            out_moved, out_kept = traffic(order, counts, "BWHO", out, machine.obuf_bytes * 4)
            read, initial = act_moved + wgt_moved + out_moved, act_kept + wgt_kept + out_kept
            middle = read + out_moved - initial - out_kept
            waits = max(0, up(middle / bw) - compute) + up(initial / bw) + up(out_kept / bw)
            sram = (wbuf, wgt_moved, obuf + out_moved, obuf + out_moved, ibuf, act_moved)
            figures = (compute + waits, waits, *sram, read, out_moved)
            joules = compute * machine.rows * machine.columns * 235.104e-12 / 512 + (read + out_moved) * 15e-12
            c = energy_constants(machine)
            for pair, constants in ((sram[:2], c.wbuf), (sram[2:4], c.obuf), (sram[4:], c.ibuf)):
                joules += 1e-12 * (pair[0] * constants[0] + pair[1] * constants[1])
            found.append((compute + waits, joules, figures))
    return found


layers = st.builds(
    PublishedLayer,
    kernel=st.integers(1, 3),
    output_size=st.integers(1, 3),
    stride=st.integers(1, 3),
    in_channels=st.integers(1, 5),
    out_channels=st.integers(1, 12),
    input_bits=st.integers(1, 8),
    weight_bits=st.integers(1, 8),
    im2col=st.booleans(),
    batch=st.integers(1, 2),
)
machines = st.builds(
    PublishedMachine,
    rows=st.integers(1, 3),
    columns=st.integers(1, 5),
    wbuf_bytes=st.integers(64, 2000),
    ibuf_bytes=st.integers(16, 600),
    obuf_bytes=st.integers(32, 600),
    dram_bits_per_cycle=st.sampled_from([1, 7, 64, 500]),
)


@settings(max_examples=20, deadline=None)
@given(layers, machines)
def test_small_layers_cost_what_plain_loops_find(layer, machine):
    found = plainly(layer, machine)
    if not found:
        with pytest.raises(InputError, match="no tile fits half of the buffers"):
            published_cost(layer, machine)
        return
    cost = published_cost(layer, machine)
    fastest = [one for one in found if one[0] == min(found)[0]]
    least = min(energy for _, energy, _ in fastest)
    assert cost.energy.total == pytest.approx(least)
    assert tuple(cost.figures.values()) in {figures for _, energy, figures in fastest if energy <= least * (1 + 1e-9)}


def test_presets_have_the_published_banks_and_say_where_energy_is_estimated():
    known = {name: sram_basis(machine) for name, machine in PUBLISHED_MACHINES.items()}
    estimated = {name: basis for name, basis in known.items() if basis != "published constants"}
    assert estimated == {
        "bitfusion-published-server": "energy per bit estimated from other banks: WBUF (banks of 256 bytes)",
        "bitfusion-published-small": "energy per bit estimated from other banks: OBUF (banks of 2048 bytes)",
    }


def test_energy_per_bit_between_and_beyond_known_banks():
    edge = published_machine("bitfusion-published-edge")

    def of(**sizes: int):
        machine = PublishedMachine(edge.rows, edge.columns, **({"wbuf_bytes": 65536, "ibuf_bytes": 32768} | sizes))
        return energy_constants(machine)

    common = {"obuf_bytes": 16384, "dram_bits_per_cycle": 192}
    assert of(**common).ibuf == SINGLE_PORT[2048]
    assert of(**common).obuf == READ_WRITE_PORT[512]
    middle = of(**common, wbuf_bytes=512 * 362).wbuf  # about the geometric mean of 128 and 1024 bytes
    assert middle == pytest.approx(
        [math.sqrt(a * b) for a, b in zip(*[SINGLE_PORT[s] for s in (128, 1024)], strict=True)], rel=1e-3
    )
    assert of(**common, wbuf_bytes=512 * 64).wbuf < SINGLE_PORT[128]
    assert of(**common, ibuf_bytes=16 * 32768).ibuf > SINGLE_PORT[16384]


def test_costs_add_up():
    one = priced(EDGE[0])
    assert (one * 3).figures == total_cost([one, one, one]).figures
    assert (one * 3).energy.total == pytest.approx(3 * one.energy.total)
    assert set(total_cost([]).figures.values()) == {0}


GOOD = dict.fromkeys(SHAPE, 4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weight_bits": 16}, "expected weight_bits of 1 to 8, got 16"),
        ({"input_bits": 9}, "expected input_bits of 1 to 8, got 9"),
        ({"input_bits": 0}, "expected input_bits of at least 1, got 0"),
        ({"batch": 0}, "expected batch of at least 1, got 0"),
        ({"kernel": 200}, "no tile fits half of the buffers"),
        ({"batch": 2**40}, "too large to count"),
        ({"output_size": 10**30}, "too large to count"),
    ],
)
def test_impossible_layers_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        published_cost(PublishedLayer(**(GOOD | change)), published_machine("bitfusion-published-edge"))


def test_impossible_and_unknown_machines_are_refused():
    with pytest.raises(InputError, match="sizes of at least 1"):
        PublishedMachine(16, 0, 1, 1, 1, 1)
    with pytest.raises(InputError, match="a clock above 0 MHz"):
        PublishedMachine(16, 32, 1, 1, 1, 1, clock_mhz=math.nan)
    with pytest.raises(InputError, match="did you mean 'bitfusion-published-edge'"):
        published_machine("bitfusion-published-egde")
