"""What makes transformers' auto classes know mtbert's checkpoints."""

from transformers import AutoConfig, AutoModel

from .modeling.configuration_mtbert import MtBertConfig
from .modeling.modeling_mtbert import MtBertForMultiTask


def register() -> None:
    """Let `AutoConfig` and `AutoModel` load checkpoints of mtbert without `trust_remote_code`."""
    AutoConfig.register(MtBertConfig.model_type, MtBertConfig, exist_ok=True)
    AutoModel.register(MtBertConfig, MtBertForMultiTask, exist_ok=True)
