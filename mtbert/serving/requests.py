"""Read the body of a request: texts and pairs, and the tasks that answer each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from ..modeling.task_spec import TaskSpec
from ..modeling.text_rows import Row
from ..modeling.tokenization import shown

FORMS = "a text, or a list of two texts"


class InvalidRequestError(Exception):
    """A request that cannot be answered; the message says why, and holds no text of an input."""


class PredictRequest(BaseModel):
    """Inputs, and the tasks that are to answer them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Annotated[
        list[str | tuple[str, str]],
        FailFast(),
        Field(description="Texts, and pairs as lists of two texts", examples=[["A fine day.", ["A cat.", "One cat."]]]),
    ]
    tasks: Annotated[
        list[str] | None,
        Field(description="Names of tasks; left out: all tasks that take so many texts as an input has"),
    ] = None


@dataclass(frozen=True)
class Question:
    """The inputs of a request that have the same number of texts.

    Attributes:
        places: their places among the inputs.
        rows: the inputs.
        tasks: the tasks that answer them, in the model's order.
    """

    places: list[int]
    rows: list[Row]
    tasks: tuple[TaskSpec, ...]


def read(body: bytes, tasks: Sequence[TaskSpec], max_texts: int) -> tuple[int, list[Question]]:
    """Read a body; return the number of inputs, and the questions that they make.

    Raises:
        InvalidRequestError: the body is not as `PredictRequest` describes, has too many inputs, names a task that does
            not exist, or an input or a task has no counterpart.
    """
    try:
        request = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        raise InvalidRequestError(_explain(error)) from None
    if len(request.inputs) > max_texts:
        count = f"{len(request.inputs):,} texts, but may have {max_texts:,}"
        raise InvalidRequestError(f"inputs has {count}; send several requests")
    rows: list[Row] = [(each, None) if isinstance(each, str) else each for each in request.inputs]
    return len(rows), _questions(rows, _chosen(request.tasks, tasks), asked=request.tasks is not None)


def _chosen(names: list[str] | None, tasks: Sequence[TaskSpec]) -> tuple[TaskSpec, ...]:
    if names is None:
        return tuple(tasks)
    known = [task.name for task in tasks]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidRequestError(f"there is no task {shown(unknown[0])}; the tasks are: {', '.join(known)}")
    if not names:
        raise InvalidRequestError(f"tasks is empty; leave it out, or give one or more of: {', '.join(known)}")
    if len(set(names)) < len(names):
        raise InvalidRequestError("tasks names a task twice")
    return tuple(task for task in tasks if task.name in names)


def _questions(rows: list[Row], tasks: tuple[TaskSpec, ...], asked: bool) -> list[Question]:
    questions = []
    for texts, what in ((1, "a text"), (2, "a pair of texts")):
        places = [place for place, (_, pair) in enumerate(rows) if (pair is None) == (texts == 1)]
        fitting = tuple(task for task in tasks if task.texts == texts)
        if places and not fitting:
            of = "the given tasks" if asked else "this model's tasks"
            raise InvalidRequestError(f"inputs[{places[0]}] is {what}, but none of {of} takes one")
        if rows and fitting and asked and not places:
            raise InvalidRequestError(f"task {fitting[0].name!r} takes {what}, but no input is one")
        if places:
            questions.append(Question(places, [rows[place] for place in places], fitting))
    return questions


def _explain(error: ValidationError) -> str:
    """What is wrong with a body, without the values that it holds."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where: tuple[Any, ...] = first["loc"]
    if first["type"] == "extra_forbidden":
        return "the body has a key other than inputs and tasks; leave it out"
    if first["type"] == "missing":
        return "the body has no inputs; give {\"inputs\": [" + FORMS + ", …]}"  # fmt: skip
    if not where:
        return f"the body is not an object in JSON with inputs: {first['msg']}"
    if where[0] == "inputs" and len(where) > 1:
        return f"inputs[{where[1]}] is not {FORMS}"
    if where[0] == "inputs":
        return f"inputs is not a list; give one, even of one text: [{FORMS}, …]"
    return "tasks is not a list of names"
