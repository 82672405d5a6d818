"""Published figures: what published.yaml holds, and how tables show it."""

from __future__ import annotations

import pytest

from mtbert.cli.reproduce import PUBLISHED
from mtbert.evaluation.published import published_cell, published_dev, published_test

TEST = {row for row in PUBLISHED if published_test(PUBLISHED, row)}


def averages(scores: dict[str, float]) -> dict[str, float]:
    sst, para, sts = (scores[name] for name in ("sst", "para", "sts"))
    return {"overall": (sst + para + (1 + sts) / 2) / 3, "raw_mean": (sst + para + sts) / 3}


@pytest.mark.parametrize("row", PUBLISHED)
def test_averages_are_those_of_their_scores(row):
    """Up to the rounding of the scores; undefined correlations count as 0."""
    for scores in (published_dev(PUBLISHED, row), published_test(PUBLISHED, row).get("scores", {})):
        if {"sst", "para", "sts"} <= scores.keys():
            values = {name: 0.0 if value == "undefined" else value for name, value in scores.items()}
            for name in ("overall", "raw_mean"):
                if name in values:
                    assert values[name] == pytest.approx(averages(values)[name], abs=0.0021), name


def test_rows_with_test_figures():
    assert {"A4", "A5", "A11", "A-test", "B5", "C1", "C1-full", "C2", "D5", "E12"} == TEST
    unknown = published_test(PUBLISHED, "A5")
    assert unknown == published_test(PUBLISHED, "A11") and unknown["of"].startswith("the highest of A4, A5 and A11")
    assert published_test(PUBLISHED, "B5")["scores"] == {"overall": 0.784, "sst": 0.531, "para": 0.88, "sts": 0.882}
    assert published_dev(PUBLISHED, "none") == published_test(PUBLISHED, "none") == {}


def test_cells_label_the_test_figures():
    def cell(row: str) -> str:
        return published_cell(published_dev(PUBLISHED, row), published_test(PUBLISHED, row))

    assert cell("E1-last") == "sst 0.39"
    assert cell("none") == ""
    assert cell("D5") == (
        "raw_mean 0.747 sst 0.504 para 0.869 sts 0.868 (test: raw_mean 0.742 sst 0.493 para 0.867 sts 0.867)"
    )
    assert cell("A4") == (
        "overall 0.651 sst 0.51 para 0.759 sts 0.368 "
        "(test, the highest of A4, A5 and A11; the report does not say which: "
        "overall 0.652 sst 0.526 para 0.761 sts 0.338)"
    )
