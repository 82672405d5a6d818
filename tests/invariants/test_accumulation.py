"""Invariant 3: a batch of B rows is B/k rows accumulated k times."""

from __future__ import annotations

import pytest
import torch

from mtbert.data.sampling import Schedule
from mtbert.training.arguments import TaskTraining

# (per-device batch, accumulation): all of them are steps of 8 rows
LAYOUTS = ((8, 1), (4, 2), (2, 4))
SCHEDULES = {
    "annealed": (Schedule("annealed", steps_per_epoch=4), None),
    "mixed": (Schedule("annealed", mixed=True, steps_per_epoch=4), None),
    "sequential with uneven last steps": (Schedule("sequential"), None),
    "simultaneous": (
        Schedule("simultaneous", steps_per_epoch=3),
        {"close": TaskTraining(batch_size=1), "same": TaskTraining(batch_size=3, weight=0.5)},
    ),
    "weights and unequal batches": (
        Schedule("uniform", mixed=True, steps_per_epoch=4),
        {"stars": TaskTraining(weight=2.0), "topics": TaskTraining(weight=0.25)},
    ),
}


def losses_by_task(trainer) -> list[dict[str, float]]:
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{k: v for k, v in each.items() if k.startswith(("loss", "examples_", "grad_norm"))} for each in logged]


@pytest.mark.parametrize(("schedule", "task_training"), SCHEDULES.values(), ids=SCHEDULES)
def test_a_batch_and_its_accumulated_parts_train_to_the_same_weights(
    schedule, task_training, still_model, make_trainer, tmp_path
):
    """Plain SGD, whose update is linear in the gradient, so that rounding stays rounding."""
    runs = []
    for batch, accumulation in LAYOUTS:
        trainer = make_trainer(
            still_model(),
            tmp_path,
            schedule,
            task_training,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.05,
        )
        trainer.train()
        runs.append(trainer)
    start, whole = still_model().state_dict(), runs[0].model.state_dict()
    assert max(float((whole[name] - start[name]).abs().max()) for name in start) > 1e-3
    for parts in runs[1:]:
        assert parts.state.global_step == runs[0].state.global_step == runs[0].state.max_steps
        for name, weight in parts.model.state_dict().items():
            torch.testing.assert_close(
                weight, whole[name], rtol=1e-6, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
        for one, other in zip(losses_by_task(parts), losses_by_task(runs[0]), strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
