"""The model's forward in all its forms, labels, errors, and gradients."""

import pytest
import torch
from texts_alone import SIZES, TINY, close, naive_hidden, padded_texts
from transformers import (
    BertConfig,
    set_seed,
)

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.packing import PackedLayout
from mtbert.modeling.task_spec import TaskSpec


@pytest.fixture
def batch(tokenizer):
    return padded_texts(tokenizer)


@pytest.fixture
def model(make_model):
    return make_model().eval()


class TestForward:
    def test_one_task_gives_its_head_on_each_text(self, model, batch):
        output = model(**batch, task="stars")
        pooled = torch.stack([states.mean(0) for states in naive_hidden(model, batch)])
        close(output.pooled["stars"], pooled)
        close(output.logits, model.heads["stars"](pooled))
        assert output.logits is output.task_logits["stars"]
        assert list(output.task_logits) == ["stars"]
        assert output.loss is None and output.row_losses is None

    def test_siamese_rows_are_two_sequences(self, model, batch):
        output = model(**batch, task="close")
        pooled = torch.stack([states[0] for states in naive_hidden(model, batch)])
        close(output.logits, 5 * model.heads["close"](pooled).sigmoid())
        assert output.logits.shape == (3, 1)
        assert output.pooled["close"].shape == (6, 32)

    def test_all_tasks_equal_one_after_the_other(self, model, batch):
        output = model(**batch, tasks="all")
        assert list(output.task_logits) == ["stars", "same", "close", "topics"]
        assert output.logits is None
        for name, logits in output.task_logits.items():
            alone = model(**batch, task=name)
            close(logits, alone.logits)
            close(output.pooled[name], alone.pooled[name])

    def test_some_tasks_in_the_order_given(self, model, batch):
        output = model(**batch, tasks=["topics", "stars"])
        assert list(output.task_logits) == ["topics", "stars"]
        for name, logits in output.task_logits.items():
            close(logits, model(**batch, task=name).logits)

    def test_one_name_in_tasks_fills_logits(self, model, batch):
        for tasks in ("topics", ["topics"]):
            output = model(**batch, tasks=tasks)
            assert output.logits is output.task_logits["topics"]
            assert torch.equal(output.logits, model(**batch, task="topics").logits)

    def test_task_is_another_name_of_tasks(self, model, batch):
        for tasks in ("all", ["stars", "topics"]):
            assert model(**batch, task=tasks).task_logits.keys() == model(**batch, tasks=tasks).task_logits.keys()
        with pytest.raises(TypeError, match="^tasks is 'all' and task is 'stars', but they are one"):
            model(**batch, task="stars", tasks="all")
        with pytest.raises(ValueError, match="^give either tasks or task_ids$"):
            model(**batch, task="stars", task_ids=[0] * 6)

    def test_task_ids_route_rows(self, model, batch):
        # stars: text 0 and 1; close: texts 2 and 3; topics: texts 4 and 5
        output = model(**batch, task_ids=[0, 0, 2, 3, 3])
        parts = {"stars": slice(0, 2), "close": slice(2, 4), "topics": slice(4, 6)}
        assert list(output.task_logits) == list(parts)
        assert output.logits is None
        for name, part in parts.items():
            close(output.task_logits[name], model(**{k: v[part] for k, v in batch.items()}, task=name).logits)

    def test_task_ids_may_be_a_tensor(self, model, batch):
        one = model(**batch, task_ids=torch.tensor([3, 3, 3, 0, 0, 0]))
        other = model(**batch, task_ids=[3, 3, 3, 0, 0, 0])
        assert list(one.task_logits) == ["topics", "stars"]
        assert torch.equal(one.task_logits["stars"], other.task_logits["stars"])

    def test_a_single_task_needs_no_name(self, make_model, batch):
        model = make_model([TaskSpec("only", labels=2)]).eval()
        assert torch.equal(model(**batch).logits, model(**batch, task="only").logits)

    def test_packed_input_equals_padded(self, model, batch):
        mask = batch["attention_mask"].bool()
        layout = PackedLayout.build(mask.sum(1).tolist(), [(0, 2, 1), (2, 1, 2), (3, 2, 1)])
        packed = {key: batch[key][mask][None] for key in ("input_ids", "token_type_ids")}
        found, expected = model(**packed, layout=layout), model(**batch, task_ids=[0, 0, 2, 3, 3])
        for name, logits in expected.task_logits.items():
            close(found.task_logits[name], logits)

    @pytest.mark.parametrize("packed", [True, False])
    def test_left_padding_equals_right_padding(self, make_model, batch, packed):
        model = make_model(packed=packed).eval()
        mask = batch["attention_mask"]
        left = {key: torch.zeros_like(value) for key, value in batch.items()}
        for i, length in enumerate(mask.sum(1).tolist()):
            for key, value in batch.items():
                left[key][i, mask.shape[1] - length :] = value[i, :length]
        assert not torch.equal(left["attention_mask"], mask)
        found, expected = model(**left, tasks="all"), model(**batch, tasks="all")
        for name, logits in expected.task_logits.items():
            close(found.task_logits[name], logits)

    @pytest.mark.parametrize("packed", [True, False])
    def test_embeddings_instead_of_ids(self, make_model, batch, packed):
        model = make_model(packed=packed).eval()
        embeds = model.get_input_embeddings()(batch["input_ids"])
        others = {key: value for key, value in batch.items() if key != "input_ids"}
        found = model(inputs_embeds=embeds, **others, tasks="all")
        for name, logits in model(**batch, tasks="all").task_logits.items():
            close(found.task_logits[name], logits)

    def test_without_a_mask_every_token_is_real(self, model, batch):
        short = {key: value[:, :3] for key, value in batch.items()}
        masked = model(**{**short, "attention_mask": torch.ones_like(short["attention_mask"])}, task="stars")
        del short["attention_mask"]
        assert torch.equal(model(**short, task="stars").logits, masked.logits)

    def test_token_types_matter(self, model, batch):
        other = {**batch, "token_type_ids": batch["attention_mask"]}
        assert not torch.allclose(model(**batch, task="stars").logits, model(**other, task="stars").logits)


