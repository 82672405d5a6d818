"""Scores of a recipe that is trained in the time that is left; they are written at each evaluation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tables import Table
from transformers import TrainerCallback
from workload import COURSE_DATA, ROOT, random_encoder

import mtbert

from .setting import Setting

RECIPE = ROOT / "recipes" / "configs" / "cs224n" / "best_base.yaml"
ENDING = 30  # seconds that the last evaluation and the end of a run take


class Scores(TrainerCallback):
    """Writes the scores of each evaluation, and stops the training in time.

    Args:
        setting: the setting.
        what: what is trained.
    """

    def __init__(self, setting: Setting, what: dict[str, Any]):
        self.setting, self.what = setting, what
        self.scores: dict[int, dict[str, float]] = {}
        self.start, self.stopped = time.time(), ""

    def on_step_end(self, args, state, control, **kwargs):
        if self.setting.left() < ENDING and state.global_step < state.max_steps and not self.stopped:
            self.stopped = f"stopped for want of time at step {state.global_step:,} of {state.max_steps:,}"
            control.should_training_stop = True

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.what["steps"] = state.max_steps
        wanted = {key: value for key, value in metrics.items() if isinstance(value, float) and is_score(key)}
        self.scores.setdefault(state.global_step, {"seconds": time.time() - self.start, **wanted})
        self.write(f"step {state.global_step:,} of {state.max_steps:,} was the last evaluation")

    def write(self, stopped: str = "") -> None:
        """Write the scores so far."""
        columns = [*dict.fromkeys(key for each in self.scores.values() for key in each)]
        rows = [[step, *(each.get(key) for key in columns)] for step, each in self.scores.items()]
        title = f"Dev scores of {self.what['recipe']}, {self.what['encoder']}"
        table = Table(title, ["step", *(key.removeprefix("eval_") for key in columns)], rows)
        self.setting.put({**self.what, "scores": self.scores}, [table], stopped=stopped)


def is_score(key: str) -> bool:
    """Whether a metric of the trainer is a score, not a loss or a speed."""
    return key.startswith("eval_") and not key.endswith(("loss", "runtime", "per_second"))


def run(setting: Setting) -> None:
    """Train the recipe."""
    recipe = Path(setting.args.recipe or RECIPE)
    overrides: dict[str, Any] = {
        "training.output_dir": f"{setting.folder}/run",
        "training.bf16": setting.precision == "bf16",
        "training.use_cpu": setting.device == "cpu",
        "training.report_to": "none",
        "training.disable_tqdm": True,
        "training.save_strategy": "no",
        "training.load_best_model_at_end": False,
    }
    if setting.rehearsal:
        overrides |= {
            "training.max_steps": 4,
            "training.cpu_threads": 1,
            "training.eval_strategy": "steps",
            "training.eval_steps": 2,
        }
        encoder = random_encoder(f"{setting.folder}/encoder", setting.bert())
    else:
        encoder, data = setting.args.encoder, Path(setting.args.data_dir or COURSE_DATA)
        if not encoder or not data.is_dir():
            why = f"{data} is not there (--data_dir)" if encoder else "no encoder was given (--encoder)"
            setting.put({}, [], stopped=f"left out: {why}")
            return
        overrides["data_dir"] = str(data.resolve())
    overrides["encoder"] = encoder
    scores = Scores(setting, {"recipe": recipe.name, "encoder": Path(encoder).name})
    mtbert.train(recipe, overrides, [scores])
    scores.write(scores.stopped)
