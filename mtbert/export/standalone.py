"""Answer texts with the exported model in this folder; needs numpy, tokenizers, and onnxruntime or openvino.

    python example.py "A lovely day." "How dull."
    python example.py --pair "A cat sleeps." "One cat is asleep."

Each text is answered by every task that takes one text, each pair by every task that takes two. In Python:

    from example import Model
    Model("FOLDER").answer([("A lovely day.", None), ("A cat sleeps.", "One cat is asleep.")])
"""

from __future__ import annotations

import argparse
import json
import re
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

BATCH_TOKENS = 2048  # tokens of a batch with its padding; more do not fit into the caches of a processor
PADDING = 0.1  # largest share of padding in a batch of several rows
Row = tuple[str, str | None]


# ---- texts to numbers ----


def encode(tokenizer: Tokenizer, encoding: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Encode rows as the task was trained; see `encoding` in decisions.json.

    Returns:
        For each row `inputs`, a list of (token ids, token types), `truncated`, the number of tokens cut off, and of a
        task that labels words `words`, the index of each word's first token, or -1.
    """
    if encoding.get("words"):
        given = [find_words(row[0]) for row in rows]
        rows = [(text, None) for text, _ in given]
    encoded: list[dict[str, Any]] = [{"inputs": [], "truncated": 0} for _ in rows]
    for part in encoding["inputs"]:
        texts: list[Any] = [row if part == "pair" else row[part == "second"] for row in rows]
        template = encoding["pair" if part == "pair" else "single"]
        separator = encoding["separator"] if part == "pair" else None
        call = tokenizer.encode_batch if encoding.get("words") else tokenizer.encode_batch_fast  # without offsets
        for number, tokens in enumerate(call(texts) if texts else ()):
            row = encoded[number]
            ids, second, cut = _cut_to_length(tokens, template, separator, encoding)
            if encoding.get("words"):
                inner = tokens.offsets[template[0] : len(tokens.offsets) - template[2]]
                kept = _side(inner, len(inner) - cut, encoding["cut_left"])
                row["words"] = first_tokens(given[number][1], kept, template[0])
            if part != "pair" or not encoding["token_types"]:
                second = 0
            row["inputs"].append((ids, [0] * (len(ids) - second) + [1] * second))
            row["truncated"] += cut
    return encoded


def _cut_to_length(
    tokens: Any, template: Sequence[int], separator: list[int] | None, encoding: Mapping[str, Any]
) -> tuple[list[int], int, int]:
    """Token ids, how many of them are the second text and what follows, and the number of tokens cut off."""
    before, between, after = template
    ids, sides = tokens.ids, tokens.sequence_ids
    counts = sides.count(0), sides.count(1)
    special = before + (between if separator is None else len(separator)) + after
    kept = longest_first(*counts, encoding["max_length"] - special)
    end = before + counts[0]
    start = end + between
    first = _side(ids[before:end], kept[0], encoding["cut_left"])
    second = _side(ids[start : start + counts[1]], kept[1], encoding["cut_left"])
    middle = ids[end:start] if separator is None else separator
    last = ids[start + counts[1] :]
    return ids[:before] + first + middle + second + last, kept[1] + len(last), sum(counts) - sum(kept)


def longest_first(first: int, second: int, limit: int) -> tuple[int, int]:
    """Number of tokens of two texts to keep, together at most `limit`; the longer text is cut first."""
    shorter = min(first, second, limit // 2)
    longer = min(max(first, second), limit - shorter)
    return (longer, shorter) if first > second else (shorter, longer)


def _side(tokens: list[Any], count: int, left: bool) -> list[Any]:
    return tokens[len(tokens) - count :] if left else tokens[:count]


def find_words(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text in which the words of a text (a JSON list of them, or between white space) stand; and where they do."""
    words: Any = getattr(text, "words", None)
    if words is None and text[:1] + text[-1:] == "[]":
        with suppress(ValueError, RecursionError):
            words = json.loads(text)
    if not words or not all(isinstance(word, str) for word in words):
        return text, [match.span() for match in re.finditer(r"\S+", text)]
    ends = np.cumsum([len(word) + 1 for word in words]).tolist()
    return " ".join(words), [(end - len(word) - 1, end - 1) for word, end in zip(words, ends, strict=True)]


def first_tokens(spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]], before: int) -> list[int]:
    """Index of each word's first token, or -1, by where words and tokens begin and end; `before`: that of the first."""
    starts, firsts = [start for start, _ in spans], [-1] * len(spans)
    for index, (start, end) in enumerate(offsets, start=before):
        word = bisect_right(starts, end - 1) - 1
        if end > start and word >= 0 and end <= spans[word][1] and firsts[word] < 0:
            firsts[word] = index
    return firsts


