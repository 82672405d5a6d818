"""A task as a model of transformers, and the encoder alone."""

import copy
import re

import pytest
import torch
from edited_models import ADAPTERS, OTHER_FAMILIES, TASKS, assert_equal, every_adapter, logits, make_model, realigned
from tiny import padded_batch
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return padded_batch((3, 11, 1, 7, 9, 4))


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
