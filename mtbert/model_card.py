"""The model card of a checkpoint: its tasks, data, results, recipe and limits, and how to call it."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .errors import Problem
from .modeling.configuration_mtbert import MtBertConfig, TaskSpec
from .modeling.display import display, each_text, masked
from .modeling.hub_upload import is_path

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "peft", "huggingface_hub")
_METRIC = r"eval_(?P<task>{task})_(?P<metric>\w+)"
_LEFT_OUT = ("loss", "runtime", "undefined", "per_second")


@dataclass(frozen=True)
class CardSettings:
    """What a card says that neither model nor training knows; on a hub one searches by it.

    Attributes:
        license: of the weights, as the hub names it (`apache-2.0`, `mit`, …; `other` has a `license_name`).
        license_name: what a license is called that the hub has no name for.
        language: the texts' language, or languages, as ISO 639 codes (`en`, `[en, de]`).
        datasets: names on the hub of the data; None: those that the tasks are read from.
        tags: more of them; `mtbert` is always there.
    """

    license: str | None = None
    license_name: str | None = None
    language: tuple[str, ...] | str | None = None
    datasets: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()

    def problems(self) -> list[Problem]:
        """One problem for each value that is wrong."""
        found = []
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            found.append(
                Problem(("license",), f"is {self.license!r}, but must be as the hub names it, such as apache-2.0")
            )
        if self.license == "other" and not self.license_name:
            found.append(Problem(("license",), "is 'other', but card.license_name does not say which; name it there"))
        if self.license != "other" and self.license_name is not None:
            found.append(
                Problem(("license_name",), f"is {self.license_name!r}, which goes with license: other; drop one")
            )
        languages = [self.language] if isinstance(self.language, str) else self.language or ()
        if bad := [each for each in languages if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", each)]:
            found.append(Problem(("language",), f"has {bad[0]!r}, but must be of ISO 639 codes, such as en"))
        if bad := [each for each in self.datasets or () if hub_name(each) is None]:
            found.append(
                Problem(("datasets",), f"has {bad[0]!r}, but must be of names on the hub, such as nyu-mll/glue")
            )
        for key in ("language", "datasets", "tags"):
            values = getattr(self, key) or ()
            if not isinstance(values, str) and len(set(values)) < len(values):
                found.append(Problem((key,), f"is {list(values)}, but must have each once"))
        return found


def model_card(
    model: Any,
    name: str,
    results: Mapping[str, float] | None = None,
    recipe: Mapping[str, Any] | None = None,
    data: Mapping[str, str] | None = None,
    base_model: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    language: str | list[str] | None = None,
    datasets: list[str] | None = None,
    tags: list[str] | None = None,
    energy: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Write a card.

    Args:
        model: the model, or one inside peft; its config says what the tasks are.
        name: the repository, `user/name`.
        results: an evaluation's metrics, `eval_<task>_<metric>`.
        recipe: what it was trained with, as a JSON-ready tree; paths are left out. What its section `card` says (see
            `CardSettings`) holds where it is not given here.
        data: task → where its rows are from; None: what the recipe says.
        base_model: the encoder's name on the hub; None: the recipe's, if it is no folder.
        license, license_name, language, datasets, tags: see `CardSettings`.
        energy: what training took, as `mtbert.evaluation.energy.read_energy` returns it.
    """
    config: MtBertConfig = model.config
    recipe = each_text(display, dict(recipe or {}))
    said = recipe.pop("card", None) or {}
    if license is None:
        license, license_name = said.get("license"), said.get("license_name")
    language = said.get("language") if language is None else language
    datasets = each_text(display, datasets or said.get("datasets"))
    data = each_text(masked, data or {})
    tags = [*(tags or []), *(said.get("tags") or [])]
    texts = {"name": name, "license": license, "license_name": license_name, "language": language, "tags": tags}
    name, license, license_name, language, tags = each_text(display, texts).values()
    written = yaml.safe_dump(without_paths(recipe), sort_keys=False, allow_unicode=True, width=100) if recipe else ""
    sources = {task: each.get("data") or {} for task, each in (recipe.get("tasks") or {}).items()}
    if base_model is None:
        base_model = hub_name(recipe.get("encoder"))
    base_model = None if base_model is None else display(base_model)
    scores = _scores(config, results or {})
    measured = [(task, metric, value) for task, metric, value in scores if task is not None]
    card_data = ModelCardData(
        language=language,
        license=license,
        license_name=license_name,
        library_name="transformers",
        base_model=base_model,
        datasets=datasets or list(dict.fromkeys(each["hub"] for each in sources.values() if each.get("hub"))) or None,
        pipeline_tag="text-classification",
        tags=list(dict.fromkeys(["mtbert", "multi-task", *tags])),
        metrics=sorted({_metric_type(metric) for _, metric, _ in measured}) or None,
        model_name=name.rpartition("/")[2],
        eval_results=[_result(*each, sources) for each in measured] or None,
    )
    if energy:
        card_data["co2_eq_emissions"] = _emissions(energy)
    tasks = config.task_specs
    return ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        title=name if re.fullmatch(r"[\w./-]+", name) else markdown(name),
        name=name.replace("\\", "\\\\").replace('"', '\\"'),
        base_model=base_model,
        family=config.encoder.model_type,
        hidden_size=config.hidden_size,
        adapter=config.adapter_spec,
        peft=hasattr(model, "peft_config"),
        tasks=[_task(task) for task in tasks],
        data={code(task): each for task, each in (data or {t: _data(s) for t, s in sources.items()}).items() if each},
        results=[(task.name if task else "all", metric, value) for task, metric, value in scores],
        recipe=written,
        fence=max(["```", *re.findall("`+", written)], key=len) + "`" * ("```" in written),
        versions=", ".join([f"Python {platform.python_version()}", *(f"{each} {version(each)}" for each in LIBRARIES)]),
        max_length=getattr(config.encoder, "max_position_embeddings", None) or "the tokenizer's number of",
        shorter=any(task.max_length for task in tasks),
        open_ended=[f"`{task.name}`" for task in tasks if _unbounded(task)],
        license=markdown(license_name or license or ""),
        energy=energy or {},
    )


