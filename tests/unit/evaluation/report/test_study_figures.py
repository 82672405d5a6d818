"""Figures of a study: what is drawn is what the numbers say, and words in an SVG are words."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mtbert.evaluation.report import study_figures
from mtbert.evaluation.report.write import write_figure

TASKS = ["cola", "$x$", "sick"]
MATRIX = [[1.0, -0.5, 0.25], [0.5, 1.0, float("nan")], [0.0, 0.1, 1.0]]
FOUND = {
    "tasks": TASKS,
    "affinity": {"mean": np.array(MATRIX) / 1000, "spread": np.abs(MATRIX) / 1000},
    "cosines": {"mean": MATRIX, "spread": MATRIX},
    "course": {"cola": [{"step": 5, "value": 0.1}, {"step": 10, "value": -0.2}], "$x$": [], "sick": []},
}
ROWS = {
    "cola": {"difference": 0.01, "low": 0.002, "high": 0.02, "verdict": "gains"},
    "$x$": {"difference": 0.0, "low": -0.01, "high": 0.01, "verdict": "undecided"},
}


@pytest.mark.parametrize("name", ["affinity", "cosines", "cosine_course", "sharing", "adapters", "form_differences"])
def test_an_svg_has_words_and_equal_numbers_give_equal_files(name, tmp_path):
    numbers = FOUND if name in ("affinity", "cosines", "cosine_course") else {"tasks": ROWS}
    if name == "form_differences":
        numbers = {"against": "single", "differences": ROWS}
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_figure(tmp_path / folder, name, numbers, getattr(study_figures, name), "svg")
    text = (tmp_path / "one" / f"{name}.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "two" / f"{name}.svg").read_text(encoding="utf-8")
    assert "<text" in text and "cola" in text
    assert json.loads((tmp_path / "one" / f"{name}.json").read_text())


def test_heat_maps_show_each_number_and_gaps():
    left, right = study_figures.affinity(FOUND).axes[:2]
    shown = [text.get_text() for text in left.texts]
    assert shown == ["1.00", "-0.50", "0.25", "0.50", "1.00", "–", "0.00", "0.10", "1.00"]
    assert left.get_ylabel() == "task of the step" and left.get_xlabel() == "task whose loss falls"
    assert "standard deviation" in right.get_title()


def test_intervals_are_drawn_in_points_in_the_colour_of_their_verdict():
    (axes,) = study_figures.sharing({"tasks": ROWS}).axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2]
    assert [list(np.round(line.get_xdata(), 6)) for line in lines] == [[0.2, 2.0], [-1.0, 1.0]]
    assert [line.get_color() for line in lines] == [
        study_figures.VERDICTS["gains"],
        study_figures.VERDICTS["undecided"],
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cola", "$x$"]


def test_a_study_without_measured_numbers_is_drawn():
    nothing = np.full((2, 2), np.nan)
    empty = {"tasks": ["a", "b"], "affinity": {"mean": nothing, "spread": nothing}}
    empty |= {"cosines": {"mean": nothing, "spread": nothing}, "course": {"a": [], "b": []}}
    for name in ("affinity", "cosines", "cosine_course"):
        getattr(study_figures, name)(empty).canvas.draw()
