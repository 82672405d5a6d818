"""Helpers of tests of methods that pass a micro-batch twice."""

from __future__ import annotations

import torch


def first_batch(trainer) -> dict:
    return next(iter(trainer.get_train_dataloader()))


def loss_of(trainer, inputs, seed: int = 5) -> torch.Tensor:
    """The loss of a micro-batch, with the dropout masks of a seed."""
    torch.manual_seed(seed)
    trainer.model.train()
    return trainer.compute_loss(trainer.model, inputs)
