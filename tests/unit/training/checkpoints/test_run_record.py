"""What a run leaves in numbers."""

import math
import re
from types import SimpleNamespace

import torch

from mtbert.training.checkpoints.run_record import Movement, run_record


def test_movement_is_the_relative_change_of_each_part(make_model):
    model = make_model()
    model.freeze_encoder()
    movement = Movement(model)
    head = model.heads[model.tasks[0].name]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1.5)
    rows = {(row["component"], row["task"]): row for row in movement.rows()}
    assert math.isclose(rows["head", model.tasks[0].name]["moved"], 0.5, rel_tol=1e-5)
    assert rows["head", model.tasks[1].name]["moved"] == 0
    assert rows["encoder", ""]["moved"] == 0
    assert rows["encoder", ""]["trainable"] == 0
    assert "moved" not in rows["total", ""]


def test_weights_that_began_at_zero(make_model):
    model = make_model()
    weight = next(model.heads[model.tasks[0].name].parameters())
    with torch.no_grad():
        for parameter in model.heads[model.tasks[0].name].parameters():
            parameter.zero_()
        movement = Movement(model)
        weight.fill_(1)
    row = next(row for row in movement.rows() if row["component"] == "head")
    assert row["moved"] == math.inf


def test_the_record_has_what_was_measured_and_what_was_given_after_the_last_log(make_model):
    model = make_model()
    log = [
        {
            "epoch": 0.5,
            "examples_stars": 6,
            "loss_stars": 2.0,
            "conflicts": 0.5,
            "smart_stars": 1e-6,
            "smart_skipped": 1,
        },
        {
            "epoch": 0.9,
            "examples_stars": 6,
            "loss_stars": 1.5,
            "conflicts": 0.0,
            "smart_stars": 3e-6,
            "smart_skipped": 2,
        },
        {"epoch": 1.0, "examples_stars": 2, "loss_stars": 1.0, "train_runtime": 3.0},
    ]
    trainer = SimpleNamespace(
        state=SimpleNamespace(log_history=log, global_step=7),
        methods={},
        tasks=model.tasks,
        args=SimpleNamespace(device=torch.device("cpu"), world_size=1, seed=3),
        accelerator=SimpleNamespace(mixed_precision="no", native_amp=False, unwrap_model=lambda model: model),
        model=model,
        train_dataset={"stars": range(14)},
        eval_dataset=None,
        settings=SimpleNamespace(recipe={"encoder": "a/b"}),
    )
    found = run_record(trainer, Movement(model))
    assert found["measured"] == {"conflicts": 0.25, "smart_stars": 2e-6, "smart_skipped": 3}
    assert found["examples"] == {1: {"stars": 14}} and found["losses"]["stars"] == [2.0, 1.0]
    assert found["rows"] == {"train": {"stars": 14}, "dev": {}}
    assert found["encoder"] == {"family": "bert", "layers": 2, "width": model.config.hidden_size, "name": "a/b"}
    assert found["commit"] is None or re.fullmatch("[0-9a-f]{40}", found["commit"])
    assert found["seconds"] == 3.0 and found["steps"] == 7
