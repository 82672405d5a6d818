"""Forms of twelve tasks: the protocol of their table, and its page of invented results."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from mtbert.cli.arguments import reproduce as arguments_of
from mtbert.cli.reproduce import main, planned
from mtbert.data.splits import load_task
from mtbert.recipe import load_recipe
from mtbert.runs import bundled, form_page, forms
from mtbert.runs.finetuning import train
from mtbert.runs.forms import Budget, FormProtocol, FormTable
from mtbert.runs.result_files import Result

TASKS = list(yaml.safe_load(bundled.recipes()["wide/all"].read_text())["tasks"])


# ---- the protocol ----


def protocol_of(data_dir: str = "d", encoder: str = "e") -> FormProtocol:
    given = ["--encoder", encoder, "--data_dir", data_dir]
    return FormProtocol.read(bundled.folder() / "wide.yaml", lambda path: list(forms.load(path, given).tasks))


def test_the_protocol_has_the_budget_and_seeds_of_the_table(tmp_path):
    protocol = protocol_of()
    plan = planned(arguments_of(["all", "--budget", "wide", "--encoder", "e", "--data_dir", "d"]))
    table = FormTable(plan, protocol.forms, protocol.budget, tmp_path)
    steps = {name: sorted({model.steps for model in models}) for name, models in table.models.items()}
    assert steps["single"] == steps["lora"] == [600] and steps["grouped"] == [900]
    assert {name: steps[name] for name in ("proportional", "annealed", "pal", "low_rank", "distilled", "best")} == (
        dict.fromkeys(("proportional", "annealed", "pal", "low_rank", "distilled", "best"), [1800])
    )
    three = [form.name for form in protocol.forms if form.seeds == (1, 2, 3)]
    assert three == ["single", "proportional", "pal", "best"]
    assert {form.seeds for form in protocol.forms if form.name not in three} == {(1,)}
    assert [model.model.name for model in table.models["single"]] == [f"single-{task}" for task in TASKS]
    for models in table.models.values():
        for model in models:
            recipe = model.recipe()
            epochs = recipe.training["num_train_epochs"]
            assert recipe.schedule.steps_per_epoch * epochs == model.steps
            assert recipe.training["per_device_train_batch_size"] == 32 and recipe.training["save_logits"]
    order = [(model.model.name, seed) for model, seed in table.order()]
    assert len(order) == len(set(order)) == 3 * (12 + 3) + 2 + 12 + 2 + 1
    rate = {name: models[0].recipe().training["learning_rate"] for name, models in table.models.items()}
    assert rate["single"] == 1e-4 and rate["lora"] == 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"against": "singles"}, r"p\.yaml:\d+: against names the form 'singles', .* did you mean single\?"),
        ({"steps": "many"}, r"is no protocol of forms:\n.*p\.yaml:\d+: steps is text 'many', but must be an integer"),
        ({"steps": 0}, r"steps is 0, but must be 1 or more"),
        ({"step": 600}, r"p\.yaml:\d+: step = 600: there is no such key; did you mean steps\?"),
        ({"joints": 1}, r"joints = 1: there is no such key; did you mean joint\?"),
        ({"joint": -1}, r"joint is -1, but must be positive"),
        ({"seeds": []}, r"seeds is empty; give a seed"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\], but must not hold a seed twice"),
        ({"seeds": [-1]}, r"seeds holds -1, but must be 0 or more"),
        ({"seeds": 1}, r"seeds is 1, but must be a list"),
        (
            {"forms": {"single": {"recipe": "wide/all"}}},
            r"forms\.single\.recipe = .* did you mean recipes\?",
        ),
        (
            {"forms": {"single": {"recipes": ["wide/all"], "seed": [1]}}},
            r"p\.yaml:\d+: forms\.single\.seed = \[1\]: there is no such key; did you mean seeds\?",
        ),
        ({"forms": {"single": {"recipes": ["wide/alle"]}}}, r"the recipe 'wide/alle', .* did you mean wide/all\?"),
        ({"forms": {"single": {"recipes": "wide/all"}}}, r"forms\.single\.recipes is .*, but must be a list"),
        ({"forms": {"single": {"recipes": []}}}, r"forms\.single\.recipes is empty"),
        ({"forms": {"single": None}}, r"forms\.single\.recipes is missing"),
        ({"forms": {"single": ["wide/all"]}}, r"forms\.single is .*, but must be a mapping"),
        (
            {"forms": {"single": {"recipes": ["wide/all"], "models": "eech"}}},
            r"forms\.single\.models is text 'eech', but must be each, or absent",
        ),
        (
            {"forms": {"single": {"recipes": ["wide/all", "wide/pal"], "models": "each"}}},
            r"forms\.single\.recipes has wide/all, wide/pal, but a model of each task needs one recipe",
        ),
        ({"forms": {"single": {"recipes": ["wide/all"], "teachers": "x"}}}, r"teachers names the form 'x'"),
        ({"forms": {"single": {"recipes": ["wide/all"], "teachers": "single"}}}, r"make 'single' teach itself"),
        (
            {
                "forms": {
                    "single": {"recipes": ["wide/all"], "teachers": "joint"},
                    "joint": {"recipes": ["wide/all"], "teachers": "single"},
                }
            },
            r"make 'single' teach itself",
        ),
        (
            {"forms": {"single": {"recipes": ["wide/all"], "untaught": ["sts"]}}},
            r"forms\.single\.untaught names sts, but no form teaches this one; give teachers",
        ),
        ({"forms": None}, r"is no protocol of forms"),
    ],
)
def test_protocols_that_are_refused(tmp_path, changes, message):
    values = {"steps": 600, "joint": 0.25, "seeds": [1], "against": "single"}
    values["forms"] = {"single": {"recipes": ["wide/all"], "models": "each"}, "joint": {"recipes": ["wide/all"]}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values | changes, sort_keys=False))
    with pytest.raises(ValueError, match=message):
        FormProtocol.read(tmp_path / "p.yaml", lambda path: TASKS)


@pytest.mark.parametrize("text", ["", "[1]", "a: b: c", "steps: 1\nsteps: 2", "words"])
def test_files_that_are_no_protocol(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"p\.yaml is no protocol of forms"):
        FormProtocol.read(tmp_path / "p.yaml", lambda path: TASKS)


def test_forms_answer_the_same_tasks(tmp_path):
    plan = planned(arguments_of(["all", "--budget", "wide", "--encoder", "e", "--data_dir", "d"]))
    path = bundled.recipes()["wide/all"]
    some = forms.Form("some", forms.each_task("some", path, TASKS[:2]), (1,))
    whole = forms.Form("whole", (forms.Model("whole", path),), (1,))
    with pytest.raises(ValueError, match=r"whole answers cola, .*, but some answers cola, sst2; forms answer the same"):
        FormTable(plan, [some, whole], Budget(10), tmp_path)


def test_untaught_tasks_have_no_teacher(tmp_path):
    plan = planned(arguments_of(["all", "--budget", "wide", "--encoder", "e", "--data_dir", "d"]))
    alone = forms.Form("single", forms.each_task("single", bundled.recipes()["wide/all"], TASKS), (1,))
    best = (forms.Model("best", bundled.recipes()["wide/best"]),)
    tables = {
        untaught: FormTable(plan, [alone, forms.Form("best", best, (1,), "single", untaught)], Budget(10), tmp_path)
        for untaught in ((), ("emotions",), ("sst2", "sts"))
    }
    models = {untaught: table.models["best"][0] for untaught, table in tables.items()}
    assert len({table.settings(models[untaught], 1) for untaught, table in tables.items()}) == 3
    for untaught, table in tables.items():
        taught = [teacher.tasks for teacher, _ in table._teachers_of(models[untaught], 1)]
        assert taught == [(task,) for task in TASKS if task not in untaught]
    joint = forms.Form("joint", (forms.Model("joint", bundled.recipes()["wide/all"]),), (1,))
    for teachers, untaught, message in (
        ("single", ["emotion"], r"best: untaught names the task 'emotion', but there is none; did you mean emotions"),
        ("single", TASKS, r"best: untaught names all tasks; drop teachers"),
        ("joint", ["sts"], r"best: untaught names sts, but joint teaches other tasks, too"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong = forms.Form("best", best, (1,), teachers, tuple(untaught))
            FormTable(plan, [alone, joint, wrong], Budget(10), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "--seeds is for the other budgets; the protocol of the wide budget has its own"),
        (["--page", "x.md"], "--page is not for the wide budget, which writes README.md"),
    ],
)
def test_arguments_that_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        arguments_of(["all", "--budget", "wide", *arguments, "--encoder", "e", "--data_dir", "d"])
    assert message in capsys.readouterr().err


def test_commands_are_shown_without_the_folders_of_a_machine():
    argv = ["all", "--budget", "wide", "--encoder", "/x/y", "--data_dir", "/z", "--jobs", "2", "--commit", "--a.b", "1"]
    assert form_page.hide_places(argv) == [
        "all",
        "--budget",
        "wide",
        "--encoder",
        "ENCODER",
        "--data_dir",
        "DATA_DIR",
        "--a.b",
        "1",
    ]


# ---- invented results ----


@pytest.fixture(scope="module")
def command(encoder_dir, wide_dir, tmp_path_factory):
    """A function: further arguments → a command line, whose protocol has three forms of few steps."""
    folder = tmp_path_factory.mktemp("wide")
    values = {"steps": 2, "joint": 0.25, "seeds": [1], "against": "single", "forms": {}}
    values["forms"]["single"] = {"recipes": ["wide/all"], "models": "each", "seeds": [1, 2], "what": "twelve models"}
    values["forms"]["lora"] = {"recipes": ["wide/lora"], "models": "each"}
    values["forms"]["joint"] = {"recipes": ["wide/annealed"], "seeds": [1, 2]}
    values["forms"]["late"] = {"recipes": ["wide/pal"]}
    (folder / "protocol.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def make(*more: str) -> list[str]:
        places = ["--encoder", encoder_dir, "--data_dir", str(wide_dir), "--output", str(folder / "runs")]
        places += ["--results", str(folder / "results"), "--protocol", str(folder / "protocol.yaml")]
        return ["all", "--budget", "wide", *places, *more]

    return make


def invented(table: FormTable, model, seed: int, right: float, random) -> Result:
    """A result of a model that gives the right answer with this probability."""
    recipe, logits, scores, heads = model.recipe(), {}, {}, []
    for name, task in recipe.tasks.items():
        spec = task.spec(name)
        labels = np.asarray(
            load_task(spec, task.data, recipe.data_dir).splits["dev"].with_format("numpy")["label"][:], float
        )
        wrong = random.random(len(labels)) > right
        if spec.kind.numeric:
            answers = (labels + random.normal(size=len(labels)) * (1.1 - right))[:, None]
        elif spec.kind.several:
            answers = np.where(wrong[:, None], 1 - labels, labels) * 2 - 1
        elif spec.kind.binary:
            answers = (np.where(wrong, 1 - labels, labels) * 2 - 1)[:, None]
        else:
            answers = np.eye(len(spec.classes))[((labels + wrong) % len(spec.classes)).astype(int)]
        logits[name] = answers.astype(np.float16)
        metric = task.metric or {"regression": "pearson", "multi_label_classification": "f1_micro"}.get(
            spec.problem_type, "accuracy"
        )
        scores |= {f"eval_{name}_loss": 1.0, f"eval_{name}_{metric}": right, f"eval_{name}_further": right / 2}
        heads.append({"component": "head", "task": name, "parameters": 10, "trainable": 10})
    total = 1000 + 10 * len(heads)
    trained = total if recipe.peft is None else 10 * len(heads) + 20
    record = {"seconds": 10.0 * len(heads), "steps": model.steps, "device": "cpu"}
    encoder = {"component": "encoder", "task": "", "parameters": 1000, "trainable": 1000 if recipe.peft is None else 20}
    record["parameters"] = [
        encoder,
        *heads,
        {"component": "total", "task": "", "parameters": total, "trainable": trained},
    ]
    record["examples"] = {"1": dict.fromkeys(recipe.tasks, 64)}
    record["rows"] = {"dev": {name: len(rows) for name, rows in logits.items()}}
    scores |= {"eval_overall": right, "eval_runtime": 2.0}
    name, settings = model.model.name, table.settings(model, seed)
    return Result(name, model.model.path, seed, settings, recipe.to_dict(), scores, record, [], logits, "c" * 40)


@pytest.fixture(scope="module")
def invented_table(command):
    """The table with invented results of all forms but one, and its command."""
    args = arguments_of(command())
    given = ["--encoder", args.encoder, "--data_dir", args.data_dir]
    protocol = FormProtocol.read(args.protocol, lambda path: list(forms.load(path, given).tasks))
    table = FormTable(planned(args), protocol.forms, protocol.budget, args.results)
    random = np.random.default_rng(0)
    for model, seed in table.order(("single", "lora", "joint")):
        right = {"single": 0.6, "lora": 0.3, "joint": 0.95}[model.form.name]
        invented(table, model, seed, right, random).write(table.results / f"{model.model.name}-{seed}.json")
    return table, args


def test_the_page_is_made_from_result_files_alone(invented_table, command, monkeypatch, capsys):
    table, args = invented_table
    monkeypatch.setattr(forms, "execute", lambda *_: pytest.fail("a run began"))
    assert main(command("--finished_only")) == 0
    page = (args.results / form_page.PAGE).read_text()
    found = json.loads((args.results / form_page.NUMBERS).read_text())
    by_name = {form["form"]: form for form in found["forms"]}
    assert found["metrics"]["cola"] == "matthews" and found["metrics"]["emotions"] == "f1_micro"
    assert by_name["single"]["parameters"] == 12 * 1010 and by_name["single"]["ratio"] == pytest.approx(12)
    assert by_name["joint"]["parameters"] == 1120 and by_name["lora"]["parameters"] == 1000 - 20 + 12 * 30
    assert by_name["single"]["seconds"] == 120 and by_name["single"]["examples_per_second"] == pytest.approx(6.4)
    assert by_name["joint"]["seeds"] == [1, 2] and by_name["late"]["seeds"] == []
    joint = by_name["joint"]["difference"]
    assert joint["raw_mean"]["seeds"] == 2 and joint["raw_mean"]["low"] > 0 and set(TASKS) <= set(joint)
    assert by_name["lora"]["difference"]["raw_mean"]["seeds"] == 1 and by_name["single"]["difference"] == {}
    assert "Not run yet: late." in page and "- runs: 38 of 39" in page
    assert "| `joint` |" in page and "better" in page and "worse" in page and "twelve models" in page
    assert "mtbert reproduce all --budget wide --encoder ENCODER" in page and str(args.output) not in page
    assert "<text" in (args.results / "differences.svg").read_text()
    before = page
    assert main(command("--finished_only")) == 0
    assert (args.results / form_page.PAGE).read_text() == before


def test_a_page_without_any_result_says_so(command, tmp_path, capsys):
    assert main([*command("--finished_only"), "--results", str(tmp_path / "none")]) == 0
    text = (tmp_path / "none" / form_page.PAGE).read_text()
    assert "Not run yet: single, lora, joint, late." in text


def test_an_unknown_form_is_refused(command):
    with pytest.raises(
        ValueError, match=r"there is no form 'paal' in .*; there are: single, lora, joint, late, and all"
    ):
        main(["paal", *command("--finished_only")[1:]])


def test_results_of_other_settings_do_not_count(invented_table):
    table, args = invented_table
    other = planned(arguments_of(["all", "--budget", "wide", "--encoder", args.encoder, "--data_dir", args.data_dir]))
    other = FormTable(other, list(table.forms.values()), Budget(3, 0.25), args.results)
    assert table.results_of("joint").keys() == {1, 2} and other.results_of("joint") == {}


def test_students_are_taught_by_the_models_of_another_form(encoder_dir, wide_dir, tmp_path, monkeypatch):
    """Teachers train first, keep their weights, and are trained again where these are gone."""
    monkeypatch.setattr("mtbert.training.methods.teacher_cache.memory_folder", lambda: tmp_path / "memories")
    started = []

    def execute(run, threads):
        if not run.finished():
            started.append(run.row)
            keys = [*run.overrides, "--training.output_dir", str(run.output), "--training.disable_tqdm", "true"]
            train(load_recipe(run.path, keys))
            assert run.finished()

    monkeypatch.setattr(forms, "execute", execute)
    path, two = bundled.recipes()["wide/distilled"], ["--tasks", "[sst2, sts]"]
    alone = forms.each_task("single", bundled.recipes()["wide/all"], ["sst2", "sts"])
    taught = forms.Form("taught", (forms.Model("taught", path, tuple(two)),), (1,), teachers="single")
    plan = planned(
        arguments_of(
            ["all", "--budget", "wide", "--encoder", encoder_dir, "--data_dir", str(wide_dir)]
            + ["--output", str(tmp_path / "runs"), "--mixed_precision", "no"]
        )
    )
    table = FormTable(plan, [forms.Form("single", alone, (1,)), taught], Budget(2, 0.5), tmp_path / "results")
    assert table.run_all(1) == []
    assert started == ["single-sst2", "single-sts", "taught"]
    model = table.models["taught"][0]
    result = table.result(model, 1)
    assert result.recipe["distillation"]["teachers"] == ["single-sst2-1", "single-sts-1"]
    assert str(tmp_path) not in (table.results / "taught-1.json").read_text()
    weights = [*(tmp_path / "runs").glob("*/*/run/model.safetensors")]
    assert sorted(file.parents[2].name for file in weights) == ["single-sst2", "single-sts"]
    weights[0].unlink()
    (table.results / "taught-1.json").unlink()
    (tmp_path / "runs" / "taught").rename(tmp_path / "gone")
    assert table.run_all(1) == []
    assert started[3:] == [weights[0].parents[2].name, "taught"]
