"""Folders that answer without torch: a checkpoint's graphs, tokenizer, decision rules and an example."""

from .exported_model import ExportedModel, is_export

__all__ = ["ExportedModel", "is_export"]
