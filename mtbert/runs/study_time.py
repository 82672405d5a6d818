"""A rough estimate of how long a study takes, before any of its runs has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..data.splits import LoadedTask
from ..modeling import encoder_loading
from ..modeling.configuration_mtbert import MtBertConfig
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..recipe import Recipe
from .budget import BATCH

SAMPLE = 100  # rows of each task whose tokens are counted
OVERHEAD = 1.5  # attention, heads, optimizer and data, on top of the encoder's matrix products
_SIZE, _TRIALS = (2048, 512, 512), 5


def mean_tokens(recipe: Recipe, data: Mapping[str, LoadedTask], tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Mean number of tokens that the encoder reads for a training row, by task, from a sample of the first rows."""
    lengths = {}
    for name, task in recipe.tasks.items():
        rows = data[name].splits["train"].select(range(min(SAMPLE, len(data[name].splits["train"]))))
        longest = task.max_length or 512
        columns = [rows["text"][:], *([rows["text_pair"][:]] if len(task.data.text) == 2 else [])]
        counts = [[len(ids) for ids in tokenizer(list(column))["input_ids"]] for column in columns]
        together = np.minimum(np.sum(counts, axis=0), longest)
        apart = np.sum([np.minimum(column, longest) for column in counts], axis=0)
        pair = task.pair if len(columns) == 2 else "cross"
        of_row = {"cross": together, "siamese": apart, "both": together + apart}[pair]
        lengths[name] = float(np.mean(of_row))
    return lengths


def products_per_second() -> float:
    """Multiplications and additions a second in a matrix product of this process, on a GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, inner, columns = _SIZE
    left, right = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
    seconds = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        (left @ right).sum().item()
        seconds.append(time.perf_counter() - start)
    return 2 * rows * inner * columns / min(seconds)


def seconds_per_step(
    recipe: Recipe, data: Mapping[str, LoadedTask], tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Task → about how many seconds a step of 32 of its rows takes, from 6 · parameters · tokens operations."""
    with torch.device("meta"):
        config = encoder_loading.encoder_config(recipe.encoder)
        specs = [task.spec(name) for name, task in recipe.tasks.items()]
        model = MtBertForMultiTask(MtBertConfig(encoder=config, tasks=specs, adapter=None))
    parameters, speed = model.num_parameters(exclude_embeddings=True), products_per_second()
    tokens = mean_tokens(recipe, data, tokenizer)
    return {name: OVERHEAD * 6 * parameters * BATCH * count / speed for name, count in tokens.items()}
