"""Register mtbert with transformers' auto classes and pipelines, and add run details to the cards of pushed models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from .model_card import model_card
from .modeling.checkpoint_loading import read_json
from .modeling.configuration_mtbert import MtBertConfig
from .modeling.modeling_mtbert import MtBertForMultiTask
from .modeling.pipeline import PIPELINE_TASK, MultiTaskTextClassificationPipeline
from .origins.encoder_name import hub_name

SAME = 1e-3  # largest difference of a score between a run's end and its report, whose batches differ


def register() -> None:
    """Register mtbert, so that `AutoConfig`, `AutoModel` and `pipeline` load its checkpoints without remote code."""
    AutoConfig.register(MtBertConfig.model_type, MtBertConfig, exist_ok=True)
    AutoModel.register(MtBertConfig, MtBertForMultiTask, exist_ok=True)
    if PIPELINE_TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(PIPELINE_TASK, MultiTaskTextClassificationPipeline, AutoModel, type="text")
    MtBertForMultiTask.make_card = staticmethod(saved_card)


def saved_card(model: Any, name: str, **about: Any) -> ModelCard:
    """Create the card of a model that was loaded from a run's folder, with the run's recipe, scores and energy.

    If `mtbert evaluate` has written a report into the folder, the card has the scores' intervals, too.

    Args:
        model: the model; if it was loaded from elsewhere, its card has no run details.
        name: the repository, `user/name`.
        about: further arguments of `model_card`, such as `license` and `language`; they override the run's.
    """
    from .evaluation.energy import read_energy  # not needed for prediction

    folder = Path(model.name_or_path or "-")
    from_run: dict[str, Any] = {"energy": read_energy(folder)}
    for key, file in (("recipe", "recipe.json"), ("results", "scores.json")):
        if (folder / file).is_file():
            from_run[key] = read_json(folder / file, "start the run again", limited=False)
    if (folder / "record.json").is_file():
        encoder = read_json(folder / "record.json", "start the run again", limited=False).get("encoder") or {}
        from_run["base_model"] = hub_name(encoder.get("name"))
    from_run["intervals"] = _intervals(folder / "report" / "report.json", from_run.get("results", {}))
    return model_card(model, name, **{**from_run, **about})


def _intervals(report: Path, results: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Read the intervals of a report of the run; those of scores that the run did not record are left out."""
    numbers = read_json(report, "remove it, or write it again", limited=False) if report.is_file() else {}
    intervals = {}
    for name, task in numbers.get("tasks", {}).items():
        metric, interval = task.get("main"), task.get("interval") or {}
        recorded = results.get(f"eval_{name}_{metric}")
        scored = task.get("scores", {}).get(metric)
        if None in (recorded, scored, interval.get("low"), interval.get("high")) or abs(recorded - scored) > SAME:
            continue  # the report is of another split, or of other weights
        ends = {key: interval[key] for key in ("low", "high")}
        intervals[name] = {"metric": metric, **ends, "baseline": task["baseline"]["score"]}
    return intervals
