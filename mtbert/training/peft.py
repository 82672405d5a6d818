"""LoRA and other methods of peft: they act on the encoder, while every head and task adapter is trained whole."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard
from peft import (
    MODEL_TYPE_TO_PEFT_MODEL_MAPPING,
    PeftConfig,
    PeftMixedModel,
    PeftModel,
    PeftType,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..model_card import model_card
from ..modeling.checkpoint_loading import read_json
from ..modeling.hub_upload import create, finish_repository, upload
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.own_tokenizer import save_tokenizer
from ..modeling.task_editing import drop_calibration


def peft_config(settings: Mapping[str, Any], model: MtBertForMultiTask) -> PeftConfig:
    """Convert a recipe's `peft` section to a config of peft.

    `target_modules` selects modules of the encoder: as a list, by the last part of their names; as a text, by a regular
    expression that matches their names. Task adapters, whose projections have the same names, are never selected.

    Args:
        settings: `type` (`lora` if absent, or another method of peft) and any field of its config.

    Raises:
        ValueError: for an unknown type or field, with the known ones; or if `modules_to_save` is given.
    """
    values = dict(settings)
    name = str(values.pop("type", "lora")).upper()
    types = sorted(kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
    if name not in PeftType.__members__ or PeftType[name] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise InputError(f"peft.type is {name.lower()!r}, but must be one of: {', '.join(types)}")
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[name]]
    fields = config_class.__dataclass_fields__
    if unknown := [key for key in values if key not in fields]:
        has = ", ".join(fields)
        raise InputError(f"peft has {unknown}, which {config_class.__name__} does not know; it has: {has}")
    if values.get("modules_to_save"):
        raise InputError("peft.modules_to_save: every head and adapter is trained and saved anyway; drop it")
    for key in ("target_modules", "feedforward_modules"):
        if values.get(key) is not None:
            values[key] = _anchored(values[key])
    with _in_one_line(settings):
        return config_class(**values)


CODE_KEYS = ("megatron_config", "tokenizer_kwargs")  # peft imports or loads the code that these name


def load_adapter(model: MtBertForMultiTask, folder: str | os.PathLike[str]) -> PeftModel:
    """Load a peft adapter from a folder into a model, for prediction.

    Raises:
        ValueError: if the folder has no safetensors weights, or if adapter_config.json names code.
    """
    folder = Path(folder)
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(f"{folder} has no adapter_model.safetensors, and pickles are not read; save it again")
    settings = read_json(folder / "adapter_config.json")
    if named := [key for key in CODE_KEYS if settings.get(key)]:
        raise InputError(f"{folder}/adapter_config.json names code ({', '.join(named)}), which is not run; drop it")
    return PeftModel.from_pretrained(model, str(folder))


def load_final_weights(model: MtBertForMultiTask | PeftModel, folder: str | os.PathLike[str]) -> None:
    """Load the final weights of a run from its folder into a model with the same tasks and settings."""
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), model.active_adapters[0], is_trainable=True)
    else:
        model.load_state_dict(MtBertForMultiTask.from_pretrained(folder).state_dict())


@contextmanager
def _in_one_line(settings: Mapping[str, Any]) -> Iterator[None]:
    """Within, any error of peft becomes an InputError that names the recipe's key."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"peft is {dict(settings)}, which peft does not take: {reason}; see its manual") from error


def _anchored(target: str | list[str] | tuple[str, ...]) -> str:
    """A regular expression that matches these modules inside the encoder only."""
    if isinstance(target, str):
        return rf"encoder\.(?:{target.removeprefix('encoder.')})"
    return rf"encoder\.(?:.*\.)?(?:{'|'.join(target)})"


class MtBertPeftModel(PeftModel):
    """A model inside peft that also saves the model's config and tokenizer, and writes its own model card."""

    def save_pretrained(self, save_directory: str, *args: Any, is_main_process: bool = True, **kwargs: Any) -> None:
        """Save trained weights, both configs, and the tokenizer if there is one; see `PeftModel.save_pretrained`."""
        kwargs["is_main_process"] = is_main_process
        super().save_pretrained(save_directory, *args, **kwargs)
        if is_main_process:
            self.config.save_pretrained(save_directory)
            inner: Any = self.get_base_model()
            save_tokenizer(inner, save_directory)

    def create_or_update_model_card(self, output_dir: str) -> None:
        """Write no card: peft's names the encoder's folder on this machine. `push_to_hub` writes another."""

    def push_to_hub(  # type: ignore[override]  # the rest is given by name
        self,
        repo_id: str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        card: ModelCard | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        tags: list[str] | None = None,
        commit_message: str = "Upload adapter",
        **options: Any,
    ) -> CommitInfo:
        """Upload the trained weights, also those of heads and adapters, both configs, a card, and the tokenizer.

        Args:
            repo_id: `user/name`; created if it does not exist.
            options: `revision`, `create_pr`, `commit_description`, as in transformers.

        Raises:
            PushError: if the hub refuses or cannot be reached; it says why and what to do.
        """
        repo_id = create(repo_id, private, token)
        folder = tempfile.TemporaryDirectory()
        self.save_pretrained(folder.name)
        finish_repository(folder.name, tokenizer, card or model_card(self, repo_id, tags=tags))
        return upload(folder, repo_id, token=token, commit_message=commit_message, **options)


