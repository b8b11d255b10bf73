"""Accelerator descriptions: presets load, and wrong input is named by its path and value."""

import pytest
from pydantic import ValidationError

from hardware.accelerator import Accelerator, accelerator_names, load_accelerator
from hardware.errors import InputError

TINY = """
name: mine
kind: bit_serial
array: {dm: 4, dk: 128, dn: 6}
buffers: {lhs_entries: 64, rhs_entries: 32, plane_words: 128}
memory: {ports: 2, latency: 5, cycles_per_word: 2}
clock_mhz: 125
device: xc7z020
"""


@pytest.mark.parametrize("name", accelerator_names())
def test_preset_loads_under_its_own_name(name):
    assert load_accelerator(name).name == name


def test_the_presets_for_tests_and_demo_exist():
    assert {"bitserial-tiny", "bitserial-small"} <= set(accelerator_names())


def test_a_file_is_read_field_by_field(tmp_path):
    (tmp_path / "mine.yaml").write_text(TINY)
    mine = load_accelerator(str(tmp_path / "mine.yaml"))
    assert (mine.array.dm, mine.array.dk, mine.array.dn) == (4, 128, 6)
    assert (mine.buffers.lhs_entries, mine.buffers.rhs_entries) == (64, 32)
    assert mine.buffers.plane_words == 128
    assert (mine.memory.ports, mine.memory.latency, mine.memory.cycles_per_word) == (2, 5, 2)
    assert (mine.clock_mhz, mine.device) == (125.0, "xc7z020")
    assert mine.peak_binary_macs == 4 * 128 * 6
    assert mine.lanes == 2


def test_ports_and_plane_words_may_be_left_out(tmp_path):
    (tmp_path / "mine.yaml").write_text(TINY.replace(", plane_words: 128", "").replace("ports: 2, ", ""))
    mine = load_accelerator(str(tmp_path / "mine.yaml"))
    assert (mine.memory.ports, mine.buffers.plane_words) == (1, 512)


def test_a_loaded_accelerator_cannot_be_changed(tiny):
    with pytest.raises(ValidationError, match="frozen"):
        tiny.array.dm = 4


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("array", "dm", 1),
        ("array", "dm", 128),
        ("array", "dk", 32),
        ("array", "dk", 1024),
        ("array", "dn", 0),
        ("array", "dn", 65),
        ("buffers", "lhs_entries", 15),
        ("buffers", "plane_words", 8),
        ("buffers", "plane_words", 16384),
        ("memory", "ports", 0),
        ("memory", "ports", 3),
        ("memory", "ports", 8),
        ("buffers", "rhs_entries", 32769),
        ("memory", "latency", -1),
        ("memory", "latency", 1001),  # the simulated memory's delay line has 1024 places
        ("memory", "cycles_per_word", 0),
        ("memory", "cycles_per_word", 65),
        ("memory", "latency", "soon"),
    ],
)
def test_a_value_out_of_range_is_named_by_path_and_value(tiny, part, field, value):
    data = tiny.model_dump()
    data[part][field] = value
    with pytest.raises(InputError) as refused:
        Accelerator.from_mapping(data, "mine.yaml")
    assert refused.value.args[0].startswith("mine.yaml is not a valid Accelerator: ")
    assert f"{part}.{field}: " in str(refused.value)
    assert f"(got {value!r})" in str(refused.value)


@pytest.mark.parametrize(
    ("part", "field", "value", "problem"),
    [
        ("array", "dk", 192, r"array: .*dk must be a power of two, 64 to 512"),
        ("array", "dm", 6, r"array: .*dm must be a power of two, 2 to 64"),
        ("buffers", "lhs_entries", 48, r"buffers: .*lhs_entries must be a power of two"),
        ("buffers", "rhs_entries", 1000, r"buffers: .*rhs_entries must be a power of two"),
        ("buffers", "plane_words", 96, r"buffers: .*plane_words must be a power of two"),
    ],
)
def test_what_is_no_power_of_two_is_refused(tiny, part, field, value, problem):
    data = tiny.model_dump()
    data[part][field] = value
    with pytest.raises(InputError, match=rf"{problem}.*{value}"):
        Accelerator.from_mapping(data, "mine.yaml")


@pytest.mark.parametrize(
    ("dm", "dn", "ports", "fits"), [(2, 2, 2, True), (2, 4, 4, False), (4, 6, 4, False), (4, 4, 4, True)]
)
def test_ports_divide_rows_and_columns_among_them(tiny, dm, dn, ports, fits):
    data = tiny.model_dump()
    data["array"] |= {"dm": dm, "dn": dn}
    data["memory"]["ports"] = ports
    if fits:
        assert Accelerator.from_mapping(data, "mine.yaml").memory.ports == ports
    else:
        with pytest.raises(InputError, match=rf"memory\.ports \({ports}\) must divide array\.dm and array\.dn"):
            Accelerator.from_mapping(data, "mine.yaml")


def test_all_problems_are_told_at_once(tiny):
    data = tiny.model_dump()
    data["array"]["dm"], data["clock_mhz"], data["kind"] = 1, 0, "analog"
    with pytest.raises(InputError, match=r"(?s)kind: .*'analog'.*array\.dm: .*clock_mhz: "):
        Accelerator.from_mapping(data, "mine.yaml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (TINY + "colour: red\n", r"colour: .*'red'"),
        (TINY.replace("dn: 6", "dn: 6, depth: 7"), r"array\.depth: .*7"),
        (TINY.replace("device: xc7z020", ""), r"device: Field required"),
        ("- a list", r"the file: "),
        ("", r"the file: "),
        ("array: {dm: 4", r"mine\.yaml is not YAML: .*line 1"),
        (b"\xff\xfe\xff", r"cannot read .*mine\.yaml"),
    ],
)
def test_a_wrong_file_is_named_with_its_problem(tmp_path, text, problem):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=problem) as refused:
        load_accelerator(str(path))
    assert str(path) in str(refused.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*missing\.yaml"):
        load_accelerator(str(tmp_path / "missing.yaml"))


def test_an_unknown_name_brings_the_near_ones():
    with pytest.raises(InputError) as refused:
        load_accelerator("bitserial-tny")
    assert str(refused.value).startswith("unknown hardware 'bitserial-tny': did you mean 'bitserial-tiny'")
    assert all(name in str(refused.value) for name in accelerator_names())


def test_a_name_like_no_other_brings_no_guess():
    with pytest.raises(InputError, match=r"^unknown hardware 'qqq': Known: .*a path ending in \.yaml") as refused:
        load_accelerator("qqq")
    assert "did you mean" not in str(refused.value)
