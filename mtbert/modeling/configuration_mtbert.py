"""The config of a checkpoint: its encoder, its tasks with their heads, and its adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .config_checks import encoder_config, plain, refuse_sizes
from .display import brief
from .errors import InputError
from .limits import beyond
from .task_spec import AdapterSpec, HeadSpec, TaskSpec, _build


def list_tasks(tasks: Any) -> list[Any]:
    """Tasks in any form that users may give, as a list: one, several, or a mapping of names to the other fields.

    Raises:
        InputError: for any other form.
    """
    if isinstance(tasks, Mapping) and "name" not in tasks:
        if not all(isinstance(values, Mapping) for values in tasks.values()):
            raise InputError("tasks is a mapping, but its values are not; write {name: {'labels': …}, …}, or a list")
        return [{"name": name, **values} for name, values in tasks.items()]
    if isinstance(tasks, TaskSpec | Mapping):
        return [tasks]
    if isinstance(tasks, str) or not isinstance(tasks, Iterable):
        raise InputError(f"tasks is {brief(tasks)}, but must be a TaskSpec, a list of them, or {{name: fields}}")
    return list(tasks)


class MtBertConfig(PreTrainedConfig):
    """Configuration of `MtBertForMultiTask`.

    Args:
        encoder: configuration of the shared encoder, any text encoder that is part of transformers.
        tasks: the tasks (TaskSpec, or their fields as mappings), in the order of their ids.
        adapter: the adapter of each task (AdapterSpec, or its fields as a mapping); None: no adapter.
        packed: whether to encode without padding, if the encoder's family supports it (same outputs, faster).
    """

    model_type = "mtbert"
    sub_configs = {"encoder": AutoConfig}

    if TYPE_CHECKING:  # what they are once the config is made
        encoder: Any  # PreTrainedConfig
        tasks: list[Any]
        adapter: Any  # the fields of an AdapterSpec, or None
    else:
        encoder: dict | PreTrainedConfig | None = None
        tasks: list | None = None
        adapter: dict | None = None
    packed: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if not type(self).__module__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
            for key in ("auto_map", "custom_pipelines"):  # only for code that was loaded from the checkpoint
                kwargs.pop(key, None)
        if isinstance(self.encoder, dict):
            self.encoder = encoder_config(self.encoder)
        if not isinstance(self.tasks, Sequence | None) or isinstance(self.tasks, str):
            raise InputError(f"tasks is {self.tasks!r}, but must be a list of tasks")
        self.packed = plain(self.packed)
        if not isinstance(self.packed, bool):
            raise InputError(f"packed is {self.packed!r}, but must be true or false")
        if sentences := beyond("tasks", len(self.tasks or ()), "there are", " tasks"):
            raise InputError(sentences[0])
        refuse_sizes(kwargs, "")
        specs = [TaskSpec.from_dict(task) for task in self.tasks or ()]
        names = [spec.name for spec in specs]
        if repeated := sorted(name for name, number in Counter(names).items() if number > 1):
            raise InputError(f"tasks: the names {repeated} are given twice; each task needs its own")
        self.tasks = [spec.to_dict() for spec in specs]
        if self.adapter is not None:
            self.adapter = _build(AdapterSpec, "adapter", self.adapter).to_dict()
            refuse_first_only(self.adapter, specs)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a config from a dict, as in transformers; errors name the checkpoint.

        Raises:
            ValueError: for invalid fields, and for those of another version.
        """
        try:
            return super().from_dict(config_dict, **kwargs)
        except Exception as error:  # transformers' own checks raise many types
            name = kwargs.get("name_or_path")
            where, by = f"{name}/config.json: " if name else "", config_dict.get("transformers_version")
            raise InputError(f"{where}{error}; take the versions that wrote it (transformers {by})") from error

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The encoder's config; transformers changes it when it resizes the embeddings."""
        return super().get_text_config(decoder, encoder) if self.encoder is None else self.encoder

    @property
    def task_specs(self) -> tuple[TaskSpec, ...]:
        """The tasks as frozen TaskSpec objects."""
        return tuple(TaskSpec.from_dict(task) for task in self.tasks)

    @property
    def adapter_spec(self) -> AdapterSpec | None:
        """The adapter as a frozen AdapterSpec object."""
        return None if self.adapter is None else AdapterSpec(**self.adapter)

    @property
    def hidden_size(self) -> int:
        """Width of the encoder."""
        return self.encoder.hidden_size


def refuse_first_only(adapter: Mapping[str, Any], tasks: Iterable[TaskSpec]) -> None:
    """Raise InputError for tasks that read every token, if the adapter changes the state of the first token alone."""
    reading = [task.name for task in tasks if task.kind.units.reads_tokens and task.adapter]
    if reading and adapter["type"] == "pal_top" and adapter["input"] == "cls":
        raise InputError(
            f"adapter.input is 'cls', so that pal_top changes the state of the first token alone, but the tasks "
            f"{reading} read every token; set input: all, or adapter: false for these tasks"
        )


__all__ = ["AdapterSpec", "HeadSpec", "MtBertConfig", "TaskSpec"]
