"""Model card of a checkpoint: its tasks, data, results, recipe, limits and usage."""

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
from .modeling.calibration_card import decisions_text
from .modeling.calibration_file import figures_of_model
from .modeling.configuration_mtbert import MtBertConfig
from .modeling.display import display, each_text, masked
from .modeling.hub_upload import is_path
from .modeling.task_spec import TaskSpec
from .origins.encoder_name import encoder_name, hub_name
from .origins.recipe_text import set_keys

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "peft", "huggingface_hub")
_METRIC = r"eval_(?P<task>{task})_(?P<metric>\w+)"
_LEFT_OUT = ("loss", "runtime", "undefined", "per_second")


@dataclass(frozen=True)
class CardSettings:
    """Metadata of a model card that neither the model nor the training determines; the hub's search uses it.

    Attributes:
        license: license of the weights, as the hub names it (`apache-2.0`, `mit`, …; `other` needs a `license_name`).
        license_name: name of a license that is unknown to the hub.
        language: language or languages of the texts, as ISO 639 codes (`en`, `[en, de]`).
        datasets: names of the data sets on the hub; None: the data sets of the tasks.
        tags: further tags; `mtbert` is always one.
    """

    license: str | None = None
    license_name: str | None = None
    language: tuple[str, ...] | str | None = None
    datasets: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid value."""
        problems = []
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            problems.append(
                Problem(("license",), f"is {self.license!r}, but must be as the hub names it, such as apache-2.0")
            )
        if self.license == "other" and not self.license_name:
            problems.append(
                Problem(("license",), "is 'other', but card.license_name does not say which; name it there")
            )
        if self.license != "other" and self.license_name is not None:
            problems.append(
                Problem(("license_name",), f"is {self.license_name!r}, which goes with license: other; drop one")
            )
        languages = [self.language] if isinstance(self.language, str) else self.language or ()
        invalid = [code for code in languages if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", code)]
        if invalid:
            problems.append(Problem(("language",), f"has {invalid[0]!r}, but must be of ISO 639 codes, such as en"))
        invalid = [dataset for dataset in self.datasets or () if hub_name(dataset) is None]
        if invalid:
            problems.append(
                Problem(("datasets",), f"has {invalid[0]!r}, but must be of names on the hub, such as nyu-mll/glue")
            )
        for key in ("language", "datasets", "tags"):
            values = getattr(self, key) or ()
            if not isinstance(values, str) and len(set(values)) < len(values):
                problems.append(Problem((key,), f"is {list(values)}, but must have each once"))
        return problems


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
    intervals: Mapping[str, Mapping[str, Any]] | None = None,
) -> ModelCard:
    """Create a model card.

    Args:
        model: the model, or a peft model around it; its config defines the tasks.
        name: the repository, `user/name`.
        results: an evaluation's metrics, `eval_<task>_<metric>`.
        recipe: the recipe of the training, as a JSON-ready tree; paths and defaults are left out. Its section `card`
            (see `CardSettings`) applies to the arguments below that are None.
        data: task name → source of its rows; None: as in the recipe.
        base_model: the encoder's name on the hub; None: that of the recipe's encoder (see `encoder_name`).
        license, license_name, language, datasets, tags: see `CardSettings`.
        energy: energy of the training, as `mtbert.evaluation.energy.read_energy` returns it.
        intervals: task name → `metric`, the task's main metric, `low` and `high`, the 95 % interval of its score, and
            `baseline`, the score of the same answer for all rows. A report has them (see `mtbert.hub.saved_card`).
    """
    config: MtBertConfig = model.config
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    recipe = each_text(display, dict(recipe or {}))
    settings = recipe.pop("card", None) or {}
    if license is None:
        license, license_name = settings.get("license"), settings.get("license_name")
    language = settings.get("language") if language is None else language
    datasets = each_text(display, datasets or settings.get("datasets"))
    data = each_text(masked, data or {})
    tags = [*(tags or []), *(settings.get("tags") or [])]
    texts = {"name": name, "license": license, "license_name": license_name, "language": language, "tags": tags}
    name, license, license_name, language, tags = each_text(display, texts).values()
    written = (
        yaml.safe_dump(without_paths(set_keys(recipe)), sort_keys=False, allow_unicode=True, width=100)
        if recipe
        else ""
    )
    sources = {task: _with_source(recipe, section) for task, section in (recipe.get("tasks") or {}).items()}
    if base_model is None:
        base_model = encoder_name(recipe.get("encoder"))
    base_model = None if base_model is None else display(base_model)
    scores = _scores(config, results or {})
    measured = [(task, metric, value) for task, metric, value in scores if task is not None]
    card_data = ModelCardData(
        language=language,
        license=license,
        license_name=license_name,
        library_name="transformers",
        base_model=base_model,
        datasets=datasets or list(dict.fromkeys(s["hub"] for s in sources.values() if s.get("hub"))) or None,
        pipeline_tag="text-classification",
        tags=list(dict.fromkeys(["mtbert", "multi-task", *tags])),
        metrics=sorted({_metric_type(metric) for _, metric, _ in measured}) or None,
        model_name=name.rpartition("/")[2],
        eval_results=[_result(*score, sources) for score in measured] or None,
    )
    if energy:
        card_data["co2_eq_emissions"] = _emissions(energy)
    tasks = config.task_specs
    descriptions = data or {task: _data(source) for task, source in sources.items()}
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
        decisions=decisions_text(tasks, figures_of_model(inner)),
        tasks=[_task(task) for task in tasks],
        data={code(task): description for task, description in descriptions.items() if description},
        main=_main_scores(scores, intervals or {}),
        intervals={
            (task, found["metric"]): f"{found['low']:.4f} to {found['high']:.4f} | {found['baseline']:.4f}"
            for task, found in (intervals or {}).items()
        },
        results=[(task.name if task else "all", metric, value) for task, metric, value in scores],
        recipe=written,
        fence=max(["```", *re.findall("`+", written)], key=len) + "`" * ("```" in written),
        versions=", ".join([f"Python {platform.python_version()}", *(f"{lib} {version(lib)}" for lib in LIBRARIES)]),
        max_length=getattr(config.encoder, "max_position_embeddings", None) or "the tokenizer's number of",
        shorter=any(task.max_length for task in tasks),
        uncalibrated=[f"`{task.name}`" for task in tasks if task.calibration is None and not task.kind.numeric],
        open_ended=[f"`{task.name}`" for task in tasks if _unbounded(task)],
        license=markdown(license_name or license or ""),
        energy=energy or {},
    )


def markdown(text: Any) -> str:
    """Escape a text so that Markdown and HTML show it unchanged, in one line."""
    text = re.sub(r"[\\`*_\[\]|~$#]", r"\\\g<0>", display(text))
    for mark in "&<>@":
        text = text.replace(mark, f"&#{ord(mark)};")
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def code(text: Any) -> str:
    """Format a text as inline code of Markdown."""
    return "`" + display(text).replace("`", "'").replace("|", "\\|") + "`"


def without_paths(value: Any, key: str = "") -> Any:
    """Remove the folders of this machine from a recipe's tree; a path becomes the name of its file."""
    if isinstance(value, Mapping):
        return {name: without_paths(item, name) for name, item in value.items() if not name.endswith("_dir")}
    if isinstance(value, (list, tuple)):
        return [without_paths(item, key) for item in value]
    if isinstance(value, str) and (Path(value).is_absolute() or is_path(value)):
        return Path(value).name
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _scores(config: MtBertConfig, results: Mapping[str, float]) -> list[tuple[TaskSpec | None, str, float]]:
    """Return (task, metric, value) of every finite score, in the order of the tasks; the task of averages is None."""
    by_key = {}
    for task in sorted(config.task_specs, key=lambda spec: -len(spec.name)):  # `sst_2` before `sst`
        for key in results:
            match = re.fullmatch(_METRIC.format(task=re.escape(task.name)), key)
            if match and not key.endswith(_LEFT_OUT) and key not in by_key:
                by_key[key] = (task, match["metric"], float(results[key]))
    order = [spec.name for spec in config.task_specs]
    scores = sorted(by_key.values(), key=lambda score: order.index(score[0].name))
    scores = [score for score in scores if math.isfinite(score[2])]
    averages = {key: results[f"eval_{key}"] for key in ("raw_mean", "overall") if f"eval_{key}" in results}
    return [*scores, *((None, key, float(value)) for key, value in averages.items())]


