"""The slowest paths of an SDF text, against delays added up by hand."""

import pytest

from hardware.errors import InputError
from sim.paths import Timing

FLIP_FLOP = """(CELL (CELLTYPE "TRELLIS_FF")
  (INSTANCE {name})
  (DELAY (ABSOLUTE
    (IOPATH CLK Q (400:450:500) (400:450:500))))
  (TIMINGCHECK
    (SETUPHOLD (posedge DI) (posedge CLK) ({setup}:{setup}:{setup}) (200:200:200))
    (SETUPHOLD (negedge DI) (posedge CLK) (9:9:9) (200:200:200))))
"""
LUT = """(CELL (CELLTYPE "TRELLIS_COMB")
  (INSTANCE {name})
  (DELAY (ABSOLUTE
    (IOPATH A F (100:150:{delay}) (100:150:{delay})))))
"""


def wires(*connections: tuple[str, str, int]) -> str:
    return "\n".join(f"(INTERCONNECT {driver} {load} ({ps}:{ps}:{ps}) (0:0:0))" for driver, load, ps in connections)


FETCH, ORDER, RESULT = (
    f"machine.{name}_TRELLIS_FF_Q" for name in (r"fetch.words\[0\]", "fetch.order.last", "result.full")
)
SDF = "\n".join(
    [
        FLIP_FLOP.format(name=FETCH, setup=0),
        FLIP_FLOP.format(name=ORDER, setup=100),
        FLIP_FLOP.format(name=RESULT, setup=300),
        LUT.format(name="machine.fetch.words_LUT4_A", delay=250),
        wires(
            ("clock/CLKO", f"{FETCH}/CLK", 0),
            (f"{FETCH}/Q", "machine.fetch.words_LUT4_A/A", 1000),
            ("machine.fetch.words_LUT4_A/F", f"{ORDER}/DI", 2000),
            ("machine.fetch.words_LUT4_A/F", f"{RESULT}/DI", 1500),
            (f"{ORDER}/Q", f"{FETCH}/DI", 700),
        ),
    ]
)


def test_delays_are_added_up_from_register_to_register():
    paths = {path.signals: path for path in Timing(SDF).slowest_paths()}
    last, full, words = sorted(paths, key=lambda signals: -paths[signals].delay_ns)
    assert (last[-1], full[-1], words[0]) == ("fetch.order.last", "result.full", "fetch.order.last")
    assert paths[last].delay_ns == pytest.approx((500 + 1000 + 250 + 2000 + 100) / 1000)
    assert paths[full].delay_ns == pytest.approx((500 + 1000 + 250 + 1500 + 300) / 1000)
    assert paths[words].delay_ns == pytest.approx((500 + 700) / 1000)
    assert paths[last].mhz == pytest.approx(1000 / 3.85)
    assert [paths[signals].cells for signals in (last, full, words)] == [3, 3, 2]


def test_the_slowest_path_of_all_comes_step_by_step():
    steps = Timing(SDF).slowest_steps()
    assert [(step["type"], step["delay"], step["to"]["cell"]) for step in steps] == [
        ("clk-to-q", pytest.approx(0.5), FETCH.replace("\\", "")),
        ("routing", pytest.approx(1.0), "machine.fetch.words_LUT4_A"),
        ("logic", pytest.approx(0.25), "machine.fetch.words_LUT4_A"),
        ("routing", pytest.approx(2.0), ORDER),
        ("setup", pytest.approx(0.1), ORDER),
    ]


def test_every_register_input_has_its_slowest_path():
    assert Timing(SDF).input_delays() == pytest.approx([3.85, 3.55, 1.2])


def test_of_two_paths_between_the_same_units_the_slower_one_is_given():
    slow, fast = Timing(SDF).slowest_paths(depth=1)
    assert (slow.signals[-1], fast.signals[-1]) == ("fetch.order.last", "result.full")


def test_a_text_without_paths_is_refused():
    with pytest.raises(InputError, match="expected an SDF file"):
        Timing(LUT.format(name="alone", delay=1))