def wrap(model: MtBertForMultiTask, settings: Mapping[str, Any]) -> MtBertPeftModel:
    """Wrap a model in peft, ready for training.

    Raises:
        ValueError: for settings that peft refuses or that match no module of the encoder; see `peft_config`.
    """
    config = peft_config(settings, model)
    with _in_one_line(settings):
        inside = get_peft_model(model, config)
    return adopt(inside)


def adopt(model: PeftModel) -> MtBertPeftModel:
    """Make a peft model train and save every head and task adapter whole.

    The model is changed in place: heads and adapters are added to `modules_to_save` of its config, and layers of peft
    inside of them are merged.

    Raises:
        ValueError: for a peft model whose training would have no effect, or whose trained weights would not be saved.
    """
    base = model.get_base_model()
    if not isinstance(base, MtBertForMultiTask):
        raise InputError(
            f"peft is around a {type(base).__name__}; put it around the model: get_peft_model(model, config)"
        )
    name, config = _trained_adapter(model)
    added = []
    for parent, modules in (("heads", base.heads), ("adapters", base.adapters)):
        for task, module in modules.items():
            if not isinstance(module, ModulesToSaveWrapper):
                _merge_layers(module, f"{parent}.{task}")
                modules[task] = module = ModulesToSaveWrapper(module, name)
            module.update(name)
            module.set_adapter(name)
            added.append(f"{parent}.{task}")
    if not any(isinstance(module, BaseTunerLayer) for module in base.encoder.modules()):
        raise InputError(f"peft: target_modules ({config.target_modules}) name no module of the encoder; name some")
    config.modules_to_save = sorted({*(config.modules_to_save or ()), *added})
    config.task_type = None  # peft's classes for a task type do not pass task_ids on
    if type(model) in (PeftModel, *MODEL_TYPE_TO_PEFT_MODEL_MAPPING.values()):
        model.__class__ = MtBertPeftModel
    weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).values()
    saved = {weight.data_ptr() for weight in weights}
    lost = [key for key, weight in model.named_parameters() if weight.requires_grad and weight.data_ptr() not in saved]
    if lost:
        first = ", ".join(lost[:3])
        raise InputError(
            f"peft: {len(lost)} weights would be trained, but not saved ({first}, …); name their modules in "
            "modules_to_save of peft's config, or freeze them"
        )
    adopted: Any = model
    return adopted


def _trained_adapter(model: PeftModel) -> tuple[str, Any]:
    """Name and config of the trained adapter; raise InputError if its training would have no effect."""
    names = model.active_adapters
    if len(names) != 1:
        raise InputError(f"peft: the adapters {names} are active; activate the one to train: model.set_adapter(name)")
    config: Any = model.peft_config[names[0]]
    if config.is_prompt_learning or config.is_adaption_prompt:
        kind = config.peft_type.value.lower()
        raise InputError(f"peft: {kind} adds tokens to the input, which this model does not take; use lora, ia3, …")
    if config.inference_mode:
        raise InputError(f"peft: adapter {names[0]!r} was loaded for inference; load it with is_trainable=True")
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if any(layer.merged for layer in layers):
        raise InputError("peft: its weights are merged into the encoder's; call model.unmerge_adapter() first")
    if any(layer.disable_adapters for layer in layers):
        raise InputError("peft: its layers are switched off; call model.base_model.enable_adapter_layers() first")
    return names[0], config


def _merge_layers(module: nn.Module, where: str) -> None:
    """Merge layers of peft inside of a head or adapter, which is trained whole."""
    for name, child in module.named_children():
        if isinstance(child, AuxiliaryTrainingWrapper):
            raise InputError(
                f"peft: modules_to_save names a part of {where}; drop it, as heads and adapters are saved whole"
            )
        if isinstance(child, BaseTunerLayer):
            child.merge()
            setattr(module, name, child.get_base_layer())
        else:
            _merge_layers(child, where)


def trainable(model: Any) -> Any:
    """Check that a model's trained weights are saved and load again; return the model, adopted if it is a peft model.

    A calibration is dropped with a warning, because training changes the weights that it was fitted for.

    Raises:
        ValueError: for a model that peft changed in other ways than `get_peft_model(model, config)`, or that has no
            trained weight.
    """
    if isinstance(model, PeftModel):
        model = adopt(model)
    elif isinstance(model, PeftMixedModel):
        raise InputError("peft: a mixed model can not be saved; leave out mixed=True")
    elif any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise InputError(
            "the model has layers of peft inside, and would not load again; use get_peft_model(model, config) instead "
            "of add_adapter, inject_adapter_in_model or peft around the encoder alone"
        )
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("no weight of the model is trained; call model.requires_grad_(True), or freeze less")
    weights = {name: list(head.parameters()) for name, head in model.heads.items()}  # of a cosine head there are none
    frozen = [name for name, own in weights.items() if own and not any(weight.requires_grad for weight in own)]
    if frozen:
        warnings.warn(f"the heads of {frozen} are frozen, and stay as they are (requires_grad is False)", stacklevel=3)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if calibrated := drop_calibration(inner):
        again = "fit it again afterwards: mtbert calibrate"
        warnings.warn(
            f"training changes the weights: the calibration of {calibrated} is dropped; {again}", stacklevel=3
        )
    return model


def remember_tokenizer(model: MtBertForMultiTask | PeftModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Let a model, also one inside peft, predict with this tokenizer after its training."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if tokenizer is not None:
        inner._tokenizer = tokenizer
