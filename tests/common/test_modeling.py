"""transformers' `ModelTesterMixin` on a model of ours, for encoders of four families: `make common`.

MTBERT_COMMON is the folder `tests` of transformers' source distribution, which lacks two packages that the module of
the mixin imports: stand-ins take their place. `not_applicable.md` lists the cases that are expected to fail; one that
passes makes the run fail, so that the list stays true.
"""

from __future__ import annotations

import fnmatch
import importlib
import os
import re
import sys
import unittest
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch
from families import family_config

from mtbert import MtBertConfig, MtBertForMultiTask, TaskSpec

FAMILIES = ("bert", "roberta", "modernbert", "mpnet")
TABLE = Path(__file__).with_name("not_applicable.md")
LACKING = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}


def load_common(folder: str) -> ModuleType:
    """The module `test_modeling_common` of a folder of transformers' tests."""
    package = sys.modules["transformers_common"] = ModuleType("transformers_common")
    package.__path__ = [folder]
    for name, mixin in LACKING.items():
        parent = ModuleType(f"transformers_common.{name.partition('.')[0]}")
        parent.__path__ = []
        module = ModuleType(f"transformers_common.{name}")
        setattr(module, mixin, type(mixin, (), {}))
        sys.modules |= {parent.__name__: parent, module.__name__: module}
    return importlib.import_module("transformers_common.test_modeling_common")


common = load_common(os.environ["MTBERT_COMMON"])


class Inputs:
    """Makes the configurations and inputs that the mixin asks for."""

    batch_size, seq_length, is_training = 3, 7, True
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4

    def __init__(self, family: str):
        self.family = family

    def get_config(self) -> MtBertConfig:
        layers = {"num_hidden_layers": 2, "hidden_dropout_prob": 0.1}
        return MtBertConfig(encoder=family_config(self.family, **layers), tasks=[TaskSpec("t", labels=3).to_dict()])

    def prepare_config_and_inputs_for_common(self) -> tuple[MtBertConfig, dict[str, torch.Tensor]]:
        ids = common.ids_tensor([self.batch_size, self.seq_length], 90) + 5  # no token of the tokenizer's own
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
        return self.get_config(), {"input_ids": ids, "attention_mask": mask}


def not_applicable(family: str) -> list[tuple[str, str]]:
    """(pattern of names, reason) of the cases that the table lists for a family."""
    rows = re.findall(r"^\| `(test_\S+)` \| ([^|]+) \| ([^|]+) \|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    return [(case, reason) for case, families, reason in rows if families == "all" or family in families.split(", ")]


def make_case(family: str) -> type:
    """The mixin's cases for a family, those of the table marked as failing."""

    class Case(common.ModelTesterMixin, unittest.TestCase):
        all_model_classes = (MtBertForMultiTask,)

        def setUp(self):
            self.model_tester = Inputs(family)

        def subTest(self, *args, **kwargs):
            return nullcontext()  # there is one class of models, and a case fails as a whole

        def _prepare_for_class(self, inputs, model_class, return_labels=False):
            inputs = super()._prepare_for_class(inputs, model_class, return_labels)
            return inputs | ({"labels": torch.tensor([0, 2, 1])} if return_labels else {})

    for name in filter(re.compile("test_").match, dir(Case)):
        if not callable(getattr(Case, name)):
            continue
        for pattern, reason in not_applicable(family):
            if fnmatch.fnmatch(name, pattern):
                setattr(Case, name, pytest.mark.xfail(reason=reason, strict=True)(getattr(Case, name)))
    Case.__name__ = Case.__qualname__ = f"Test{family.title()}"
    return Case


for each in FAMILIES:
    globals()[f"Test{each.title()}"] = make_case(each)
del each
