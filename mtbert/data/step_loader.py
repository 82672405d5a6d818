"""The data loader of a run; each process loads only the steps that its sampler yields."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainingArguments

from ..modeling import device_copies


def identity(batch: Any) -> Any:
    """Return the batch unchanged; the collator for data sets that yield whole batches."""
    return batch


def step_loader(args: TrainingArguments, dataset: Dataset[Any], sampler: Sampler[Any]) -> DataLoader[Any]:
    """Return a loader that yields one whole batch for each index of `sampler`, on the run's device."""
    workers = args.dataloader_num_workers
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=identity,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory and args.device.type in device_copies.PAGE_LOCKED,
        prefetch_factor=args.dataloader_prefetch_factor if workers else None,
        persistent_workers=bool(workers) and args.dataloader_persistent_workers,
        generator=torch.Generator(),  # a separate one: creating an iterator draws from it
    )
    return prepare_data_loader(
        loader,
        device=args.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        rng_types=[],
        non_blocking=True,
    )
