"""Search spaces: what a dimension gives a trial, and values as overrides; refusals: tests/recipes/test_search.py."""

import optuna
import pytest

from mtbert.recipe import RecipeError, load_recipe
from mtbert.recipe.search_space import Dimension, as_overrides, check_space, read_space

RECIPE = """\
encoder: some/encoder
tasks:
  sst: {labels: 3, data: {train: a.csv, dev: b.csv}}
training: {output_dir: out}
"""


@pytest.fixture
def load(tmp_path):
    """Overrides → the recipe with them."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return lambda overrides: load_recipe(tmp_path / "recipe.yaml", overrides)


def ask(dimension: Dimension, times: int) -> set:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return {str(dimension.suggest(study.ask(), "key")) for _ in range(times)}


def test_a_trial_is_given_values_of_the_space():
    assert ask(Dimension("float", 0.5, 2, step=0.5), 60) == {"0.5", "1.0", "1.5", "2.0"}
    assert ask(Dimension("int", 2.0, 8.0, step=3.0), 60) == {"2", "5", "8"}
    assert ask(Dimension("categorical", choices=[[0, 1], None, "x", 2]), 90) == {"[0, 1]", "None", "x", "2"}
    drawn = [float(value) for value in ask(Dimension("float", 1e-6, 1e-2, log=True), 400)]
    assert min(drawn) >= 1e-6 and max(drawn) <= 1e-2
    assert sum(value < 1e-4 for value in drawn) / len(drawn) == pytest.approx(0.5, abs=0.1)


def test_ends():
    assert Dimension("float", 1, 3).ends() == [1.0, 3.0]
    ends = Dimension("int", 1.0, 1.0).ends()
    assert ends == [1] and type(ends[0]) is int
    assert Dimension("categorical", choices=["a", None]).ends() == ["a", None]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tasks.sst.weight", 1e-5),
        ("tasks.sst.labels", ["bad", "no", "1e-5"]),
        ("tasks.sst.max_length", None),
        ("tasks.sst.pooling", "mean"),
        ("tasks.sst.token_types", False),
        ("model.adapter", {"type": "low_rank", "size": 3}),
        ("training.seed", 7),
    ],
)
def test_values_as_overrides_are_the_values(load, key, value):
    found = load(as_overrides({key: value})).to_dict()
    for part in key.split("."):
        found = found[part]
    assert found == value if not isinstance(value, dict) else value.items() <= found.items()


def test_values_that_work_only_together_are_accepted_and_others_not(load):
    name = Dimension("categorical", choices=["annealed", "temperature"])
    temperature = Dimension("categorical", choices=[None, 2.0])
    origins = {"schedule.name": "space.yaml:1", "schedule.temperature": "space.yaml:2"}
    assert check_space({"schedule.name": name, "schedule.temperature": temperature}, origins, load) == []
    (line,) = check_space({"schedule.name": name}, origins, load)
    assert line.startswith("space.yaml:1: schedule.temperature is null, which does not go with schedule.name: temp")
    (line,) = check_space({"schedule.temperature": Dimension("float", 1, 5)}, origins, load)  # of both ends one
    assert line.startswith("space.yaml:2: schedule.temperature is 1.0, which does not go with schedule.name: any but")


def test_a_file_that_can_not_be_read(tmp_path):
    assert read_space(tmp_path / "none.yaml")[1] == [
        f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory"
    ]
    (tmp_path / "space.yaml").write_bytes(b"a: \xff")
    assert read_space(tmp_path / "space.yaml")[1] == [f"{tmp_path / 'space.yaml'}: cannot be read: no UTF-8 text"]
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "space.yaml")


def test_losses_and_the_order_of_labels_are_searched(load):
    origins = {"tasks.sst.loss": "space.yaml:1", "tasks.sst.ordinal": "space.yaml:2"}
    space = {"tasks.sst.loss": Dimension("categorical", choices=[None, "focal"])}
    space["tasks.sst.ordinal"] = Dimension("categorical", choices=[False, True])
    assert check_space(space, origins, load) == []
    (line,) = check_space({"tasks.sst.loss": Dimension("categorical", choices=["smooth_l1"])}, origins, load)
    assert line.startswith("space.yaml:1: tasks.sst.loss is 'smooth_l1', which is for regressions")
