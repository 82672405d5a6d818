"""Cells and columns of tables over seeds; whole tables are tested with recipes/reproduce.py, which fills them."""

import pytest

from mtbert.evaluation.tables import main_metrics, spread


@pytest.mark.parametrize(
    ("values", "shown"), [([], ""), ([0.25], "0.250"), ([0.1, 0.3], "0.200 ± 0.141"), ([0.5] * 3, "0.500 ± 0.000")]
)
def test_a_deviation_takes_two_values(values, shown):
    assert spread(values) == shown


def test_the_main_metric_is_the_first_after_the_loss():
    scores = {"eval_a_loss": 1.0, "eval_a_f1": 0.2, "eval_a_accuracy": 0.3, "eval_a_b_pearson": 0.4}
    assert main_metrics(scores, ["a", "a_b", "none"]) == {"a": 0.2, "a_b": 0.4}
