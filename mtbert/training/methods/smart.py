"""Smoothness-inducing adversarial regularisation (SMART; Jiang et al., 2020, section 3.1 and algorithm 1).

R_s(θ) = mean over rows of max over ‖δ‖_p ≤ ε of ℓ_s(f(x + δ; θ), f(x; θ)), where x are the word embeddings of a row's
tokens. The maximum is approximated by projected gradient ascent from Gaussian noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import InputError, Problem
from .base import PeakMemory, TaskTrainer
from .divergences import RANGE, SCALES, divergence
from .penalty import Penalty
from .rules import Rule, with_shares

NORMS = {"l1": 1.0, "l2": 2.0, "inf": float("inf")}
PROJECTIONS = ("ball", "published")


@dataclass(frozen=True)
class Smart:
    """Smoothness-inducing adversarial regularisation.

    The defaults are the paper's (section 4.2). Norms are taken over the hidden dimension of each token, as in the
    authors' code (mt-dnn, `mt_dnn/perturbation.py`), so that a text's length does not matter.

    Attributes:
        weight: λ_s, the factor on the mean of ℓ_s over a task's rows, 0 or more; 0 turns it off.
        steps: K, steps of the ascent, 1 or more; each costs a forward pass and a gradient of the embeddings.
        step_size: η, the length of a step, in units of the embeddings, positive.
        noise: σ, the standard deviation of the Gaussian noise that the ascent starts from, positive.
        radius: ε, the radius of the ball, in units of the embeddings, positive; `published` adds it to the norm that it
            divides by.
        norm: p, the norm of the ball: `l1`, `l2` or `inf`.
        projection: `ball` (a step of η along the gradient over its norm, then the nearest point of the ball with
            radius ε) or `published` (the authors' later code: noise + η · gradient, divided by its norm plus ε, or by
            its absolute values for `l1`; the result is a large perturbation for every ε: of norm near 1, or of ±1).
        scale: the scale of ℓ_s of a regression: `range` (the squared difference over the squared width of the task's
            range) or `labels` (the squared difference itself, as in the library SMART-Pytorch).
    """

    weight: float = 1.0
    steps: int = 1
    step_size: float = 1e-3
    noise: float = 1e-5
    radius: float = 1e-5
    norm: str = "inf"
    projection: str = "ball"
    scale: str = RANGE

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = []
        if not self.weight >= 0:
            problems.append(Problem(("weight",), f"is {self.weight}, but must be 0 or more"))
        if self.steps < 1:
            problems.append(
                Problem(("steps",), f"is {self.steps}, but must be 1 or more; to do without, set smart: null")
            )
        for key in ("step_size", "noise", "radius"):
            if not getattr(self, key) > 0:
                problems.append(Problem((key,), f"is {getattr(self, key)}, but must be positive"))
        if self.norm not in NORMS:
            problems.append(Problem(("norm",), f"is {self.norm!r}, but must be one of: {', '.join(NORMS)}"))
        if self.projection not in PROJECTIONS:
            problems.append(
                Problem(("projection",), f"is {self.projection!r}, but must be one of: {', '.join(PROJECTIONS)}")
            )
        if self.scale not in SCALES:
            problems.append(Problem(("scale",), f"is {self.scale!r}, but must be one of: {', '.join(SCALES)}"))
        return problems

    def build(self) -> SmartPenalty | None:
        """Build the method; None with a weight of 0."""
        return SmartPenalty(self) if self.weight else None


_INPUT_GRADIENTS = "the ascent asks for gradients of inputs, which PyTorch refuses there; set use_reentrant: false"
RULES = (
    Rule(
        "smart: a mapping",
        "training.neftune_noise_alpha: a number",
        lambda run: run.has("smart", "training.neftune_noise_alpha"),
        "both disturb the embeddings, and smart compares with embeddings that nothing disturbs; drop one of them",
    ),
    Rule(
        "smart: a mapping",
        "training.tf32: true",
        lambda run: run.has("smart") and run.value("training.tf32"),
        "its passes need all bits of fp32 to see a perturbation of its radius; set tf32: false",
    ),
    Rule(
        "smart: a mapping",
        "training.activation_checkpointing_kwargs: use_reentrant: true",
        lambda run: run.has("smart") and run.value("training.activation_checkpointing_kwargs.use_reentrant"),
        _INPUT_GRADIENTS,
    ),
    Rule(
        "smart: a mapping",
        "training.gradient_checkpointing_kwargs: use_reentrant: true",
        lambda run: run.has("smart") and run.value("training.gradient_checkpointing_kwargs.use_reentrant"),
        _INPUT_GRADIENTS,
    ),
    with_shares(
        "smart.weight", "its ascent asks for gradients of the embeddings alone, in passes that share nothing out"
    ),
)


def project(delta: Tensor, radius: float, norm: str) -> Tensor:
    """The nearest point (in the Euclidean sense) of the ball ‖δ‖_p ≤ radius, for each vector along the last dimension.

    For p = 1 by sorting (Duchi et al., 2008, figure 1).
    """
    if norm == "inf":
        return delta.clamp(-radius, radius)
    if norm == "l2":
        length = delta.norm(dim=-1, keepdim=True)
        return delta * (radius / length.clamp(min=radius))
    size = delta.abs()
    # Differences from the largest entry are small where they matter, so that a radius far below δ is not rounded away.
    below = size - size.amax(-1, keepdim=True)
    descending = below.sort(dim=-1, descending=True).values
    excess = descending.cumsum(-1) - radius
    count = torch.arange(1, delta.shape[-1] + 1, device=delta.device)
    kept = (descending * count > excess).sum(-1, keepdim=True)
    threshold = excess.gather(-1, kept - 1) / kept
    inside = size.sum(-1, keepdim=True) <= radius
    return torch.where(inside, delta, delta.sign() * (below - threshold).clamp(min=0))


def ascent_step(delta: Tensor, gradient: Tensor, settings: Smart) -> Tensor:
    """δ after one step of the ascent, for each vector along the last dimension.

    With the projection `ball`, a gradient of 0 leaves δ where it is.
    """
    order = NORMS[settings.norm]
    if settings.projection == "published":
        moved = delta + settings.step_size * gradient
        if settings.norm == "l1":
            return moved.sign()
        return moved / (moved.norm(order, dim=-1, keepdim=True) + settings.radius)
    length = gradient.norm(order, dim=-1, keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
    return project(delta + settings.step_size * gradient / length, settings.radius, settings.norm)


def ascend(delta: Tensor, loss: Callable[[Tensor], Tensor], settings: Smart) -> tuple[Tensor, Tensor]:
    """Take K ascent steps from δ on a scalar loss.

    Returns:
        The last δ, and whether all losses and gradients were finite.
    """
    finite = torch.ones((), dtype=torch.bool, device=delta.device)
    for _ in range(settings.steps):
        delta = delta.detach().requires_grad_()
        value = loss(delta)
        (gradient,) = torch.autograd.grad(value, delta)
        finite = finite & value.isfinite() & gradient.isfinite().all()
        delta = ascent_step(delta.detach(), gradient, settings)
    return delta.detach(), finite


class RandomState:
    """The state of the default random generators of the CPU and of a device, to draw the same numbers again."""

    def __init__(self, device: torch.device):
        self.device = device
        self.module = None if device.type == "cpu" else torch.get_device_module(device)
        self.of_cpu = torch.get_rng_state()
        self.of_device = None if self.module is None else self.module.get_rng_state(device)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Within, the generators continue from this state; afterwards from where they were before."""
        of_cpu = torch.get_rng_state()
        of_device = None if self.module is None else self.module.get_rng_state(self.device)
        try:
            self._set(self.of_cpu, self.of_device)
            yield
        finally:
            self._set(of_cpu, of_device)

    def _set(self, of_cpu: Tensor, of_device: Tensor | None) -> None:
        torch.set_rng_state(of_cpu)
        if self.module is not None:
            self.module.set_rng_state(of_device, self.device)


