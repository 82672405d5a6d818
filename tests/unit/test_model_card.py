"""The model card: what it says, as huggingface_hub reads it back."""

import json

import pytest
from huggingface_hub import ModelCard

from mtbert.evaluation.energy import read_energy
from mtbert.hub import saved_card
from mtbert.model_card import hub_name, model_card, without_paths
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import AdapterSpec, TaskSpec
from mtbert.training.peft import wrap

RECIPE = {
    "encoder": "google-bert/bert-base-uncased",
    "data_dir": "/home/someone/data",
    "tasks": {
        "stars": {"data": {"hub": "glue", "subset": "sst2", "train": "train", "dev": "validation"}, "weight": 1.0},
        "same": {"data": {"text": ["a", "b"], "train": "/home/someone/quora.csv", "dev": "dev.csv"}},
    },
    "schedule": {"name": "annealed"},
    "training": {"output_dir": "runs/x", "learning_rate": 1e-5},
}
RESULTS = {
    "eval_stars_accuracy": 0.5,
    "eval_stars_loss": 1.0,
    "eval_close_pearson": 0.25,
    "eval_close_pearson_undefined": 1.0,
    "eval_same_f1": float("nan"),
    "eval_overall": 0.5625,
    "eval_raw_mean": 0.375,
    "eval_runtime": 3.0,
}


@pytest.fixture
def card(make_model) -> ModelCard:
    return model_card(make_model(), "ada/tasks", RESULTS, RECIPE, license="mit", language="en")


def test_metadata_comes_back_as_it_was_given(card, tmp_path):
    card.save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "transformers" and data.pipeline_tag == "text-classification"
    assert (data.license, data.language, data.base_model) == ("mit", "en", "google-bert/bert-base-uncased")
    assert data.datasets == ["glue"] and data.tags == ["mtbert", "multi-task"]
    assert data.metrics == ["accuracy", "pearsonr"] and data.model_name == "tasks"
    found = {(each.task_name, each.task_type, each.metric_type): each for each in data.eval_results}
    assert set(found) == {
        ("stars", "text-classification", "accuracy"),
        ("close", "sentence-similarity", "pearsonr"),
    }
    stars = found["stars", "text-classification", "accuracy"]
    assert (stars.metric_value, stars.dataset_type, stars.dataset_config) == (0.5, "glue", "sst2")
    assert stars.dataset_split == "validation"


def test_a_recipe_says_what_neither_model_nor_training_knows(make_model):
    said = {"license": "mit", "language": ["en", "de"], "datasets": ["nyu-mll/glue"], "tags": ["reviews", "mtbert"]}
    card = model_card(make_model(), "ada/tasks", recipe={**RECIPE, "card": said})
    data = ModelCard(str(card)).data
    assert (data.license, data.language, data.datasets) == ("mit", ["en", "de"], ["nyu-mll/glue"])
    assert data.tags == ["mtbert", "multi-task", "reviews"]
    assert "The weights: mit." in card.text and "card:" not in card.text
    given = model_card(
        make_model(), "ada/tasks", recipe={"card": said}, license="apache-2.0", language="fr", tags=["x"]
    )
    assert (given.data.license, given.data.language) == ("apache-2.0", "fr")
    assert given.data.tags == ["mtbert", "multi-task", "x", "reviews"]


def test_a_licence_that_the_hub_has_no_name_for(make_model):
    said = {"license": "other", "license_name": "ours"}
    card = model_card(make_model(), "ada/tasks", recipe={"card": said})
    assert (card.data.license, card.data["license_name"]) == ("other", "ours") and "The weights: ours." in card.text
    given = model_card(make_model(), "ada/tasks", recipe={"card": said}, license="mit")
    assert given.data.license == "mit" and given.data.get("license_name") is None


def test_text_has_tasks_labels_data_results_and_recipe(card):
    text = card.text
    for name in ("stars", "same", "close", "topics"):
        assert f"\n### {name}\n" in text
    assert "Labels of `topics`, in the order of their ids: cat, dog, bird." in text
    assert "| `stars` | `glue` sst2 |" in text and "| `same` | files `quora.csv`, `dev.csv` |" in text
    assert "| stars | accuracy | 0.5000 |" in text and "| all | overall | 0.5625 |" in text
    assert "learning_rate: 1.0e-05" in text and "name: annealed" in text
    assert "/home" not in text and "runs/x" not in text
    assert "are cut at 64 tokens" in text and "torch " in text


