"""The settings of a run, beyond those of transformers."""

import pytest
import torch
from transformers import TrainingArguments

from mtbert.training.arguments import MtBertTrainingArguments, PretrainingArguments


@pytest.mark.parametrize(("said", "device"), [("cpu:0", "cpu"), ("cpu", "cpu"), ("cuda:1", "cuda:1")])
@pytest.mark.parametrize("arguments", [MtBertTrainingArguments, PretrainingArguments])
def test_the_cpu_has_no_number_since_torch_2_11_loads_nothing_onto_it(arguments, said, device, tmp_path, monkeypatch):
    made = arguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    monkeypatch.setattr(TrainingArguments, "device", property(lambda self: torch.device(said)))
    assert made.device == torch.device(device)
