"""Tasks added to a model, removed from it and taken out of it."""

import re
import warnings

import pytest
import torch
from edited_models import (
    ADAPTERS,
    NAMES,
    NEW,
    OTHER_FAMILIES,
    TASKS,
    assert_equal,
    every_adapter,
    logits,
    make_model,
    realigned,
)
from tiny import padded_batch

from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return padded_batch((3, 11, 1, 7, 9, 4))


class TestAdd:
    @every_adapter
    def test_all_other_tasks_stay_bit_for_bit(self, adapter, batch):
        model = make_model(adapter)
        before, state = logits(model, batch), {k: v.clone() for k, v in model.state_dict().items()}
        mixed = {"task_ids": [0, 1, 1, 3, 4]}
        with torch.no_grad():
            together = model(**batch, **mixed).task_logits
        model.add_task(NEW)
        assert [task.name for task in model.tasks] == [*NAMES, "new"]
        assert model.task_id("new") == 7 and model.tasks[7] == NEW == model.config.task_specs[7]
        assert_equal(logits(model, batch, NAMES), before)
        assert_equal({k: v for k, v in model.state_dict().items() if k in state}, state)
        with torch.no_grad():
            assert_equal(model(**batch, **mixed).task_logits, together)
        added = {key for key in model.state_dict() if key not in state}
        parts = ("heads.new.",) if adapter is None else ("heads.new.", "adapters.new.")
        assert added and all(key.startswith(parts) for key in added)
        assert ("new" in model.adapters) == (adapter is not None)
        assert model(**batch, task="new").logits.shape == (6, 3)

    @every_adapter
    def test_it_is_like_a_model_that_had_it_from_the_start(self, adapter, batch):
        model = make_model(adapter)
        model.add_task(NEW.to_dict())  # a mapping does, too
        whole = make_model(adapter, [*TASKS, NEW])
        assert model.config.to_dict() == whole.config.to_dict()
        assert {k: v.shape for k, v in model.state_dict().items()} == {
            k: v.shape for k, v in whole.state_dict().items()
        }
        whole.load_state_dict(model.state_dict())
        assert_equal(logits(whole, batch), logits(model, batch))

    @pytest.mark.parametrize("freeze", ["everything else", "the encoder"])
    @every_adapter
    def test_it_trains_alone(self, adapter, freeze, batch):
        model = make_model(adapter)
        before = logits(model, batch)
        model.add_task(NEW)
        if freeze == "the encoder":
            model.freeze_encoder()  # other tasks have no gradient, so that AdamW leaves them alone
        else:
            model.requires_grad_(False)
            for part in (model.heads, model.adapters):
                if "new" in part:
                    part["new"].requires_grad_(True)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        model.train()(**batch, task="new", labels=torch.tensor([0, 1, 2, 0, 1, 2])).loss.backward()
        optimizer.step()
        changed = {key for key, value in model.state_dict().items() if not torch.equal(value, state[key])}
        assert changed and all(key.startswith(("heads.new.", "adapters.new.")) for key in changed)
        assert any(key.startswith("heads.new.") for key in changed)
        assert any(key.startswith("adapters.new.") for key in changed) == (adapter is not None)
        assert_equal(logits(model.eval(), batch, NAMES), before)

    @pytest.mark.parametrize("kind", ["pal", "low_rank", "houlsby"])
    def test_a_new_parallel_adapter_adds_nothing_yet(self, kind, batch):
        model = make_model(ADAPTERS[kind])
        model.add_task(NEW)
        with torch.no_grad():
            found = model(**batch, task="new").logits
            del model.adapters["new"]
            torch.testing.assert_close(found, model(**batch, task="new").logits, rtol=1e-6, atol=1e-6)

    def test_new_weights_are_initialised_like_the_others(self):
        model = make_model(ADAPTERS["pal"])
        model.add_task(NEW)
        dense = [m for part in (model.heads, model.adapters) for m in part["new"].modules() if hasattr(m, "weight")]
        assert all(not module.bias.any() for module in dense)
        weights = torch.cat([module.weight.detach().flatten() for module in dense if module.weight.any()])
        assert abs(weights.std() - 0.02) < 0.002

    def test_a_task_may_do_without_the_adapter(self, batch):
        model = make_model(ADAPTERS["pal"])
        model.add_task({**NEW.to_dict(), "adapter": False})
        assert "new" not in model.adapters
        assert model(**batch, tasks="all").task_logits["new"].shape == (6, 3)

    @pytest.mark.parametrize("training", [True, False])
    def test_mode_and_dtype_are_the_models(self, training):
        model = make_model(ADAPTERS["top_layers"]).double().train(training)
        model.add_task(NEW)
        added = [model.heads["new"], model.adapters["new"]]
        assert all(module.training is training for part in added for module in part.modules())
        assert {p.dtype for part in added for p in part.parameters()} == {torch.float64}

    def test_a_name_that_exists(self):
        model = make_model()
        message = "task 'mlp' exists already; remove_task it first, or choose another name"
        with pytest.raises(ValueError, match=re.escape(message)):
            model.add_task(TaskSpec("mlp", labels=2))
        assert [task.name for task in model.tasks] == NAMES

    def test_a_pooler_that_was_dropped(self, batch):
        model = make_model(specs=TASKS[1:6])
        before = logits(model, batch)
        message = "task 'p': pooling is 'pooler', but this model has none; use cls, mean or max"
        with pytest.raises(ValueError, match=re.escape(message)):
            model.add_task(TaskSpec("p", labels=2, pooling="pooler"))
        assert_equal(logits(model, batch), before)
        make_model().add_task(TaskSpec("p", labels=2, pooling="pooler"))  # another task reads it here

    def test_a_wrong_task(self):
        with pytest.raises(ValueError, match=r"task has unknown keys \['label'\]"):
            make_model().add_task({"name": "t", "label": 2})

    def test_a_task_that_cannot_be_made_leaves_the_model_as_it_was(self, batch):
        model = make_model(ADAPTERS["pal"])
        before = logits(model, batch)
        with pytest.raises(ValueError, match="head.attention_heads is 5, which does not divide"):
            model.add_task(TaskSpec("new", labels=2, head={"type": "attention", "attention_heads": 5}))
        assert [task.name for task in model.tasks] == NAMES
        assert [task["name"] for task in model.config.tasks] == NAMES
        with torch.no_grad():
            assert list(model(**batch, tasks="all").task_logits) == list(before)
        model.add_task(NEW)

    @every_adapter
    def test_saved_and_loaded(self, adapter, batch, tmp_path):
        model = make_model(adapter)
        model.add_task(NEW)
        before = logits(model, batch)
        model.save_pretrained(tmp_path)
        loaded, info = MtBertForMultiTask.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert loaded.tasks == model.tasks and loaded.config.adapter == model.config.adapter
        assert_equal(loaded.state_dict(), model.state_dict())
        assert_equal(logits(realigned(loaded), batch), before)


