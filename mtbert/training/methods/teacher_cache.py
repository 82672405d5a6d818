"""What teachers said of texts, kept between runs: one that is resumed, repeated or longer asks only about new texts.

Kept where `datasets` keeps its own cache (HF_DATASETS_CACHE), as one safetensors file for each task of a teacher.
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

# Part of the name of kept logits. Raise it by 1 where a teacher with the same weights and token ids gives other logits
# than before, beyond rounding, or where the file's content changes.
# tests/unit/training/methods/test_teacher_cache.py fails until
# you do.
TEACHER_VERSION = 1
ROWS_AT_ONCE = 8192


def memory_folder() -> Path:
    """Where what teachers said is kept."""
    return Path(datasets.config.HF_DATASETS_CACHE, "mtbert-teachers")


class Memory:
    """What one teacher said about texts for one task, in one precision.

    Args:
        model: the teacher; its weights, config and tokenizer are what the file is named by.
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
        """Logits of the texts with these hashes, `(rows, num_labels)`; nan for those it was not asked about."""
        found = np.full((len(hashes), self.width), np.nan, dtype=np.float32)
        known, logits = self._read()
        if len(known):
            at = np.searchsorted(known, hashes).clip(max=len(known) - 1)
            same = known[at] == hashes
            found[same] = logits[at[same]]
        return found

    def keep(self, hashes: np.ndarray, logits: np.ndarray) -> None:
        """Add what it said of the texts with these hashes."""
        known, before = self._read()
        merged, first = np.unique(np.concatenate([known, hashes]), return_index=True)
        values = np.concatenate([before, logits.astype(np.float32)])[first]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing_file(self.path, "wb") as file:
            file.write(save({"hashes": merged, "logits": np.ascontiguousarray(values)}))

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        try:
            held = load_file(self.path)
            return held["hashes"], held["logits"]
        except (OSError, KeyError, SafetensorError):  # none yet, or a torn one: ask again
            return np.zeros(0, dtype=np.uint64), np.zeros((0, self.width), dtype=np.float32)


def teacher_logits(
    model: MtBertForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    rows: Dataset,
    batch_size: int,
    accelerator: Accelerator,
) -> Tensor:
    """A teacher's logits for rows of text, remembered or asked for, in the run's precision.

    The processes share out the rows that are asked about. What the first one remembers counts.

    Args:
        rows: columns `text` (and `text_pair`), as `check_rows` leaves them.
        batch_size: rows at a time, at most.

    Returns:
        `(rows, num_labels)`, fp32, on the teacher's device; a regression's are on its scale.
    """
    share = (accelerator.num_processes, accelerator.process_index)
    memory = Memory(model, tokenizer, task, accelerator.mixed_precision)
    hashes = text_hashes(rows)
    unique, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    found = torch.from_numpy(memory.recall(unique)).to(model.device)
    if share[0] > 1:
        found = reduce(found if accelerator.is_main_process else torch.zeros_like(found), "sum")
    asked = np.flatnonzero(found.isnan().any(dim=-1).cpu().numpy())
    for some in np.split(asked, range(ROWS_AT_ONCE, len(asked), ROWS_AT_ONCE)):
        if not len(some):
            continue
        with accelerator.autocast():
            own = task_logits(model, tokenizer, task, rows.select(first[some]), batch_size, *share)
        found[some] = reduce(own, "sum") if share[0] > 1 else own
        if accelerator.is_main_process:
            memory.keep(unique[some], found[some].cpu().numpy())
    return found[torch.from_numpy(place).to(model.device)]
