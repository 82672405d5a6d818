"""Canaries: what mtbert overrides or calls of the private parts of its libraries is still there, and is called."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import accelerate
import pytest
import transformers
from transformers import Trainer

import mtbert
from mtbert import MtBertTrainer
from mtbert.training.pretraining import PretrainingTrainer

SOURCE = inspect.getsource(transformers.trainer)
# Private methods of transformers' Trainer that mtbert overrides, and the parameters that it relies on.
OVERRIDDEN = {
    "_get_grad_norm": ("model", "grad_norm"),
    "_get_output_dir": ("trial",),
    "_load_best_model": (),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "_run_epoch": (),
    "_save": ("output_dir", "state_dict"),
    "_save_checkpoint": ("model", "trial"),
    "_save_optimizer_and_scheduler": ("output_dir",),
}
# What mtbert calls or sets of transformers' and accelerate's private or undocumented parts.
CALLED = ("_finish_current_push", "_memory_tracker")


@pytest.mark.parametrize("trainer", [MtBertTrainer, PretrainingTrainer])
def test_every_private_method_that_is_overridden_has_a_canary(trainer):
    private = {name for name in vars(trainer) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if hasattr(Trainer, name)} <= set(OVERRIDDEN)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_a_private_method_is_there_and_is_called(name):
    taken = inspect.signature(getattr(Trainer, name)).parameters
    missing = [each for each in OVERRIDDEN[name] if each not in taken]
    assert not missing, f"transformers' Trainer.{name} has no parameter {missing} any more"
    calls = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Call)]
    names = {node.func.attr for node in calls if isinstance(node.func, ast.Attribute)}
    assert name in names, f"transformers' Trainer calls {name} no more"


@pytest.mark.parametrize("name", CALLED)
def test_what_is_called_of_the_trainer_is_there(name):
    assert name in SOURCE, f"transformers' Trainer has no {name} any more"


def test_gradients_are_clipped_through_accelerate():
    """`_compat.clip_with` replaces this method of one accelerator."""
    assert "accelerator.clip_grad_norm_(" in SOURCE
    assert callable(accelerate.Accelerator.clip_grad_norm_)


def test_training_ends_with_a_log_before_checkpoints_are_removed():
    """`ResumableRun.on_log` holds `save_total_limit` from that log to `on_train_end`."""
    end = inspect.getsource(Trainer._finalize_training)
    log, removal, callback = (end.index(part) for part in ("self.log(", "save_total_limit", "on_train_end"))
    assert log < removal < callback


def test_the_best_checkpoint_can_be_named_when_training_begins():
    """`ResumableRun.on_train_begin` names it after transformers has read the state."""
    loop = inspect.getsource(Trainer._inner_training_loop)
    assert loop.index("_init_training_state(") < loop.index("on_train_begin(")


def test_private_modules_of_libraries_are_imported_in_few_files():
    found = {}
    for file in Path(mtbert.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                if any(name.startswith("_") and not name.startswith("__") for name in names):
                    found.setdefault(file.name, []).append(node.module)
    assert set(found) <= {"_compat.py"}, found
