"""Tasks added, removed and taken out of a model, and its encoder alone."""

import copy
import re
import warnings

import pytest
import torch
from families import family_config
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, set_seed
from transformers.models.bert.modeling_bert import BertLayer

from mtbert.modeling.configuration_mtbert import MtBertConfig, TaskSpec
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask

OTHER_FAMILIES = ("deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta")
TASKS = (
    TaskSpec("linear", labels=["no", "maybe", "yes"], pooling="pooler"),
    TaskSpec("score", range=(1, 5), pooling="mean", head={"output": "sigmoid"}),
    TaskSpec("mlp", "multi_label_classification", labels=4, pooling="max", head={"type": "mlp", "layers": 2}),
    TaskSpec("attention", labels=2, head={"type": "attention", "attention_heads": 2, "layers": 1}),
    TaskSpec("cosine", range=(0, 1), texts=2, pair="siamese", head={"type": "cosine", "layers": 1, "output": "relu"}),
    TaskSpec("siamese", "binary_classification", labels=["a", "b"], texts=2, pair="siamese", pooling="mean"),
    TaskSpec("bare", "binary_classification", labels=["a", "b"], texts=2, pooling="pooler", adapter=False),
)
NAMES = [task.name for task in TASKS]
NEW = TaskSpec("new", labels=3, pooling="mean", head={"type": "mlp", "layers": 1, "hidden_size": 12})
ADAPTERS = {
    "without": None,
    "pal": {"type": "pal", "size": 12, "heads": 3},
    "pal_top": {"type": "pal_top", "size": 12, "heads": 3, "input": "all"},
    "low_rank": {"type": "low_rank", "size": 8, "layers": [0, 2]},
    "houlsby": {"type": "houlsby", "size": 6},
    "top_layers": {"type": "top_layers", "size": 12, "heads": 3, "depth": 2},
}
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)


