"""mtbert: fine-tune one BERT-like encoder for many sentence tasks, and save one checkpoint with every head."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data.sampling import Schedule
    from .errors import MtBertError
    from .modeling.configuration_mtbert import AdapterSpec, HeadSpec, MtBertConfig, TaskSpec
    from .modeling.modeling_mtbert import MtBertForMultiTask, MtBertOutput, MtBertPreTrainedModel
    from .modeling.prediction import Prediction
    from .training.arguments import MtBertTrainingArguments, TaskTraining
    from .training.methods.averaging import Averaging
    from .training.methods.distillation import Distillation
    from .training.methods.proximal import Proximal
    from .training.methods.smart import Smart
    from .training.methods.surgery import Surgery
    from .training.methods.uncertainty import LossSettings
    from .training.optimizers import OptimizerSettings
    from .training.trainer import MtBertTrainer

__version__ = "0.1.0"

# name → its module, which is imported when the name is asked for
_MODULES = {
    "AdapterSpec": ".modeling.configuration_mtbert",
    "Averaging": ".training.methods.averaging",
    "Distillation": ".training.methods.distillation",
    "HeadSpec": ".modeling.configuration_mtbert",
    "LossSettings": ".training.methods.uncertainty",
    "MtBertConfig": ".modeling.configuration_mtbert",
    "MtBertError": ".errors",
    "MtBertForMultiTask": ".modeling.modeling_mtbert",
    "MtBertOutput": ".modeling.modeling_mtbert",
    "MtBertPreTrainedModel": ".modeling.modeling_mtbert",
    "MtBertTrainer": ".training.trainer",
    "MtBertTrainingArguments": ".training.arguments",
    "OptimizerSettings": ".training.optimizers",
    "Prediction": ".modeling.prediction",
    "Proximal": ".training.methods.proximal",
    "Schedule": ".data.sampling",
    "Smart": ".training.methods.smart",
    "Surgery": ".training.methods.surgery",
    "TaskSpec": ".modeling.configuration_mtbert",
    "TaskTraining": ".training.arguments",
}

# scripts of this repository that are commands
_SCRIPTS = tuple(
    f"{name}.py"
    for name in (
        *("average", "ensemble", "evaluate_run", "finetune", "get_encoder", "predict", "pretrain", "reproduce"),
        *("search", "unlabelled_texts"),
    )
)

__all__ = [
    "AdapterSpec",
    "Averaging",
    "Distillation",
    "HeadSpec",
    "LossSettings",
    "MtBertConfig",
    "MtBertError",
    "MtBertForMultiTask",
    "MtBertOutput",
    "MtBertPreTrainedModel",
    "MtBertTrainer",
    "MtBertTrainingArguments",
    "OptimizerSettings",
    "Prediction",
    "Proximal",
    "Schedule",
    "Smart",
    "Surgery",
    "TaskSpec",
    "TaskTraining",
]


def __getattr__(name: str):
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
    """Whether this process runs `mtbert …`, `python -m mtbert …` or a script of this repository's recipes/."""
    program = Path(sys.argv[0]) if getattr(sys, "argv", None) else Path()
    if str(program) == "-m":  # as long as Python looks for the module that it is to run
        following = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
        return bool(following) and following[0].split(".")[0] == __name__
    if program.name in _SCRIPTS and program.parent.resolve() == Path(__file__).resolve().parents[1] / "recipes":
        return True
    return program.stem == "mtbert" and program.parent.name in ("bin", "Scripts")


# `import mtbert` makes transformers know its checkpoints, which imports torch and takes seconds. The command line has
# to answer --help and wrong arguments at once: there it is done with the first public name that a command imports.
if not _is_command_line():
    _register()
