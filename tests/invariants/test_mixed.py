"""Invariant 2: a mixed batch is the same rows task by task."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.sampling import Step

PARTS = (
    (0, np.array([3, 0, 11, 5, 19])),
    (1, np.array([7, 2])),
    (2, np.array([16, 1, 8])),
    (3, np.array([4])),
)
NOT_INPUTS = ("labelled", "rows")


@pytest.fixture
def batch_of(tasks, encoded):
    """A function: parts of a step → the model's inputs."""
    dataset = MultiTaskDataset(tasks, encoded(), token_types=True)

    def batch(*parts) -> dict:
        found = dataset.__getitems__(Step(parts))
        return {key: value for key, value in found.items() if key not in NOT_INPUTS}

    return batch


@pytest.fixture(params=[True, False], ids=["packed", "padded"])
def model(request, make_model):
    return make_model(packed=request.param).eval()


@torch.no_grad()
def test_a_mixed_batch_has_the_logits_and_losses_of_its_tasks_alone(model, tasks, batch_of):
    mixed = model(**batch_of(*PARTS))
    assert list(mixed.task_logits) == [task.name for task in tasks]
    for task_id, rows in PARTS:
        name, alone = tasks[task_id].name, model(**batch_of((task_id, rows)))
        assert mixed.task_logits[name].shape == (len(rows), tasks[task_id].num_labels)
        torch.testing.assert_close(mixed.task_logits[name], alone.logits, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(mixed.row_losses[name], alone.row_losses[name], rtol=1e-6, atol=1e-6)
        assert torch.equal(mixed.labelled[name], alone.labelled[name])


@torch.no_grad()
def test_a_mixed_batch_has_the_logits_of_each_row_alone(model, tasks, batch_of):
    mixed = model(**batch_of(*PARTS))
    for task_id, rows in PARTS:
        alone = torch.cat([model(**batch_of((task_id, rows[i : i + 1]))).logits for i in range(len(rows))])
        torch.testing.assert_close(mixed.task_logits[tasks[task_id].name], alone, rtol=1e-6, atol=2e-6)


def test_the_gradient_of_a_mixed_batch_is_the_sum_of_its_tasks_gradients(model, batch_of):
    """In fp64, because a sum of many fp32 rows is rounded differently in another order."""
    model.double()

    def gradients(*batches) -> dict[str, torch.Tensor]:
        model.zero_grad()
        for batch in batches:
            sum(losses.sum() for losses in model(**batch).row_losses.values()).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    mixed = gradients(batch_of(*PARTS))
    for name, alone in gradients(*(batch_of(part) for part in PARTS)).items():
        torch.testing.assert_close(
            mixed[name], alone, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_task_that_is_absent_has_no_gradient(model, tasks, batch_of):
    model(**batch_of(PARTS[0], PARTS[2])).loss.backward()
    for task_id, task in enumerate(tasks):
        absent = [parameter.grad is None for parameter in model.heads[task.name].parameters()]
        assert all(absent) if task_id in (1, 3) else not any(absent)


def test_the_loss_is_the_mean_over_the_labelled_rows_of_all_tasks(model, batch_of):
    output = model(**batch_of(*PARTS))
    losses = torch.cat(list(output.row_losses.values()))
    torch.testing.assert_close(output.loss, losses.mean())