def markdown(text: Any) -> str:
    """A text that Markdown and HTML show as it is, in one line."""
    text = re.sub(r"[\\`*_\[\]|~$#]", r"\\\g<0>", display(text))
    for mark in "&<>@":
        text = text.replace(mark, f"&#{ord(mark)};")
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def code(text: Any) -> str:
    """A text as Markdown's code."""
    return "`" + display(text).replace("`", "'").replace("|", "\\|") + "`"


def hub_name(name: Any) -> str | None:
    """A model's name if it is one of the hub, else None."""
    valid = isinstance(name, str) and not is_path(name) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    return name if valid else None


def without_paths(value: Any, key: str = "") -> Any:
    """A recipe's tree without the folders of one machine; of files, their names stay."""
    if isinstance(value, Mapping):
        return {name: without_paths(each, name) for name, each in value.items() if not name.endswith("_dir")}
    if isinstance(value, (list, tuple)):
        return [without_paths(each, key) for each in value]
    if isinstance(value, str) and (Path(value).is_absolute() or is_path(value)):
        return Path(value).name
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _scores(config: MtBertConfig, results: Mapping[str, float]) -> list[tuple[TaskSpec | None, str, float]]:
    """(task, metric, value) of every score; None for the averages."""
    found = []
    for task in sorted(config.task_specs, key=lambda spec: -len(spec.name)):  # `sst_2` before `sst`
        for key in results:
            match = re.fullmatch(_METRIC.format(task=re.escape(task.name)), key)
            if match and not key.endswith(_LEFT_OUT) and key not in {each[3] for each in found}:
                found.append((task, match["metric"], float(results[key]), key))
    order = [spec.name for spec in config.task_specs]
    found.sort(key=lambda each: order.index(each[0].name))
    found = [each[:3] for each in found if math.isfinite(each[2])]
    averages = {key: results[f"eval_{key}"] for key in ("raw_mean", "overall") if f"eval_{key}" in results}
    return [*found, *((None, key, float(value)) for key, value in averages.items())]


def _emissions(energy: Mapping[str, Any]) -> dict[str, Any]:
    """The hub's metadata of a run's emissions, in grams of CO₂ equivalent."""
    found = {"emissions": 1000 * energy["co2_kg"], "source": "codecarbon", "training_type": "fine-tuning"}
    return found | ({"hardware_used": energy["hardware"]} if energy.get("hardware") else {})


def _metric_type(metric: str) -> str:
    """The hub's name of a metric."""
    return {"pearson": "pearsonr", "spearman": "spearmanr", "matthews": "matthews_correlation"}.get(
        metric, "f1" if metric.startswith("f1") else metric
    )


def _result(task: TaskSpec, metric: str, value: float, sources: Mapping[str, Mapping]) -> EvalResult:
    source = sources.get(task.name, {})
    similarity = task.kind.numeric and task.texts == 2
    return EvalResult(
        task_type="sentence-similarity" if similarity else "text-classification",
        task_name=task.name,
        dataset_type=source.get("hub") or task.name,
        dataset_name=source.get("hub") or task.name,
        dataset_config=source.get("subset"),
        dataset_split=source.get("dev") if source.get("hub") else "validation",
        metric_type=_metric_type(metric),
        metric_name=metric,
        metric_value=value,
    )


def _data(source: Mapping[str, Any]) -> str:
    if source.get("hub"):
        more = (markdown(source[key]) for key in ("subset", "revision") if source.get(key))
        return " ".join([code(source["hub"]), *more])
    files = [source[split] for split in ("train", "dev", "test") if source.get(split)]
    files = [Path(name).name for each in files for name in ([each] if isinstance(each, str) else each)]
    return "files " + ", ".join(map(code, files)) if files else ""


def _unbounded(task: TaskSpec) -> bool:
    return task.kind.numeric and task.head.output == "identity" and task.head.type != "cosine"


def _task(task: TaskSpec) -> dict[str, Any]:
    """What the template says of a task."""
    low_high = f" from {task.range[0]:g} to {task.range[1]:g}" if task.range else ""
    answers = {
        "regression": f"a score{low_high}",
        "multi_label_classification": f"any of {len(task.labels or ())} labels",
    }.get(task.problem_type, f"one of {len(task.labels or ())} labels")
    ways = {"cross": "in one input", "siamese": "each alone", "both": "each alone and in one input"}
    reads = "one text" if task.texts == 1 else f"two texts, {ways[task.pair]}"
    shown = '{"score": …}' if task.kind.numeric else '{"label": …, "score": …}'
    return {
        "name": task.name,
        "answers": answers,
        "reads": f"{reads}, {task.pooling} pooling",
        "head": task.head.type,
        "labels": [markdown(label) for label in task.labels or ()],
        "apart": task.apart,
        "example": '("A cat sleeps.", "A dog runs.")' if task.texts == 2 else '"A cat sleeps."',
        "result": shown,
    }
