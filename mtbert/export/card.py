"""The card of an exported model: what is in its folder, how to call it, and what int8 changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model_card import code, markdown
from ..modeling.task_spec import TaskSpec

if TYPE_CHECKING:
    from .int8 import Quantised

_INSTALL = {"onnx": "onnxruntime", "openvino": "openvino"}


def write_card(file: Path, name: str, model: Any, engine: str, quantised: Quantised | None) -> None:
    """Write the README.md of an exported folder.

    Args:
        file: the file.
        name: name of the checkpoint.
        model: the model, whose tasks are listed.
        engine: `onnx` or `openvino`.
        quantised: what int8 changed; None: the graphs are fp32.
    """
    kind = "fp32" if quantised is None else quantised.precision
    lines = [f"# {markdown(name)}, exported for {_INSTALL[engine]} in {kind}", ""]
    lines += ["```", f"pip install {_INSTALL[engine]} tokenizers numpy", *_calls(model), "```", ""]
    lines += ["`mtbert predict FOLDER FILE`, `mtbert serve FOLDER` and `mtbert.export.ExportedModel(FOLDER)` take the"]
    lines += ["folder, too. All of them give the same answers: `decisions.json` says how each task's texts are"]
    lines += ["encoded, and how its logits are decided.", "", "## Tasks", ""]
    lines += ["| task | reads | answers | calibrated |", "|---|---|---|---|"]
    lines += [f"| {code(task.name)} | {_reads(task)} | {_answers(task)} | {_fitted(task)} |" for task in model.tasks]
    if quantised is not None:
        lines += ["", *int8_section(quantised)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _calls(model: Any) -> list[str]:
    texts = {task.texts for task in model.tasks}
    calls = {1: 'python example.py "A lovely day."', 2: 'python example.py --pair "A cat sleeps." "A dog runs."'}
    return [calls[count] for count in sorted(texts)]


def _reads(task: TaskSpec) -> str:
    return "one text" if task.texts == 1 else f"two texts ({task.pair})"


def _answers(task: TaskSpec) -> str:
    if task.kind.numeric:
        return "a score" if task.range is None else f"a score from {task.range[0]:g} to {task.range[1]:g}"
    of = "any" if task.kind.several else "one"
    return f"{'for each word ' if task.kind.units.dims > 1 else ''}{of} of: {', '.join(map(markdown, task.classes))}"


def _fitted(task: TaskSpec) -> str:
    fitted = task.calibration
    if fitted is None:
        return "no"
    parts = [] if task.kind.numeric else [f"temperature {fitted.temperature:.3g}"]
    if fitted.thresholds is not None:
        levels = ", ".join("½" if level is None else f"{level:.3g}" for level in fitted.thresholds)
        parts.append(f"thresholds {levels}")
    if fitted.coverage is not None:
        parts.append(f"{'intervals' if task.kind.numeric else 'sets'} at coverage {fitted.coverage:g}")
    if fitted.abstain_below is not None:
        parts.append(f"abstains below {fitted.abstain_below:.3g}")
    return "; ".join(parts)


def int8_section(quantised: Quantised) -> list[str]:
    """Lines of Markdown: the loss of every head, and what was left in fp32, and why."""
    lines = ["## int8", "", f"Scored on {quantised.split} rows, against fp32; at most {quantised.max_loss:g} points"]
    lines += ["may be lost by a head. The interval holds 95 % of resamples of the rows, paired.", ""]
    lines += ["| task | metric | rows | fp32 | int8 | points lost | interval |", "|---|---|---:|---:|---:|---:|---|"]
    for head in quantised.heads:
        interval = f"{head.low:+.2f} … {head.high:+.2f}"
        lines.append(
            f"| {code(head.task)} | {head.metric} | {head.rows:,} | {head.fp32:.4f} | {head.int8:.4f} "
            f"| {head.lost:+.2f} | {interval} |"
        )
    lines += ["", "Left in fp32, beside embeddings, norms, attention's products of states, poolers and heads:", ""]
    lines += [f"- {code(part)}: {why}" for part, why in quantised.kept.items()] or ["- nothing"]
    return [*lines, "", "Tried:", "", *(f"- {markdown(note)}" for note in quantised.tried)]
