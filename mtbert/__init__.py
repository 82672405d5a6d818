"""mtbert: fine-tune one BERT-like encoder for many sentence tasks, and save one checkpoint with every head."""

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import MtBertError
from .hub import register
from .modeling.configuration_mtbert import AdapterSpec, HeadSpec, MtBertConfig, TaskSpec
from .modeling.modeling_mtbert import MtBertForMultiTask, MtBertOutput, MtBertPreTrainedModel

if TYPE_CHECKING:
    from .data.sampling import Schedule
    from .training.arguments import MtBertTrainingArguments, TaskTraining
    from .training.surgery import Surgery
    from .training.trainer import MtBertTrainer

__version__ = "0.1.0"

# imported when asked for: who only predicts needs none of it
_TRAINING = {
    "MtBertTrainer": ".training.trainer",
    "MtBertTrainingArguments": ".training.arguments",
    "Schedule": ".data.sampling",
    "Surgery": ".training.surgery",
    "TaskTraining": ".training.arguments",
}

__all__ = [
    "AdapterSpec",
    "HeadSpec",
    "MtBertConfig",
    "MtBertError",
    "MtBertForMultiTask",
    "MtBertOutput",
    "MtBertPreTrainedModel",
    "MtBertTrainer",
    "MtBertTrainingArguments",
    "Schedule",
    "Surgery",
    "TaskSpec",
    "TaskTraining",
]


def __getattr__(name: str):
    if name in _TRAINING:
        return getattr(import_module(_TRAINING[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register()