class TestRemove:
    @every_adapter
    def test_ids_move_up_and_all_others_stay_bit_for_bit(self, adapter, batch):
        model = make_model(adapter)
        before = logits(model, batch)
        model.remove_task("mlp")
        left = [name for name in NAMES if name != "mlp"]
        assert [task.name for task in model.tasks] == [task["name"] for task in model.config.tasks] == left
        assert [model.task_id(name) for name in left] == list(range(6))
        assert not [key for key in model.state_dict() if ".mlp." in f".{key}"]
        assert_equal(logits(model, batch), {name: before[name] for name in left})
        with torch.no_grad():
            by_id = model(**batch, task_ids=[2] * 6).task_logits
        assert_equal(by_id, {"attention": before["attention"]})
        with pytest.raises(KeyError, match="no task 'mlp'; this model has: linear, score, attention"):
            model(**batch, task="mlp")

    def test_one_without_adapter(self, batch):
        model = make_model(ADAPTERS["pal"])
        adapters = list(model.adapters)
        model.remove_task("bare")
        assert list(model.adapters) == adapters

    def test_no_such_task(self):
        with pytest.raises(KeyError, match=f"no task 'moons'; this model has: {', '.join(NAMES)}"):
            make_model().remove_task("moons")

    def test_the_last_one_stays(self, batch):
        model = make_model(ADAPTERS["pal"])
        for name in NAMES[1:]:
            model.remove_task(name)
        with pytest.raises(ValueError, match="task 'linear' is the only one; a model needs at least one task"):
            model.remove_task("linear")
        assert_equal(logits(model, batch), logits(make_model(ADAPTERS["pal"]), batch, ["linear"]))

    @every_adapter
    def test_removed_and_added_again_it_is_new(self, adapter, batch):
        model = make_model(adapter)
        before = logits(model, batch)
        model.remove_task("score")
        model.add_task(TASKS[1])
        assert model.task_id("score") == 6
        after = logits(model, batch)
        assert not torch.equal(after.pop("score"), before.pop("score"))
        assert_equal({name: after[name] for name in before}, before)

    @every_adapter
    def test_saved_and_loaded(self, adapter, batch, tmp_path):
        model = make_model(adapter)
        model.remove_task("attention")
        model.save_pretrained(tmp_path)
        loaded, info = MtBertForMultiTask.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_equal(logits(realigned(loaded), batch), logits(model, batch))

    def test_saved_and_loaded_without_the_tasks_that_read_the_pooler(self, batch, tmp_path):
        model = make_model()
        model.remove_task("linear")
        model.remove_task("bare")
        model.save_pretrained(tmp_path)
        loaded = MtBertForMultiTask.from_pretrained(tmp_path)
        assert_equal(logits(realigned(loaded), batch), logits(model, batch))


