"""A recipe as text, and the problems that are told of one."""

import pytest

from mtbert.recipe import (
    RecipeError,
    load_recipe,
)

GOOD = """\
encoder: some/encoder
tasks:
  sst:
    data: {text: sentence, label: sentiment, train: a.csv, dev: b.csv}
    labels: [no, yes]
  sts:
    data: {text: [first, second], train: c.csv, dev: d.csv}
    range: [0, 5]
training:
  output_dir: out
  learning_rate: 1e-5
"""


def problems(path: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return caught.value.problems


def only_problem(path: str, *overrides: str) -> str:
    (line,) = problems(path, *overrides)
    return line
