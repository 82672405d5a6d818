"""benchmarks/quality.py: rows, scores, budgets, tables and the curve. Contenders are run by hand, on idle cores."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from mtbert.recipe.schema import load_recipe

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    import quality

    return quality


@pytest.fixture
def data(tmp_path, quality):
    """The files of the twelve tasks with a few invented rows."""
    for task in quality.TASKS:
        cells = {"classes": ["a", "b"], "score": ["1", "2.5"], "several": ["a;b", "b"]}[task.kind]
        for split in ("train", "dev"):
            file = tmp_path / task.files.format(split)
            file.parent.mkdir(exist_ok=True)
            known = file.read_text().splitlines() if file.is_file() else None
            if known is None:
                lines = [task.separator.join([*task.text, task.label])]
                rows = [[f"{split} text {task.files} {i}" for _ in task.text] for i in range(4)]
                lines += [task.separator.join([*row, cells[i % 2]]) for i, row in enumerate(rows)]
            else:  # a second label column of the same texts
                lines = [task.separator.join([known[0], task.label])]
                lines += [task.separator.join([line, cells[i % 2]]) for i, line in enumerate(known[1:])]
            file.write_text("\n".join(lines) + "\n")
    return tmp_path


def point(contender, minutes, mean, quality):
    scores = {task.name: mean for task in quality.TASKS}
    said = {"contender": contender, "minutes": minutes, "cpu_seconds": 60 * minutes, "scores": scores, "steps": 5}
    return said | {"cpu": "one", "threads": 2, "seed": 1, "learning_rate": 1e-4, "commit": "abc"}


def test_all_contenders_read_the_same_rows(quality, data, tmp_path):
    gold = quality.prepare(data, tmp_path / "rows", smoke=False)
    assert list(gold) == [task.name for task in quality.TASKS] and len(gold) == 12
    assert (gold["rte"], gold["sts"], gold["emotions"][0]) == ([0, 1, 0, 1], [1.0, 2.5, 1.0, 2.5], [1.0, 1.0])
    row = json.loads((tmp_path / "rows/sick_entailment-train.jsonl").read_text().splitlines()[1])
    text = "train text wide/sick-{}.csv 1"
    assert row == {"text": text, "text_pair": text, "label": 1}
    about = {task["name"]: task for task in json.loads((tmp_path / "rows/tasks.json").read_text())}
    assert about["sts"]["range"] == [0, 5] and about["mrpc"]["texts"] == 2 and about["cola"]["labels"] == ["a", "b"]


def test_train_rows_that_give_away_a_dev_row_of_another_task_are_left_out(quality, data, tmp_path):
    file = data / "wide/cola-train.csv"
    file.write_text(file.read_text() + "Dev text: wide/rte-{}.csv 2!,a\n")
    quality.prepare(data, tmp_path / "rows", smoke=False)
    texts = [json.loads(line)["text"] for line in (tmp_path / "rows/cola-train.jsonl").read_text().splitlines()]
    assert texts == [f"train text wide/cola-{{}}.csv {i}" for i in range(4)]


@pytest.mark.parametrize(
    ("name", "gold", "predicted", "expected"),
    [
        ("rte", [0, 1, 1, 0], [0, 1, 0, 0], 0.75),
        ("mrpc", [0, 1, 1, 0], [0, 1, 0, 0], 2 / 3),
        ("cola", [0, 1, 1, 0], [0, 1, 1, 0], 1.0),
        ("cola", [0, 1, 1, 0], [0, 0, 0, 0], 0.0),
        ("sts", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], 1.0),
        ("sts", [1.0, 2.0], [1.0, 1.0], 0.0),
        ("emotions", [[1, 0], [0, 1]], [[1, 0], [0, 0]], 0.5),
    ],
)
def test_scores(quality, name, gold, predicted, expected):
    task = next(task for task in quality.TASKS if task.name == name)
    assert quality.score(task, gold, predicted) == pytest.approx(expected)


def test_a_training_ends_with_its_time_and_its_rate_falls_to_zero(quality, monkeypatch):
    import cpu_budget

    seconds = 100.0
    monkeypatch.setattr(cpu_budget.time, "process_time", lambda: seconds)
    budget, control = cpu_budget.CpuBudget(until=200.0), SimpleNamespace(should_training_stop=False)
    optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}, {"lr": 0.5}])
    budget.on_train_begin(None, None, control)
    rates = []
    while not control.should_training_stop:
        budget.on_step_begin(None, None, control, optimizer=optimizer)
        rates.append([group["lr"] for group in optimizer.param_groups])
        seconds += 10
        budget.on_step_end(None, None, control)
    assert budget.steps == 10 and [rate for rate, _ in rates[1:]] == pytest.approx([1 - i / 9 for i in range(9)])
    assert all(half == rate / 2 for rate, half in rates) and rates[0][0] < 0.1


def test_a_peer_that_is_ahead_is_named(quality):
    points = [point("mtbert", 10, 0.5, quality), point("mtbert", 40, 0.7, quality), point("tasknet", 10, 0.6, quality)]
    assert quality.behind([*points, point("trainers", 40, 0.6, quality)]) == []
    assert quality.behind([*points, point("trainers", 40, 0.75, quality)]) == [
        "trainers is ahead of mtbert at 40: 0.750 and 0.700"
    ]


def test_the_table_and_the_curve_are_made_of_finished_points(quality, tmp_path, capsys):
    folder = tmp_path / "quality"
    folder.mkdir()
    small = point("setfit", 10, 0.4, quality)
    small["scores"] = dict.fromkeys(quality.SMALLEST, 0.4)
    for each in (point("trainers", 10, 0.6, quality), point("mtbert", 10, 0.7, quality), small):
        (folder / f"{each['contender']}-10.json").write_text(json.dumps(each))
    quality.main(["x", "--encoder", "y", "--results", str(tmp_path), "--finished_only"])
    page = (tmp_path / "quality.md").read_text()
    assert page.index("| mtbert | 10 |") < page.index("| trainers | 10 |") < page.index("| setfit | 10 |")
    assert "- cpu: one\n- threads: 2\n" in page
    curve = (tmp_path / "quality.svg").read_text()
    assert ">mtbert<" in curve and ">trainers<" in curve and ">setfit<" not in curve


def test_setfit_has_its_share_of_the_time(quality, tmp_path, monkeypatch):
    monkeypatch.setattr(quality.environments, "build", lambda name, folder: Path(name))
    args = quality.parse(["x", "--encoder", "y", "--work", str(tmp_path)])
    found = {name: quality.command(args, name, 40, tmp_path / "p.json") for name in quality.CONTENDERS}
    seconds = {name: float(words[words.index("--seconds") + 1]) for name, words in found.items()}
    assert seconds == {name: 600.0 if name == "setfit" else 2400.0 for name in quality.CONTENDERS}
    assert found["mtbert"][0] == sys.executable and found["setfit"][-3:] == list(quality.SMALLEST)


def test_answers_of_each_kind_of_task(quality, encoder_dir, tmp_path):
    """The answers of mtbert have the form that the scores need, and those of the peers have."""
    import quality_ours

    from mtbert import TaskSpec
    from mtbert.modeling.modeling_mtbert import MtBertForMultiTask

    specs = (TaskSpec("rte", labels=2), TaskSpec("sts", range=(0, 5)))
    specs += (TaskSpec("emotions", "multi_label_classification", labels=3),)
    MtBertForMultiTask.from_encoder(encoder_dir, specs).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder_dir).save_pretrained(tmp_path)
    model = MtBertForMultiTask.from_pretrained(tmp_path)
    found = {}
    for name, kind, labels in (("rte", "classes", "ab"), ("sts", "score", ""), ("emotions", "several", "abc")):
        prediction = model.predict({"text": ["a cat", "the dog"]}, tasks=name)
        found[name] = quality_ours.answers({"kind": kind, "labels": list(labels)}, prediction)
    assert all(label in (0, 1) for label in found["rte"]) and all(isinstance(score, float) for score in found["sts"])
    assert all(len(row) == 3 and set(row) <= {0, 1} for row in found["emotions"])
    assert json.loads(json.dumps(found)) == found and {len(rows) for rows in found.values()} == {2}


def test_labels_of_a_recipe_may_be_in_another_order(quality):
    import quality_ours

    def answers(kind, labels):
        prediction = SimpleNamespace(task=SimpleNamespace(classes=["no", "maybe", "yes"]), labels=labels)
        return quality_ours.answers({"kind": kind, "labels": ["maybe", "no", "yes"]}, prediction)

    assert answers("classes", ["yes", "no", "maybe"]) == [2, 1, 0]
    assert answers("several", [["no"], [], ["yes", "maybe"]]) == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_the_best_recipe_is_trained_without_teachers_on_the_given_files(quality, tmp_path):
    import quality_ours

    command = quality.command(quality.parse([str(tmp_path), "--encoder", "e"]), "mtbert-best", 40, tmp_path / "p.json")
    words = dict(zip(command[2::2], command[3::2]))
    args = SimpleNamespace(data=words["--data"], encoder="e", work=tmp_path, threads=2, seed=1)
    keys = quality_ours.own_keys(args)
    best = load_recipe(words["--recipe"], keys)
    assert best.distillation is None and best.leaks == "drop" and best.data_dir == str(tmp_path)
    assert set(best.tasks) == {task.name for task in quality.TASKS}


def test_a_second_budget_begins_in_an_empty_folder(quality, tmp_path, monkeypatch):
    """mtbert refuses to train in a folder that holds the files of another run."""
    import quality_ours

    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "scores.json").write_text("{}")
    (tmp_path / "tasks.json").write_text("[]")
    seen = []

    def train(recipe, overrides, callbacks):
        seen.append((recipe["training"]["output_dir"], folder.exists()))
        return SimpleNamespace(trainer=None)

    monkeypatch.setattr(quality_ours.mtbert, "train", train)
    words = ["--work", str(tmp_path), "--encoder", "e", "--seconds", "1", "--output", str(tmp_path / "p.json")]
    monkeypatch.setattr(sys, "argv", ["quality_ours.py", *words])
    quality_ours.main()
    assert seen == [(str(folder), False)]


def test_the_commit_of_a_worktree(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import measure

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=tmp_path / "main", capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (tmp_path / "main").mkdir()
    git("init", "--quiet")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--allow-empty", "--message", "first")
    git("worktree", "add", "--quiet", "-b", "other", str(tmp_path / "other"))
    for folder in ("main", "other"):
        monkeypatch.setattr(measure, "ROOT", tmp_path / folder)
        assert measure.commit() == git("rev-parse", "HEAD")
