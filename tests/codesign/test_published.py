"""``codesign cost --model published``: tables of layers and networks, what it writes and what it refuses."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from codesign.cli import main
from codesign.published import network_layers, price
from codesign.tracing import Traced, trace
from codesign.workload import Workload, load_workload
from hardware.bitfusion_cost import FIGURES
from hardware.bitfusion_published import DEFAULT_PUBLISHED, PublishedLayer, published_machine
from hardware.errors import InputError
from hardware.layer import Layer
from policies.policy import Policy

TABLE = Path(__file__).parents[1] / "hardware" / "data" / "bitfusion_published_edge.csv"
COMMON_KEYS = {"command", "version", "hardware", "rtl_hash", "seed", "wall_s"}
EDGE = published_machine(DEFAULT_PUBLISHED)


@pytest.fixture
def cost(monkeypatch, capsys, tmp_path):
    """``cost(arguments)``: exit code, standard output and error of ``codesign cost``, run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["codesign", "cost", *arguments.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def written(cost, tmp_path):
    """``written(arguments)``: the ``--json`` file of a command that must succeed."""

    def run(arguments: str) -> dict:
        code, _, err = cost(f"{arguments} --json result.json")
        assert code == 0, err
        return json.loads((tmp_path / "result.json").read_text())

    return run


def works_of(module: nn.Module, shape: tuple[int, ...], bits: tuple[int, int] = (4, 8), batch: int = 16):
    torch.manual_seed(0)
    traced = trace(module, shape)
    workload = Workload("mine", traced, shape, False, None, 0)
    return network_layers(workload, Policy.uniform("mine", traced.layers, *bits), batch, EDGE)


def test_a_table_of_layers_is_priced_row_by_row(written):
    result = written(f"--model published --layers {TABLE}")
    with TABLE.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert result.keys() >= COMMON_KEYS
    assert (result["command"], result["hardware"], result["rtl_hash"]) == ("cost", DEFAULT_PUBLISHED, None)
    assert len(result["rows"]) == len(table) == 33
    for row, expected in zip(result["rows"], table, strict=True):
        assert (row["network"], row["layer"]) == (expected["network"], expected["layer"])
        assert [row[name] for name in FIGURES] == [int(expected[name]) for name in FIGURES]
        assert row["energy_j"] == pytest.approx(sum(row["energy"].values()))
    assert result["cycles"] == 37666491 + 3293704 + 410352 + 2822491
    assert result["latency_s"] == pytest.approx(result["cycles"] / 500e6)
    assert result["energy_j"] == pytest.approx(sum(row["energy_j"] for row in result["rows"]))
    assert result["energy"].pop("basis") == "published constants"
    assert sum(result["energy"].values()) == pytest.approx(result["energy_j"])


def test_only_the_named_columns_are_needed_in_any_order(written, tmp_path):
    given = {"batch": 16, "im2col": 0, "weight_bits": 8, "input_bits": 8, "out_channels": 1000, "in_channels": 8192}
    given |= {"stride": 1, "output_size": 1, "kernel": 1, "dram_bits_per_cycle": 192, "ibuf_bytes": 32768}
    given |= {"obuf_bytes": 16384, "wbuf_bytes": 65536, "columns_M": 32, "rows_N": 15}
    lines = [",".join(given), ",".join(map(str, given.values()))]
    (tmp_path / "mine.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    result = written("--model published --layers mine.csv")
    assert result["hardware"] == "bitfusion-published"  # 15 rows: none of the authors'
    assert result["rows"][0]["layer"] == "mine.csv, layer 1"


def test_a_network_is_priced_on_the_machine_that_is_named(written):
    edge = written("--model published --bits 4,8 --batch 16")
    server = written("--model published --bits 4,8 --batch 16 --hardware bitfusion-published-server")
    assert (edge["hardware"], server["hardware"]) == (DEFAULT_PUBLISHED, "bitfusion-published-server")
    assert [row["layer"] for row in edge["rows"]] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert server["cycles"] < edge["cycles"]
    assert server["latency_s"] == pytest.approx(server["cycles"] / 980e6)
    assert server["energy"]["basis"].startswith("energy per bit estimated from other banks: WBUF")


def test_layers_of_a_network_have_its_shapes():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(288, 10)
    )
    works = works_of(module, (3, 16, 16))
    assert [work.shape for work in works] == [
        PublishedLayer(5, 8, 2, 3, 8, 8, 4, im2col=True, batch=16),
        PublishedLayer(3, 6, 1, 8, 8, 8, 4, batch=16),
        PublishedLayer(1, 1, 1, 288, 10, 8, 4, batch=16),
    ]
    assert [work.times for work in works] == [1, 1, 1]


def test_groups_are_priced_one_after_the_other():
    first = nn.Conv2d(4, 8, 1)
    works = works_of(nn.Sequential(first, nn.Conv2d(8, 16, 3, groups=4), nn.Flatten(), nn.Linear(576, 2)), (4, 8, 8))
    assert works[1].shape == PublishedLayer(3, 6, 1, 2, 4, 8, 4, batch=16)
    assert works[1].times == 4
    alone = price([replace(works[1], times=1)])[0]
    grouped = price(works)[1]
    assert grouped.figures == {name: 4 * figure for name, figure in alone.figures.items()}
    assert grouped.energy.total == pytest.approx(4 * alone.energy.total)


def test_positions_of_a_text_are_images_of_a_linear_layer():
    layers = (Layer("gates", "conv", 32, 128, 1, 64), Layer("state", "linear", 32, 128, repeats=64))
    workload = Workload("mine", Traced(nn.Identity(), layers), (64,), False, None, 0)
    works = network_layers(workload, Policy.uniform("mine", layers, 4, 4), 2, EDGE)
    assert [(work.shape, work.times) for work in works] == [
        (PublishedLayer(1, 1, 1, 32, 128, 4, 4, im2col=True, batch=128), 1),
        (PublishedLayer(1, 1, 1, 32, 128, 4, 4, batch=2), 64),
    ]


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (nn.Conv2d(3, 8, (1, 3)), "layer '0': the published model knows only squares, but its kernel is 1x3"),
        (nn.Conv2d(3, 8, 3, padding=(0, 1)), "layer '0': .*its output is 6x8"),
        (nn.Conv2d(3, 8, 3, dilation=2), "layer '0': the published model knows no dilation"),
    ],
)
def test_shapes_that_the_model_does_not_know_are_refused_by_name(module, sentence):
    with pytest.raises(InputError, match=sentence):
        works_of(nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)), (3, 8, 8))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("weights: {bits: [4, 2, 4, 4, 4, 4, 4, 4]", "layer 'conv1': the published model has one width of 1 to 8 bits"),
        ("weights: {bits: 0", "layer 'conv1': the published model has one width of 1 to 8 bits"),
        ("weights: {bits: 2, scheme: clip}, activations: {bits: 4, scheme: uniform}}\n#", "plain integers"),
    ],
)
def test_operands_that_the_model_does_not_know_are_refused(cost, tmp_path, change, sentence):
    layers = load_workload("lenet", seed=0).traced.layers
    text = Policy.uniform("lenet", layers, 4, 4).as_yaml()
    (tmp_path / "policy.yaml").write_text(text.replace("weights: {bits: 4", change, 1))
    code, _, err = cost("--model published --policy policy.yaml")
    assert code == 2
    assert sentence in err


