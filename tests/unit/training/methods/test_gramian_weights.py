"""The weights of gradient surgery against textbook loops on whole vectors, closed forms and other solvers."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mtbert.training.methods import gramian_weights

METHODS = {
    "mgda": gramian_weights.mgda,
    "upgrad": gramian_weights.upgrad,
    "cagrad": lambda gramian: gramian_weights.cagrad(gramian, 0.5),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_size = pytest.mark.parametrize("tasks", [2, 3, 5])


def make_gradients(tasks: int, seed: int, numbers: int = 30) -> np.ndarray:
    """`(tasks, numbers)` of very different norms; with an odd seed nearly opposed, with 3 numbers dependent."""
    random = np.random.default_rng([tasks, seed])
    gradients = random.standard_normal((tasks, numbers)) * 10 ** random.uniform(-1, 1, (tasks, 1))
    if seed % 2:
        gradients[1:] -= 2 * gradients[:1]
    return gradients


def gramian_of(gradients: np.ndarray) -> np.ndarray:
    products = gradients @ gradients.T
    return products / products.trace() * len(products)


def textbook_pcgrad(gradients: torch.Tensor, order: np.ndarray) -> torch.Tensor:
    """Algorithm 1 as it is printed, on whole vectors."""
    projected = [gradient.clone() for gradient in gradients]
    for i, others in enumerate(order):
        for j in others:
            product = projected[i] @ gradients[j]
            if product < 0:
                projected[i] -= product / gradients[j].norm() ** 2 * gradients[j]
    return sum(projected)


@every_size
@pytest.mark.parametrize("seed", range(10))
def test_pcgrad_is_the_textbook_loop_on_whole_vectors(tasks, seed):
    gradients = torch.from_numpy(make_gradients(tasks, seed))
    order = gramian_weights.draw_order(tasks, np.random.default_rng(seed))
    weights = gramian_weights.pcgrad(gradients @ gradients.T, torch.from_numpy(order))
    torch.testing.assert_close(weights @ gradients, textbook_pcgrad(gradients, order), rtol=1e-5, atol=1e-12)


@every_size
def test_pcgrad_is_that_of_torchjd(tasks, monkeypatch):
    aggregation = pytest.importorskip("torchjd.aggregation")
    from torchjd.aggregation._pcgrad import PCGradWeighting

    assert aggregation.PCGrad().gramian_weighting.__class__ is PCGradWeighting
    for seed in range(10):
        order = gramian_weights.draw_order(tasks, np.random.default_rng(seed))
        turns = iter(torch.from_numpy(order))
        monkeypatch.setattr(torch, "randperm", lambda count, turns=turns: next(turns))
        gradients = torch.from_numpy(make_gradients(tasks, seed))
        gramian = gradients @ gradients.T
        expected = PCGradWeighting()(gramian)
        torch.testing.assert_close(gramian_weights.pcgrad(gramian, torch.from_numpy(order)), expected)


def test_every_task_meets_all_others_in_random_order():
    random = np.random.default_rng(0)
    orders = [gramian_weights.draw_order(4, random) for _ in range(300)]
    for order in orders:
        assert [sorted(others) for others in order] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    first = np.bincount([order[0, 0] for order in orders], minlength=4)
    assert first[0] == 0 and (first[1:] > 70).all()
    assert any((order[0] != order[0, ::-1]).any() and order[1, 0] != order[2, 0] for order in orders)


@every_size
def test_without_conflict_pcgrad_and_upgrad_are_the_sum(tasks):
    gradients = np.abs(make_gradients(tasks, 0))
    order = torch.from_numpy(gramian_weights.draw_order(tasks, np.random.default_rng(0)))
    ones = np.ones(tasks)
    np.testing.assert_array_equal(gramian_weights.pcgrad(torch.from_numpy(gramian_of(gradients)), order), ones)
    np.testing.assert_allclose(gramian_weights.upgrad(gramian_of(gradients)), ones)


def test_a_common_factor_changes_no_weight_of_pcgrad():
    gramian = torch.from_numpy(gramian_of(make_gradients(4, 1)))
    order = torch.from_numpy(gramian_weights.draw_order(4, np.random.default_rng(0)))
    scaled = gramian_weights.pcgrad(gramian * 2.0**32, order)
    assert torch.equal(scaled, gramian_weights.pcgrad(gramian, order))
    assert not torch.equal(scaled, torch.ones(4, dtype=torch.float64))


def test_a_gradient_of_zeros_takes_no_part_in_pcgrad():
    gradients = make_gradients(3, 1)
    gradients[1] = 0
    order = torch.from_numpy(gramian_weights.draw_order(3, np.random.default_rng(0)))
    weights = gramian_weights.pcgrad(torch.from_numpy(gramian_of(gradients)), order).numpy()
    two = gramian_weights.pcgrad(torch.from_numpy(gramian_of(gradients[[0, 2]])), torch.tensor([[1], [0]])).numpy()
    np.testing.assert_allclose(weights[[0, 2]], two)


@pytest.mark.parametrize("seed", range(6))
def test_mgda_of_two_tasks_has_its_closed_form(seed):
    """Sener and Koltun (2018), equation 4."""
    one, other = gradients = make_gradients(2, seed)
    share = np.clip((other - one) @ other / ((one - other) @ (one - other)), 0, 1)
    np.testing.assert_allclose(gramian_weights.mgda(gramian_of(gradients)), [2 * share, 2 - 2 * share], atol=1e-7)


@every_size
@pytest.mark.parametrize("seed", range(6))
def test_mgda_is_no_longer_than_what_torchjd_finds(tasks, seed):
    aggregation = pytest.importorskip("torchjd.aggregation")
    gramian = gramian_of(make_gradients(tasks, seed, numbers=3 if seed > 3 else 30))
    weights = gramian_weights.mgda(gramian) / tasks
    theirs = aggregation.MGDA(epsilon=1e-7, max_iters=3000).gramian_weighting(torch.from_numpy(gramian)).numpy()
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    assert weights @ gramian @ weights <= theirs @ gramian @ theirs + 1e-9
    assert weights @ gramian @ weights == pytest.approx(theirs @ gramian @ theirs, abs=2e-3)


@every_size
@pytest.mark.parametrize("seed", range(4))
def test_upgrad_is_the_sum_of_projections_onto_the_dual_cone(tasks, seed):
    """The nearest step to each gradient that raises no task's loss, found among the steps themselves."""
    gradients = make_gradients(tasks, seed, numbers=4)
    gradients /= np.linalg.norm(gradients)
    total = 0
    for gradient in gradients:
        found = minimize(
            lambda step, gradient=gradient: ((step - gradient) ** 2).sum(),
            np.zeros(4),
            jac=lambda step, gradient=gradient: 2 * (step - gradient),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda step: gradients @ step, "jac": lambda step: gradients},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        total = total + found.x
    np.testing.assert_allclose(gramian_weights.upgrad(gramian_of(gradients)) @ gradients, total, atol=1e-5)


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_cagrad_is_the_best_step_for_the_worst_task(tasks, seed):
    """Its worst task gains the least value of the dual problem, which no step can exceed (equations 3 to 5)."""
    gradients = make_gradients(tasks, seed)
    gradients /= np.sqrt((gradients**2).sum() / tasks)
    mean = gradients.mean(0)
    step = gramian_weights.cagrad(gramian_of(gradients), 0.5) @ gradients / tasks
    assert np.linalg.norm(step - mean) <= 0.5 * np.linalg.norm(mean) * (1 + 1e-9)
    corners = np.random.default_rng(0).dirichlet(np.full(tasks, 0.5), size=20000)
    combined = np.vstack([corners, np.eye(tasks)]) @ gradients
    dual = (combined @ mean + 0.5 * np.linalg.norm(mean) * np.linalg.norm(combined, axis=1)).min()
    assert (gradients @ step).min() == pytest.approx(dual, abs=2e-3)
    assert (gradients @ step).min() <= dual + 1e-6