class TestExtract:
    @pytest.mark.parametrize("name", NAMES)
    @every_adapter
    def test_the_same_logits_bit_for_bit(self, adapter, name, batch):
        model = make_model(adapter)
        single = model.extract_task(name)
        assert type(single) is MtBertForMultiTask and not single.training
        assert single.tasks == (model.tasks[model.task_id(name)],)
        assert (single.config.adapter is not None) == (adapter is not None and name != "bare")
        assert list(single.adapters) == ([name] if single.config.adapter else [])
        assert (single.encoder.pooler is None) == (name not in ("linear", "bare"))
        with torch.no_grad():
            assert torch.equal(single(**batch).logits, logits(model, batch, [name])[name])

    def test_it_shares_nothing_with_the_original(self, batch):
        model = make_model(ADAPTERS["pal"])
        single = model.extract_task("score")
        before = logits(single, batch)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        model.config.encoder.num_hidden_layers = 1
        assert_equal(logits(single, batch), before)
        assert single.config.encoder.num_hidden_layers == 3

    def test_the_original_stays(self, batch):
        model = make_model(ADAPTERS["pal"])
        before = logits(model, batch)
        single = model.extract_task("score")
        with torch.no_grad():
            for parameter in single.parameters():
                parameter.zero_()
        single.add_task(NEW)
        assert_equal(logits(model, batch), before)
        assert [task.name for task in model.tasks] == NAMES

    @pytest.mark.parametrize("packed", [True, False])
    def test_mode_dtype_and_packing_are_the_models(self, packed):
        single = make_model(ADAPTERS["pal"], packed=packed).double().train().extract_task("score")
        assert single.training and single.dtype == torch.float64
        assert single.config.packed == single._packs == packed

    @pytest.mark.parametrize("family", OTHER_FAMILIES)
    def test_every_family(self, family, batch):
        specs = TASKS[1:6]
        model = make_model(specs=specs, family=family)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for task in specs:
                single = model.extract_task(task.name)
                with torch.no_grad():
                    assert torch.equal(single(**batch).logits, logits(model, batch, [task.name])[task.name]), task.name

    @every_adapter
    def test_saved_and_loaded(self, adapter, batch, tmp_path):
        model = make_model(adapter)
        model.extract_task("cosine").save_pretrained(tmp_path)
        loaded, info = MtBertForMultiTask.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_equal(logits(realigned(loaded), batch), logits(model, batch, ["cosine"]))

    def test_no_such_task(self):
        with pytest.raises(KeyError, match="no task 'moons'; this model has"):
            make_model().extract_task("moons")

    def test_an_unknown_form(self):
        with pytest.raises(ValueError, match="to is 'onnx', but must be None or 'sequence_classification'"):
            make_model().extract_task("linear", to="onnx")
