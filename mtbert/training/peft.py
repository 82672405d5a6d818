"""LoRA and the rest of peft: their methods act on the encoder, heads and adapters stay as they are."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import PreTrainedTokenizerBase

from ..card import model_card
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.sharing import create, finish_repository, upload


def peft_config(settings: Mapping[str, Any], model: MtBertForMultiTask) -> PeftConfig:
    """A recipe's `peft` section → a config of peft.

    `target_modules` names modules of the encoder: every one whose last name is in the list, or whose name a text
    matches as a regular expression. Adapters of ours, whose projections have the same names, are left alone.

    Args:
        settings: `type` (`lora` if absent, or another method of peft) and any field of its config.

    Raises:
        ValueError: for an unknown type or field, with the known ones; or if `modules_to_save` is given.
    """
    values = dict(settings)
    name = str(values.pop("type", "lora")).upper()
    known = sorted(kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
    if name not in PeftType.__members__ or PeftType[name] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ValueError(f"peft.type is {name.lower()!r}, but must be one of: {', '.join(known)}")
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[name]]
    fields = config_class.__dataclass_fields__
    if unknown := [key for key in values if key not in fields]:
        has = ", ".join(fields)
        raise ValueError(f"peft has {unknown}, which {config_class.__name__} does not know; it has: {has}")
    if values.get("modules_to_save"):
        raise ValueError("peft.modules_to_save: every head and adapter is trained and saved anyway; drop it")
    for key in ("target_modules", "feedforward_modules"):
        if values.get(key) is not None:
            values[key] = _anchored(values[key])
    own = [f"heads.{task}" for task in model.heads] + [f"adapters.{task}" for task in model.adapters]
    with _in_one_line(settings):
        return config_class(**values, modules_to_save=own)


CODE_KEYS = ("megatron_config", "tokenizer_kwargs")  # peft imports or loads what these name


def load_adapter(model: MtBertForMultiTask, folder: str | os.PathLike) -> PeftModel:
    """A model with what peft has saved in a folder, ready to predict.

    Raises:
        ValueError: if there are no weights but pickles, or adapter_config.json names code.
    """
    folder = Path(folder)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ValueError(f"{folder} has no adapter_model.safetensors, and pickles are not read; save it again")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if named := [key for key in CODE_KEYS if settings.get(key)]:
        raise ValueError(f"{folder}/adapter_config.json names code ({', '.join(named)}), which is not run; drop it")
    return PeftModel.from_pretrained(model, str(folder))


@contextmanager
def _in_one_line(settings: Mapping[str, Any]) -> Iterator[None]:
    """What peft refuses, with errors of many types, as one ValueError that names the recipe's key."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"peft is {dict(settings)}, which peft does not take: {said}; see its manual") from error


def _anchored(target: str | list[str] | tuple[str, ...]) -> str:
    """A regular expression for these modules of the encoder, and of nothing else."""
    if isinstance(target, str):
        return rf"encoder\.(?:{target.removeprefix('encoder.')})"
    return rf"encoder\.(?:.*\.)?(?:{'|'.join(target)})"


class MtBertPeftModel(PeftModel):
    """A model inside peft that says beside its adapter what its heads are, and is pushed with a card of its own."""

    def save_pretrained(self, save_directory: str, *args, is_main_process: bool = True, **kwargs) -> None:
        """Save what was trained, adapter_config.json and the model's config.json; see `PeftModel.save_pretrained`."""
        super().save_pretrained(save_directory, *args, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            self.config.save_pretrained(save_directory)

    def create_or_update_model_card(self, output_dir: str) -> None:
        """No card: peft's names the encoder's folder on this machine; `push_to_hub` writes one without."""

    def push_to_hub(
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
        """Upload what was trained (every head and adapter among it), both configs, a card, and the tokenizer if given.

        Args:
            repo_id: `user/name`, made if it is not there.
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
    """The whole model inside peft, ready to be trained.

    Raises:
        ValueError: for settings that peft refuses, or that no module of the encoder fits; see `peft_config`.
    """
    config = peft_config(settings, model)
    with _in_one_line(settings):
        inside = get_peft_model(model, config)
    inside.__class__ = MtBertPeftModel
    return inside
