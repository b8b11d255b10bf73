"""Accuracies from tables."""

import numpy as np
import pytest

from hardware.errors import InputError
from hardware.layer import Layer
from policies.evaluators import TableEvaluator
from policies.policy import Policy
from policies.space import Space

LAYERS = [Layer(f"l{index}", "linear", 8, 8) for index in range(2)]


def written(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_weights_alone(tmp_path):
    table = TableEvaluator(written(tmp_path, "w1,w2,top1_percent\n2,2,50\n2,4,75\n4,2,62.5\n4,4,99\n"))
    assert (table.layers, table.weight_widths, table.activation_widths) == (2, (2, 4), ())
    assert table.reference_accuracy == 0.99
    space = Space("net", LAYERS, weight_widths=table.weight_widths, activation_widths=None)
    assert table.accuracy(space.policy(np.array([4, 2]))) == 0.625


def test_weights_and_activations_as_fractions(tmp_path):
    table = TableEvaluator(written(tmp_path, "w1,w2,a1,a2,accuracy\n2,3,8,7,0.5\n"), reference=0.75)
    assert (table.weight_widths, table.activation_widths, table.reference_accuracy) == ((2, 3), (7, 8), 0.75)
    assert table.accuracy(Policy.from_bits("net", LAYERS, [(2, 8), (3, 7)])) == 0.5
    with pytest.raises(InputError, match="holds no policy 2 3 8 8"):
        table.accuracy(Policy.from_bits("net", LAYERS, [(2, 8), (3, 8)]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "expected columns w1, w2, ... and one of top1_percent"),
        ("w1,w2\n1,2\n", "expected columns w1, w2, ... and one of top1_percent"),
        ("top1_percent\n1\n", "expected columns w1, w2, ... and one of top1_percent"),
        ("w1,accuracy\n2,50\n", "expected whole widths and accuracy between 0 and 1"),
        ("w1,accuracy\nwide,0.5\n", "expected whole widths and accuracy between 0 and 1"),
        ("w1,top1_percent\n2,high\n", "expected whole widths and top1_percent between 0 and 100"),
        ("w1,accuracy\n2,0.5\n2,0.6\n", "1 policies stand twice"),
        ("", "cannot read .*table.csv as CSV"),
    ],
)
def test_a_wrong_table_says_what_was_expected(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        TableEvaluator(written(tmp_path, text))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.csv"):
        TableEvaluator(tmp_path / "none.csv")
