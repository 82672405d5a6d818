"""Invariant 9: a model that was saved and loaded has the same logits."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

import mtbert  # registers the auto classes
from mtbert.data.collation import MultiTaskDataset
from mtbert.data.sampling import Step
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec

EVERY_HEAD = (
    TaskSpec("deep", labels=4, pooling="pooler", head={"type": "mlp", "layers": 2, "hidden_size": 24, "dropout": 0.1}),
    TaskSpec("reader", range=(1, 5), head={"type": "attention", "attention_heads": 2, "output": "sigmoid"}),
    TaskSpec("angle", range=(0, 1), texts=2, pair="siamese", head={"type": "cosine", "layers": 1, "output": "relu"}),
    TaskSpec("product", labels=["a", "b"], texts=2, pair="siamese", head={"features": "u;v;|u-v|;u*v"}),
)


@pytest.fixture(params=["fixture tasks", "every head"])
def model(request, make_model) -> MtBertForMultiTask:
    model = make_model(EVERY_HEAD if request.param == "every head" else None)
    with torch.no_grad():  # nothing may be at an initial value that a loader could have made itself
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@torch.no_grad()
def realigned(model):
    """The same model with its weights where torch would put them.

    from_pretrained maps them from the file, and matrix products of another alignment may round in another order.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()


@torch.no_grad()
def logits(model) -> dict[str, torch.Tensor]:
    inputs = torch.randint(5, 28, (6, 11), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(11) < torch.tensor([3, 11, 7, 1, 9, 4])[:, None]).long()
    return realigned(model)(input_ids=inputs, attention_mask=mask, tasks="all").task_logits


def assert_same_logits(one, other):
    one, other = logits(one), logits(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def strings(values) -> list[str]:
    if isinstance(values, dict):
        return [each for pair in values.items() for value in pair for each in strings(value)]
    if isinstance(values, list):
        return [each for value in values for each in strings(value)]
    return [values] if isinstance(values, str) else []


def test_a_loaded_model_has_the_same_logits_of_every_task(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = MtBertForMultiTask.from_pretrained(tmp_path)
    assert loaded.tasks == model.tasks
    assert loaded._packs
    assert_same_logits(model, loaded)


def test_every_weight_is_saved_once_and_nothing_else(model, tmp_path):
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    weights = dict(model.named_parameters())
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], weights[name]) for name in saved)


def test_saving_twice_changes_nothing(model, tmp_path):
    model.save_pretrained(tmp_path / "one")
    MtBertForMultiTask.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_saved_folder_has_safetensors_and_json_only(model, tmp_path):
    model.save_pretrained(tmp_path)
    endings = {os.path.splitext(name)[1] for name in os.listdir(tmp_path)}
    assert endings == {".json", ".safetensors"}


def test_a_saved_config_has_no_path_of_this_machine(model, encoder_dir, tmp_path):
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    for path in (encoder_dir, str(tmp_path), os.path.expanduser("~"), os.getcwd()):
        assert path not in text
    assert not [value for value in strings(json.loads(text)) if os.path.isabs(value)]


def test_the_auto_classes_load_it(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "mtbert"
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is MtBertForMultiTask
    assert_same_logits(model, loaded)


@torch.no_grad()
def test_a_loaded_model_has_the_same_logits_on_a_mixed_batch(make_model, tasks, encoded, tmp_path):
    model = make_model().eval()
    model.save_pretrained(tmp_path)
    step = Step(tuple((task_id, torch.arange(task_id + 2).numpy()) for task_id in range(len(tasks))))
    batch = MultiTaskDataset(tasks, encoded(), token_types=True).__getitems__(step)
    batch = {key: value for key, value in batch.items() if key not in ("labelled", "rows")}
    one, other = (realigned(each)(**batch) for each in (model, MtBertForMultiTask.from_pretrained(tmp_path)))
    assert all(torch.equal(one.task_logits[task.name], other.task_logits[task.name]) for task in tasks)


def test_a_trained_model_is_saved_without_pickles(still_model, make_trainer, tmp_path):
    trainer = make_trainer(still_model(), tmp_path, mtbert.Schedule("uniform", steps_per_epoch=2), num_train_epochs=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    endings = {os.path.splitext(name)[1] for name in os.listdir(tmp_path / "final")}
    assert endings <= {".json", ".safetensors", ".txt", ".jinja"}
    assert_same_logits(trainer.model, MtBertForMultiTask.from_pretrained(tmp_path / "final"))
