"""Board descriptions."""

import pytest

from hardware.board import Board, board_names, load_board
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
    with pytest.raises(InputError, match=r"mine\.yaml is not a valid Board: device\.lut: .*'many'"):
        Board.from_mapping(data, "mine.yaml")
