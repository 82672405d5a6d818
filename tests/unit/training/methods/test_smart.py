"""SMART in a model: gradients, precision, dropout, families of encoders, and what is logged."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from attached import attached
from transformers import AutoConfig

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.sampling import Schedule, Step
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.methods.divergences import divergence
from mtbert.training.methods.smart import NORMS, Smart, SmartPenalty, ascend
from mtbert.training.peft import wrap
from mtbert.training.trainer import MtBertTrainer

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PARTS = ((0, np.array([3, 0])), (1, np.array([7, 2])), (2, np.array([1, 8])), (3, np.array([4])))
every_norm = pytest.mark.parametrize("norm", NORMS)


@pytest.fixture
def still_tasks(tasks):
    return tuple(replace(task, dropout=0.0) for task in tasks)


@pytest.fixture
def still_model(make_model, still_tasks):
    """A function: a model without dropout."""
    return lambda **kwargs: make_model(still_tasks, **NO_DROPOUT, **kwargs).train()


@pytest.fixture
def make_trainer(make_trainer):
    """A function: model, settings of SMART, other settings → a trainer on the tiny data."""

    def make(model, smart=None, **settings) -> MtBertTrainer:
        defaults = {"per_device_train_batch_size": 8, "max_steps": 3}
        return make_trainer(model, schedule=Schedule("uniform", mixed=True), smart=smart, **defaults | settings)

    return make


@pytest.fixture
def batch(make_model, make_trainer, tasks):
    """A mixed batch, as the model takes it."""
    dataset = MultiTaskDataset(tasks, make_trainer(make_model()).train_dataset, token_types=True)
    found = dataset.__getitems__(Step(PARTS))
    return {key: value for key, value in found.items() if key not in ("labelled", "rows", "labels")}


def smart_values(model, batch, smart, own_reference=False):
    """ℓ_s by task, and the clean outputs, as in training."""
    penalty = ready(smart, model, batch)
    penalty.own_reference = own_reference
    outputs = model(**batch)
    return penalty.penalties(batch, outputs), outputs


def ready(smart, model, batch) -> SmartPenalty:
    """The penalty before the model's pass over a batch."""
    penalty = attached(SmartPenalty(smart), model)
    penalty.before_forward(batch)
    return penalty


@pytest.mark.parametrize("packed", [True, False])
def test_the_gradient_is_that_of_central_differences(still_model, batch, packed):
    model = still_model(packed=packed).double()
    penalty = ready(Smart(), model, batch)
    clean = {name: logits.detach() for name, logits in model(**batch).task_logits.items()}

    def loss(delta):
        return sum(rows.sum() for rows in penalty._divergences(penalty._logits(batch, delta), clean).values())

    delta = 0.05 * torch.randn(*batch["input_ids"].shape, 32, dtype=torch.float64)
    delta.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(delta), delta)
    with torch.no_grad():
        for _ in range(5):
            way = torch.randn_like(delta)
            change = (loss(delta + 1e-5 * way) - loss(delta - 1e-5 * way)) / 2e-5
            torch.testing.assert_close((gradient * way).sum(), change, rtol=1e-5, atol=1e-9)


@every_norm
def test_the_ascent_finds_more_than_noise_of_the_same_norm(still_model, batch, norm):
    model = still_model().double()
    smart = Smart(norm=norm, radius=1e-3, step_size=1e-2)
    found, outputs = smart_values(model, batch, smart)
    penalty = ready(smart, model, batch)
    for _ in range(5):
        noise = torch.randn(*batch["input_ids"].shape, 32, dtype=torch.float64)
        noise = smart.radius * noise / noise.norm(NORMS[norm], dim=-1, keepdim=True)
        of_noise = penalty._divergences(penalty._logits(batch, noise), outputs.task_logits)
        for name, rows in of_noise.items():
            assert found[name].mean() > 2 * rows.mean(), name


def test_more_steps_find_more(still_model, batch):
    model = still_model().double()
    values = []
    for steps in (1, 4):
        torch.manual_seed(5)
        found, _ = smart_values(model, batch, Smart(steps=steps, radius=1e-2, step_size=1e-2, norm="l2"))
        values.append(float(sum(rows.detach().sum() for rows in found.values())))
    assert values[1] > values[0]


def test_no_gradient_reaches_the_weights_in_the_ascent(still_model, batch):
    model = still_model()
    model.heads["stars"].requires_grad_(False)
    trained = [each.requires_grad for each in model.parameters()]
    smart_values(model, batch, Smart())
    assert all(each.grad is None for each in model.parameters())
    assert [each.requires_grad for each in model.parameters()] == trained


