"""What makes transformers' auto classes and pipelines know mtbert's checkpoints."""

from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from .card import saved_card
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
