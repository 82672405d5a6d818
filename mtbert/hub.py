"""Register mtbert with transformers' auto classes and pipelines, and add run details to the cards of pushed models."""

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


def register() -> None:
    """Register mtbert, so that `AutoConfig`, `AutoModel` and `pipeline` load its checkpoints without remote code."""
    AutoConfig.register(MtBertConfig.model_type, MtBertConfig, exist_ok=True)
    AutoModel.register(MtBertConfig, MtBertForMultiTask, exist_ok=True)
    if PIPELINE_TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(PIPELINE_TASK, MultiTaskTextClassificationPipeline, AutoModel, type="text")
    MtBertForMultiTask.make_card = staticmethod(saved_card)


def saved_card(model: Any, name: str, **about: Any) -> ModelCard:
    """Create the card of a model that was loaded from a run's folder, with the run's recipe, scores and energy.

    Args:
        model: the model; if it was loaded from elsewhere, its card has no run details.
        name: the repository, `user/name`.
        about: further arguments of `model_card`, such as `license` and `language`; they override the run's.
    """
    from .evaluation.energy import read_energy  # not needed for prediction

    folder = Path(model.name_or_path or "-")
    from_run = {"energy": read_energy(folder)}
    for key, file in (("recipe", "recipe.json"), ("results", "scores.json")):
        if (folder / file).is_file():
            from_run[key] = read_json(folder / file, "start the run again", limited=False)
    return model_card(model, name, **{**from_run, **about})
