"""What a training prints as it goes: a live table in a terminal, lines elsewhere, transformers' dicts on request."""

import io
import re
import sys
import time

import pytest
from rich.console import Console
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_callback import TrainerControl

from mtbert.data.sampling import Schedule
from mtbert.recipe import load_recipe
from mtbert.training.arguments import MtBertTrainingArguments, PretrainingArguments
from mtbert.training.progress.callbacks import LiveTable, ProgressLines
from mtbert.training.progress.phases import phase
from mtbert.training.progress.scores import TaskFigures, evaluated_prefix
from mtbert.training.progress.styles import STYLES, chosen_style, is_terminal
from mtbert.training.trainer import MtBertTrainer


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def make_trainer(make_model, splits, tokenizer, tmp_path):
    """A function: training arguments → a trainer of two steps an epoch on four tasks."""

    def make(schedule="proportional", **values):
        common = {"output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 4, "report_to": "none"}
        common |= {"use_cpu": True, "save_strategy": "no", "logging_steps": 2, "eval_strategy": "epoch", "max_steps": 4}
        args = MtBertTrainingArguments(**{**common, **values})
        dev = splits((9, 10, 11, 12), seed=1)
        return MtBertTrainer(
            make_model(), args, splits(), dev, tokenizer, settings={"schedule": Schedule(schedule, steps_per_epoch=2)}
        )

    return make


def in_terminal(trainer) -> str:
    """What the trainer's live table writes into a terminal of 100 columns."""
    shown = next(each for each in trainer.callback_handler.callbacks if isinstance(each, LiveTable))
    stream = Terminal()
    shown.console = Console(file=stream, force_terminal=True, width=100, height=40)
    trainer.train()
    return stream.getvalue()


@pytest.mark.parametrize(
    ("console", "without_bars", "terminal", "term", "style"),
    [
        (None, False, True, "xterm", "dicts"),
        (None, True, False, "xterm", "dicts"),
        ("auto", False, True, "xterm", "table"),
        ("auto", False, True, "dumb", "lines"),
        ("auto", False, False, "xterm", "lines"),
        ("auto", True, True, "xterm", "lines"),
        ("table", False, False, "xterm", "table"),
        ("table", True, True, "xterm", "table"),
        ("lines", False, True, "xterm", "lines"),
        ("dicts", False, True, "xterm", "dicts"),
    ],
)
def test_style_by_value_and_terminal(monkeypatch, console, without_bars, terminal, term, style):
    monkeypatch.setattr(sys, "stdout", Terminal() if terminal else io.StringIO())
    monkeypatch.setenv("TERM", term)
    assert chosen_style(console, without_bars) == style
    assert is_terminal() == (terminal and term != "dumb")


@pytest.mark.parametrize("kind", [MtBertTrainingArguments, PretrainingArguments])
def test_an_unknown_style_is_refused_with_all_styles(kind, tmp_path):
    with pytest.raises(ValueError, match="console.* is 'bars', but must be one of: auto, table, lines, dicts"):
        kind(output_dir=str(tmp_path), report_to="none", use_cpu=True, console="bars")
    for style in STYLES:
        assert kind(output_dir=str(tmp_path), report_to="none", use_cpu=True, console=style).console == style


def test_a_recipe_is_shown_by_the_terminal_and_python_by_transformers(tmp_path):
    recipe = {
        "encoder": "some/encoder",
        "tasks": {"a": {"labels": ["x", "y"], "data": {"text": "t", "label": "l", "train": "a.csv"}}},
        "training": {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True},
        "pretraining": {},
    }
    loaded = load_recipe(recipe)
    assert loaded.training_arguments().console == loaded.pretraining_arguments().console == "auto"
    lines = load_recipe(recipe, {"training.console": "lines"})
    assert lines.training_arguments().console == lines.pretraining_arguments().console == "lines"
    both = load_recipe(recipe, {"training.console": "lines", "pretraining.console": "dicts"})
    assert (both.training_arguments().console, both.pretraining_arguments().console) == ("lines", "dicts")
    assert MtBertTrainingArguments(str(tmp_path), report_to="none", use_cpu=True).console is None


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"disable_tqdm": False}, ProgressCallback),
        ({"disable_tqdm": True}, PrinterCallback),
        ({"console": "dicts", "disable_tqdm": False}, ProgressCallback),
    ],
)
def test_python_keeps_the_callbacks_of_transformers(make_trainer, values, kind):
    kinds = [type(each) for each in make_trainer(**values).callback_handler.callbacks]
    assert kind in kinds and not {LiveTable, ProgressLines} & set(kinds)


