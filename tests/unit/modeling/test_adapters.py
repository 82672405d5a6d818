"""Adapters in a model: which tasks have them, initial weights, gradients, and peft."""

import copy
import re
from functools import partial

import peft
import pytest
import torch
from adapter_models import LENGTHS, SMALL, TASK_IDS, TASKS, make_model, randomised
from tiny import padded_batch
from torch import nn

from mtbert.modeling.adapters import Decoder, ProjectedAttention, TopNorm
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.packing import PackedLayout
from mtbert.modeling.task_spec import ADAPTERS, AdapterSpec, TaskSpec

every_type = pytest.mark.parametrize("adapter", SMALL.values(), ids=SMALL)
every_parallel_type = pytest.mark.parametrize("kind", ["pal", "low_rank", "houlsby"])
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return padded_batch(LENGTHS)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class TestTasks:
    def test_each_task_has_its_own_unless_it_says_no(self):
        model = make_model(SMALL["pal"])
        assert list(model.adapters) == ["first", "average"]
        assert list(make_model(None).adapters) == []

    @torch.no_grad()
    @pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
    @every_type
    def test_a_task_without_adapter_passes_through(self, adapter, packed, batch):
        model = randomised(make_model({**adapter, "init": "published"}, packed=packed))
        plain = make_model(None, packed=packed)
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("adapters.")})
        mixed, expected = (each(**batch, task_ids=TASK_IDS).task_logits for each in (model, plain))
        close(mixed["bare"], expected["bare"], rtol=1e-6, atol=1e-6)
        assert not torch.allclose(mixed["first"], expected["first"], atol=1e-3)
        alone, expected = (each(**batch, task="bare").logits for each in (model, plain))
        assert torch.equal(alone, expected)

    @torch.no_grad()
    @every_type
    def test_all_tasks_on_every_row_equal_one_after_the_other(self, adapter, batch):
        model = randomised(make_model({**adapter, "init": "published"}))
        for name, logits in model(**batch, tasks="all").task_logits.items():
            close(logits, model(**batch, task=name).logits)
        some = model(**batch, tasks=["average", "bare"]).task_logits
        assert list(some) == ["average", "bare"]
        close(some["average"], model(**batch, task="average").logits)

    @torch.no_grad()
    def test_tasks_asked_for_count_and_not_those_of_the_layout(self, batch):
        model = randomised(make_model({**SMALL["pal"], "init": "published"}))
        mask = batch["attention_mask"].bool()
        packed = {key: batch[key][mask][None] for key in ("input_ids", "token_type_ids")}
        packed["layout"] = PackedLayout.build(LENGTHS, [(0, 3, 1), (1, 1, 1), (2, 3, 1)])
        for names in (["bare"], ["average"], ["bare", "first"]):
            for name, logits in model(**packed, tasks=names).task_logits.items():
                close(logits, model(**batch, task=name).logits, msg=lambda text, names=names: f"{names}: {text}")

    @every_type
    def test_no_tensor_stands_in_the_state_twice(self, adapter, tmp_path):
        model = make_model(adapter)
        state = model.state_dict()
        assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
        assert len({id(parameter) for parameter in model.parameters()}) == len(dict(model.named_parameters()))
        model.save_pretrained(tmp_path)  # which refuses, or drops, tensors that share memory
        again = MtBertForMultiTask.from_pretrained(tmp_path).state_dict()
        assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)

    @every_type
    def test_gradients_reach_the_adapters_of_the_batch_only(self, adapter, batch):
        model = randomised(make_model({**adapter, "init": "published"}))
        rows = {key: value[:4] for key, value in batch.items()}
        model(**rows, task_ids=[0, 0, 0, 1], labels=torch.tensor([0, 1, 2, 1])).loss.backward()
        for name, parameter in model.adapters["first"].named_parameters():
            assert parameter.grad is not None, name
        reached = [name for name, p in model.adapters["first"].named_parameters() if p.grad.abs().sum() > 0]
        # on one position attention is trivial, and a key's bias never matters
        dead = ("query", "key") if adapter["type"] == "pal_top" else ()
        expected = [name for name, _ in model.adapters["first"].named_parameters() if not any(d in name for d in dead)]
        assert set(expected) - set(reached) <= {name for name in expected if name.endswith("key.bias")}
        assert all(parameter.grad is None for parameter in model.adapters["average"].parameters())

    @torch.no_grad()
    @every_type
    def test_a_pretrained_encoder_gets_them_too(self, adapter, batch, tmp_path):
        model = randomised(make_model({**adapter, "init": "published"}))
        model.export_encoder().save_pretrained(tmp_path)
        spec = AdapterSpec(**adapter, init="published")
        started = MtBertForMultiTask.from_encoder(tmp_path, list(TASKS), adapter=spec).eval()
        for own, trained in ((started.heads, model.heads), (started.adapters, model.adapters)):
            own.load_state_dict(trained.state_dict())
        expected, found = (each(**batch, task_ids=TASK_IDS).task_logits for each in (model, started))
        assert started.config.adapter == model.config.adapter
        for name in expected:
            close(found[name], expected[name])

    @every_type
    def test_a_model_can_be_copied(self, adapter, batch):
        model = randomised(make_model({**adapter, "init": "published"}))
        other = copy.deepcopy(model)
        with torch.no_grad():
            expected = model(**batch, task_ids=TASK_IDS).task_logits
            for parameter in model.parameters():
                parameter.zero_()
            found = other(**batch, task_ids=TASK_IDS).task_logits
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    @torch.no_grad()
    @pytest.mark.parametrize("kind", ["pal", "pal_top", "top_layers"])
    def test_dropout_in_train_mode_only(self, kind, batch):
        read = {"input": "all"} if kind == "pal_top" else {}
        model = randomised(make_model({**SMALL[kind], **read, "init": "published"}))
        adapter = model.adapters["average"]
        rows = {key: value[4:] for key, value in batch.items()}
        still = [model(**rows, task="average").logits for _ in range(2)]
        assert torch.equal(*still)
        adapter.train()
        drawn = [model(**rows, task="average").logits for _ in range(2)]
        assert not torch.equal(*drawn) and not torch.equal(drawn[0], still[0])

    @pytest.mark.parametrize("reentrant", [False, True])
    @pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
    @every_parallel_type
    def test_gradient_checkpointing_gives_the_same_gradients(self, kind, packed, reentrant, batch):
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        specs = [TaskSpec.from_dict({**task.to_dict(), "dropout": 0.0}) for task in TASKS]
        found = []
        for checkpointing in (False, True):
            model = randomised(make_model({**SMALL[kind], "init": "published"}, specs, packed, **still)).train()
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            calls = []
            inner = next(m for m in model.adapters["first"].modules() if isinstance(m, (ProjectedAttention, Decoder)))
            inner.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            labels = torch.tensor([0.0, 1, 2, 1, 3.5, 0.5, 5])
            model(**batch, task_ids=TASK_IDS, labels=labels).loss.backward()
            found.append((len(calls), {name: p.grad for name, p in model.named_parameters()}))
        (once, expected), (twice, recomputed) = found
        assert twice == 2 * once  # so checkpointing did happen
        for name, gradient in expected.items():
            close(recomputed[name], gradient, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


# ---------------------------------------------------------------------------------------------------- initialisation


def assert_normal(values: list[torch.Tensor], std: float):
    """Mean 0 and this standard deviation, within five standard errors."""
    flat = torch.cat([value.detach().flatten() for value in values])
    assert abs(float(flat.mean())) < 5 * std / len(flat) ** 0.5
    assert abs(float(flat.std()) - std) < 5 * std / (2 * len(flat)) ** 0.5


class TestInitialisation:
    @pytest.mark.parametrize("kind", ADAPTERS)
    def test_published(self, kind):
        """All weights from N(0, .02), biases 0; norms too, weights and biases, which is the authors' slip."""
        adapter = {**SMALL[kind], "init": "published", "size": 24}
        model = make_model(adapter, [TaskSpec("t", labels=2)], hidden_size=96)
        modules = list(model.adapters["t"].modules())
        dense = [module for module in modules if isinstance(module, nn.Linear)]
        assert_normal([module.weight for module in dense], 0.02)
        for module in dense:
            assert_normal([module.weight], 0.02)
            assert not module.bias.any()
        norms = [module for module in modules if isinstance(module, nn.LayerNorm)]
        assert len(norms) == (2 if kind == "top_layers" else 0)
        if norms:
            assert_normal([module.weight for module in norms], 0.02)
            assert_normal([module.bias for module in norms], 0.02)
        owned = sum(count(module) for module in [*dense, *norms])
        assert owned == count(model.adapters["t"])  # nothing else is there to initialise

    def test_the_standard_deviation_is_the_encoders(self):
        model = make_model({**SMALL["top_layers"], "size": 24}, [TaskSpec("t", labels=2)], initializer_range=0.3)
        modules = list(model.adapters["t"].modules())
        assert_normal([module.weight for module in modules if isinstance(module, nn.Linear)], 0.3)
        assert_normal([module.weight for module in modules if isinstance(module, TopNorm)], 0.3)

    @every_parallel_type
    def test_zero_makes_decoders_zero_and_nothing_else(self, kind):
        model = make_model(SMALL[kind])
        dense = {name: module for name, module in model.adapters.named_modules() if isinstance(module, nn.Linear)}
        decoders = [name for name in dense if name.endswith("decode")]
        assert len(decoders) == {"pal": 2, "low_rank": 6, "houlsby": 12}[kind]
        for name, module in dense.items():
            assert bool(module.weight.any()) == (name not in decoders), name
            assert not module.bias.any()

    @every_parallel_type
    def test_published_is_not_zero(self, kind):
        model = make_model({**SMALL[kind], "init": "published"})
        assert all(module.weight.any() for module in model.adapters.modules() if isinstance(module, nn.Linear))

    @every_type
    def test_tasks_start_from_different_weights(self, adapter):
        model = make_model(adapter)
        one, other = (dict(model.adapters[name].named_parameters()) for name in ("first", "average"))
        different = [name for name in one if one[name].any() and not torch.equal(one[name], other[name])]
        assert different == [name for name in one if one[name].any()]

    @every_type
    def test_the_encoder_starts_as_without_adapters(self, adapter):
        one, other = make_model(adapter).encoder.state_dict(), make_model(None).encoder.state_dict()
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)


