"""Token classification: each word of a text has a tag, and runs of tags are entities.

The first token of a word has its tag and its logits, and other tokens have none; "first" is also the name of this rule
in transformers' pipeline. A tag is `O`, for a word in no entity, or a prefix and a type, such as `B-PER`. The prefixes
are those of the schemes IOB1, IOB2, IOE1, IOE2 and IOBES: B (begins), I (inside), E (ends) and S (single). Entities are
read from them as by conlleval and by seqeval's default mode, whatever the scheme.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from .display import brief_names
from .errors import InputError, Problem
from .units import Offsets, Units
from .words import find_words

# of task_spec.py and answers.py, which import the table that has what is here
TaskSpec: TypeAlias = Any
Prediction: TypeAlias = Any

OUTSIDE = "O"  # the tag of words in no entity
TAG = re.compile(r"[BIES]-.+", re.DOTALL)
SCHEMES = "IOB1, IOB2, IOE1, IOE2 and IOBES"
CUT, NO_TOKEN = -1, -2  # in place of a token's index: the word was cut off, or the tokenizer made nothing of it
_RENAMED = {"L": "E", "U": "S", "M": "I", "W": "S"}  # prefixes of BILOU, BMES and BMEWO → ours
_POOLED = ("attention", "cosine")  # heads that read pooled outputs


class WordUnits(Units):
    """The words of each text; see `Units`."""

    dims = 2
    column = "words"
    reads_tokens = True

    def plain(self, text: str) -> str:
        return find_words(text)[0]

    def shape(self, texts: Sequence[str]) -> tuple[int, ...]:
        return len(texts), max((len(find_words(text)[1]) for text in texts), default=0)

    def locate(self, texts: Sequence[str], offsets: Sequence[Offsets], truncated: Sequence[int]) -> dict[str, Any]:
        rows = zip(texts, offsets, truncated, strict=True)
        return {self.column: [first_tokens(find_words(text)[1], of_row, cut > 0) for text, of_row, cut in rows]}

    def note(self, firsts: Any) -> str | None:
        found = np.concatenate([np.zeros(0, dtype=np.int64), *(chunk.flatten().to_numpy() for chunk in firsts.chunks)])
        cut, none = int((found == CUT).sum()), int((found == NO_TOKEN).sum())
        parts = [f"{cut:,} were cut"] if cut else []
        parts += [f"{none:,} have no token"] if none else []
        if not parts:
            return None
        return f"of {len(found):,} words, {' and '.join(parts)}: they are not trained on, and score as {OUTSIDE}"


def first_tokens(spans: Sequence[tuple[int, int]], offsets: Offsets, cut: bool) -> list[int]:
    """Index of the first token of each word; `CUT` or `NO_TOKEN` if it has none.

    Args:
        spans: where each word begins and ends in the text, in characters.
        offsets: where each token begins and ends; (0, 0) for special tokens. A token belongs to the word of its last
            character, because tokens of some tokenizers begin with the space before a word.
        cut: whether tokens were cut off.
    """
    starts = [start for start, _ in spans]
    firsts = [NO_TOKEN] * len(spans)
    read = [(start, end) for start, end in offsets if end > start]
    for index, (start, end) in enumerate(offsets):
        word = bisect_right(starts, end - 1) - 1
        if end > start and word >= 0 and end <= spans[word][1] and firsts[word] == NO_TOKEN:
            firsts[word] = index
    if cut:
        first, last = (read[0][0], read[-1][1]) if read else (0, 0)
        for word, (start, end) in enumerate(spans):
            if firsts[word] == NO_TOKEN and (start >= last or end <= first):
                firsts[word] = CUT
    return firsts


def entity_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Entities of a text's tags: type, first word and last word but one, as conlleval and seqeval's default mode say.

    An entity begins at B or S, after O, after E or S, and where the type changes.
    """
    spans: list[tuple[str, int, int]] = []
    before = OUTSIDE
    for word, tag in enumerate(tags):
        if tag != OUTSIDE:
            begins = tag[0] in "BS" or before[0] in f"ES{OUTSIDE}" or tag[2:] != before[2:]
            first = word if begins else spans.pop()[1]
            spans.append((tag[2:], first, word + 1))
        before = tag
    return spans


