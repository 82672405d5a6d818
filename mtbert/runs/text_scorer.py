"""Compute the logits of raw texts chunk by chunk, in one process or in several that share the chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import distributed
from transformers import PreTrainedTokenizerBase

from ..export import ExportedModel
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.prediction import text_logits
from ..modeling.task_spec import TaskSpec

Chunk = Mapping[str, Any]


class TextScorer:
    """Computes a model's logits for raw texts, for several tasks at once.

    Tasks whose inputs are encoded alike share one pass of the encoder. The rows of a call are sorted by length, and
    packed without padding if the encoder supports it.

    Args:
        model: the model, which is set to evaluation mode, or an exported one.
        tokenizer: the checkpoint's tokenizer; an exported model has its own.
        tasks: names of tasks.
        batch_size: number of rows in one pass of the encoder.
        columns: task name → its text columns, for chunks in which tasks read different ones; None: all tasks read
            `text` and `text_pair`.

    Attributes:
        cut: task name → number of its rows so far that were truncated.
    """

    def __init__(
        self,
        model: MtBertForMultiTask | ExportedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        tasks: Sequence[str],
        batch_size: int = 64,
        columns: Mapping[str, Sequence[str]] | None = None,
    ):
        self.model, self.batch_size = model.eval(), batch_size
        self.tokenizer: Any = tokenizer
        self.tasks = tuple(model.tasks[model.task_id(name)] for name in tasks)
        self.cut = {task.name: 0 for task in self.tasks}
        self.groups: dict[tuple[str, ...], list[TaskSpec]] = {}
        for task in self.tasks if columns is not None else ():
            self.groups.setdefault(tuple((columns or {})[task.name]), []).append(task)

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return task name → logits `(rows, num_labels)` in fp32, in the rows' order.

        The scores of a regression are on its scale.

        Args:
            texts: first or only texts.
            pairs: second texts; None if no task takes two.
        """
        return self._logits(self.tasks, texts, pairs)

    def of_chunk(self, chunk: Chunk) -> dict[str, np.ndarray]:
        """Return task name → logits `(rows, num_labels)` for a chunk as `RowSource.chunks` yields it."""
        if not self.groups:
            return self(chunk["text"], chunk.get("text_pair"))
        logits: dict[str, np.ndarray] = {}
        for columns, tasks in self.groups.items():
            texts = [chunk["texts"][column] for column in columns]
            logits |= self._logits(tasks, texts[0], texts[1] if len(texts) > 1 else None)
        return {task.name: logits[task.name] for task in self.tasks}

    def first_texts(self, task: TaskSpec, chunk: Chunk) -> list[str]:
        """Return the (first) text of each row of a chunk that a task reads."""
        for columns, tasks in self.groups.items():
            if task in tasks:
                texts: list[str] = chunk["texts"][columns[0]]
                return texts
        text: list[str] = chunk["text"]
        return text

    def with_first_texts(self, chunk: Chunk) -> Chunk:
        """Return a chunk with `first_texts`: task name → the (first) texts that it reads."""
        return {**chunk, "first_texts": {task.name: self.first_texts(task, chunk) for task in self.tasks}}

    def _logits(
        self, tasks: Sequence[TaskSpec], texts: Sequence[str], pairs: Sequence[str] | None
    ) -> dict[str, np.ndarray]:
        if isinstance(self.model, ExportedModel):
            logits, truncated = self.model.text_logits(tasks, texts, pairs, self.batch_size)
        else:
            logits, truncated = text_logits(self.model, tasks, self.tokenizer, texts, pairs, batch_rows=self.batch_size)
        for name, tokens in truncated.items():
            self.cut[name] += int(np.count_nonzero(tokens))
        return logits

    def chunks(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, dict[str, np.ndarray]]]:
        """Yield each chunk with its logits."""
        for chunk in chunks:
            yield self.with_first_texts(chunk), self.of_chunk(chunk)


class SharedScorer:
    """Shares the chunks of a `TextScorer` among the processes of a launcher.

    Chunk k is computed by process k mod N, in the batches of a single process. Every process reads all chunks, so that
    all know their sizes; the first process receives the logits.

    Args:
        scorer: this process's scorer.
    """

    def __init__(self, scorer: TextScorer):
        self.scorer = scorer
        self.processes, self.process = distributed.get_world_size(), distributed.get_rank()
        nccl = distributed.get_backend() == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")

    def chunks(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, dict[str, np.ndarray]]]:
        """Yield each chunk with its logits in the first process; compute, but yield nothing, in the others."""
        remaining = iter(chunks)
        while turn := list(islice(remaining, self.processes)):
            logits = self._own(turn)
            if self.process > 0:
                self._send(logits)
                continue
            yield self.scorer.with_first_texts(turn[0]), logits
            for process, chunk in enumerate(turn[1:], start=1):
                yield self.scorer.with_first_texts(chunk), self._receive(process, chunk)

    def cut(self) -> dict[str, int]:
        """Task name → number of its truncated rows in all processes; every process must call it."""
        counts = torch.tensor(list(self.scorer.cut.values()), device=self.device)
        distributed.all_reduce(counts)
        return dict(zip(self.scorer.cut, counts.tolist(), strict=True))

    def _own(self, turn: Sequence[Chunk]) -> dict[str, np.ndarray]:
        if self.process >= len(turn):
            return {}
        return self.scorer.of_chunk(turn[self.process])

    def _send(self, logits: Mapping[str, np.ndarray]) -> None:
        for values in logits.values():
            distributed.send(torch.from_numpy(values).contiguous().to(self.device), dst=0)

    def _receive(self, process: int, chunk: Chunk) -> dict[str, np.ndarray]:
        received = {}
        for task in self.scorer.tasks:
            shape = task.kind.units.shape(self.scorer.first_texts(task, chunk))
            values = torch.empty(*shape, task.num_labels, device=self.device)
            distributed.recv(values, src=process)
            received[task.name] = values.cpu().numpy()
        return received
