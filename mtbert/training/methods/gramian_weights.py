"""Gradient surgery on the Gramian: from G = (g_i · g_j) of T tasks' gradients g_t to weights a_t of their sum.

Every method's step is Σ_t a_t g_t, where the weights a depend on the gradients through G alone. The weights are scaled
so that a = 1 gives the gradient of the summed losses; for papers that take the mean loss they are multiplied by T.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize, nnls
from torch import Tensor

_TINY = 1e-12  # smallest norm of a combined gradient, relative to the tasks' gradients


def pcgrad(gramian: Tensor, order: Tensor) -> Tensor:
    """PCGrad's weights `(T,)`: Yu et al., "Gradient Surgery for Multi-Task Learning" (2020), Algorithm 1.

    Each g_i is compared with the other tasks' gradients g_j in its own order; where g_i^PC · g_j < 0, its component
    along g_j is removed. All tasks are computed in parallel on G's device, without synchronisation. A common factor on
    the gradients, such as a loss scale, cancels.

    Args:
        gramian: G, `(T, T)`.
        order: for each task the other tasks in the order of comparison, `(T, T − 1)`; random in the paper.
    """
    parts = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)  # g_i^PC = Σ_j parts[i, j] g_j
    squares = gramian.diagonal()
    for met in order.unbind(1):
        dots = (gramian[met] * parts).sum(1)
        removed = torch.where(dots < 0, dots / squares[met], 0.0)
        parts.scatter_add_(1, met[:, None], -removed[:, None])
    return parts.sum(0)


def draw_order(tasks: int, random: np.random.Generator) -> np.ndarray:
    """For each of T tasks the T − 1 others in random order, `(T, T − 1)`."""
    all_tasks = np.tile(np.arange(tasks), (tasks, 1))
    others = all_tasks[~np.eye(tasks, dtype=bool)].reshape(tasks, tasks - 1)
    return random.permuted(others, axis=1)


def _factor(gramian: np.ndarray) -> np.ndarray:
    """R with RᵀR = G, `(T, T)`; eigenvalues of G that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(gramian)
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T


def mgda(gramian: np.ndarray) -> np.ndarray:
    """T times the weights of the shortest vector in the convex hull of the gradients, `(T,)`.

    Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization" (2012), section 2. With
    a = s p and p in the simplex, the p that minimises |Σ a_t g_t|² + (1 − s)² does not depend on s, so that
    non-negative least squares find it exactly.

    Args:
        gramian: G, `(T, T)`, scaled to a mean diagonal of 1.
    """
    tasks = len(gramian)
    rows = np.vstack([_factor(gramian), np.ones(tasks)])
    weights, _ = nnls(rows, np.append(np.zeros(tasks), 1.0))
    return tasks * weights / weights.sum()


def upgrad(gramian: np.ndarray) -> np.ndarray:
    """Weights of the sum of all gradients, each projected onto the cone of steps that increase no task's loss, `(T,)`.

    Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization" (2024), equation 4 and proposition 1: the
    projection of g_i has the weights v ≥ e_i that minimise vᵀ G v.

    Args:
        gramian: G, `(T, T)`, scaled to a mean diagonal of 1.
    """
    factor = _factor(gramian)
    return sum(unit + nnls(factor, -factor @ unit)[0] for unit in np.eye(len(gramian)))


def cagrad(gramian: np.ndarray, c: float) -> np.ndarray:
    """T times CAGrad's weights, `(T,)`: the step best for the worst task within c |g_0| of the mean gradient g_0.

    Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning" (2021), Algorithm 1, with φ = c² |g_0|²:
    g_0 + √φ g_w / |g_w|, where w in the simplex minimises g_w · g_0 + √φ |g_w|.

    Args:
        gramian: G, `(T, T)`, scaled to a mean diagonal of 1.
        c: the radius, in [0, 1); 0 is the mean gradient.
    """
    tasks = len(gramian)
    mean = np.full(tasks, 1 / tasks)
    radius = c * np.sqrt(max(mean @ gramian @ mean, 0))

    def norm(w: np.ndarray) -> float:
        return np.sqrt(max(w @ gramian @ w, 0) + _TINY**2)

    solution = minimize(
        lambda w: w @ gramian @ mean + radius * norm(w),
        mean,
        jac=lambda w: gramian @ mean + radius * (gramian @ w) / norm(w),
        method="SLSQP",
        bounds=[(0, 1)] * tasks,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(tasks)},
        options={"ftol": 1e-12, "maxiter": 200},
    )
    return 1 + tasks * radius * solution.x / norm(solution.x)