@contextmanager
def _constant(model: nn.Module) -> Iterator[None]:
    """Within, passes compute no gradients of the weights."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class SmartPenalty(Penalty):
    """Penalty ℓ_s(f(x + δ), f(x)) of every row of a micro-batch; `ascend` finds δ for all of its tokens at once.

    Dropout: the model stays in training mode, as in the authors' code, but the perturbed passes use the dropout masks
    of the clean pass. With other masks, as in the authors' code, ℓ_s would measure the difference of the masks, which
    at ε = 1e-5 is millions of times larger.

    Precision: the perturbed passes compute in fp32, without autocast. If the clean pass is in mixed precision or
    compiled, f(x) is computed again in fp32; otherwise ℓ_s would measure its rounding errors.

    Sources: a text with labels of several tasks has one δ, which raises the sum of ℓ_s over these tasks.

    Gradients: in the ascent f(x) is constant and no gradient reaches the weights; in ℓ_s gradients flow through both
    f(x + δ) and f(x).

    Args:
        settings: λ_s, K, η, σ, ε, p and the projection.
    """

    section = "smart"
    measured = ("smart_",)
    later: ClassVar[Mapping[str, Any]] = {"scale": RANGE}
    counts_skipped = True

    def attach(self, trainer: TaskTrainer) -> None:
        super().attach(trainer)
        half = {
            str(parameter.dtype)
            for parameter in self.model.parameters()
            if parameter.dtype in (torch.float16, torch.bfloat16)
        }
        if half:
            raise InputError(
                f"smart: the model has weights in {half.pop()}, but its passes need fp32; load them in fp32"
            )
        self.own_reference = trainer.accelerator.mixed_precision != "no" or bool(trainer.args.torch_compile)

    def before_forward(self, inputs: Mapping[str, Any]) -> None:
        self._before = RandomState(self.device)

    def penalties(self, inputs: Mapping[str, Any], outputs: Any) -> dict[str, Tensor] | None:
        """ℓ_s of each row, by task: `(rows,)`; see `Penalty.penalties`.

        Returns:
            None if a loss or a gradient of the ascent, or ℓ_s itself, is not finite; one synchronisation with the GPU.
        """
        clean = self._logits(inputs, None) if self.own_reference else outputs.task_logits
        fixed = {name: logits.detach() for name, logits in clean.items()}

        def loss(delta: Tensor) -> Tensor:
            divergences = self._divergences(self._logits(inputs, delta), fixed)
            masks = getattr(outputs, "labelled", None) or {}
            total: Any = sum((rows * masks.get(name, 1)).sum() for name, rows in divergences.items())
            return total

        weight = self.model.get_input_embeddings().weight
        shape = (*inputs["input_ids"].shape, weight.shape[-1])
        noise = self.settings.noise * torch.randn(shape, device=weight.device, dtype=weight.dtype)
        with _constant(self.model):
            delta, finite = ascend(noise, loss, self.settings)
        penalties = self._divergences(self._logits(inputs, delta), clean)
        for rows in penalties.values():
            finite = finite & rows.isfinite().all()
        return penalties if bool(finite) else None

    def _divergences(self, logits: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scale = self.settings.scale
        return {name: divergence(self.tasks[name], logits[name], others[name], scale) for name in logits}

    def _logits(self, inputs: Mapping[str, Any], delta: Tensor | None) -> dict[str, Tensor]:
        model = self.model
        others = {key: value for key, value in inputs.items() if key != "input_ids"}
        with self._before.replay(), torch.autocast(inputs["input_ids"].device.type, enabled=False):
            embeds = model.get_input_embeddings()(inputs["input_ids"])
            embeds = embeds if delta is None else embeds + delta
            # the class's forward: accelerate replaces the instance's by one that turns autocast on again
            return type(model).forward(model, **others, inputs_embeds=embeds, return_dict=True).task_logits

    def add_memory(self, peak: PeakMemory) -> None:
        """Add the activations of the perturbed pass, in fp32, which are kept together with those of the clean one."""
        exact = replace(peak.shape, half=False).pass_bytes(peak.checkpointing)
        peak.activations += exact * (2 if self.own_reference else 1)
