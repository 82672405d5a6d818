"""What a run leaves in numbers."""

import math

import torch

from mtbert.training.record import Movement


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