def test_blocks_are_python(card):
    blocks = card.text.split("```python\n")[1:]
    assert len(blocks) == 6
    for block in blocks:
        compile(block.split("```")[0], "card", "exec")
    assert 'model.embed(["A cat sleeps.", "A dog runs."], task="close")' in card.text


def test_energy_is_told_where_it_was_measured(make_model, card, tmp_path):
    assert "co2_eq_emissions" not in card.data.to_dict() and "codecarbon" not in card.text
    columns, line = "emissions,energy_consumed,cpu_model,gpu_model", "0.002,0.01,A processor,"
    (tmp_path / "emissions.csv").write_text(f"{columns}\n{line}\n{line}\n")
    measured = model_card(make_model(), "ada/tasks", energy=read_energy(tmp_path))
    measured.save(tmp_path / "README.md")
    found = ModelCard.load(tmp_path / "README.md").data.to_dict()["co2_eq_emissions"]
    hub_keys = {"source": "codecarbon", "training_type": "fine-tuning", "hardware_used": "A processor"}
    assert found == {"emissions": 4.0, **hub_keys}
    assert "took 0.02 kWh, about 4 g of CO₂" in measured.text


def test_nothing_known_but_the_model(make_model):
    card = model_card(make_model([TaskSpec("only", range=(0, 1))]), "ada/only")
    data = ModelCard(str(card)).data
    assert data.eval_results is None and data.base_model is None and data.license is None
    assert "None were recorded." in card.text and "The licence of the weights is not stated" in card.text
    assert "The scores of `only` are not bounded" in card.text and "for 1 sentence task with" in card.text


def test_adapters_and_peft(make_model):
    card = model_card(make_model(adapter=AdapterSpec("pal", size=12, heads=3)), "ada/pal")
    assert "an adapter of the type `pal` (12 dimensions)" in card.text
    card = model_card(wrap(make_model(), {"r": 2, "target_modules": ["query"]}), "ada/lora")
    assert "PeftModel.from_pretrained" in card.text and "trust_remote_code" not in card.text
    for block in card.text.split("```python\n")[1:]:
        compile(block.split("```")[0], "card", "exec")


def test_a_longer_task_name_keeps_its_own_scores(make_model):
    tasks = [TaskSpec("sst", labels=2), TaskSpec("sst_2", labels=2)]
    results = {"eval_sst_accuracy": 0.1, "eval_sst_2_accuracy": 0.2}
    found = model_card(make_model(tasks), "ada/x", results).data.eval_results
    assert {each.task_name: (each.metric_name, each.metric_value) for each in found} == {
        "sst": ("accuracy", 0.1),
        "sst_2": ("accuracy", 0.2),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert-base", "bert-base"),
        ("a/b", "a/b"),
        ("/x/y", None),
        ("./a", None),
        ("a/b/c", None),
        ("", None),
        (None, None),
    ],
)
def test_names_of_the_hub(name, expected):
    assert hub_name(name) == expected


def test_paths_are_left_out(tmp_path):
    tree = {"encoder": str(tmp_path), "data_dir": "data", "tasks": {"a": {"train": ["~/x.csv", "y.csv"], "weight": 2}}}
    assert without_paths(tree) == {"encoder": tmp_path.name, "tasks": {"a": {"train": ["x.csv", "y.csv"], "weight": 2}}}


def test_a_model_of_a_runs_folder_tells_what_lies_beside_it(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tmp_path / "scores.json").write_text(json.dumps(RESULTS))
    (tmp_path / "emissions.csv").write_text("emissions,energy_consumed\n0.002,0.01\n")
    card = saved_card(MtBertForMultiTask.from_pretrained(tmp_path), "ada/tasks", license="mit")
    energy = {"kwh": 0.01, "co2_kg": 0.002, "hardware": ""}
    assert str(card) == str(model_card(make_model(), "ada/tasks", RESULTS, RECIPE, license="mit", energy=energy))
    assert "/home" not in str(card) and "| stars | accuracy | 0.5000 |" in card.text


