"""Write the folder of an exported model: graphs, tokenizer, decision rules, card and example."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import FileInTheWayError, InputError
from ..modeling.task_spec import TaskSpec
from ..modeling.tokenization import encoding_rules, has_token_types, plain_tokenizer
from . import standalone
from .card import write_card
from .exported_model import DECISIONS, FORMAT, is_export
from .graphs import TaskGraph, write_graphs

EXAMPLE = "example.py"
_OF_SPEC = ("pair", "pooling", "separator", "token_types", "max_length")  # what a row and an embedding depend on


def check_output(output: Path, checkpoint: Path, overwrite: bool) -> None:
    """Check that a folder can be written.

    Raises:
        FileExistsError: it is not empty, and is no exported model or may not be replaced.
        InputError: it is the checkpoint, or holds it.
    """
    target, source = output.resolve(), checkpoint.resolve()
    if checkpoint.is_dir() and (target == source or target in source.parents):
        raise InputError(f"--output is {output}, which holds the checkpoint; give another folder")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise FileInTheWayError(f"{output} exists; give another name, or --overwrite to replace it")
    if not is_export(output):
        raise FileInTheWayError(f"{output} is no exported model, and is not replaced; give another name")


def write_model(model: Any, tokenizer: Any, folder: Path, engine: str, name: str, quantise: Any = None) -> None:
    """Write an exported model.

    Args:
        model: the model; it is converted to fp32.
        tokenizer: its tokenizer.
        folder: an existing, empty folder.
        engine: `onnx` or `openvino`.
        name: name of the checkpoint, for the card.
        quantise: called with (folder, graphs) after the folder is complete; replaces graphs by int8 ones, and returns
            a `Quantised`. None: fp32.

    Raises:
        InputError: the engine is not installed, or the model cannot be exported.
    """
    model = model.float().eval()
    _check_kinds(model.tasks)
    rules = {task.name: encoding_rules(task, tokenizer, model.config.encoder) for task in model.tasks}
    graphs = write_graphs(model, folder, engine)
    plain_tokenizer(tokenizer).save(str(folder / "tokenizer.json"))
    shutil.copyfile(standalone.__file__, folder / EXAMPLE)
    types = model._accepts_types and has_token_types(model.config.encoder)
    values = {
        "format": FORMAT,
        "mtbert": __version__,
        "engine": engine,
        "precision": "fp32",
        "inputs": ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])],
        "pad_token_id": model.config.encoder.pad_token_id or 0,
        "split_special_tokens": tokenizer.split_special_tokens,
        "files": [file for graph in graphs for file in graph.files],
        "tasks": {task.name: task_entry(task, rules[task.name], graphs) for task in model.tasks},
    }
    _write_decisions(folder, values)
    quantised = None
    if quantise is not None:
        quantised = quantise(folder, graphs)
        values |= {"precision": quantised.precision, "int8": asdict(quantised)}
        _write_decisions(folder, values)
    write_card(folder / "README.md", name, model, engine, quantised)


def _write_decisions(folder: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (folder / DECISIONS).write_text(text + "\n", encoding="utf-8")


def _check_kinds(tasks: Sequence[TaskSpec]) -> None:
    unknown = [task for task in tasks if task.kind.name not in standalone.PROBABILITIES]
    if unknown:
        raise InputError(f"task {unknown[0].name!r}: a {unknown[0].kind.name} can not be exported yet")


def task_entry(task: TaskSpec, rules: dict[str, Any], graphs: Sequence[TaskGraph]) -> dict[str, Any]:
    """The entry of a task in decisions.json: how a row is encoded, which graph answers it, and how it is decided."""
    graph = next(graph for graph in graphs if task.name in graph.outputs)
    written = task.to_dict()
    return {
        "kind": task.kind.name,
        "labels": list(task.classes),
        "range": written["range"],
        "texts": task.texts,
        "several": task.kind.several,
        "num_logits": task.num_labels,
        "calibration": written.get("calibration"),
        "graph": graph.file,
        "output": graph.outputs[task.name],
        "encoding": rules,
        "spec": {key: written[key] for key in _OF_SPEC},
    }