def _main_scores(
    scores: list[tuple[TaskSpec | None, str, float]], intervals: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Return the score of each task's main metric as a text: with its interval, if it is known."""
    main = {}
    for task, metric, value in scores:
        found = intervals.get(task.name, {}) if task is not None else {}
        if task is None or (task.name in main and found.get("metric") != metric):
            continue
        ends = f" ({found['low']:.2f} to {found['high']:.2f})" if found.get("metric") == metric else ""
        main[task.name] = f"{metric} {value:.3f}{ends}"
    return main


def _emissions(energy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hub's metadata of a run's emissions, in grams of CO₂ equivalent."""
    emissions = {"emissions": 1000 * energy["co2_kg"], "source": "codecarbon", "training_type": "fine-tuning"}
    if energy.get("hardware"):
        emissions["hardware_used"] = energy["hardware"]
    return emissions


def _metric_type(metric: str) -> str:
    """Return the hub's name of a metric."""
    if metric.startswith("f1"):
        return "f1"
    names = {"pearson": "pearsonr", "spearman": "spearmanr", "matthews": "matthews_correlation"}
    return names.get(metric, metric)


def _result(task: TaskSpec, metric: str, value: float, sources: Mapping[str, Mapping[str, Any]]) -> EvalResult:
    source = sources.get(task.name, {})
    similarity = task.kind.numeric and task.texts == 2
    return EvalResult(
        task_type="sentence-similarity" if similarity else task.kind.hub_task,
        task_name=task.name,
        dataset_type=source.get("hub") or task.name,
        dataset_name=source.get("hub") or task.name,
        dataset_config=source.get("subset"),
        dataset_split=source.get("dev") if source.get("hub") else "validation",
        metric_type=_metric_type(metric),
        metric_name=metric,
        metric_value=value,
    )


def _with_source(recipe: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a task, with the keys of the recipe's source that it names."""
    data = task.get("data") or {}
    return {**((recipe.get("sources") or {}).get(data.get("source")) or {}), **data}


def _data(source: Mapping[str, Any]) -> str:
    shared = f" (source {code(source['source'])}, column {code(source.get('label'))})" if source.get("source") else ""
    if source.get("hub"):
        more = (markdown(source[key]) for key in ("subset", "revision") if source.get(key))
        return " ".join([code(source["hub"]), *more]) + shared
    files = [source[split] for split in ("train", "dev", "test") if source.get(split)]
    names: list[str] = []
    for file in files:
        names += [file] if isinstance(file, str) else file
    return "files " + ", ".join(code(Path(name).name) for name in names) + shared if names else ""


def _unbounded(task: TaskSpec) -> bool:
    return task.kind.numeric and task.head.output == "identity" and task.head.type != "cosine"


def _task(task: TaskSpec) -> dict[str, Any]:
    """Return the template's values for a task."""
    low_high = f" from {task.range[0]:g} to {task.range[1]:g}" if task.range else ""
    answers = task.kind.card.format(len(task.classes)) + low_high
    ways = {"cross": "in one input", "siamese": "each alone", "both": "each alone and in one input"}
    reads = "one text" if task.texts == 1 else f"two texts, {ways[task.pair]}"
    pooled = "the first token of each word" if task.kind.units.reads_tokens else f"{task.pooling} pooling"
    return {
        "name": task.name,
        "answers": answers,
        "reads": f"{reads}, {pooled}",
        "head": task.head.type,
        "labels": [markdown(label) for label in task.classes],
        "apart": task.apart,
        "example": '("A cat sleeps.", "A dog runs.")' if task.texts == 2 else '"A cat sleeps."',
        "result": task.kind.result,
    }