@torch.no_grad()
def make_model(adapter=None, specs=TASKS, family="bert", **settings) -> MtBertForMultiTask:
    """In eval mode, with random weights as after a training: nothing is at an initial value."""
    set_seed(1)
    encoder = family_config(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some families are computed with padding
        model = MtBertForMultiTask(MtBertConfig(encoder=encoder, tasks=list(specs), adapter=adapter, **settings))
    for parameter in model.parameters():
        noise = torch.randn_like(parameter) * 0.2
        parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model.eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    lengths = torch.tensor([3, 11, 1, 7, 9, 4])
    return {
        "input_ids": torch.randint(5, 100, (6, 11)),
        "token_type_ids": torch.randint(2, (6, 11)),
        "attention_mask": (torch.arange(11) < lengths[:, None]).long(),
    }


@torch.no_grad()
def logits(model, batch, names=None) -> dict[str, torch.Tensor]:
    """Each task's logits on the batch alone."""
    names = [task.name for task in model.tasks] if names is None else names
    return {name: model(**batch, task=name).logits for name in names}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@torch.no_grad()
def realigned(model):
    """The same model with its weights where torch would put them: elsewhere, products may round in another order."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()


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


PLAIN = (
    TaskSpec("classes", labels=["no", "maybe", "yes"], pooling="pooler"),
    TaskSpec("one-logit", "binary_classification", labels=["a", "b"], texts=2, pooling="pooler"),
    TaskSpec("topics", "multi_label_classification", labels=["cat", "dog", "bird", "fish"], pooling="pooler"),
    TaskSpec("score", range=(1, 5), pooling="pooler", adapter=False),
)


class TestPlain:
    @torch.no_grad()
    @pytest.mark.parametrize("task", PLAIN, ids=lambda task: task.name)
    def test_the_same_logits(self, task, batch, tmp_path):
        model = make_model(specs=PLAIN)
        plain = model.extract_task(task.name, to="sequence_classification")
        assert type(plain).__name__ == "BertForSequenceClassification" and not plain.training
        torch.testing.assert_close(plain(**batch).logits, logits(model, batch)[task.name], rtol=1e-5, atol=1e-5)
        assert plain.config.num_labels == task.num_labels
        if task.name in ("classes", "topics"):
            assert list(plain.config.id2label.values()) == list(task.labels)
            assert plain.config.label2id == {label: i for i, label in enumerate(task.labels)}
        expected = None if task.problem_type == "binary_classification" else task.problem_type
        assert plain.config.problem_type == expected
        plain.save_pretrained(tmp_path)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert loaded.config.num_labels == task.num_labels
        assert torch.equal(realigned(loaded)(**batch).logits, plain(**batch).logits)

    @torch.no_grad()
    def test_it_is_a_copy_of_plain_layers(self, batch):
        model = make_model(ADAPTERS["pal"], PLAIN)
        before = logits(model, batch)
        plain = model.extract_task("score", to="sequence_classification")  # a task that the adapter does not serve
        torch.testing.assert_close(plain(**batch).logits, before["score"], rtol=1e-5, atol=1e-5)
        assert {type(layer) for layer in plain.bert.encoder.layer} == {BertLayer}
        for parameter in plain.parameters():
            parameter.zero_()
        assert_equal(logits(model, batch), before)
        assert model.config.encoder.num_labels == 2 and model.config.encoder.problem_type is None

    def test_mode_and_dtype_are_the_models(self):
        plain = make_model(specs=PLAIN).double().train().extract_task("classes", to="sequence_classification")
        assert plain.training and {parameter.dtype for parameter in plain.parameters()} == {torch.float64}

    @pytest.mark.parametrize(
        ("spec", "adapter", "family", "message"),
        [
            (TASKS[0], "pal", "bert", "it has an adapter, for which plain transformers models have no place"),
            (
                TaskSpec("t", labels=2, pooling="pooler", head={"type": "mlp", "layers": 1}),
                "without",
                "bert",
                "a plain bert model cannot compute a mlp head with output identity on one input",
            ),
            (
                TaskSpec("t", labels=2, pooling="pooler", head={"type": "attention"}),
                "without",
                "bert",
                "a plain bert model cannot compute a attention head with output identity on one input",
            ),
            (
                TaskSpec("t", labels=2, texts=2, pair="siamese", pooling="pooler"),
                "without",
                "bert",
                "a plain bert model cannot compute a linear head with output identity on several inputs; linear heads "
                "on one input of BERT can be taken out",
            ),
            (
                TaskSpec("t", range=(0, 5), pooling="pooler", head={"output": "sigmoid"}),
                "without",
                "bert",
                "a plain bert model cannot compute a linear head with output sigmoid on one input",
            ),
            *(
                (
                    TaskSpec("t", labels=2, pooling=pooling),
                    "without",
                    "bert",
                    f"a plain bert model's head reads another pooling than '{pooling}'; train it with pooling: pooler",
                )
                for pooling in ("cls", "mean", "max")
            ),
            (
                TaskSpec("t", labels=2, pooling="pooler"),
                "without",
                "roberta",
                "a plain roberta model cannot compute a linear head",
            ),
            (TaskSpec("t", labels=2), "without", "electra", "a plain electra model cannot compute a linear head"),
        ],
    )
    def test_what_a_plain_model_cannot_do(self, spec, adapter, family, message):
        model = make_model(ADAPTERS[adapter], [spec], family)
        with pytest.raises(ValueError, match=re.escape(f"task {spec.name!r}: {message}")):
            model.extract_task(spec.name, to="sequence_classification")


class TestExport:
    @torch.no_grad()
    @pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
    @pytest.mark.parametrize("family", ["bert", *OTHER_FAMILIES])
    def test_the_same_states_as_the_models_encoder(self, family, packed, batch, tmp_path):
        model = make_model(
            specs=[TaskSpec("first", labels=2), TaskSpec("average", labels=2, pooling="mean")],
            family=family,
            packed=packed,
        )
        pooled = model(**batch, tasks="all").pooled
        plain = model.export_encoder()
        assert type(plain) is type(AutoModel.from_config(model.config.encoder)) and not plain.training
        inputs = dict(batch)
        if getattr(plain.config, "type_vocab_size", 0) < 2:
            del inputs["token_type_ids"]
        real = batch["attention_mask"][..., None]
        # some families derive positions from padding ids, so that padding must be padding
        inputs["input_ids"] = torch.where(real[..., 0] == 1, inputs["input_ids"], plain.config.pad_token_id)
        plain.save_pretrained(tmp_path)
        for each in (plain, AutoModel.from_pretrained(tmp_path).eval()):
            states = each(**inputs).last_hidden_state
            torch.testing.assert_close(states[:, 0], pooled["first"], rtol=1e-5, atol=2e-5)
            torch.testing.assert_close((states * real).sum(1) / real.sum(1), pooled["average"], rtol=1e-5, atol=2e-5)

    @torch.no_grad()
    @every_adapter
    def test_adapters_and_heads_stay_behind(self, adapter, batch):
        model = make_model(adapter)
        before = logits(model, batch)
        plain = model.export_encoder()
        assert {type(layer) for layer in plain.encoder.layer} == {BertLayer}
        assert_equal(plain.state_dict(), model.encoder.state_dict())
        without = make_model(None)
        without.encoder.load_state_dict(model.encoder.state_dict())
        found = plain(**batch)
        torch.testing.assert_close(found.pooler_output, without(**batch, task="linear").pooled["linear"])
        for parameter in plain.parameters():
            parameter.zero_()
        assert_equal(logits(model, batch), before)

    def test_a_pooler_that_no_task_reads_is_not_there(self):
        assert make_model(specs=TASKS[1:3]).export_encoder().pooler is None
        assert make_model().export_encoder().pooler is not None

    def test_a_model_can_start_from_it(self, batch, tmp_path):
        model = make_model(ADAPTERS["pal"])
        model.export_encoder().save_pretrained(tmp_path)
        started = MtBertForMultiTask.from_encoder(tmp_path, list(TASKS))
        assert_equal(started.encoder.state_dict(), model.encoder.state_dict())
        assert isinstance(started.config.encoder, BertConfig)
        assert copy.deepcopy(started).encoder.config.num_hidden_layers == 3

    def test_mode_and_dtype_are_the_models(self):
        plain = make_model().double().train().export_encoder()
        assert plain.training and plain.dtype == torch.float64
