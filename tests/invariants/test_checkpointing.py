"""Gradient checkpointing, alone and with accumulation, trains to the weights of neither, whatever else is on."""

from __future__ import annotations

import pytest
import torch

from mtbert.data.sampling import Schedule
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.rdrop import RDrop
from mtbert.training.methods.simcse import SimCSE
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import METHODS, Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.peft import wrap

MIXED = Schedule("annealed", mixed=True, steps_per_epoch=3)
SGD = {"optim": "sgd", "learning_rate": 0.05}  # its update is linear in the gradient, so that rounding stays rounding
ADAMW = {"learning_rate": 1e-3, "adam_epsilon": 1.0}  # nearly linear with such an ε

# schedule, further arguments of the trainer, settings
RUNS = {
    **{name: (Schedule(name, steps_per_epoch=3), {}, SGD) for name in ("annealed", "round_robin", "sequential")},
    **{name: (Schedule(name, steps_per_epoch=3), {}, SGD) for name in ("proportional", "sqrt", "min_annealed")},
    "uniform": (Schedule("uniform", steps_per_epoch=3), {}, SGD),
    "temperature": (Schedule("temperature", temperature=3, steps_per_epoch=3), {}, SGD),
    "simultaneous": (Schedule("simultaneous", steps_per_epoch=3), {}, SGD),
    "mixed": (MIXED, {}, SGD),
    **{method: (MIXED, {"surgery": Surgery(method, c=0.5 if method == "cagrad" else None)}, SGD) for method in METHODS},
    "smart": (MIXED, {"smart": Smart(radius=1e-2, step_size=1e-1)}, SGD),
    "rdrop": (MIXED, {"methods": [RDrop()]}, SGD),
    "simcse": (MIXED, {"methods": [SimCSE()]}, SGD),
    "proximal": (MIXED, {"proximal": Proximal()}, SGD),
    "averaging": (MIXED, {"averaging": Averaging(decay=0.5)}, SGD),
    "uncertainty": (MIXED, {"loss": LossSettings("uncertainty")}, SGD),
    "separate": (Schedule("round_robin", steps_per_epoch=5), {"optimizer": OptimizerSettings("separate")}, ADAMW),
    "rates": (
        Schedule("round_robin", steps_per_epoch=5),
        {"optimizer": OptimizerSettings("rates", head_learning_rate=0.1, layer_decay=0.9)},
        SGD,
    ),
}
ADAPTERS = ({"type": "pal", "size": 8, "heads": 2}, {"type": "low_rank", "size": 8}, {"type": "houlsby", "size": 8})
_UNLIKE = ("smart", "simcse")  # noise and negatives are of a micro-batch


def train(make_trainer, model, folder, run, batch: int, accumulation: int, checkpointing: bool):
    """Weights after training, and how often a layer computed."""
    schedule, own, settings = run
    steps = {"max_steps": schedule.steps_per_epoch, "gradient_checkpointing": checkpointing, **settings}
    steps |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    trainer = make_trainer(model, folder, schedule, own=own, **steps)
    calls: list[int] = []
    place = "encoder.encoder.layer.0.intermediate"
    layer = next(module for name, module in model.named_modules() if name.endswith(place))
    layer.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}, len(calls)


def compare(make_trainer, make, folder, run, accumulates: bool = True):
    start = {name: weight.clone() for name, weight in make().state_dict().items()}
    expected, once = train(make_trainer, make(), folder, run, 8, 1, False)
    assert max(float((expected[name] - start[name]).abs().max()) for name in start) > 1e-4
    for batch, accumulation in ((8, 1), (4, 2))[: 2 if accumulates else 1]:
        found, often = train(make_trainer, make(), folder, run, batch, accumulation, True)
        assert often > once  # so checkpointing did happen
        for name, weight in expected.items():
            torch.testing.assert_close(
                found[name], weight, rtol=1e-5, atol=5e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("name", RUNS)
def test_the_same_weights_as_without(name, still_model, make_trainer, tmp_path):
    compare(make_trainer, still_model, tmp_path, RUNS[name], name not in _UNLIKE)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter["type"])
def test_with_adapters(adapter, make_model, still_tasks, make_trainer, tmp_path):
    def make():
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return make_model(still_tasks, adapter={**adapter, "init": "published"}, **still)

    compare(make_trainer, make, tmp_path, RUNS["mixed"])


@pytest.mark.parametrize("kind", [{"type": "lora", "r": 4, "target_modules": ["query", "value"]}, {"type": "ia3"}])
def test_with_peft(kind, still_model, make_trainer, tmp_path):
    if kind["type"] == "ia3":
        kind = {**kind, "target_modules": ["query", "value"], "feedforward_modules": []}

    def make():
        torch.manual_seed(0)
        return wrap(still_model(), kind)

    compare(make_trainer, make, tmp_path, RUNS["mixed"])
