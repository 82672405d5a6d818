"""The form of a label column is found from its cells alone."""

import numpy as np
import pytest

from mtbert.data.label_forms import LISTS, MAPPINGS, ONE, SEPARATED, VECTORS, is_truth_column, label_form


@pytest.mark.parametrize(
    ("cells", "form", "separator", "labels"),
    [
        (["a", "b", "a"], ONE, None, ("a", "b")),
        ([1, 2, 2, 5], ONE, None, ("2", "1", "5")),
        (["1.5", "2"], ONE, None, ("1.5", "2")),
        (["0", "1", "1"], ONE, None, ("1", "0")),
        (["arts, crafts", "law, order", "arts, crafts"], ONE, None, ("arts, crafts", "law, order")),
        (["New York, NY", "Albany, NY", "Buffalo, NY"], ONE, None, ("Albany, NY", "Buffalo, NY", "New York, NY")),
        (["art|law", "art", "law"], SEPARATED, "|", ("art", "law")),
        (["art|law", "[]", "law", "[]", "[]"], SEPARATED, "|", ("law", "art")),
        (["art; law", "law;war", "war", "art"], SEPARATED, ";", ("art", "law", "war")),
        (["art, law", "law", "art"], SEPARATED, ",", ("art", "law")),
        (["a, b;c", "c", "a, b"], SEPARATED, ";", ("a, b", "c")),
        ([["art", "law"], ["law"], []], LISTS, None, ("law", "art")),
        (["['art', 'law']", '["law"]', "[]"], LISTS, None, ("law", "art")),
        (["['art' 'law']", "['law']"], LISTS, None, ("law", "art")),
        ([np.array(["art"]), ("law", "art")], LISTS, None, ("art", "law")),
        ([{"art", "law"}, {"law"}], LISTS, None, ("law", "art")),
        ([[0, 1, 0], [1, 1, 1]], VECTORS, None, ("0", "1", "2")),
        ([[True, False], [False, False]], VECTORS, None, ("0", "1")),
        (["[0, 1, 0]", "[1, 0, 0]"], VECTORS, None, ("0", "1", "2")),
        (["[0 1 0]", "[1 0 0]"], VECTORS, None, ("0", "1", "2")),
        (["[0. 1. 0.]", "[1. 0. 0.]"], VECTORS, None, ("0", "1", "2")),
        (["0 1 0", "1 1 1"], VECTORS, " ", ("0", "1", "2")),
        (["0,1,0", "1,1,1"], VECTORS, ",", ("0", "1", "2")),
        ([[0, 2], [1]], LISTS, None, ("0", "1", "2")),
        ([{"art": 1, "law": 0}, {"art": 0, "law": 0}], MAPPINGS, None, ("art", "law")),
        (['{"art": 1, "law": 0}'], MAPPINGS, None, ("art", "law")),
        ([None, "", float("nan")], ONE, None, ()),
    ],
)
def test_form_of_a_column(cells, form, separator, labels):
    found = label_form(cells)
    assert (found.form, found.separator, found.labels) == (form, separator, labels)
    assert found.several == (form != ONE) and found.odd == ()


def test_empty_and_odd_cells_are_counted():
    found = label_form([["art"], "", ["law"], None, {"art": 1}, "[]"])
    assert (found.form, found.filled, found.empty, found.odd) == (LISTS, 4, (1, 3), (4,))


@pytest.mark.parametrize(
    ("cells", "truth"),
    [
        ([0, 1, None], True),
        (["0", "1.0", ""], True),
        (["yes", "No"], True),
        ([True], True),
        ([0.0, 1.0], True),
        ([], False),
        ([None], False),
        ([0, 2], False),
        (["yes", "maybe"], False),
    ],
)
def test_a_column_of_one_label(cells, truth):
    assert is_truth_column(cells) is truth