class TestLabels:
    def test_tensor_and_mapping_give_the_same(self, model, batch):
        labels = torch.tensor([0, 2, -100, 1, 1, 0])
        one, other = model(**batch, task="stars", labels=labels), model(**batch, task="stars", labels={"stars": labels})
        assert torch.equal(one.loss, other.loss)
        assert torch.equal(one.row_losses["stars"], other.row_losses["stars"])
        log_p = one.logits - one.logits.exp().sum(1, keepdim=True).log()
        expected = torch.stack([-log_p[i, y] for i, y in enumerate(labels) if y >= 0])
        close(one.row_losses["stars"][one.labelled["stars"]], expected)
        close(one.loss, expected.mean())
        assert one.labelled["stars"].tolist() == [True, True, False, True, True, True]
        assert one.row_losses["stars"][2] == 0

    def test_the_loss_is_the_mean_over_labelled_rows_of_all_tasks(self, model, batch):
        labels = {
            "stars": torch.tensor([1, -100]),
            "close": torch.tensor([2.5]),
            "topics": torch.tensor([[1.0, 0, 0], [0, 1.0, 1.0]]),
        }
        output = model(**batch, task_ids=[0, 0, 2, 3, 3], labels=labels)
        log_p = output.task_logits["stars"].log_softmax(-1)
        p = output.task_logits["topics"].sigmoid()
        entropy = -torch.where(labels["topics"] == 1, p, 1 - p).log().mean(1)
        squared = (output.task_logits["close"][0, 0] - 2.5) ** 2
        close(output.loss, (-log_p[0, 1] + squared + entropy.sum()) / 4)
        assert {name: losses.shape for name, losses in output.row_losses.items()} == {
            "stars": (2,),
            "close": (1,),
            "topics": (2,),
        }

    def test_one_tensor_for_several_tasks(self, model, batch):
        first = {key: value[:4] for key, value in batch.items()}
        one = model(**first, task_ids=[0, 0, 2], labels=torch.tensor([2.0, 1.0, 3.5]))
        other = model(**first, task_ids=[0, 0, 2], labels={"stars": torch.tensor([2, 1]), "close": torch.tensor([3.5])})
        close(one.loss, other.loss)

    def test_one_tensor_for_several_tasks_on_every_row(self, model, batch):
        with pytest.raises(ValueError, match="labels: with several tasks on every row, give them by task name"):
            model(**batch, tasks=["stars", "topics"], labels=torch.zeros(len(batch["input_ids"]), dtype=torch.long))

    def test_tasks_without_labels_have_no_loss(self, model, batch):
        labels = {"stars": torch.tensor([0, 1, 2, 0, 1, 2])}
        output = model(**batch, tasks="all", labels=labels)
        assert list(output.row_losses) == ["stars"]
        close(output.loss, model(**batch, task="stars", labels=labels).loss)

    def test_all_missing_is_a_loss_of_0(self, model, batch):
        output = model(**batch, task="stars", labels=torch.full((6,), -100))
        assert output.loss == 0 and not output.labelled["stars"].any()