def test_a_model_from_nowhere_tells_nothing_of_the_folder_that_it_is_pushed_from(make_model, tmp_path, monkeypatch):
    (tmp_path / "scores.json").write_text(json.dumps(RESULTS))
    monkeypatch.chdir(tmp_path)
    assert str(saved_card(make_model(), "ada/tasks")) == str(model_card(make_model(), "ada/tasks"))


LETTERS = "abcdefghijklmnopqrstuvwxyz012345"
FORMS = [
    f"hf_{LETTERS}",
    f"https://user:hf_{LETTERS}@host/x",
    f"https://user:{LETTERS}@host/x",
    f"--training.hub_tokn=hf_{LETTERS}",
    f"HF_TOKEN=hf_{LETTERS}",
    f"api_org_{LETTERS}",
    f"ghp_{LETTERS}",
    f"sk-{LETTERS}",
]


@pytest.mark.parametrize("form", FORMS)
def test_no_token_is_in_a_card(form, make_model):
    """Whatever a recipe or a caller says it in."""
    data = {"train": form, "dev": form, "hub": form, "subset": form, "revision": form}
    recipe = {"encoder": form, "tasks": {"stars": {"data": data}}, "training": {"run_name": form}}
    recipe |= {"list": [form], "nested": {"a": {"b": form}}, form: 1}
    said = {"license": form, "license_name": form, "language": [form], "datasets": [form], "tags": [form]}
    cards = [model_card(make_model(), "a/b", recipe=recipe | {"card": said}), model_card(make_model(), "a/b", **said)]
    cards += [model_card(make_model(), "a/b", data={"stars": form}), model_card(make_model(), "a/b", base_model=form)]
    for card in cards:
        assert LETTERS not in str(card) and "***" in str(card)


def test_what_a_reader_needs_first_comes_first(card):
    found = [line for line in card.text.splitlines() if line.startswith("## ")]
    names = ["What it predicts", "How to use it", "Scores", "Limitations", "Data", "Training", "Licence"]
    assert found == [f"## {name}" for name in names]
    assert card.text.count("<details>") == card.text.count("</details>") == 2
    first = card.text.split("```python\n")[1].split("```")[0]
    assert len(first.strip().splitlines()) <= 5 and "ada/tasks" in first
    assert "| `stars` | one of 3 labels |" in card.text and "| accuracy 0.500 |" in card.text


def test_intervals_of_a_report_stand_beside_the_scores(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    (tmp_path / "scores.json").write_text(json.dumps(RESULTS))
    (tmp_path / "report").mkdir()

    def report(accuracy: float) -> None:
        task = {"main": "accuracy", "scores": {"accuracy": accuracy}, "interval": {"low": 0.4, "high": 0.6}}
        other = {"main": "pearson", "scores": {"pearson": 0.25}, "interval": {"low": None, "high": None}}
        tasks = {"stars": {**task, "baseline": {"score": 0.3}}, "close": other, "gone": {"main": "f1", "scores": {}}}
        (tmp_path / "report" / "report.json").write_text(json.dumps({"tasks": tasks}))

    report(0.5004)
    text = saved_card(MtBertForMultiTask.from_pretrained(tmp_path), "ada/tasks").text
    assert "| stars | accuracy | 0.5000 | 0.4000 to 0.6000 | 0.3000 |" in text
    assert "| close | pearson | 0.2500 |  |  |" in text and "| accuracy 0.500 (0.40 to 0.60) |" in text
    table = text[text.index("| task | metric |") :].split("\n\n")[0].splitlines()
    assert len(table) == 6 and len({line.count("|") for line in table}) == 1
    report(0.51)  # of another split
    assert "95 % interval" not in saved_card(MtBertForMultiTask.from_pretrained(tmp_path), "ada/tasks").text


def test_the_record_of_a_run_names_its_encoder(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps({**RECIPE, "encoder": "/home/someone/model"}))
    for name, expected in (("a/b", "a/b"), (None, None), ("/home/x", None), (3, None)):
        (tmp_path / "record.json").write_text(json.dumps({"encoder": {"name": name}}))
        card = saved_card(MtBertForMultiTask.from_pretrained(tmp_path), "ada/tasks")
        assert card.data.base_model == expected and "/home" not in str(card)