@pytest.mark.parametrize("bars", [False, True])
@pytest.mark.parametrize(("console", "kind"), [("lines", ProgressLines), ("table", LiveTable)])
def test_ours_stand_in_place_of_those_of_transformers(make_trainer, console, kind, bars):
    kinds = [type(each) for each in make_trainer(console=console, disable_tqdm=not bars).callback_handler.callbacks]
    assert kind in kinds and not {ProgressCallback, PrinterCallback} & set(kinds)


def test_lines_one_for_each_log_and_each_evaluation(make_trainer, capsys):
    trainer = make_trainer(console="lines", eval_on_start=True)
    capsys.readouterr()  # transformers' bar of the weights
    trainer.train()
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if re.match(r"step|trained", line)]
    assert "\r" not in out + err and "{" not in out and "%|" not in err
    places = [line.split(",")[0] for line in lines[:-1]]
    assert places == ["step 0 of 4", *["step 2 of 4"] * 2, *["step 4 of 4"] * 2] and lines[-1].startswith("trained in")
    history = trainer.state.log_history
    losses, scores = [e for e in history if "loss" in e], [e for e in history if "eval_overall" in e]
    logged = [line for line in lines if "dev" not in line and line.startswith("step")]
    for line, entry in zip(logged, losses, strict=True):
        assert f"loss {entry['loss']:.4g}" in line
        for task in trainer.tasks:
            assert (f"loss_{task.name}" in entry) == (f"{task.name} " in line)
    scored = [line for line in lines if "dev overall" in line]
    for line, entry in zip(scored, scores, strict=True):
        assert f"dev overall {entry['eval_overall']:.4g}" in line
        assert all(f"{task.name} " in line for task in trainer.tasks)


def test_the_table_shows_the_last_figures_and_one_bar(make_trainer):
    trainer = make_trainer(console="table")
    text = in_terminal(trainer)
    last = text[text.rindex("┏") :]
    scores = [entry for entry in trainer.state.log_history if "eval_overall" in entry]
    probabilities = trainer.plan().probabilities(1)
    for number, task in enumerate(trainer.tasks):
        row = next(line for line in last.splitlines() if f" {task.name} " in line)
        keys = [key for key in scores[-1] if key.startswith(f"eval_{task.name}_")]
        metric = keys[1]
        best = max(entry[metric] for entry in scores)
        assert f"{len(trainer.train_dataset[task.name])}" in row and f"{probabilities[number]:.3f}" in row
        assert f"{metric.removeprefix(f'eval_{task.name}_')} {scores[-1][metric]:.3f}" in row
        assert row.rstrip("│ ").endswith(f"{best:.3f}")
        losses = [e[f"loss_{task.name}"] for e in trainer.state.log_history if f"loss_{task.name}" in e]
        assert not losses or f"{losses[-1]:.3f}" in row
    assert last.count("4/4") == 1 and "trained" in last
    assert text.endswith("\x1b[?25h"), "the cursor is shown again"


@pytest.mark.parametrize("schedule", ["round_robin", "sequential", "simultaneous"])
def test_the_table_without_probabilities(make_trainer, schedule):
    assert "4/4" in in_terminal(make_trainer(schedule=schedule, console="table"))


def test_a_failed_training_leaves_the_terminal_as_it_was(make_trainer, monkeypatch):
    trainer = make_trainer(console="table")
    shown = next(each for each in trainer.callback_handler.callbacks if isinstance(each, LiveTable))
    shown.console = Console(file=Terminal(), force_terminal=True, width=100)

    def fails(*args, **kwargs):
        raise RuntimeError("broken")

    monkeypatch.setattr(trainer, "training_step", fails)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.train()
    assert shown.live is None
    assert "stopped" in shown.console.file.getvalue() and shown.console.file.getvalue().endswith("\x1b[?25h")


