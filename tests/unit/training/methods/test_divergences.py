"""ℓ_s against torch's distributions, and where rounding would eat it."""

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from mtbert.modeling.task_spec import TaskSpec
from mtbert.training.methods.divergences import divergence

SINGLE = TaskSpec("single", labels=4)
BINARY = TaskSpec("binary", "binary_classification", labels=2)
MULTI = TaskSpec("multi", "multi_label_classification", labels=4)
SCORE = TaskSpec("score", range=(1, 6))
FREE = TaskSpec("free", "regression")
ORDINAL = TaskSpec("ordinal", ordinal=True, labels=4)
TASKS = (SINGLE, BINARY, MULTI, SCORE, FREE, ORDINAL)
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def outputs(task, seed=0, dtype=torch.float64, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(7, task.num_labels, generator=generator, dtype=torch.float64)).to(dtype)


def reference(task, a, b):
    if task.problem_type == "regression":
        width = task.range[1] - task.range[0] if task.range else 1
        return ((a[:, 0] - b[:, 0]) / width) ** 2
    kind = Categorical if task in (SINGLE, ORDINAL) else Bernoulli
    if task is ORDINAL:  # P(y = k) = P(y > k − 1) (1 − σ(z_k))
        above = [torch.cat([torch.ones(7, 1), z.sigmoid().cumprod(1)], dim=1) for z in (a, b)]
        a, b = (p * torch.cat([1 - z.sigmoid(), torch.ones(7, 1)], dim=1) for p, z in zip(above, (a, b), strict=True))
        a, b = a.log(), b.log()
    both = kl_divergence(kind(logits=a), kind(logits=b)) + kl_divergence(kind(logits=b), kind(logits=a))
    return both if kind is Categorical else both.mean(-1)


@every_task
def test_is_the_symmetrised_divergence_of_the_distributions(task):
    a, b = outputs(task), outputs(task, 1)
    torch.testing.assert_close(divergence(task, a, b), reference(task, a, b), rtol=1e-10, atol=1e-12)


@every_task
def test_is_symmetric_and_0_only_between_equals(task):
    a, b = outputs(task, dtype=torch.float32), outputs(task, 1, torch.float32)
    assert torch.equal(divergence(task, a, b), divergence(task, b, a))
    assert torch.equal(divergence(task, a, a), torch.zeros(7))
    assert (divergence(task, a, b) > 0).all()


@every_task
def test_gradients_to_both_sides_are_those_of_the_formula(task):
    a, b = outputs(task).requires_grad_(), outputs(task, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: divergence(task, a, b), (a, b))


@every_task
@pytest.mark.parametrize("distance", [1e-3, 1e-5])
def test_fp32_holds_what_a_small_distance_gives(task, distance):
    """From the same fp32 logits, fp32 arithmetic finds the divergence that fp64 finds, although it is a square."""
    a = outputs(task, dtype=torch.float32, scale=0.5)
    b = a + distance * outputs(task, 1, torch.float32)
    exact = divergence(task, a.double(), b.double())
    assert exact.mean() < distance
    torch.testing.assert_close(
        divergence(task, a, b).mean().double(), exact.mean(), rtol=0.05 if distance == 1e-5 else 1e-3, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_fp32(dtype):
    a, b = outputs(SINGLE, dtype=dtype), outputs(SINGLE, 1, dtype)
    assert divergence(SINGLE, a, b).dtype == torch.float32
    assert torch.equal(divergence(SINGLE, a, b), divergence(SINGLE, a.float(), b.float()))


@every_task
def test_extreme_logits_stay_finite(task):
    a, b = torch.full((1, task.num_labels), 80.0), torch.full((1, task.num_labels), -80.0)
    a[0, 0] = -80.0
    assert divergence(task, a, b).isfinite().all()


def test_a_regression_may_be_measured_on_the_scale_of_its_labels():
    one, other = torch.tensor([[2.0], [5.0]]), torch.tensor([[3.0], [1.0]])
    assert divergence(SCORE, one, other, "labels").tolist() == [1.0, 16.0]
    assert divergence(SCORE, one, other).tolist() == pytest.approx([1 / 25, 16 / 25])
    assert divergence(FREE, one, other, "labels").tolist() == divergence(FREE, one, other).tolist()
