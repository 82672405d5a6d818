"""The training methods: each is one file of this folder and one line of `REGISTRY`."""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Method

# Section (or key) of a recipe → module and class of its settings, in the order in which the trainer calls the methods.
# Modules are imported on first use, so that the command line knows the sections without importing torch.
REGISTRY: dict[str, str | type] = {
    "distillation": "distillation:Distillation",
    "group_weights": "group_weights:GroupWeights",
    "rdrop": "rdrop:RDrop",
    "smart": "smart:Smart",
    "proximal": "proximal:Proximal",
    "simcse": "simcse:SimCSE",
    "loss": "uncertainty:LossSettings",
    "surgery": "surgery:Surgery",
    "averaging": "averaging:Averaging",
    "optimizer.per_task": "per_task_optimizer:PerTask",
    "affinity": "affinity:Affinity",
}


def sections() -> list[str]:
    """The sections of a recipe that set a method each."""
    return [section for section in REGISTRY if "." not in section]


def method_module(section: str) -> ModuleType:
    """The module of a method; its `RULES`, if any, list the settings that the method excludes."""
    place = REGISTRY[section]
    if isinstance(place, type):
        return import_module(place.__module__)
    return import_module(f".{place.partition(':')[0]}", __name__)


def settings_class(section: str) -> Any:
    """The settings class of a method; its fields are the keys of the section."""
    place = REGISTRY[section]
    return place if isinstance(place, type) else getattr(method_module(section), place.partition(":")[2])


def register_method(section: str, settings: type) -> None:
    """Register a training method of your own, for recipes and for `MtBertTrainer(methods=[...])`.

    Args:
        section: the recipe key of the method; equal to the method's `section`.
        settings: a dataclass whose fields are the keys of the section, with the methods `problems()`, which returns a
            list of `Problem`, and `build()`, which returns the `Method`.

    Raises:
        InputError: if the section is taken, or the class is not such a dataclass.
    """
    from ...errors import InputError
    from ...modeling.own_parts import put

    if not is_dataclass(settings) or not hasattr(settings, "build"):
        raise InputError(f"the settings of {section!r} are {settings!r}, but must be a dataclass with build()")
    taken = [name for name, place in REGISTRY.items() if isinstance(place, str)]
    put(REGISTRY, section, settings, "training method", taken)


def method_classes() -> list[type[Method]]:
    """The class of each built-in method, in the order of the registry."""
    from .base import Method

    methods = []
    for section, place in REGISTRY.items():
        if isinstance(place, str):
            module = method_module(section)
            classes = [
                value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Method)
            ]
            methods.append(
                next(method_class for method_class in classes if getattr(method_class, "section", None) == section)
            )
    return methods
