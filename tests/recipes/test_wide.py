"""Twelve heads over one encoder: their recipes, and the parameters that these have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from mtbert.data.splits import load_task
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.recipe import load_recipe
from mtbert.runs import bundled, forms
from mtbert.training.peft import wrap

TASKS = ["cola", "sst2", "mrpc", "rte", "trec_coarse", "trec_fine", "sick_relatedness", "sick_entailment", "emotions"]
TASKS += ["sst", "para", "sts"]
MINILM = BertConfig(vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12)
MINILM.intermediate_size = 1536


def recipe_of(name: str, *more: str):
    return load_recipe(bundled.recipes()[f"wide/{name}"], ["--training.output_dir", "unused", *more])


def parameters(name: str, *more: str) -> tuple[int, int]:
    """Parameters of a recipe's model on an encoder of MiniLM's size: all, and those that are trained."""
    recipe = recipe_of(name, *more)
    specs = [task.spec(task_name) for task_name, task in recipe.tasks.items()]
    with torch.device("meta"):
        model = MtBertForMultiTask(MtBertConfig(encoder=MINILM, tasks=specs, adapter=recipe.model.adapter))
        model = model if recipe.peft is None else wrap(model, recipe.peft)
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trained in counts if trained)


def test_the_recipes_have_the_twelve_tasks():
    for name in ("all", "annealed", "pal", "low_rank", "lora", "distilled", "best"):
        assert list(recipe_of(name).tasks) == TASKS, name
    grouped = [*recipe_of("sentences").tasks, *recipe_of("pairs").tasks]
    assert sorted(grouped) == sorted(TASKS) and len(grouped) == 12
    kinds = {task.spec(name).problem_type for name, task in recipe_of("all").tasks.items()}
    assert len(kinds) == 4 and recipe_of("all").tasks["cola"].metric == "matthews"
    assert sum(len(task.data.text) == 2 for task in recipe_of("all").tasks.values()) == 6


def test_all_adapters_and_heads_have_13_percent_of_the_parameters():
    one, _ = parameters("all", "--tasks", "[cola]")
    assert one == 22_565_376 + 385
    for name in ("pal", "low_rank"):
        assert 1.125 < parameters(name)[0] / one <= 1.13
    lora = [
        parameters("lora", "--tasks", f"[{task}]")[1] for task in TASKS
    ]  # peft keeps a frozen copy of each head, too
    assert (22_565_376 + sum(lora)) / one == pytest.approx(1.13, abs=0.005)


def test_the_best_choice_keeps_to_its_bound():
    assert parameters("best")[0] / parameters("all", "--tasks", "[cola]")[0] <= 1.3


def test_labels_and_columns_are_those_of_the_files():
    folder = Path(__file__).parents[2].parent / "shared" / "data"
    if not (folder / "wide").is_dir():
        pytest.skip("needs the data sets, which may not be redistributed")
    for name, task in recipe_of("all").tasks.items():
        assert load_task(task.spec(name), task.data, str(folder)).splits["train"].num_rows > 2000


def test_the_budget_keeps_the_shares_of_the_tasks():
    path, given = bundled.recipes()["wide/best"], ["--encoder", "e", "--data_dir", "d"]
    recipe = forms.load(path, [*given, *forms.form_budget(path, given, 1800)])
    shares = {name: task.examples_per_epoch for name, task in recipe.tasks.items()}
    assert (shares["cola"], shares["rte"], shares["trec_fine"]) == (1500, 100, 700) and None not in shares.values()