def changed(column: str, value: str) -> str:
    """The table's first row with another value in a column."""
    with TABLE.open(newline="") as file:
        header, first = list(csv.reader(file))[:2]
    first[header.index(column)] = value
    return ",".join(header) + "\n" + ",".join(first) + "\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "mine.csv lacks the columns rows_N, columns_M"),
        (changed("batch", "16").replace(",batch,", ",images,"), "mine.csv lacks the columns batch"),
        (changed("batch", "16").splitlines()[0], "mine.csv holds no layers"),
        (changed("batch", "many"), "mine.csv, layer 1, column batch: expected a whole number, got 'many'"),
        (changed("stride", "1.5"), "layer 1, column stride: expected a whole number, got '1.5'"),
        (changed("kernel", "-3"), "layer 1, column kernel: expected a whole number, got '-3'"),
        (changed("batch", "16").rsplit(",", 2)[0], "layer 1, column ibuf_bytes: expected a whole number, got ''"),
        (changed("im2col", "2"), "layer 1, column im2col: expected 0 or 1, got 2"),
        (changed("rows_N", "0"), "layer 1, column rows_N: expected at least 1, got 0"),
        (changed("weight_bits", "16"), "mine.csv, layer 1: expected weight_bits of 1 to 8, got 16"),
        (changed("batch", "0"), "mine.csv, layer 1: expected batch of at least 1, got 0"),
        (changed("obuf_bytes", "64"), "layer 'conv4_b': no tile fits half of the buffers"),
        (changed("batch", "9" * 18), "layer 'conv4_b': the layer is too large to count"),
        (b"\xff\xfe\x00", "cannot read mine.csv"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(cost, tmp_path, content, sentence):
    (tmp_path / "mine.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = cost("--model published --layers mine.csv --json result.json")
    assert (code, out) == (2, "")
    assert err.startswith("codesign: ")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--model theirs --bits 4", "unknown model 'theirs'"),
        ("--layers mine.csv", "--layers is for the published model: add --model published"),
        (
            "--model published --layers mine.csv --bits 4 --batch 1",
            "mine.csv says itself what it holds: leave out --bits",
        ),
        ("--model published --layers mine.csv", "cannot read mine.csv"),
        ("--model published --bits 4 --lut table.npy", "--lut writes this project's cycles"),
        ("--model published", "expected exactly one of --policy and --bits"),
        ("--model published --bits 4 --hardware bitserial-tiny", "unknown published machine 'bitserial-tiny'"),
        ("--bits 4 --hardware bitfusion-published-edge", "unknown hardware 'bitfusion-published-edge'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(cost, tmp_path, arguments, sentence):
    code, _, err = cost(arguments)
    assert code == 2
    assert sentence in err
    assert list(tmp_path.iterdir()) == []
