"""A step uses the fused optimizer, frees gradients, and casts each weight to half precision once a pass."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace

import pytest
import torch
from families import family_config
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from mtbert.data.sampling import Schedule
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments, PretrainingArguments
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.settings import MultiTaskSettings
from mtbert.training.trainer import MtBertTrainer

EVERY = Schedule("simultaneous")
WAYS = {
    "plain": ({}, ()),
    "groups of parts": ({"optimizer": OptimizerSettings(layer_decay=0.9, head_learning_rate=1e-3)}, ()),
    "an optimizer of each task": (
        {"optimizer": OptimizerSettings(per_task="separate"), "schedule": Schedule("round_robin")},
        (),
    ),
    "a group of a method": ({"schedule": EVERY}, (LossSettings("uncertainty"),)),
    "surgery": ({"schedule": EVERY}, (Surgery(),)),
}


class Watch(TrainerCallback):
    """Notes after each step which gradients are left, and whether autocast keeps casts."""

    def __init__(self):
        self.left, self.fused = [], set()

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.left.append([name for name, parameter in model.named_parameters() if parameter.grad is not None])
        self.fused |= {group["fused"] for group in optimizer.param_groups}


@pytest.fixture
def train(make_model, make_args, splits, tokenizer):
    def run(settings=None, methods=(), model=None, **arguments):
        watch = Watch()
        trainer = MtBertTrainer(
            model or make_model(),
            make_args(max_steps=2, **arguments),
            train_dataset=splits(),
            processing_class=tokenizer,
            settings=MultiTaskSettings(**settings or {"schedule": EVERY}),
            methods=methods,
            callbacks=[watch],
        )
        trainer.train()
        return trainer, watch

    return run


@pytest.mark.parametrize("name", WAYS)
def test_the_optimizer_is_fused_and_gradients_are_freed(name, train):
    trainer, watch = train(*WAYS[name])
    inner = trainer.optimizer
    while hasattr(inner, "optimizer") or hasattr(inner, "inner"):
        inner = getattr(inner, "optimizer", None) or inner.inner
    assert type(inner) is torch.optim.AdamW
    assert watch.fused == {True}
    assert watch.left == [[], []]
    for method in trainer.methods.values():
        if hasattr(method, "variances"):  # zeroed as the next step begins
            method.begin_step(())
            assert all(parameter.grad is None for parameter in method.variances.parameters())


@pytest.mark.parametrize("kind", [MtBertTrainingArguments, PretrainingArguments])
def test_it_is_fused_by_default(kind, tmp_path):
    assert kind(str(tmp_path), report_to="none").optim == "adamw_torch_fused"


# ---- autocast ----


class Casts(TorchDispatchMode):
    """Counts the casts of each weight to bf16."""

    def __init__(self, model):
        super().__init__()
        self.names = {parameter.data_ptr(): name for name, parameter in model.named_parameters()}
        self.counts, self.cached = Counter(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to_half = function is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16
        if to_half and args[0].data_ptr() in self.names:
            self.counts[self.names[args[0].data_ptr()]] += 1
            self.cached.add(torch.is_autocast_cache_enabled())
        return function(*args, **kwargs)


def albert(tasks) -> MtBertForMultiTask:
    """Its three layers are one layer, so that each weight is used three times in a pass."""
    config = family_config("albert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MtBertForMultiTask(MtBertConfig(encoder=config, tasks=list(tasks)))


def test_each_weight_is_cast_once_a_pass(train, tasks):
    model, passes = albert(tasks), []
    forward = type(model).forward

    class Watched(type(model)):
        def forward(self, *args, **kwargs):
            with Casts(self) as casts:
                output = forward(self, *args, **kwargs)
            passes.append(casts)
            return output

    model.__class__ = Watched
    train(model=model, bf16=True)
    assert len(passes) == 2
    for casts in passes:
        assert casts.cached == {True}
        layers = {name: count for name, count in casts.counts.items() if "albert_layers" in name and "weight" in name}
        assert len(layers) >= 6 and set(layers.values()) == {1}


def test_kept_casts_lose_no_gradient(train, make_model, tasks):
    """Neither where activations are computed again, nor after a pass without gradients, of a teacher."""
    still = [replace(task, dropout=0.0) for task in tasks]
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    weights = []
    for checkpointing in (False, True):
        trainer, _ = train(
            model=make_model(still, **quiet), methods=(Proximal(),), bf16=True, gradient_checkpointing=checkpointing
        )
        weights.append(trainer.model.state_dict())
    before = make_model(still, **quiet).state_dict()
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
        if not name.endswith(("position_embeddings.weight", "key.bias")):  # no gradient, or one of 0
            assert not torch.equal(weight, before[name]), name
