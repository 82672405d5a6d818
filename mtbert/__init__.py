"""mtbert: fine-tune one BERT-like encoder for many sentence tasks, and save one checkpoint with every head."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .training.methods import REGISTRY

if TYPE_CHECKING:  # `as` tells type checkers that a name is public
    from .data.given_sources import Source as Source
    from .data.sampling import Schedule as Schedule, register_schedule as register_schedule
    from .errors import MtBertError as MtBertError, Problem as Problem
    from .evaluation.own_metrics import register_metric as register_metric
    from .modeling.adapters import Adapter as Adapter, register_adapter as register_adapter
    from .modeling.answers import Prediction as Prediction
    from .modeling.configuration_mtbert import MtBertConfig as MtBertConfig
    from .modeling.heads import register_head as register_head
    from .modeling.modeling_mtbert import (
        MtBertForMultiTask as MtBertForMultiTask,
        MtBertOutput as MtBertOutput,
        MtBertPreTrainedModel as MtBertPreTrainedModel,
    )
    from .modeling.task_spec import AdapterSpec as AdapterSpec, HeadSpec as HeadSpec, TaskSpec as TaskSpec
    from .runs.finetuning import TrainResult as TrainResult, train as train
    from .runs.predictor import Predictor as Predictor
    from .training.arguments import MtBertTrainingArguments as MtBertTrainingArguments, TaskTraining as TaskTraining
    from .training.methods import register_method as register_method
    from .training.methods.affinity import Affinity as Affinity
    from .training.methods.averaging import Averaging as Averaging
    from .training.methods.base import Method as Method
    from .training.methods.distillation import Distillation as Distillation
    from .training.methods.group_weights import GroupWeights as GroupWeights
    from .training.methods.proximal import Proximal as Proximal
    from .training.methods.rdrop import RDrop as RDrop
    from .training.methods.simcse import SimCSE as SimCSE
    from .training.methods.smart import Smart as Smart
    from .training.methods.surgery import Surgery as Surgery, register_surgery as register_surgery
    from .training.methods.uncertainty import LossSettings as LossSettings
    from .training.optimizers import OptimizerSettings as OptimizerSettings
    from .training.settings import MultiTaskSettings as MultiTaskSettings
    from .training.trainer import MtBertTrainer as MtBertTrainer

__version__ = "0.1.0"

# public name → its module, which is imported when the name is first used
_MODULES = {
    "AdapterSpec": ".modeling.task_spec",
    "HeadSpec": ".modeling.task_spec",
    "MtBertConfig": ".modeling.configuration_mtbert",
    "MtBertError": ".errors",
    "MtBertForMultiTask": ".modeling.modeling_mtbert",
    "MtBertOutput": ".modeling.modeling_mtbert",
    "MtBertPreTrainedModel": ".modeling.modeling_mtbert",
    "MtBertTrainer": ".training.trainer",
    "MtBertTrainingArguments": ".training.arguments",
    "MultiTaskSettings": ".training.settings",
    "OptimizerSettings": ".training.optimizers",
    "Prediction": ".modeling.answers",
    "Predictor": ".runs.predictor",
    "Adapter": ".modeling.adapters",
    "Method": ".training.methods.base",
    "Problem": ".errors",
    "Schedule": ".data.sampling",
    "Source": ".data.given_sources",
    "TaskSpec": ".modeling.task_spec",
    "TaskTraining": ".training.arguments",
    "TrainResult": ".runs.finetuning",
    "register_adapter": ".modeling.adapters",
    "register_head": ".modeling.heads",
    "register_method": ".training.methods",
    "register_metric": ".evaluation.own_metrics",
    "register_schedule": ".data.sampling",
    "train": ".runs.finetuning",
}
for _section, _place in REGISTRY.items():  # a class of settings for each training method
    _module, _, _name = str(_place).partition(":")
    if "." not in _section:
        _MODULES[_name] = f".training.methods.{_module}"
if "surgery" in REGISTRY:
    _MODULES["register_surgery"] = ".training.methods.surgery"

# scripts in recipes/ that run a command
_SCRIPTS = tuple(
    f"{name}.py"
    for name in (
        *("average", "calibrate", "ensemble", "evaluate_run", "finetune", "get_encoder", "predict", "pretrain"),
        *("reproduce", "search", "unlabelled_texts"),
    )
)

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _register()
    value = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    from .hub import register

    register()


def _is_command_line() -> bool:
    """Return whether this process runs `mtbert …`, `python -m mtbert …` or a script of this repository's recipes/."""
    program = Path(sys.argv[0]) if getattr(sys, "argv", None) else Path()
    if str(program) == "-m":  # Python has not yet found the module to run
        following = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
        return bool(following) and following[0].split(".")[0] == __name__
    if program.name in _SCRIPTS and program.parent.resolve() == Path(__file__).resolve().parents[1] / "recipes":
        return True
    return program.stem == "mtbert" and program.parent.name in ("bin", "Scripts")


# `import mtbert` registers mtbert with transformers, which imports torch and takes seconds. The command line must
# answer --help and wrong arguments at once: there, the first use of a public name registers.
if not _is_command_line():
    _register()