class TestErrors:
    @pytest.mark.parametrize("asked", [{"task": "moons"}, {"tasks": ["stars", "moons"]}])
    def test_unknown_task(self, model, batch, asked):
        with pytest.raises(KeyError, match="no task 'moons'; this model has: stars, same, close, topics"):
            model(**batch, **asked)

    def test_no_task(self, model, batch):
        with pytest.raises(ValueError, match="give tasks or task_ids: this model has several tasks"):
            model(**batch)

    def test_ungrouped_task_ids(self, model, batch):
        with pytest.raises(ValueError, match="task_ids: the rows must be grouped by task; sort them first"):
            model(**batch, task_ids=[0, 3, 0, 0, 0, 0])

    @pytest.mark.parametrize("unknown", [4, -1])
    def test_task_ids_out_of_range(self, model, batch, unknown):
        with pytest.raises(ValueError, match=rf"task_ids has \[{unknown}\], but this model's tasks are 0 to 3"):
            model(**batch, task_ids=[0, 0, 0, 0, 0, unknown])

    def test_task_ids_must_count_every_sequence(self, model, batch):
        with pytest.raises(ValueError, match="6 sequences were given, but the tasks' rows have 5"):
            model(**batch, task_ids=[0, 0, 0, 0, 0])

    def test_task_ids_must_not_count_more_than_there_are(self, model, batch):
        with pytest.raises(ValueError, match="6 sequences were given, but the tasks' rows have 12"):
            model(**batch, task_ids=[2, 2, 2, 2, 2, 2])

    def test_an_odd_number_of_sequences_for_pairs(self, model, batch):
        odd = {key: value[:5] for key, value in batch.items()}
        with pytest.raises(ValueError, match="task 'close' takes 2 sequences a row, got 5 in all"):
            model(**odd, tasks=["stars", "close"])
        with pytest.raises(ValueError, match="5 sequences were given, but the tasks' rows have 4"):
            model(**odd, task="close")

    def test_ids_and_embeddings(self, model, batch):
        embeds = model.get_input_embeddings()(batch["input_ids"])
        for values in ({}, {"input_ids": batch["input_ids"], "inputs_embeds": embeds}):
            with pytest.raises(ValueError, match="give either input_ids or inputs_embeds"):
                model(**values, task="stars")

    def test_a_model_needs_tasks(self):
        with pytest.raises(ValueError, match="tasks is empty; a model needs at least one task"):
            MtBertForMultiTask(MtBertConfig(encoder=BertConfig(**TINY, **SIZES)))


class TestTraining:
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

    def gradients(self, model, batch):
        labels = {"stars": torch.tensor([0, 1]), "close": torch.tensor([2.5]), "topics": torch.ones(2, 3)}
        model(**batch, task_ids=[0, 0, 2, 3, 3], labels=labels).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    @pytest.mark.parametrize("packed", [True, False])
    def test_gradient_checkpointing_gives_the_same_gradients(self, make_model, tasks, batch, packed):
        specs = [TaskSpec.from_dict({**task.to_dict(), "dropout": 0.0}) for task in tasks]
        plain, checkpointed = (make_model(specs, packed=packed, **self.no_dropout).train() for _ in range(2))
        checkpointed.gradient_checkpointing_enable()
        runs = []
        layer = checkpointed.encoder.encoder.layer[0]
        layer.attention.register_forward_hook(lambda *_: runs.append(1))
        expected, found = self.gradients(plain, batch), self.gradients(checkpointed, batch)
        assert len(runs) == 2  # once forward, once again for the gradient
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, msg=name)

    def test_packed_and_padded_give_the_same_gradients(self, make_model, tasks, batch):
        specs = [TaskSpec.from_dict({**task.to_dict(), "dropout": 0.0}) for task in tasks]
        found, expected = (
            self.gradients(make_model(specs, packed=packed, **self.no_dropout).train(), batch) for packed in (1, 0)
        )
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3, msg=name)

    def test_compiled_model_gives_the_same_gradients(self, make_model, tasks, batch):
        specs = [TaskSpec.from_dict({**task.to_dict(), "dropout": 0.0}) for task in tasks]
        plain, compiled = (make_model(specs, **self.no_dropout).train() for _ in range(2))
        graphs = []

        def backend(graph, inputs):  # what dynamo has traced, run as it is: the compiler itself is not under test
            graphs.append(graph)
            return graph.forward

        compiled.encoder.compile(backend=backend)
        expected, found = self.gradients(plain, batch), self.gradients(compiled, batch)
        assert graphs
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, msg=name)

    def test_lora(self, make_model, batch):
        import peft

        plain = make_model().eval()
        set_seed(2)
        config = peft.LoraConfig(r=2, target_modules=r"encoder\..*\.(query|value)")
        model = peft.get_peft_model(make_model(), config).eval()
        close(model(**batch, task="stars").logits, plain(**batch, task="stars").logits)  # B begins at 0

        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert len(trained) == 2 * 2 * 2  # layers × (query, value) × (A, B)
        assert all("lora_" in name for name in trained)
        model.train()(**batch, task="stars", labels=torch.tensor([0, 1, 2, 0, 1, 2])).loss.backward()
        assert all(p.grad.abs().sum() > 0 for name, p in trained.items() if "lora_B" in name)
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        with torch.no_grad():
            for p in trained.values():
                p.add_(0.5)
        moved = model.eval()(**batch, task="stars").logits
        assert not torch.allclose(moved, plain(**batch, task="stars").logits, atol=1e-3)
        close(model.merge_and_unload()(**batch, task="stars").logits, moved)
