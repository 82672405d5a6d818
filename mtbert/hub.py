"""What makes transformers' auto classes and pipelines know mtbert's checkpoints, and a push tell of their run."""

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
    """Let `AutoConfig`, `AutoModel` and `pipeline` load checkpoints of mtbert without `trust_remote_code`."""
    AutoConfig.register(MtBertConfig.model_type, MtBertConfig, exist_ok=True)
    AutoModel.register(MtBertConfig, MtBertForMultiTask, exist_ok=True)
    if PIPELINE_TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(PIPELINE_TASK, MultiTaskTextClassificationPipeline, AutoModel, type="text")
    MtBertForMultiTask.make_card = staticmethod(saved_card)


def saved_card(model: Any, name: str, **about: Any) -> ModelCard:
    """The card of a model that was loaded from a run's folder, with the recipe, scores and energy that lie beside it.

    Args:
        model: the model; one from elsewhere has a card without them.
        name: the repository, `user/name`.
        about: as in `model_card`, such as `license` and `language`; what is given here counts.
    """
    from .evaluation.energy import read_energy  # who only predicts needs none of it

    folder = Path(model.name_or_path or "-")
    found = {"energy": read_energy(folder)}
    for key, file in (("recipe", "recipe.json"), ("results", "scores.json")):
        if (folder / file).is_file():
            found[key] = read_json(folder / file, "start the run again", limited=False)
    return model_card(model, name, **{**found, **about})