def test_the_penalty_trains_through_both_passes(still_model, batch):
    """Its gradient is that of ℓ_s(f(x + δ; θ), f(x; θ)) for the δ that was found, by central differences in θ."""
    model = still_model().double()
    smart = Smart(radius=0.05, step_size=0.1)
    torch.manual_seed(7)
    found, outputs = smart_values(model, batch, smart)
    sum(rows.sum() for rows in found.values()).backward()
    penalty = ready(smart, model, batch)
    fixed = {name: logits.detach() for name, logits in outputs.task_logits.items()}
    torch.manual_seed(7)
    noise = smart.noise * torch.randn(*batch["input_ids"].shape, 32, dtype=torch.float64)

    def loss(delta, others):
        return sum(rows.sum() for rows in penalty._divergences(penalty._logits(batch, delta), others).values())

    delta, _ = ascend(noise, lambda d: loss(d, fixed), smart)
    weight = model.encoder.encoder.layer[0].output.dense.weight
    way = torch.randn_like(weight)
    with torch.no_grad():
        sides = []
        for side in (1, -1):
            weight += side * 1e-5 * way
            sides.append(loss(delta, model(**batch).task_logits))
            weight -= side * 1e-5 * way
    torch.testing.assert_close((weight.grad * way).sum(), (sides[0] - sides[1]) / 2e-5, rtol=1e-4, atol=1e-9)


# ---- rounding and dropout ----


def test_the_clean_pass_on_embeddings_is_the_models_own(make_model, batch):
    """With dropout: the same masks, so that nothing but δ tells the two passes apart."""
    model = make_model().train()
    penalty = ready(Smart(), model, batch)
    outputs, after = model(**batch), torch.get_rng_state()
    again = penalty._logits(batch, torch.zeros(*batch["input_ids"].shape, 32))
    for name, logits in outputs.task_logits.items():
        assert torch.equal(again[name], logits)
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(model(**batch).task_logits["stars"], again["stars"])


@pytest.mark.parametrize("dropout", [True, False])
def test_the_penalty_is_above_rounding_and_grows_with_the_square_of_the_radius(make_model, still_model, batch, dropout):
    model = make_model().train() if dropout else still_model()
    values = {}
    for radius in (1e-5, 1e-4, 1e-3):
        torch.manual_seed(3)
        found, _ = smart_values(model, batch, Smart(radius=radius, noise=1e-5, step_size=1.0))
        values[radius] = float(torch.cat([*found.values()]).mean())
    assert values[1e-5] > 1e-11  # logits of this size are rounded by 1e-7, a divergence of them by 1e-14
    assert values[1e-4] / values[1e-5] == pytest.approx(100, rel=0.2)
    assert values[1e-3] / values[1e-4] == pytest.approx(100, rel=0.2)


def test_mixed_precision_sees_the_penalty_of_fp32(make_model, make_trainer):
    means = {}
    for bf16 in (False, True):
        trainer = make_trainer(make_model(), Smart(weight=5.0), bf16=bf16, max_steps=1)
        trainer.train()
        means[bf16] = [trainer.state.log_history[0][f"smart_{task.name}"] for task in trainer.tasks]
    assert all(1e-12 < mean < 1e-4 for mean in means[True])
    assert means[True] == pytest.approx(means[False], rel=0.5)


# ---- what it works with ----


