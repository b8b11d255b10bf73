"""Board descriptions."""

import pytest
import yaml

from hardware.board import ZynqBoard, board_names, load_board
from hardware.errors import InputError


@pytest.mark.parametrize("name", board_names())
def test_board_loads_under_its_own_name(name):
    board = load_board(name)
    assert board.name == name
    assert board.vendor_part.startswith(board.device.part)


def test_the_zynq_7020_has_the_resources_of_its_data_sheet():
    device = load_board("arty-z7-20").device
    assert (device.lut, device.ff, device.bram36, device.dsp) == (53_200, 106_400, 140, 220)


def test_an_unknown_board_brings_the_near_ones():
    with pytest.raises(InputError, match=r"unknown board 'arty-z7': did you mean 'arty-z7-20'"):
        load_board("arty-z7")


def test_a_wrong_resource_is_named_by_path_and_value():
    data = load_board("arty-z7-20").model_dump()
    data["device"]["lut"] = "many"
    with pytest.raises(InputError, match=r"mine\.yaml is not a valid ZynqBoard: device\.lut: .*'many'"):
        ZynqBoard.from_mapping(data, "mine.yaml")


def test_a_board_of_ones_own_is_known_by_its_pins(tmp_path):
    data = load_board("ulx3s-85f").model_dump(mode="json")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    assert load_board(str(tmp_path / "mine.yaml")) == load_board("ulx3s-85f")
    data["pins"]["rx"] = "m1"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=r"is not a valid Ecp5Board: pins\.rx: .*'m1'"):
        load_board(str(tmp_path / "mine.yaml"))
