"""The training methods: each is a file of this folder and one line of `REGISTRY`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Section of a recipe → module and class of its settings, in the order in which the trainer calls the methods.
# They are imported when they are asked for, so that the command line needs no torch to know the sections.
REGISTRY: dict[str, str] = {
    "distillation": "distillation:Distillation",
    "smart": "smart:Smart",
    "proximal": "proximal:Proximal",
    "surgery": "surgery:Surgery",
    "averaging": "averaging:Averaging",
}


def settings_class(section: str) -> Any:
    """The class whose fields are the keys of a method's section."""
    module, _, name = REGISTRY[section].partition(":")
    return getattr(import_module(f".{module}", __name__), name)
