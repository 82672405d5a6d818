"""Record the weights with which the attention of a task's head (`head.type: attention`) reads the tokens of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from ...data.collation import LengthSortedSteps
from ...modeling.heads import AttentionHead
from ...modeling.task_spec import TaskSpec
from ...modeling.tokenization import separator_ids


@dataclass(frozen=True)
class TokenWeights:
    """The tokens of a task's rows, with the weights of its head's attention.

    Attributes:
        ids: token ids of each row, shape (length,).
        weights: weight of each token, the mean over the attention's heads, shape (length,); a row's sum is 1.
        separators: ids of the tokens that separate or end texts.
        to_tokens: token ids → tokens.
    """

    ids: Sequence[np.ndarray]
    weights: Sequence[np.ndarray]
    separators: tuple[int, ...]
    to_tokens: Callable[[list[int]], list[str]]

    @classmethod
    def of(
        cls, recorded: Sequence[np.ndarray], task: TaskSpec, encoded: Dataset, tokenizer: PreTrainedTokenizerBase
    ) -> TokenWeights:
        """Create from the weights of `recording`.

        Args:
            recorded: weights of all rows, in the order in which `MtBertTrainer.predict` reads them: longest first.
            task: the task.
            encoded: the encoded split.
            tokenizer: the tokenizer that encoded it.
        """
        ids = [np.asarray(row) for row in encoded.with_format(None)["input_ids"][:]]
        weights = list(ids)
        for row, padded in zip(LengthSortedSteps(0, encoded, 1).order, recorded, strict=True):
            weights[row] = padded[: len(ids[row])].astype(np.float64)
        separators = {tokenizer.sep_token_id, *(separator_ids(task, tokenizer) or ())} - {None}
        to_tokens: Any = tokenizer.convert_ids_to_tokens
        return cls(ids, weights, tuple(sorted(separators)), to_tokens)

    def select(self, rows: Sequence[int] | np.ndarray) -> TokenWeights:
        """Return these rows only."""
        return replace(self, ids=[self.ids[i] for i in rows], weights=[self.weights[i] for i in rows])


@contextmanager
def recording(heads: Iterable[tuple[str, nn.Module]]) -> Iterator[dict[str, list[np.ndarray]]]:
    """Within, record the attention weights of the heads that have them; the model's outputs are unchanged.

    Args:
        heads: names of tasks with their heads, which peft may have wrapped.

    Yields:
        Task name → weights of the rows of all passes so far, one after the other, shape (longest row of the pass,)
        each, 0 on padding. Tasks whose head has no attention are absent.
    """
    weights: dict[str, list[np.ndarray]] = {}
    handles = []
    for name, head in heads:
        for module in head.modules():
            if isinstance(module, AttentionHead):
                note = partial(_note, weights.setdefault(name, []))
                handles.append(module.attention.register_forward_hook(note, with_kwargs=True))
    try:
        yield weights
    finally:
        for handle in handles:
            handle.remove()


def _note(rows: list[np.ndarray], attention: nn.Module, inputs: Any, settings: dict[str, Any], output: Any) -> None:
    """Call the attention once more, for its weights; a call with them may round the output in another way."""
    _, weights = attention.forward(*inputs, **{**settings, "need_weights": True})
    rows.extend(weights.squeeze(1).float().cpu().numpy())