def tag_problems(labels: Sequence[str]) -> list[Problem]:
    """Return a `Problem` for labels that are no tags of the supported schemes, or do not begin with `O`."""
    wrong = [label for label in labels if label != OUTSIDE and not TAG.fullmatch(label)]
    if wrong:
        prefixes = sorted({label[0] for label in wrong if label[1:2] == "-" and label[0] in _RENAMED})
        renamed = ", ".join(f"{_RENAMED[prefix]}- for {prefix}-" for prefix in prefixes)
        remedy = f"; write {renamed}" if renamed else ""
        reason = (
            f"have {brief_names(wrong)}, but must be tags of the schemes {SCHEMES}: {OUTSIDE}, or B-, I-, E- or S- "
        )
        return [Problem(("labels",), f"{reason}and a type, such as B-PER{remedy}")]
    if labels and labels[0] != OUTSIDE:
        has = "have" if OUTSIDE not in labels else f"begin with {labels[0]!r}, and have"
        return [
            Problem(("labels",), f"{has} no {OUTSIDE!r} at the beginning, the tag of words in no entity; list it first")
        ]
    return []


def token_problems(task: TaskSpec) -> list[Problem]:
    """Return a `Problem` for each field that does not go with labels of words."""
    problems = tag_problems(task.classes)
    if task.texts != 1:
        reason = f"is {task.problem_type}, which labels the words of one text; name one column in data.text"
        problems.append(Problem(("problem_type",), reason))
    if task.head.type in _POOLED:
        reason = f"is {task.head.type!r}, which reads pooled outputs, but words are labelled by their own states"
        problems.append(Problem(("head", "type"), f"{reason}; use linear or mlp"))
    if task.pooling != "cls":
        reason = f"is {task.pooling!r}, but words are labelled by the state of their first token; set pooling: cls"
        problems.append(Problem(("pooling",), reason))
    return problems


def word_losses(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of each token: logits `(…, num_labels)`, labels and mask `(…)` → losses `(…)`."""
    target = torch.where(mask, labels, -100).long()
    losses = nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=-100, reduction="none")
    return losses.view(target.shape)


class EntityAnswers:
    """How predictions of words become answers: a tag for each word, and entities."""

    def labels(self, prediction: Prediction) -> list[list[str]]:
        """The tags of each row's words; without texts, of as many words as the longest row has."""
        classes = np.array(prediction.task.classes, dtype=object)
        tags = classes[prediction.logits.argmax(-1)]
        return [row[:count].tolist() for row, count in zip(tags, _counts(prediction), strict=True)]

    def entities(self, prediction: Prediction) -> list[list[dict[str, Any]]]:
        """The entities of each row.

        Returns:
            For each entity its type as `entity`, its text as `word`, the `start` and `end` of it in the text, in
            characters (of a list of words: with one space between them), and as `score` the mean probability of its
            words' tags.

        Raises:
            InputError: the prediction has no texts.
        """
        if prediction.texts is None:
            raise InputError(
                f"task {prediction.task.name!r}: entities are parts of texts; predict texts, not logits alone"
            )
        scores = prediction.scores.max(-1, initial=0)
        rows = []
        for row, (text, tags) in enumerate(zip(prediction.texts, self.labels(prediction), strict=True)):
            plain, spans = find_words(text)
            entities = []
            for kind, first, last in entity_spans(tags):
                start, end = spans[first][0], spans[last - 1][1]
                score = float(scores[row, first:last].mean())
                entities.append({"entity": kind, "word": plain[start:end], "start": start, "end": end, "score": score})
            rows.append(entities)
        return rows

    def columns(self, prediction: Prediction) -> dict[str, list[Any]]:
        """`<task>`: the entities; `<task>.labels`: the tags."""
        name = prediction.task.name
        return {name: self.entities(prediction), f"{name}.labels": self.labels(prediction)}

    def column_types(self, task: TaskSpec) -> dict[str, type]:
        """Name → type of each of the `columns`."""
        return {task.name: list, f"{task.name}.labels": list}

    def served(self, prediction: Prediction) -> dict[str, list[Any]]:
        """The server's answers, by key."""
        return {"entities": self.entities(prediction), "labels": self.labels(prediction)}

    def shown(self, prediction: Prediction, top_k: int | None) -> list[Any]:
        """The pipeline's answers: the entities; `top_k` does not matter."""
        return self.entities(prediction)


def _counts(prediction: Prediction) -> list[int]:
    """Number of words of each row."""
    if prediction.texts is None:
        return [prediction.logits.shape[1]] * len(prediction.logits)
    return [len(find_words(text)[1]) for text in prediction.texts]


_NO_CLASS = "the words of a row are of several classes"
REFUSES = {
    "balanced": f"{_NO_CLASS}; drop it",
    "distillation": "teachers answer rows, not words; give teachers without this task",
    "simcse": "it contrasts pooled outputs of texts, which such a task has none of; name the others in simcse.tasks",
    "calibrate": "calibration is for labels of rows, not of words, and is not supported; name other tasks",
}