# --------------------------------------------------------------------------------------------------------------- peft


class TestPeft:
    CONFIG = {"r": 2, "target_modules": r"encoder\..*\.(query|value)", "init_lora_weights": False}

    @pytest.mark.parametrize("saved", [False, True], ids=["alone", "with modules_to_save"])
    def test_lora_leaves_the_adapters_own_projections_alone(self, saved, batch):
        """Frozen like everything that LoRA does not name; trained where modules_to_save names the adapter."""
        own = [f"{part}.{name}" for part in ("adapters", "heads") for name in ("first", "average")]
        config = peft.LoraConfig(**self.CONFIG, modules_to_save=own if saved else None)
        model = peft.get_peft_model(randomised(make_model({**SMALL["pal"], "init": "published"})), config)
        lora = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
        assert len(lora) == 2 * 3 and all(".encoder.encoder.layer." in name for name in lora)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        inside = [name for name in trained if ".adapters." in name and re.search(r"\.(query|value)\.", name)]
        assert len(inside) == (2 * 3 * 2 * 2 if saved else 0)  # tasks × layers × (query, value) × (weight, bias)
        assert all(".lora_" in name or ".modules_to_save." in name for name in trained)

        model.train()(**batch, task_ids=TASK_IDS, labels=torch.tensor([0.0, 1, 2, 1, 3.5, 0.5, 5])).loss.backward()
        reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert reached == trained

    @torch.no_grad()
    def test_lora_and_adapters_add_up(self, batch):
        model = randomised(make_model({**SMALL["pal"], "init": "published"}))
        before = model(**batch, task_ids=TASK_IDS).task_logits
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**self.CONFIG)).eval()
        during = wrapped(**batch, task_ids=TASK_IDS).task_logits
        after = wrapped.merge_and_unload()(**batch, task_ids=TASK_IDS).task_logits
        for name in before:
            assert not torch.allclose(during[name], before[name], atol=1e-4)
            close(after[name], during[name])
