"""The examples of docs/extending.md: each is short, and a recipe that imports it trains with it."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

import mtbert
from mtbert import MtBertForMultiTask
from mtbert.data import sampling
from mtbert.evaluation import metrics
from mtbert.modeling import own_parts
from mtbert.recipe import RecipeError, imports, load_recipe
from mtbert.training.methods import REGISTRY, surgery

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
PARTS = re.findall(
    r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```(?:(?!^## ).)*?```yaml\n(.*?)```",
    PAGE.read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)
EXAMPLES = {heading: (code, yaml.safe_load(text)) for heading, code, text in PARTS}
TABLES = (REGISTRY, sampling._OWN, surgery._OWN, own_parts.HEADS, own_parts.ADAPTERS, metrics.METRICS, imports._LOADED)


@pytest.fixture(autouse=True)
def tables():
    """What a test registers is forgotten after it."""
    before, modules = [dict(table) for table in TABLES], set(sys.modules)
    yield
    for table, content in zip(TABLES, before, strict=True):
        table.clear()
        table.update(content)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def merged(below: dict, above: dict) -> dict:
    """Mappings laid over each other, as recipes are."""
    found = copy.deepcopy(below)
    for key, value in above.items():
        found[key] = merged(found[key], value) if isinstance(value, dict) and key in found else value
    return found


@pytest.fixture
def tree(encoder_dir, tmp_path) -> dict:
    """A tiny recipe of two tasks."""
    rows = ["the cat runs,0", "a dog eats,1", "the bird flies,2", "a fish sleeps,1"] * 4
    (tmp_path / "stars.csv").write_text("text,label\n" + "\n".join(rows))
    scores = [f"{row.partition(',')[0]},a dog runs,{number % 6}.0" for number, row in enumerate(rows)]
    (tmp_path / "close.csv").write_text("text,text_pair,label\n" + "\n".join(scores))
    stars = {"labels": 3, "data": {"train": "stars.csv", "dev": "stars.csv"}}
    close = {"range": [0, 5], "data": {"train": "close.csv", "dev": "close.csv", "text": ["text", "text_pair"]}}
    training = {"output_dir": str(tmp_path / "out"), "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    training |= {"num_train_epochs": 2, "save_strategy": "no", "learning_rate": 0.01, "seed": 3}
    schedule = {"name": "sqrt"}
    tasks = {"stars": stars, "close": close}
    return {
        "encoder": encoder_dir,
        "data_dir": str(tmp_path),
        "tasks": tasks,
        "training": training,
        "schedule": schedule,
    }


def write(folder: Path, tree: dict, code: str, keys: dict) -> Path:
    """The example's module and the recipe that imports it, beside each other."""
    (folder / keys["imports"][0]).write_text(code, encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(merged(tree, keys)), encoding="utf-8")
    return path


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for name, p in model.named_parameters() if name.startswith("encoder.")])


def test_there_is_an_example_of_each_part():
    words = " ".join(EXAMPLES).lower()
    for part in ("schedule", "surgery", "head", "adapter", "loss", "metric"):
        assert part in words


@pytest.mark.parametrize("heading", EXAMPLES)
def test_an_example_is_short_and_trains(tree, tmp_path, heading):
    code, keys = EXAMPLES[heading]
    assert len(code.splitlines()) < 30
    result = mtbert.train(write(tmp_path, tree, code, keys))
    plain = mtbert.train(merged(tree, {"training": {"output_dir": str(tmp_path / "plain")}}))
    if "metric" in heading.lower():
        name = keys["tasks"]["stars"]["metric"]
        assert f"eval_stars_{name}" in result.scores and f"eval_stars_{name}" not in plain.scores
    else:
        assert not torch.equal(weights(result.trainer.model), weights(plain.trainer.model))
    again = MtBertForMultiTask.from_pretrained(tmp_path / "out").eval()
    texts = ["the cat runs", "a dog"]
    expected = result.trainer.model.eval().predict(texts, tasks="stars").logits
    assert again.predict(texts, tasks="stars").logits == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("heading", [each for each in EXAMPLES if "head" in each.lower() or "adapter" in each.lower()])
def test_a_checkpoint_with_a_part_of_ones_own_says_what_to_register(tree, tmp_path, heading):
    code, keys = EXAMPLES[heading]
    mtbert.train(write(tmp_path, tree, code, keys))
    own_parts.HEADS.clear()
    own_parts.ADAPTERS.clear()
    with pytest.raises(ValueError, match="register"):
        MtBertForMultiTask.from_pretrained(tmp_path / "out")


def test_a_run_of_ones_own_part_is_never_imported_from_its_folder(tree, tmp_path):
    code, keys = next(iter(EXAMPLES.values()))
    mtbert.train(write(tmp_path, tree, code, keys))
    imports._LOADED.clear()
    sampling._OWN.clear()
    saved = tmp_path / "out" / "recipe.json"
    (name,) = keys["imports"]
    with pytest.raises(RecipeError, match=rf"never imported from a run's folder; .* --imports {re.escape(name)}"):
        load_recipe(saved)
    imports.import_all([name], tmp_path, "--imports")
    assert load_recipe(saved).imports == (name,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["gone.py"], r"recipe.yaml:\d+: imports names 'gone.py', but there is no file .*paths begin at the recipe's"),
        (["no.such.module"], "names 'no.such.module', but there is no such module; install it, or name a .py file"),
        ([3], r"imports is \[3\], but must be a list of modules or .py files"),
        ("a.py", "imports is 'a.py', but must be a list"),
    ],
)
def test_imports_that_are_wrong(tree, tmp_path, given, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree | {"imports": given}), encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)