@pytest.mark.parametrize(
    "family", ["albert", "bert", "deberta-v2", "distilbert", "electra", "ernie", "modernbert", "mpnet", "roberta"]
)
def test_embeddings_of_every_family_give_the_logits_of_its_ids(family, still_tasks, batch):
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
    sizes |= {"intermediate_size": 48, "max_position_embeddings": 80, "embedding_size": 16, "initializer_range": 0.2}
    if family == "distilbert":
        sizes |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "dropout": 0.0, "attention_dropout": 0.0}
    if family in ("albert", "bert", "electra", "ernie", "roberta", "mpnet", "deberta-v2"):
        sizes |= NO_DROPOUT
    if family == "deberta-v2":
        sizes |= {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
    if family == "roberta":
        sizes |= {"pad_token_id": 1}
    encoder = AutoConfig.for_model(family, **sizes)
    model = MtBertForMultiTask(MtBertConfig(encoder=encoder, tasks=[task.to_dict() for task in still_tasks])).train()
    found, outputs = smart_values(model, batch, Smart(radius=1e-4))
    width = model.get_input_embeddings().weight.shape[-1]
    assert width == (16 if family in ("albert", "deberta-v2", "electra") else 32)
    delta = torch.zeros(*batch["input_ids"].shape, width)
    again = ready(Smart(), model, batch)._logits(batch, delta)
    for name, logits in outputs.task_logits.items():
        torch.testing.assert_close(again[name], logits, rtol=1e-6, atol=1e-6)
        assert found[name].mean() > 0


def test_it_is_found_and_trains_with_frozen_embeddings_adapters_and_peft(make_model, make_trainer):
    frozen, adapted = make_model(), make_model(adapter={"type": "pal", "size": 12})
    frozen.freeze_encoder()
    adapted.freeze_encoder()
    for model in (frozen, adapted, wrap(make_model(), {"r": 2, "target_modules": ["query"]})):
        trainer = make_trainer(model, Smart())
        trainer.train()
        for entry in trainer.state.log_history[:-1]:
            assert entry["smart_skipped"] == 0
            assert {key for key in entry if key.startswith("smart_")} > {"smart_skipped"}
            assert all(value > 0 for key, value in entry.items() if key.startswith("smart_") and "skip" not in key)


@pytest.mark.parametrize("bf16", [False, True])
def test_checkpointed_activations_change_nothing(make_model, make_trainer, bf16):
    weights = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = make_model()
        settings = {"gradient_checkpointing": checkpointing, "bf16": bf16}
        make_trainer(model, Smart(radius=1e-2, step_size=1e-1, steps=2), **settings).train()
        weights.append(torch.cat([each.detach().flatten() for each in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_rows_without_a_label_have_no_penalty(make_model, batch):
    model = make_model().train()
    penalty = ready(Smart(radius=1e-2), model, batch)
    labels = {"stars": torch.tensor([-100, 1]), "close": torch.tensor([math.nan, math.nan])}
    outputs = model(**batch, labels=labels)
    changed = replace(outputs, row_losses=dict(outputs.row_losses))
    penalty.change_rows(batch, changed)
    losses = changed.row_losses
    assert losses.keys() == labels.keys()
    assert losses["stars"][0] == 0 and losses["stars"][1] > outputs.row_losses["stars"][1]
    assert torch.equal(losses["close"], torch.zeros(2))
    logs = penalty.logs(lambda values: values, {})
    assert logs.keys() == {"smart_stars", "smart_skipped"}
    assert logs["smart_stars"] == pytest.approx(float(losses["stars"][1] - outputs.row_losses["stars"][1]), rel=1e-3)


# ---- anomalies ----


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states):
        return states.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, math.nan)


def test_a_gradient_that_is_nan_skips_the_perturbation_and_is_counted(make_model, make_trainer, monkeypatch):
    """As if there were no SMART in that step, apart from the random numbers that its noise took."""
    logits = SmartPenalty._logits
    calls = []

    def spoiled(penalty, inputs, delta):
        calls.append(delta)
        if delta.requires_grad and len(calls) <= 2:  # the first step's ascent
            delta = _BadGradient.apply(delta)
        return logits(penalty, inputs, delta)

    monkeypatch.setattr(SmartPenalty, "_logits", spoiled)
    model = make_model()
    trainer = make_trainer(model, Smart())
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["smart_skipped"] == 1 and second["smart_skipped"] == 0
    assert not any(f"smart_{task.name}" in first for task in trainer.tasks)
    assert any(f"smart_{task.name}" in second for task in trainer.tasks)
    assert all(each.isfinite().all() for each in model.parameters())


def test_a_penalty_that_is_not_finite_is_skipped(still_model, batch, monkeypatch):
    monkeypatch.setattr(
        "mtbert.training.methods.smart.ascend", lambda noise, *_: (noise + math.inf, torch.tensor(True))
    )
    assert smart_values(still_model(), batch, Smart())[0] is None


# ---- settings ----


def test_every_setting_that_is_out_of_range_is_named():
    found = Smart(-1.0, 0, 0.0, -1.0, 0.0, "l3", "cube", "own").problems()
    fields = ("weight", "steps", "step_size", "noise", "radius", "norm", "projection", "scale")
    assert len(found) == len(fields)
    for name, sentence in zip(fields, found, strict=True):
        assert sentence.path == (name,) and ", but must be " in sentence.message
    assert Smart().problems() == [] == Smart(weight=0).problems()


def test_the_trainer_refuses_bad_settings_and_half_precision(make_model, make_trainer):
    with pytest.raises(ValueError, match=r"smart\.radius is 0, but must be positive"):
        make_trainer(make_model(), Smart(radius=0))
    with pytest.raises(ValueError, match=r"smart: the model has weights in torch\.bfloat16"):
        make_trainer(make_model(dtype=torch.bfloat16), Smart())


def test_the_divergence_is_of_the_models_outputs(still_model, batch):
    model = still_model()
    found, outputs = smart_values(model, batch, Smart(projection="published", radius=1e-6, norm="l1"))
    assert found.keys() == outputs.task_logits.keys()
    for task in model.tasks:
        assert found[task.name].shape == divergence(task, *[outputs.task_logits[task.name]] * 2).shape
        assert found[task.name].mean() > 1e-4  # a perturbation of ±1 is a large one
