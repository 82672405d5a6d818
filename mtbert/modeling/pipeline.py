"""A transformers pipeline for all tasks of a checkpoint: `pipeline("multi-task-text-classification", model=...)`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from transformers import Pipeline

from .answers import Prediction
from .encoder_loading import load_tokenizer
from .errors import InputError, InputTypeError
from .forward_arguments import given_tasks
from .prediction import cut_rows, is_one, predict_rows, warn_of_cuts
from .text_rows import as_row, is_row, iterate_rows

if TYPE_CHECKING:
    from .modeling_mtbert import MtBertForMultiTask

PIPELINE_TASK = "multi-task-text-classification"


class MultiTaskTextClassificationPipeline(Pipeline):
    """Predicts labels and scores of one task or several for texts and pairs.

    A row is a text, a pair `(text, text)` or `{"text": ..., "text_pair": ...}`; a list, a table with such columns, a
    `datasets.Dataset` and any other iterable hold rows. A single row returns one answer, a list or table returns a
    list, any other iterable returns an iterator.

    Args of a call (all but the first may be given to `pipeline(...)`, too):
        tasks: name of a task, or None for the model's only one; for several names, or `all` (the tasks that take such
            rows), an answer is a dict from task names to answers. Its alias is `task`, or `task_name` in
            `pipeline(...)`.
        top_k: number of labels in an answer, the most probable first; None: all labels. With 1 an answer is
            `{"label": str, "score": probability}`, else a list of these. A regression's is `{"score": number}`. Of a
            task with thresholds, each entry of a list has `given`: whether the label is one of the answer's. Answers
            that are no list also have `set` (or `low` and `high`) and `abstained`, as far as they were fitted.
        batch_size: number of rows that are encoded at a time.
    """

    model: Any  # MtBertForMultiTask
    _load_tokenizer: Any = False  # transformers would ask whether to run the code beside it
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_video_processor: Any = False

    def __init__(self, model: MtBertForMultiTask, tokenizer: Any = None, **kwargs: Any):
        if tokenizer is None:
            tokenizer = model.tokenizer
        elif isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = load_tokenizer(tokenizer)
        kwargs["tokenizer"] = tokenizer
        super().__init__(model, **kwargs)

    def _sanitize_parameters(self, tasks: Any = None, task: Any = None, task_name: Any = None, **kwargs: Any) -> Any:
        unknown = [key for key in kwargs if key != "top_k"]
        if unknown:
            raise InputTypeError(f"unknown arguments {unknown}; known ones: tasks, top_k, batch_size")
        if kwargs.get("top_k") is not None and not _counts(kwargs["top_k"]):
            raise InputError(f"top_k is {kwargs['top_k']!r}, but must be 1 or more, or None for all labels")
        tasks = given_tasks(tasks, task if task is not None else task_name)
        return {}, {} if tasks is None else {"tasks": tasks}, kwargs

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if (size := kwargs.get("batch_size")) is not None and not _counts(size):
            raise InputError(f"batch_size is {size!r}, but must be a whole number, 1 or more")
        if is_row(inputs):
            return super().__call__(as_row(inputs), *args, **kwargs)
        rows = iterate_rows(inputs)
        if isinstance(inputs, (list, Mapping)) or hasattr(inputs, "columns"):
            rows = list(rows)
        return [] if rows == [] else super().__call__(rows, *args, **kwargs)

    def preprocess(self, input_: Iterable[Any]) -> Any:  # type: ignore[override]  # it takes no options
        return {"rows": list(input_)}

    def _forward(  # type: ignore[override]  # these are all of its options
        self, input_tensors: dict[str, Any], tasks: str | Sequence[str] | None = None
    ) -> Any:
        predictions = predict_rows(self.model, input_tensors["rows"], tasks, self.tokenizer)
        return {"found": predictions, "together": not is_one(tasks)}

    def postprocess(  # type: ignore[override]  # its outputs are no tensors
        self, model_outputs: dict[str, Any], top_k: int | None = 1
    ) -> list[Any]:
        columns = {name: answers(prediction, top_k) for name, prediction in model_outputs["found"].items()}
        if not model_outputs["together"]:
            return next(iter(columns.values()))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def run_single(self, inputs: Any, preprocess_params: Any, forward_params: Any, postprocess_params: Any) -> Any:
        (answer,) = self.get_iterator([inputs], 0, 1, preprocess_params, forward_params, postprocess_params)
        return answer

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: Any,
        forward_params: Any,
        postprocess_params: Any,
    ) -> Iterator[Any]:
        rows, count = iter(inputs), 0
        cut: Counter[str] = Counter()
        while batch := list(islice(rows, batch_size)):
            outputs = self.forward(self.preprocess(batch, **preprocess_params), **forward_params)
            cut.update(cut_rows(outputs["found"]))
            count += len(batch)
            yield from self.postprocess(outputs, **postprocess_params)
        warn_of_cuts(cut, count)


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def answers(prediction: Prediction, top_k: int | None = 1) -> list[Any]:
    """Labels and scores of each row of a prediction; see the pipeline's `top_k`."""
    task = prediction.task
    if task.kind.answers is not None:
        return list(task.kind.answers.shown(prediction, top_k))
    if task.kind.numeric:
        return _with_fitted([{"score": score} for score in prediction.scores.tolist()], prediction)
    if top_k == 1 and not task.kind.several:
        chosen = zip(prediction.labels, prediction.confidence.tolist(), strict=True)
        return _with_fitted([{"label": label, "score": score} for label, score in chosen], prediction)
    rows = []
    given = prediction.labels if task.calibration is not None and task.calibration.thresholds is not None else None
    for number, row in enumerate(prediction.scores):
        best: list[dict[str, Any]] = []
        for i in (-row).argsort(kind="stable"):
            best.append({"label": task.classes[i], "score": float(row[i])})
            if given is not None:
                of_row = given[number] if task.kind.several else [given[number]]
                best[-1]["given"] = task.classes[i] in of_row
        rows.append(best[0] if top_k == 1 else best[:top_k])
    return rows


def _with_fitted(rows: list[dict[str, Any]], prediction: Prediction) -> list[dict[str, Any]]:
    """Add what a fitted coverage and `abstain_below` say of each row: `set`, or `low` and `high`, and `abstained`."""
    for name, values in prediction.fitted_columns().items():
        key = name.removeprefix(f"{prediction.task.name}.")
        for row, value in zip(rows, values if isinstance(values, list) else values.tolist(), strict=True):
            row[key] = value
    return rows