def batches(lengths: np.ndarray, inputs: int, batch_tokens: int, batch_rows: int | None) -> Iterator[np.ndarray]:
    """Cut rows, sorted by length, into batches with little padding.

    Args:
        lengths: tokens of each row's longest input, `(rows,)`.
        inputs: number of inputs of a row.
        batch_tokens: largest number of tokens with padding; a longer row is a batch by itself.
        batch_rows: largest number of rows; None: no limit.
    """
    order = np.argsort(-lengths, kind="stable")
    first, total = 0, 0
    for place, row in enumerate(order):
        longest = lengths[order[first]]
        count = place - first + 1
        padded = longest * count
        wasted = padded - total - lengths[row] > max(PADDING * padded, longest)
        if place > first and (padded * inputs > batch_tokens or count - 1 == batch_rows or wasted):
            yield order[first:place]
            first, total = place, 0
        total += lengths[row]
    if len(order):
        yield order[first:]


def pad(inputs: Sequence[tuple[list[int], list[int]]], padding: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of a graph, `(sequences, length)` each, padded on the right."""
    shape = len(inputs), max(len(ids) for ids, _ in inputs)
    arrays = {name: np.zeros(shape, dtype=np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    arrays["input_ids"].fill(padding)
    for number, (ids, types) in enumerate(inputs):
        arrays["input_ids"][number, : len(ids)] = ids
        arrays["attention_mask"][number, : len(ids)] = 1
        arrays["token_type_ids"][number, : len(ids)] = types
    return {name: arrays[name] for name in names}


# ---- numbers to logits ----


class Graph:
    """A graph in onnxruntime (`.onnx`) or openvino (`.xml`); threads may call it at the same time.

    Args:
        path: its file.
        threads: number of threads of a call; None: all cores.
        exact: compute in fp32 what is not in int8; else openvino takes bf16 on processors that have it.
    """

    def __init__(self, path: Path, threads: int | None = None, exact: bool = True):
        self.path = path
        self._of_thread = threading.local()
        if path.suffix == ".onnx":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads or 0
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        else:
            import openvino

            settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
            settings |= {"INFERENCE_PRECISION_HINT": "f32"} if exact else {}
            settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
            self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def __call__(self, outputs: Sequence[str], arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Run the graph; return the named outputs, fp32 each."""
        if self.path.suffix == ".onnx":
            return list(self._session.run(list(outputs), arrays))
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        request = self._of_thread.request
        request.infer(arrays)
        return [np.array(request.get_tensor(name).data) for name in outputs]


class Model:
    """The exported model of a folder.

    Args:
        folder: the folder with decisions.json.
        threads: number of threads of a call; None: all cores.

    Attributes:
        tasks: task name → its entry in decisions.json.
    """

    def __init__(self, folder: str | Path, threads: int | None = None):
        self.folder = Path(folder)
        values = json.loads(Path(folder, "decisions.json").read_text(encoding="utf-8"))
        self.tasks: dict[str, dict[str, Any]] = values["tasks"]
        self.inputs: list[str] = values["inputs"]
        self.padding: int = values["pad_token_id"]
        self.tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
        self.tokenizer.encode_special_tokens = values["split_special_tokens"]
        files = dict.fromkeys(task["graph"] for task in self.tasks.values())
        exact = values["precision"] == "fp32"
        self.graphs = {file: Graph(Path(folder, file), threads, exact) for file in files}
        self._ways = {name: json.dumps([task["graph"], task["encoding"]]) for name, task in self.tasks.items()}

    def passes(self, names: Sequence[str]) -> list[list[str]]:
        """Lists of tasks that share one pass: they encode a row alike, in one graph."""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(self._ways[name], []).append(name)
        return list(groups.values())

    def logits(
        self,
        names: Sequence[str],
        rows: Sequence[Row],
        batch_tokens: int = BATCH_TOKENS,
        batch_rows: int | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Task name → logits `(rows, num_labels)`, and task name → number of tokens cut off each row, `(rows,)`.

        Of a task that labels words `(rows, most words, num_labels)`.
        """
        logits: dict[str, np.ndarray] = {}
        truncated: dict[str, np.ndarray] = {}
        for group in self.passes(names):
            task = self.tasks[group[0]]
            encoded = encode(self.tokenizer, task["encoding"], rows)
            cut = np.array([row["truncated"] for row in encoded], dtype=np.int64)
            truncated |= dict.fromkeys(group, cut)
            for name in group:
                most = [max(len(row["words"]) for row in encoded)] if encoded and "words" in encoded[0] else []
                logits[name] = np.zeros((len(rows), *most, self.tasks[name]["num_logits"]), dtype=np.float32)
            lengths = np.array([max(len(ids) for ids, _ in row["inputs"]) for row in encoded], dtype=np.int64)
            for chosen in batches(lengths, len(task["encoding"]["inputs"]), batch_tokens, batch_rows):
                arrays = pad([one for row in chosen for one in encoded[row]["inputs"]], self.padding, self.inputs)
                outputs = [self.tasks[name]["output"] for name in group]
                results = self.graphs[task["graph"]](outputs, arrays)
                for name, values in zip(group, results, strict=True):
                    if values.ndim == 2:
                        logits[name][chosen] = values
                        continue
                    for row, of_tokens in zip(chosen, values, strict=True):
                        firsts = np.array(encoded[row]["words"], dtype=np.int64)
                        logits[name][row, np.flatnonzero(firsts >= 0)] = of_tokens[firsts[firsts >= 0]]
        return logits, truncated

    def answer(self, rows: Sequence[Row]) -> list[dict[str, dict[str, Any]]]:
        """For each row: task name → its answer, for the tasks that take so many texts; see `decide`."""
        answers: list[dict[str, dict[str, Any]]] = [{} for _ in rows]
        for texts in (1, 2):
            chosen = [number for number, row in enumerate(rows) if (row[1] is not None) == (texts == 2)]
            names = [name for name, task in self.tasks.items() if task["texts"] == texts]
            if not chosen or not names:
                continue
            logits, _ = self.logits(names, [rows[number] for number in chosen])
            for name in names:
                of_task = decide(self.tasks[name], logits[name], [rows[number][0] for number in chosen])
                for number, answer in zip(chosen, of_task, strict=True):
                    answers[number][name] = answer
        return answers


# ---- logits to answers ----


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e⁻ˣ), without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _of_ranks(x: np.ndarray) -> np.ndarray:
    """P(y = k) of K ordered labels from K − 1 logits of P(y > k | y > k − 1)."""
    end = np.ones_like(x[:, :1])
    reached = np.concatenate([end, sigmoid(x).cumprod(axis=1)], axis=1)
    return reached * np.concatenate([sigmoid(-x), end], axis=1)


ROUNDING = 1e-6  # what fp32 may take from a probability
# kind of a task → probabilities `(rows, labels)` from logits (of a regression: scores), and decisions from logits
PROBABILITIES: dict[str, Any] = {
    **dict.fromkeys(("single_label_classification", "token_classification"), _softmax),
    "ordinal_classification": _of_ranks,
    "binary_classification": lambda x: sigmoid(np.concatenate([-x, x], axis=1)),
    "multi_label_classification": sigmoid,
    "regression": lambda x: x,
}
DECISIONS: dict[str, Any] = {
    **dict.fromkeys(("single_label_classification", "token_classification"), lambda x: x.argmax(axis=1)),
    "ordinal_classification": lambda x: (sigmoid(x).cumprod(axis=1) > 0.5).sum(axis=1),
    "binary_classification": lambda x: (x[:, 0] > 0).astype(int),
    "multi_label_classification": lambda x: (x > 0).astype(int),
}


def entities(text: str, tags: Sequence[str], scores: Sequence[float]) -> list[dict[str, Any]]:
    """Entities of a text, by the tag of each word and the tags' probabilities, whose mean is an entity's score.

    An entity begins at the prefix B or S, after O, after E or S, and where the type changes.
    """
    plain, spans = find_words(text)
    runs: list[tuple[int, int]] = []
    for word, (before, tag) in enumerate(zip(["O", *tags], tags, strict=False)):
        if tag != "O":
            begins = tag[0] in "BS" or before[0] in "ESO" or tag[2:] != before[2:]
            runs.append((word if begins else runs.pop()[0], word))
    found = [(tags[a][2:], spans[a][0], spans[b][1], float(np.mean(scores[a : b + 1]))) for a, b in runs]
    return [{"entity": n, "word": plain[i:j], "start": i, "end": j, "score": score} for n, i, j, score in found]


def decide(task: Mapping[str, Any], logits: np.ndarray, texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Answers of a task, one for each row; a task that labels words needs their texts.

    Returns:
        Of a task that labels words: `entities`, and `labels`, one for each word. Of others:
        `label`, or `labels` of a multi-label task; `confidence`, the probability of the label, or of each label's
        decision; `probabilities`. Of a regression: `score`. If the task was calibrated: `set`, the labels at its
        coverage, or `interval`; `abstained`, whether the confidence is too low.
    """
    fitted, kind = task["calibration"] or {}, task["kind"]
    scaled = logits / np.float32(fitted.get("temperature", 1))
    table = PROBABILITIES[kind](scaled)
    if logits.ndim == 3:
        names = np.array(task["labels"], dtype=object)[logits.argmax(-1)]
        tags = [row[: len(find_words(text)[1])].tolist() for row, text in zip(names, texts, strict=True)]
        rows = zip(texts, tags, table.max(-1), strict=True)
        return [{"entities": entities(*row), "labels": of_words} for row, of_words in zip(rows, tags, strict=True)]
    if not task["labels"]:
        return [_score(task, fitted, float(value)) for value in table[:, 0]]
    chosen = DECISIONS[kind](scaled)
    if fitted.get("thresholds") is not None:
        chosen = _above(table if task["several"] else table[:, 1:], fitted["thresholds"])
        chosen = chosen if task["several"] else chosen[:, 0]
    return [_label(task, fitted, row, row_chosen) for row, row_chosen in zip(table, chosen, strict=True)]


def _above(table: np.ndarray, thresholds: Sequence[float | None]) -> np.ndarray:
    columns = [table[:, i] > 0.5 if level is None else table[:, i] >= level for i, level in enumerate(thresholds)]
    return np.stack(columns, axis=1).astype(int)


def _score(task: Mapping[str, Any], fitted: Mapping[str, Any], score: float) -> dict[str, Any]:
    if fitted.get("quantile") is None:
        return {"score": score}
    low, high = task["range"] or (-np.inf, np.inf)
    ends = [min(max(score + sign * fitted["quantile"], low), high) for sign in (-1, 1)]
    return {"score": score, "interval": [float(end) for end in ends]}


def _label(task: Mapping[str, Any], fitted: Mapping[str, Any], row: np.ndarray, chosen: Any) -> dict[str, Any]:
    names = task["labels"]
    table = dict(zip(names, map(float, row), strict=True))
    if task["several"]:
        confidence = {name: p if on else 1 - p for (name, p), on in zip(table.items(), chosen, strict=True)}
        on = [name for name, is_on in zip(names, chosen, strict=True) if is_on]
        return {"labels": on, "confidence": confidence, "probabilities": table}
    answer = {"label": names[chosen], "confidence": float(row[chosen]), "probabilities": table}
    if fitted.get("quantile") is not None:
        least = 1 - fitted["quantile"] - ROUNDING
        answer["set"] = [name for name, p in zip(names, row, strict=True) if p >= least]
    if fitted.get("abstain_below") is not None:
        answer["abstained"] = bool(row[chosen] < fitted["abstain_below"])
    return answer


def main() -> None:
    """Print the answers of every task, as JSON with one line for each text or pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text")
    parser.add_argument("--pair", nargs=2, action="append", default=[], metavar=("FIRST", "SECOND"), help="two texts")
    args = parser.parse_args()
    rows: list[Row] = [*((text, None) for text in args.texts), *((first, second) for first, second in args.pair)]
    if not rows:
        parser.error("give a text, or a pair of texts with --pair")
    for row, answer in zip(rows, Model(Path(__file__).parent).answer(rows), strict=True):
        shown = row[0] if row[1] is None else list(row)
        print(json.dumps({"input": shown, **answer}, ensure_ascii=False))


if __name__ == "__main__":
    main()
