"""The trainer's plan of steps, what it saves, the rows that it takes, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from mtbert.data.sampling import Schedule
from mtbert.errors import InputError
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments, TaskTraining
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.distillation import Distillation
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.trainer import MtBertTrainer

NAMES = ("stars", "same", "close", "topics")


class TestPlan:
    def test_follows_the_arguments(self, make_trainer):
        settings = {"same": TaskTraining(batch_size=3, examples_per_epoch=10)}
        trainer = make_trainer(task_training=settings, gradient_accumulation_steps=2, num_train_epochs=1.5, data_seed=7)
        plan = trainer.plan()
        assert (plan.names, plan.rows) == (NAMES, (40, 24, 33, 17))
        assert (plan.batch, plan.epochs, plan.seed) == (12, 2, 7)
        assert plan.batches == (None, 3, None, None) and plan.sizes == (None, 10, None, None)

    @pytest.mark.parametrize(("max_steps", "epochs"), [(1, 1), (2, 1), (3, 2), (5, 3)])
    def test_max_steps(self, make_trainer, max_steps, epochs):
        trainer = make_trainer(steps=2, max_steps=max_steps, num_train_epochs=7)
        assert trainer.plan().epochs == epochs
        trainer.train()
        assert trainer.state.global_step == max_steps

    def test_steps_and_epochs(self, make_trainer):
        trainer = make_trainer(num_train_epochs=2)
        assert trainer.plan().steps_per_epoch == math.ceil((40 + 24 + 33 + 17) / 6)
        trainer.train()
        assert trainer.state.global_step == 2 * 19

    def test_the_seed_is_the_default_data_seed(self, make_trainer):
        assert make_trainer(seed=5).plan().seed == 5


class TestSaving:
    def test_json_instead_of_a_pickle(self, make_trainer, tmp_path):
        trainer = make_trainer(steps=2, save_strategy="epoch")
        trainer.train()
        trainer.save_model(str(tmp_path / "final"))
        for folder in (tmp_path / "run" / "checkpoint-2", tmp_path / "final"):
            names = {path.name for path in folder.iterdir()}
            assert {"config.json", "model.safetensors", "tokenizer.json", "training_args.json"} <= names
            assert not (folder / "training_args.bin").exists()
            values = json.loads((folder / "training_args.json").read_text())
            assert values["learning_rate"] == 1e-3
            assert values["per_device_train_batch_size"] == 6

    def test_the_saved_model_is_the_trained_one(self, make_trainer, tmp_path):
        trainer = make_trainer(steps=2)
        trainer.train()
        trainer.save_model(str(tmp_path / "final"))
        loaded = MtBertForMultiTask.from_pretrained(tmp_path / "final").state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in trainer.model.state_dict().items())


def test_rows_that_the_user_tokenised_with_padding_are_those_of_their_texts(make_trainer, splits, tokenizer):
    data, dev = splits(), splits((9, 10, 11, 12), seed=1)

    def padded_rows(rows):
        columns = tokenizer(rows["text"][:], padding="max_length", max_length=40)
        return Dataset.from_dict({**columns, "labels": rows["label"][:]}).with_format("torch")

    given = {"train_dataset": {**data, "stars": padded_rows(data["stars"])}, "eval_dataset": dev}
    one, other = make_trainer(), make_trainer(**given)
    assert one.train_dataset["stars"]["input_ids"][:] == other.train_dataset["stars"]["input_ids"][:]
    for batch, same in zip(one.get_train_dataloader(), other.get_train_dataloader(), strict=True):
        assert torch.equal(batch["input_ids"], same["input_ids"])
    texts, ids = ({"stars": rows} for rows in (dev["stars"], padded_rows(dev["stars"])))
    assert np.array_equal(one.predict(texts).predictions["stars"], other.predict(ids).predictions["stars"])
    assert one.evaluate(texts)["eval_stars_loss"] == other.evaluate(ids)["eval_stars_loss"]


def test_rows_that_are_left_out_are_told(make_trainer, splits, capsys):
    data = splits()
    labels = [None, *data["topics"]["label"][1:]]
    rows = Dataset.from_dict({"text": data["topics"]["text"][:], "label": labels})
    make_trainer(train_dataset={**data, "topics": rows})
    told = " ".join(capsys.readouterr().out.split())
    assert "warning: topics train: 1 of 17 rows have an empty label cell" in told and "or [] there" in told


class TestErrors:
    @pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
    def test_unknown_task(self, make_trainer, splits, argument):
        data = {**splits(), "moons": splits()["stars"]}
        message = rf"{argument} has \['moons'\], but the model's tasks are: stars, same, close, topics"
        with pytest.raises(ValueError, match=message):
            make_trainer(**{argument: data})

    def test_unknown_task_in_settings(self, make_trainer):
        with pytest.raises(ValueError, match=r"task_training has \['moons'\], but the model's tasks are: stars"):
            make_trainer(task_training={"moons": TaskTraining()})

    def test_unknown_task_in_predict(self, make_trainer, splits):
        with pytest.raises(ValueError, match=r"test_dataset has \['moons'\]"):
            make_trainer().predict({"moons": splits()["stars"]})

    def test_missing_train_task(self, make_trainer, splits):
        data = {name: split for name, split in splits().items() if name not in ("same", "topics")}
        message = r"train_dataset lacks the tasks \['same', 'topics'\]; give rows for each, or drop the task"
        with pytest.raises(ValueError, match=message):
            make_trainer(train_dataset=data)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"preprocess_logits_for_metrics": lambda logits, _: logits}, "compute_metrics gets each task's logits"),
            ({"model_init": lambda: None}, "built from an encoder plus tasks; give one as model.*mtbert search"),
            ({"data_collator": lambda rows: rows}, "the trainer packs its batches itself; drop it"),
        ],
    )
    def test_arguments_of_transformers_without_a_meaning_here(self, make_model, make_args, given, message):
        (name,) = given
        for model in ({}, {"model": make_model()}):
            with pytest.raises(InputError, match=f"^{name} is refused: .*{message}"):
                MtBertTrainer(**model, args=make_args(), **given)
        MtBertTrainer(make_model(), make_args(), **dict.fromkeys(given))

    def test_no_model(self, make_args):
        with pytest.raises(InputError, match="model is missing; give one, such as MtBertForMultiTask.from_encoder"):
            MtBertTrainer(args=make_args())

    def test_hyperparameter_search(self, make_trainer):
        with pytest.raises(InputError, match="hyperparameter_search is refused, .* run `mtbert search`"):
            make_trainer().hyperparameter_search(n_trials=2, direction="maximize")

    def test_other_arguments(self, make_model, tmp_path):
        args = TrainingArguments(output_dir=str(tmp_path), report_to="none")
        with pytest.raises(TypeError, match="args must be MtBertTrainingArguments, got TrainingArguments"):
            MtBertTrainer(make_model(), args)

    def test_no_tokenizer(self, make_trainer):
        message = "processing_class is missing; give the tokenizer that goes with the encoder"
        with pytest.raises(ValueError, match=message):
            make_trainer(processing_class=None)

    def test_encoded_rows_need_no_tokenizer(self, make_trainer):
        ready = make_trainer()
        data = {"train_dataset": ready.train_dataset, "eval_dataset": ready.eval_dataset}
        trainer = make_trainer(processing_class=None, steps=1, **data)
        trainer.train()
        assert trainer.evaluate()["eval_loss"] > 0

    def test_no_rows_to_evaluate(self, make_trainer):
        message = "eval_dataset is missing; evaluation needs labelled rows of at least one task"
        with pytest.raises(ValueError, match=message):
            make_trainer(eval_dataset=None).evaluate()

    def test_no_rows_to_train(self, make_trainer):
        with pytest.raises(ValueError, match="train_dataset is missing; training needs rows for each task"):
            make_trainer(train_dataset=None).train()

    def test_rows_without_labels_cannot_be_evaluated(self, make_trainer):
        trainer = make_trainer()
        unlabelled = {"stars": trainer.eval_dataset["stars"].remove_columns("label")}
        with pytest.raises(ValueError, match="eval rows of task 'stars' have no labels; use predict for them"):
            trainer.evaluate(unlabelled)

    def test_wrong_schedule(self, make_trainer):
        with pytest.raises(ValueError, match="schedule.name is 'random', but must be one of: proportional"):
            make_trainer(schedule=Schedule("random"))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"weight": 0}, "tasks.t.weight is 0, but must be positive; to leave a task out, drop it"),
            ({"batch_size": 0}, "tasks.t.batch_size is 0, but must be 1 or more"),
            ({"examples_per_epoch": -1}, "tasks.t.examples_per_epoch is -1, but must be 1 or more"),
        ],
    )
    def test_rules_of_a_tasks_settings(self, values, message):
        assert [str(each.under("tasks", "t")) for each in TaskTraining(**values).problems()] == [message]
        assert TaskTraining().problems() == []

    def test_a_wrong_setting_of_a_task_is_refused(self, make_trainer):
        with pytest.raises(ValueError, match="weight is -1, but must be positive"):
            make_trainer(task_training={"stars": TaskTraining(weight=-1)})

    def test_a_wrong_label_names_its_task_and_row(self, make_trainer, splits):
        data = splits()
        data["stars"] = Dataset.from_dict({"text": ["a cat", "a dog"], "label": [0, 7]})
        with pytest.raises(ValueError, match="task 'stars', train split.*row 2: 7"):
            make_trainer(train_dataset=data)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"averaging": Averaging(decay=2)}, r"^averaging.decay is 2, but must be in \[0, 1\)$"),
            (
                {"distillation": Distillation()},
                r"^distillation.teachers is \[\], but must be folders of checkpoint",
            ),
            (
                {"optimizer": OptimizerSettings("all")},
                "^optimizer.per_task is 'all', but must be separate, rates",
            ),
            ({"loss": LossSettings("learned")}, "^loss.weighting is 'learned', but must be fixed or uncertainty"),
        ],
    )
    def test_wrong_settings_of_the_run(self, make_model, make_args, given, message):
        with pytest.raises(ValueError, match=message):
            MtBertTrainer(make_model(), make_args(), **given)

    def test_an_optimizer_of_ones_own_excludes_the_settings_of_ours(self, make_model, make_args):
        model = make_model()
        optimizers = (torch.optim.SGD(model.parameters(), lr=0.1), None)
        message = "^optimizers has one already made; drop it, or the settings optimizer and loss$"
        with pytest.raises(ValueError, match=message):
            MtBertTrainer(model, make_args(), optimizers=optimizers, optimizer=OptimizerSettings(layer_decay=0.9))
        with pytest.raises(ValueError, match=message):
            MtBertTrainer(model, make_args(), optimizers=optimizers, loss=LossSettings("uncertainty"))

    def test_several_gpus_in_one_process(self, make_model, make_args, monkeypatch):
        monkeypatch.setattr(MtBertTrainingArguments, "n_gpu", property(lambda args: 2))
        with pytest.raises(ValueError, match="^2 GPUs in one process would mean DataParallel, .*; start with `acce"):
            MtBertTrainer(make_model(), make_args())