@pytest.mark.parametrize("console", ["lines", "table"])
def test_only_the_main_process_prints(make_trainer, console, capsys):
    trainer = make_trainer(console=console)
    shown = next(each for each in trainer.callback_handler.callbacks if isinstance(each, LiveTable | ProgressLines))
    trainer.state.max_steps, trainer.state.is_world_process_zero = 4, False
    capsys.readouterr()
    for event, more in (
        ("on_train_begin", {}),
        ("on_step_end", {}),
        ("on_prediction_step", {}),
        ("on_log", {"logs": {"loss": 1.0}}),
        ("on_log", {"logs": {"eval_loss": 1.0, "eval_runtime": 1.0}}),
        ("on_train_end", {}),
    ):
        getattr(shown, event)(trainer.args, trainer.state, TrainerControl(), **more)
    assert capsys.readouterr() == ("", "")


def test_many_tasks_fit_the_terminal_and_a_line(make_trainer, capsys):
    trainer = make_trainer(console="table")
    table = LiveTable(trainer, Console(file=io.StringIO(), width=100, height=30))
    table.figures = [TaskFigures(f"task{i}", 9, 0, f"loss_task{i}") for i in range(100)]
    shown = Console(file=io.StringIO(), width=100, height=30)
    trainer.state.max_steps = table.total = 4
    shown.print(table.table())
    text = shown.file.getvalue()
    assert len(text.splitlines()) < 30 and "and 78 more" in text
    lines = ProgressLines(trainer)
    lines.figures = table.figures
    for figures in lines.figures:
        figures.loss = 1.0
    lines.logged({"loss": 2.0, **{f"loss_task{i}": 1.0 for i in range(100)}}, 1.0)
    assert capsys.readouterr().out.rstrip().endswith("task7 1, and 92 more)")


@pytest.mark.parametrize(
    ("logs", "name", "score"),
    [
        ({"eval_a_loss": 1.0, "eval_a_f1": 0.5, "eval_a_b_loss": 2.0}, "a", 0.5),
        ({"eval_a_b_loss": 2.0, "eval_a_b_accuracy": 0.7}, "a_b", 0.7),
        ({"eval_a_b_loss": 2.0, "eval_a_b_accuracy": 0.7}, "a", None),
        ({"eval_a_loss": 1.0, "eval_overall": 0.5}, "a", None),
        ({"eval_a_loss": 1.0}, "a", None),
        ({"train_a_loss": 1.0, "train_a_f1": 0.5}, "a", None),
        ({}, "a", None),
    ],
)
def test_the_main_metric_follows_the_loss(logs, name, score):
    figures = TaskFigures(name, 1, 0, f"loss_{name}")
    assert figures.read_score(logs) == (score is not None)
    assert figures.score == figures.best == score


def test_best_scores_rise_and_the_best_dev_loss_of_pretraining_falls():
    task, texts = TaskFigures("a", 1, 0, "loss_a"), TaskFigures("texts", 1, 0, "loss", is_task=False)
    for score, loss in ((0.5, 2.0), (0.7, 1.0), (0.6, 3.0)):
        task.read_score({"eval_a_loss": 1.0, "eval_a_f1": score})
        texts.read_score({"eval_loss": loss})
    assert (task.score, task.best, texts.score, texts.best) == (0.6, 0.7, 3.0, 1.0)


def test_an_undefined_score_is_shown_and_is_never_the_best():
    texts = TaskFigures("texts", 1, 0, "loss", is_task=False)
    for loss, best in ((float("nan"), None), (2.0, 2.0), (float("nan"), 2.0), (1.0, 1.0)):
        assert texts.read_score({"eval_loss": loss}) and texts.best == best


@pytest.mark.parametrize(
    ("logs", "prefix"),
    [
        ({"eval_runtime": 1}, "eval"),
        ({"test_x_runtime": 1}, "test_x"),
        ({"train_runtime": 1}, None),
        ({"loss": 1}, None),
        ({}, None),
    ],
)
def test_prefix_of_an_evaluation(logs, prefix):
    assert evaluated_prefix(logs) == prefix


def test_a_phase_is_announced_once_if_it_is_long(capsys):
    with phase("reading", seconds=60):
        pass
    with phase("hidden", shown=False, seconds=0):
        time.sleep(0.05)
    with phase("encoding", seconds=0):
        time.sleep(0.2)
    assert capsys.readouterr() == ("", "encoding …\n")
