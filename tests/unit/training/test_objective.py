"""The tasks' shares of a step's loss, their means for the log, and what a run goes on with."""

from dataclasses import replace

import pytest
import torch
from attached import attached

from mtbert.data.sampling import Schedule
from mtbert.modeling.packing import PackedLayout
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.uncertainty import LOG_VARIANCES, LossSettings
from mtbert.training.objective import StepLosses

CPU = torch.device("cpu")
COUNTS = torch.tensor([8.0, 0.0, 4.0, 0.0])  # the labelled rows of a step, of which the micro-batch below has some


@pytest.fixture
def batch():
    """Three rows of stars, one without a label, and two Siamese ones of close."""
    lengths, plan = [5, 2, 4, 3, 3, 6, 2], [(0, 3, 1), (2, 2, 2)]
    generator = torch.Generator().manual_seed(3)
    return {
        "input_ids": torch.randint(6, 28, (1, sum(lengths)), generator=generator),
        "layout": PackedLayout.build(lengths, plan),
        "labels": {"stars": torch.tensor([2, -100, 0]), "close": torch.tensor([1.0, 4.5])},
        "labelled": torch.tensor([2.0, 0.0, 2.0, 0.0]),
        "rows": {},
    }


@pytest.fixture
def make(make_model):
    """A function: settings → StepLosses of a model without dropout."""

    def make(own_means=False, uncertainty=False, proximal=None, **weights) -> StepLosses:
        model = make_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        for head in model.heads.values():
            head.dropout.p = 0.0
        settings = {task.name: TaskTraining(weight=weights.get(task.name, 1.0)) for task in model.tasks}
        chosen = [LossSettings("uncertainty")] if uncertainty else []
        chosen += [] if proximal is None else [proximal]
        methods = [attached(each.build(), model) for each in chosen]
        schedule = Schedule("simultaneous" if own_means else "annealed")
        return StepLosses(model.train(), settings, schedule, methods, CPU)

    return make


def plain(step: StepLosses, batch) -> dict[str, torch.Tensor]:
    output = step.model(**{key: value for key, value in batch.items() if key not in ("labelled", "rows")})
    return {name: rows.sum() for name, rows in output.row_losses.items()}


@pytest.mark.parametrize("own_means", [False, True])
def test_a_task_has_its_share_of_the_step(make, batch, own_means):
    step = make(own_means, stars=3.0)
    losses, outputs = step(step.model, batch, COUNTS)
    sums = plain(step, batch)
    assert list(losses) == ["stars", "close"] and set(outputs.task_logits) == {"stars", "close"}
    torch.testing.assert_close(losses["stars"], 3 * sums["stars"] / (8 if own_means else 12))
    torch.testing.assert_close(losses["close"], sums["close"] / (4 if own_means else 12))


def test_log_variances_weigh_the_losses_and_are_saved(make, batch, tmp_path):
    step, other = make(own_means=True, uncertainty=True), make(own_means=True, uncertainty=True)
    with torch.no_grad():
        step.methods[0].variances.log_variances["stars"].fill_(0.7)
    step.methods[0].save(str(tmp_path))
    other.methods[0].load(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [LOG_VARIANCES]
    expected = (torch.exp(torch.tensor(-0.7)) * plain(step, batch)["stars"] + 2 * 0.7 / 2) / 8
    for each in (step, other):
        torch.testing.assert_close(each(each.model, batch, COUNTS)[0]["stars"], expected)
    assert other.methods[0].logs(lambda values: values, {})["log_variance_stars"] == pytest.approx(0.7)


def test_the_log_has_plain_means_since_the_last_one(make, batch):
    step = make(stars=5.0)
    for _ in range(2):
        step.steps += 1
        step.note(batch, step(step.model, batch, COUNTS)[1])
    assert step.steps == 2
    found, sums = step.logs(lambda values: values), plain(step, batch)
    assert {key: value for key, value in found.items() if key.startswith("examples")} == {
        "examples_stars": 4,
        "examples_same": 0,
        "examples_close": 4,
        "examples_topics": 0,
    }
    assert found["loss_stars"] == pytest.approx(sums["stars"].item() / 2)
    assert "loss_same" not in found
    step.forget()
    assert step.steps == 0 and step.logs(lambda values: values)["examples_stars"] == 0


def test_regularisers_count_in_training_only(make, batch):
    step = make(proximal=Proximal(weight=2.0))
    step(step.model, batch, COUNTS)  # from here on the teacher has these weights
    with torch.no_grad():
        for parameter in step.model.heads["stars"].parameters():
            parameter.mul_(2)
    sums = plain(step, batch)
    in_training = step(step.model, batch, COUNTS)[0]["stars"] * 12
    in_evaluation = step(step.model.eval(), batch, COUNTS)[0]["stars"] * 12
    torch.testing.assert_close(in_evaluation, sums["stars"])
    assert in_training > sums["stars"]


def test_smoothed_labels_cost_more_and_are_left_out_of_the_log(make, batch):
    step = make()
    step.settings = {**step.settings, "stars": replace(step.settings["stars"], label_smoothing=0.4)}
    losses, outputs = step(step.model, batch, COUNTS)
    sums = plain(step, batch)
    assert not torch.isclose(losses["stars"] * 12, sums["stars"])
    torch.testing.assert_close(outputs.row_losses["stars"].sum(), sums["stars"])
