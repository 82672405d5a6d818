"""Unsupervised SimCSE as an auxiliary loss on the tasks' texts (Gao, Yao and Chen, 2021, equation 4).

Each text is encoded twice, with different dropout masks. Its two embeddings shall be nearer to each other than to the
embeddings of other texts: −log exp(s(h_i, h′_i) / τ) / Σ_j exp(s(h_i, h′_j) / τ), s the cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, Problem
from ...modeling.packing import PackedLayout, Segment
from ...modeling.problem_types import refused_by_type
from ...modeling.task_spec import TaskSpec
from .base import PeakMemory, Reduce, TaskTrainer
from .penalty import ROUNDING, Penalty


@dataclass(frozen=True)
class SimCSE:
    """Unsupervised SimCSE on the texts of each micro-batch, as an auxiliary loss.

    Attributes:
        weight: the factor on the mean contrastive loss of a task's rows, 0 or more; 0 turns it off.
        temperature: τ, positive; the paper's 0.05 by default.
        tasks: names of the tasks whose texts are contrasted; null: every task.
    """

    weight: float = 1.0
    temperature: float = 0.05
    tasks: tuple[str, ...] | None = None

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = []
        if not self.weight >= 0:
            problems.append(Problem(("weight",), f"is {self.weight}, but must be 0 or more"))
        if not self.temperature > 0:
            problems.append(Problem(("temperature",), f"is {self.temperature}, but must be positive"))
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            told = f"is {list(self.tasks)}, but must name one task or more, each once; null: all of them"
            problems.append(Problem(("tasks",), told))
        return problems

    def preflight(self, specs: Sequence[TaskSpec], unlabelled: Mapping[str, Any]) -> list[Problem]:
        """Problems of names that are of no task of a recipe, before any work.

        Args:
            specs: the tasks of the recipe.
            unlabelled: not used.
        """
        problems = [problem.under("simcse") for problem in self._unknown([spec.name for spec in specs])]
        return problems + [Problem(("simcse", "tasks"), refused) for refused in self._refused(specs)]

    def _refused(self, specs: Sequence[TaskSpec]) -> list[str]:
        chosen = [spec for spec in specs if self.tasks is None or spec.name in self.tasks]
        return refused_by_type(chosen, "simcse")

    def _unknown(self, names: Sequence[str]) -> list[Problem]:
        unknown = [name for name in self.tasks or () if name not in names]
        told = f"names {unknown}, but the tasks are: {', '.join(names)}"
        return [Problem(("tasks",), told)] if unknown else []

    def build(self) -> SimCSEPenalty | None:
        """Build the method; None with a weight of 0."""
        return SimCSEPenalty(self) if self.weight else None


def contrastive_losses(first: Tensor, second: Tensor, same: Tensor, temperature: float) -> Tensor:
    """−log exp(s_ii / τ) / Σ_j exp(s_ij / τ) of each text, s_ij the cosine of h_i and h′_j: `(texts,)`, in fp32.

    Args:
        first, second: h and h′, the embeddings of the two passes, `(texts, hidden)`.
        same: which texts are equal, `(texts, texts)`; the sum leaves out the copies of text i.
        temperature: τ.
    """
    one, two = (nn.functional.normalize(states.float(), dim=-1) for states in (first, second))
    scores = one @ two.T / temperature
    copies = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    return scores.masked_fill(copies, -torch.inf).logsumexp(-1) - scores.diagonal()


def same_texts(input_ids: Tensor, layout: PackedLayout, segment: Segment) -> Tensor:
    """Which of a task's encoder inputs have the same token ids, `(inputs, inputs)`.

    Args:
        input_ids: `(1, tokens)`, the packed micro-batch.
        layout: its layout.
        segment: the task's part of it.
    """
    lengths = layout.lengths[slice(*segment.sequences)]
    texts = input_ids[0, slice(*segment.tokens)].split(list(lengths))
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=-1)
    place = ids.unique(dim=0, return_inverse=True)[1]
    return place[:, None] == place[None, :]


class SimCSEPenalty(Penalty):
    """Adds the contrastive loss of each row's texts, with a second dropout pass over the micro-batch.

    A text is an encoder input: the two texts of a Siamese pair are two, a pair in one input is one, and `pair: both`
    has three; a row's loss is the mean over its inputs. Embeddings are the inputs of the task's head, with the task's
    pooling and without the MLP that the paper puts on top of them in training. Gradients flow through both passes.

    Negatives are all other texts of the same task in the micro-batch on the same process, rows without a label too,
    but no text with the same token ids. So accumulation and several processes have fewer negatives than one batch of
    all rows. A row whose texts have no negative, such as the only row of its task, has the loss 0, and is counted in
    the log.

    Args:
        settings: weight, τ and the tasks.
    """

    section = "simcse"
    measured = ("simcse_",)

    def attach(self, trainer: TaskTrainer) -> None:
        super().attach(trainer)
        for problem in self.settings._unknown(list(self.tasks)):
            raise InputError(f"simcse: {problem.path[0]} {problem.message}")
        for refused in self.settings._refused(list(self.tasks.values())):
            raise InputError(f"simcse.tasks {refused}")

    def penalties(self, inputs: Mapping[str, Any], outputs: Any) -> dict[str, Tensor]:
        """The contrastive loss of each row, by task: `(rows,)`; see `Penalty.penalties`."""
        layout, names = inputs["layout"], list(self.tasks)
        chosen = names if self.settings.tasks is None else self.settings.tasks
        segments = {names[each.task_id]: each for each in layout.segments if names[each.task_id] in chosen}
        if not segments:
            return {}
        again, penalties = self.model(**inputs, return_dict=True).pooled, {}
        for name, segment in segments.items():
            same = same_texts(inputs["input_ids"], layout, segment)
            losses = contrastive_losses(outputs.pooled[name], again[name], same, self.settings.temperature)
            rows = segment.rows[1] - segment.rows[0]
            penalties[name] = losses.view(rows, -1).mean(1)
            self._alone += same.all(1).view(rows, -1).all(1).sum()
        return penalties

    def _forget(self) -> None:
        super()._forget()
        self._alone = torch.zeros(1, device=self.device)

    def logs(self, reduce: Reduce, logged: Mapping[str, float]) -> dict[str, float]:
        """`simcse_<task>`: mean contrastive loss, without its weight; `simcse_alone`: rows without a negative."""
        alone = int(reduce(self._alone))
        return super().logs(reduce, logged) | {"simcse_alone": alone}

    def log_sums(self) -> dict[str, Tensor]:
        return super().log_sums() | {"alone": self._alone}

    def add_log_sums(self, sums: Mapping[str, Tensor]) -> None:
        super().add_log_sums(sums)
        self._alone += sums["alone"].to(self.device)

    def add_memory(self, peak: PeakMemory) -> None:
        """Add the activations of the second pass, which are kept together with those of the first."""
        peak.activations += peak.shape.pass_bytes(peak.checkpointing)

    @classmethod
    def doubts(cls, measured: Mapping[str, float], tasks: Sequence[str]) -> list[str]:
        found = [measured.get(f"{cls.section}_{task}", 0) for task in tasks]
        return [] if any(mean > ROUNDING for mean in found) else ["simcse is within rounding for every task"]
