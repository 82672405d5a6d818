"""SMART's ascent on vectors: projections onto a ball, steps, and what is not finite."""

from __future__ import annotations

import math

import pytest
import torch

from mtbert.training.methods.smart import NORMS, Smart, ascend, ascent_step, project

every_norm = pytest.mark.parametrize("norm", NORMS)
every_vector = pytest.mark.parametrize("size", [1, 2, 3, 8, 40])


def vectors(size, count=200):
    """Vectors of very different lengths, some with equal entries and zeros: `(count, size)`."""
    generator = torch.Generator().manual_seed(size)
    found = torch.randn(count, size, dtype=torch.float64, generator=generator)
    found *= 10.0 ** torch.randint(-6, 3, (count, 1), generator=generator)
    found[::5] = found[::5, :1]
    found[::7, ::2] = 0.0
    return found


@every_norm
@every_vector
@pytest.mark.parametrize("radius", [1e-5, 1e-3, 1.0, 30.0])
def test_a_projection_lands_in_its_ball_and_moves_nothing_inside(norm, size, radius):
    for dtype, rounding in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        delta = vectors(size).to(dtype)
        found = project(delta, radius, norm)
        assert (found.norm(NORMS[norm], dim=-1) <= radius * (1 + rounding)).all()
        inside = delta.norm(NORMS[norm], dim=-1) <= radius
        torch.testing.assert_close(found[inside], delta[inside], rtol=rounding, atol=0)
        outside = found[~inside].norm(NORMS[norm], dim=-1)
        torch.testing.assert_close(outside, torch.full_like(outside, radius), rtol=1e-4, atol=0)


@every_norm
@every_vector
def test_a_projection_is_the_nearest_point_of_its_ball(norm, size):
    """A projection on a convex set: no point y of the set lies on the far side, (v − Πv)·(y − Πv) ≤ 0.

    The corners of the l1 ball and random points of the surface stand for the set.
    """
    corners = torch.cat([torch.eye(size), -torch.eye(size)]).double()
    others = torch.randn(100, size, dtype=torch.float64)
    others = torch.cat([corners, others / others.norm(NORMS[norm], dim=-1, keepdim=True)])
    delta = vectors(size)
    for radius in (1e-3, 1.0):
        found = project(delta, radius, norm)
        gone = delta - found
        products = torch.einsum("vd,yd->vy", gone, radius * others) - (gone * found).sum(-1, keepdim=True)
        assert products.max() <= 1e-9 * radius * delta.abs().max()


@every_norm
def test_a_step_of_the_ball_has_the_length_eta_for_each_token(norm):
    gradient = torch.randn(3, 5, dtype=torch.float64) * torch.tensor([[1e-8], [1.0], [1e8]], dtype=torch.float64)
    moved = ascent_step(torch.zeros(3, 5).double(), gradient, Smart(step_size=0.1, radius=1e6, norm=norm))
    torch.testing.assert_close(moved.norm(NORMS[norm], dim=-1), torch.full((3,), 0.1).double())
    assert torch.equal(moved.sign(), gradient.sign())


@every_norm
def test_a_gradient_of_0_moves_nothing(norm):
    delta = torch.tensor([[1e-6, -2e-6, 0.0]])
    assert torch.equal(ascent_step(delta, torch.zeros(1, 3), Smart(norm=norm)), delta)


@every_norm
def test_the_published_step_ends_near_norm_1(norm):
    delta, gradient = 1e-5 * torch.randn(4, 8), torch.randn(4, 8)
    moved = ascent_step(delta, gradient, Smart(norm=norm, projection="published", radius=1e-6))
    if norm == "l1":
        assert torch.equal(moved.abs(), torch.ones(4, 8))
    else:
        torch.testing.assert_close(moved.norm(NORMS[norm], dim=-1), torch.ones(4), rtol=0.01, atol=0)
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(moved.sign(), (delta + 1e-3 * gradient).sign()), torch.ones(4)
    )


def test_each_step_of_the_ascent_goes_on_from_the_last():
    """‖δ‖² grows along δ: from (3, 4)·10⁻³ by K steps of η to the radius."""
    start = torch.tensor([[3e-3, 4e-3]], dtype=torch.float64)
    for steps in (1, 2, 3):
        delta, finite = ascend(start, lambda d: d.square().sum(), Smart(steps=steps, norm="l2", radius=0.0075))
        assert float(delta.norm()) == pytest.approx(min(0.005 + 1e-3 * steps, 0.0075)) and finite


@pytest.mark.parametrize("loss", [lambda d: d.sum() * math.nan, lambda d: d.sum() / 0, lambda d: (d * 0).sqrt().sum()])
def test_an_ascent_that_is_not_finite_says_so(loss):
    assert not ascend(torch.ones(2, 3), loss, Smart(steps=2))[1]
