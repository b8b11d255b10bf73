"""Accelerator descriptions: presets load, and wrong input is named by its path and value."""

import pytest
from pydantic import ValidationError

from hardware.accelerator import Accelerator, accelerator_names, load_accelerator
from hardware.errors import InputError

TINY = """
name: mine
kind: bit_serial
array: {dm: 4, dk: 128, dn: 3}
buffers: {lhs_entries: 64, rhs_entries: 32}
memory: {latency: 5, cycles_per_word: 2}
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
    assert (mine.array.dm, mine.array.dk, mine.array.dn) == (4, 128, 3)
    assert (mine.buffers.lhs_entries, mine.buffers.rhs_entries) == (64, 32)
    assert (mine.memory.latency, mine.memory.cycles_per_word) == (5, 2)
    assert (mine.clock_mhz, mine.device) == (125.0, "xc7z020")
    assert mine.peak_binary_macs == 4 * 128 * 3
    assert mine.lanes == 2


def test_a_loaded_accelerator_cannot_be_changed(tiny):
    with pytest.raises(ValidationError, match="frozen"):
        tiny.array.dm = 4


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("array", "dm", 3),  # odd
        ("array", "dm", 0),
        ("array", "dm", 66),
        ("array", "dk", 32),
        ("array", "dk", 1024),
        ("array", "dn", 0),
        ("array", "dn", 65),
        ("buffers", "lhs_entries", 15),
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


def test_a_vector_that_is_no_power_of_two_is_refused(tiny):
    data = tiny.model_dump()
    data["array"]["dk"] = 192
    with pytest.raises(InputError, match=r"array: .*dk must be a power of two.*192"):
        Accelerator.from_mapping(data, "mine.yaml")


def test_all_problems_are_told_at_once(tiny):
    data = tiny.model_dump()
    data["array"]["dm"], data["clock_mhz"], data["kind"] = 3, 0, "analog"
    with pytest.raises(InputError, match=r"(?s)kind: .*'analog'.*array\.dm: .*clock_mhz: "):
        Accelerator.from_mapping(data, "mine.yaml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (TINY + "colour: red\n", r"colour: .*'red'"),
        (TINY.replace("dn: 3", "dn: 3, depth: 7"), r"array\.depth: .*7"),
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