@every_size
def test_cagrad_is_that_of_torchjd(tasks):
    pytest.importorskip("cvxpy")
    pytest.importorskip("clarabel")
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(4):
        gramian = gramian_of(make_gradients(tasks, seed))
        theirs = tasks * aggregation.CAGrad(c=0.5).gramian_weighting(torch.from_numpy(gramian)).numpy()
        np.testing.assert_allclose(gramian_weights.cagrad(gramian, 0.5), theirs, rtol=1e-3, atol=1e-3)


def test_cagrad_without_radius_is_the_sum():
    np.testing.assert_array_equal(gramian_weights.cagrad(gramian_of(make_gradients(3, 1)), 0.0), np.ones(3))


@every_method
def test_alike_gradients_have_the_direction_of_each(method):
    gradients = np.tile(make_gradients(1, 0), (3, 1))
    step = method(gramian_of(gradients)) @ gradients
    np.testing.assert_allclose(step / np.linalg.norm(step), gradients[0] / np.linalg.norm(gradients[0]), rtol=1e-6)


@every_method
def test_opposed_gradients_end_in_finite_weights(method):
    gradient = make_gradients(1, 0)
    weights = method(gramian_of(np.vstack([gradient, -gradient, 0 * gradient])))
    assert np.isfinite(weights).all()
