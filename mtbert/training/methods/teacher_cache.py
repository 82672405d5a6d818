"""Cache of teachers' logits between runs: a resumed, repeated or longer run computes them for new texts only.

It is kept in the cache folder of `datasets` (HF_DATASETS_CACHE), as one safetensors file for each task of a teacher.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from accelerate.utils import reduce
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from ...data.duplicates import text_hashes
from ...evaluation.ensemble import task_logits
from ...files import writing_file
from ...modeling.tokenization import ENCODING_VERSION

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from ...modeling.modeling_mtbert import MtBertForMultiTask

# Part of the name of a cache file. Raise it by 1 when a teacher with the same weights and token ids gives logits that
# differ by more than rounding, or when the format of the file changes.
# tests/unit/training/methods/test_teacher_cache.py fails until you do.
TEACHER_VERSION = 1
ROWS_AT_ONCE = 8192


def memory_folder() -> Path:
    """Folder of the cache."""
    return Path(datasets.config.HF_DATASETS_CACHE, "mtbert-teachers")


class Memory:
    """Cached logits of one teacher for one task, in one precision.

    Args:
        model: the teacher; the name of the file is a hash of its weights, config and tokenizer.
        precision: `no`, `bf16` or `fp16`, as accelerate calls them.
    """

    def __init__(self, model: MtBertForMultiTask, tokenizer: PreTrainedTokenizerBase, task: str, precision: str):
        versions = f"{ENCODING_VERSION} {TEACHER_VERSION}"
        digest = hashlib.sha256(f"{task} {precision} {versions} {model.config.to_json_string()}".encode())
        digest.update(tokenizer.backend_tokenizer.to_str().encode())
        for name, weight in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
        self.path = memory_folder() / f"{digest.hexdigest()}.safetensors"
        self.width = next(spec.num_labels for spec in model.tasks if spec.name == task)

    def recall(self, hashes: np.ndarray) -> np.ndarray:
        """Logits of the texts with these hashes, `(rows, num_labels)`; nan for texts that are not in the cache."""
        recalled = np.full((len(hashes), self.width), np.nan, dtype=np.float32)
        cached_hashes, logits = self._read()
        if len(cached_hashes):
            places = np.searchsorted(cached_hashes, hashes).clip(max=len(cached_hashes) - 1)
            is_cached = cached_hashes[places] == hashes
            recalled[is_cached] = logits[places[is_cached]]
        return recalled

    def keep(self, hashes: np.ndarray, logits: np.ndarray) -> None:
        """Add the logits of the texts with these hashes, `(rows, num_labels)`."""
        cached_hashes, before = self._read()
        merged, first = np.unique(np.concatenate([cached_hashes, hashes]), return_index=True)
        values = np.concatenate([before, logits.astype(np.float32)])[first]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing_file(self.path, "wb") as file:
            file.write(save({"hashes": merged, "logits": np.ascontiguousarray(values)}))

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        try:
            cached = load_file(self.path)
            return cached["hashes"], cached["logits"]
        except (OSError, KeyError, SafetensorError):  # no file yet, or an incomplete one: compute again
            return np.zeros(0, dtype=np.uint64), np.zeros((0, self.width), dtype=np.float32)


def teacher_logits(
    model: MtBertForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    rows: Dataset,
    batch_size: int,
    accelerator: Accelerator,
) -> Tensor:
    """A teacher's logits for the given texts, from the cache or computed in the run's precision. Collective.

    The processes share the rows to compute. Only the first process reads and writes the cache.

    Args:
        rows: columns `text` (and `text_pair`), as `check_rows` leaves them.
        batch_size: largest number of rows in a batch.

    Returns:
        `(rows, num_labels)`, fp32, on the teacher's device; a regression's are on its scale.
    """
    share = (accelerator.num_processes, accelerator.process_index)
    memory = Memory(model, tokenizer, task, accelerator.mixed_precision)
    hashes = text_hashes(rows)
    unique, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    logits = torch.from_numpy(memory.recall(unique)).to(model.device)
    if share[0] > 1:
        logits = reduce(logits if accelerator.is_main_process else torch.zeros_like(logits), "sum")
    missing = np.flatnonzero(logits.isnan().any(dim=-1).cpu().numpy())
    for chunk in np.split(missing, range(ROWS_AT_ONCE, len(missing), ROWS_AT_ONCE)):
        if not len(chunk):
            continue
        with accelerator.autocast():
            computed = task_logits(model, tokenizer, task, rows.select(first[chunk]), batch_size, *share)
        logits[chunk] = reduce(computed, "sum") if share[0] > 1 else computed
        if accelerator.is_main_process:
            memory.keep(unique[chunk], logits[chunk].cpu().numpy())
    return logits[torch.from_numpy(place).to(model.device)]
