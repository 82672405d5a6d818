"""The trainer: a step's loss, logs, evaluation, prediction, saving and its refusals."""

import copy
import json
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from mtbert.data.sampling import Schedule, StepSampler
from mtbert.errors import InputError
from mtbert.evaluation.metrics import averages, default_metrics, score_task
from mtbert.modeling.configuration_mtbert import TaskSpec
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.tokenization import encode_texts
from mtbert.training.arguments import MtBertTrainingArguments, TaskTraining
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.distillation import Distillation
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.peft import wrap
from mtbert.training.trainer import MtBertTrainer

NAMES = ("stars", "same", "close", "topics")
TIMES = ("runtime", "samples_per_second", "steps_per_second")
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Spy(MtBertTrainer):
    """Keeps what every micro-batch adds to its step's loss."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.__dict__.setdefault("micro_losses", []).append(float(loss))
        return loss


@pytest.fixture
def make_args(tmp_path):
    def make(**kwargs) -> MtBertTrainingArguments:
        values = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 6,
            "per_device_eval_batch_size": 8,
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
            "save_strategy": "no",
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return MtBertTrainingArguments(**{**values, **kwargs})

    return make


@pytest.fixture
def make_trainer(make_model, make_args, splits, tokenizer):
    """A function: settings of the trainer and of its arguments → a trainer on the four tasks, with dev splits."""

    def make(kind=MtBertTrainer, model=None, steps=None, **kwargs):
        own = ("schedule", "task_training", "callbacks", "train_dataset", "eval_dataset", "processing_class")
        own += ("compute_metrics",)
        given = {key: kwargs.pop(key) for key in own if key in kwargs}
        defaults = {
            "train_dataset": splits(),
            "eval_dataset": splits((9, 10, 11, 12), seed=1),
            "processing_class": tokenizer,
            "schedule": Schedule(steps_per_epoch=steps),
        }
        return kind(model or make_model(), make_args(**kwargs), **{**defaults, **given})

    return make


@pytest.fixture
def plain_model(make_model, tasks):
    """A function: a model without any dropout, so that training and evaluation compute the same."""
    specs = [TaskSpec.from_dict({**task.to_dict(), "dropout": 0.0}) for task in tasks]
    return lambda: make_model(specs, **NO_DROPOUT)


def without_times(metrics):
    return {name: value for name, value in metrics.items() if not name.endswith(("_runtime", "_per_second"))}


def padded(task, rows):
    """Encoded rows → padded inputs of the model, with a loop."""
    sequences, types = [], []
    for row in rows:
        ids, own = row["input_ids"], row.get("token_type_ids", [0] * len(row["input_ids"]))
        cuts = [0, row["first_length"], len(ids)] if task.siamese else [0, len(ids)]
        for first, last in zip(cuts, cuts[1:]):
            sequences.append(torch.tensor(ids[first:last]))
            types.append(torch.tensor(own[first:last]))
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(sequences, batch_first=True),
        "token_type_ids": pad(types, batch_first=True),
        "attention_mask": pad([torch.ones(len(each), dtype=torch.long) for each in sequences], batch_first=True),
    }


def mean_loss(model, task, rows):
    """mean_t, from the model's logits by a formula."""
    with torch.no_grad():
        logits = model(**padded(task, rows), task=task.name).logits.double()
    labels = torch.tensor([row["label"] for row in rows])
    if task.problem_type == "regression":
        return float(((logits[:, 0] - labels) ** 2).mean())
    if task.problem_type == "single_label_classification":
        return float(torch.stack([-z.log_softmax(0)[y] for z, y in zip(logits, labels, strict=True)]).mean())
    p = logits.sigmoid().reshape(labels.shape)
    return float(-torch.where(labels == 1, p, 1 - p).log().mean())


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


class TestStepLoss:
    """With a learning rate of 0 every step sees the same model."""

    @pytest.mark.parametrize("accumulation", [1, 2])
    @pytest.mark.parametrize(
        "schedule",
        [
            Schedule("uniform", steps_per_epoch=6),
            Schedule("sqrt", mixed=True, steps_per_epoch=3),
            Schedule("simultaneous", steps_per_epoch=2),
            Schedule("round_robin", steps_per_epoch=4),
        ],
        ids=["drawn", "mixed", "simultaneous", "round robin"],
    )
    def test_is_the_weighted_sum_of_the_tasks_means(self, make_trainer, plain_model, tasks, schedule, accumulation):
        weights = {"stars": 0.5, "same": 1.0, "close": 3.0, "topics": 2.0}
        settings = {name: TaskTraining(weight=weight) for name, weight in weights.items()}
        trainer = make_trainer(
            Spy,
            plain_model(),
            schedule=schedule,
            task_training=settings,
            learning_rate=0.0,
            gradient_accumulation_steps=accumulation,
        )
        plan = trainer.plan()
        trainer.train()
        micro = np.array(trainer.micro_losses).reshape(-1, accumulation).sum(1)
        logged = [logs["loss"] for logs in trainer.state.log_history if "loss" in logs]
        steps = list(StepSampler(plan))
        assert len(micro) == len(logged) == len(steps) == plan.steps_per_epoch
        assert plan.batch == 6 * accumulation

        model = trainer.model.eval()
        for step, loss, log in zip(steps, micro, logged, strict=True):
            total = sum(len(rows) for _, rows in step.parts)
            expected = 0.0
            for task_id, rows in step.parts:
                task = tasks[task_id]
                examples = [trainer.train_dataset[task.name][int(row)] for row in rows]
                share = 1.0 if schedule.name == "simultaneous" else len(rows) / total
                expected += weights[task.name] * share * mean_loss(model, task, examples)
            assert loss == pytest.approx(expected, rel=1e-4)
            assert log == pytest.approx(expected, rel=1e-3)

    def test_accumulation_gives_the_same_training(self, make_trainer, plain_model):
        schedule = Schedule("sqrt", mixed=True, steps_per_epoch=3)
        whole = make_trainer(model=plain_model(), schedule=schedule, per_device_train_batch_size=12, optim="sgd")
        parts = make_trainer(
            model=plain_model(),
            schedule=schedule,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=3,
            optim="sgd",
        )
        before = weights_of(whole.model)
        whole.train(), parts.train()
        moved = False
        for name, value in whole.model.state_dict().items():
            torch.testing.assert_close(parts.model.state_dict()[name], value, atol=1e-6, rtol=1e-4, msg=name)
            moved |= not torch.equal(value, before[name])
        assert moved

    def test_a_weight_scales_its_task_only(self, make_trainer, plain_model):
        losses = []
        for weight in (1.0, 2.5):
            trainer = make_trainer(
                Spy,
                plain_model(),
                schedule=Schedule("round_robin", steps_per_epoch=4),
                task_training={"same": TaskTraining(weight=weight)},
                learning_rate=0.0,
            )
            trainer.train()
            losses.append(trainer.micro_losses)
        assert losses[1] == pytest.approx([losses[0][0], 2.5 * losses[0][1], losses[0][2], losses[0][3]])

    def test_heads_of_absent_tasks_have_no_gradient(self, make_trainer):
        seen = []

        class Look(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
                seen.append({name: [p.grad is not None for p in model.heads[name].parameters()] for name in NAMES})

        trainer = make_trainer(schedule=Schedule("round_robin", steps_per_epoch=5), callbacks=[Look()])
        trainer.train()
        assert len(seen) == 5
        for step, found in enumerate(seen):
            for task_id, name in enumerate(NAMES):
                assert set(found[name]) == {step % 4 == task_id}, (step, name)

    def test_a_step_leaves_the_heads_of_absent_tasks_alone(self, make_trainer):
        trainer = make_trainer(schedule=Schedule("round_robin"), max_steps=2, weight_decay=0.5)
        before = weights_of(trainer.model)
        trainer.train()
        after = trainer.model.state_dict()
        for name, value in before.items():
            if name.startswith("heads."):
                assert torch.equal(after[name], value) == (name.split(".")[1] in ("close", "topics")), name

    def test_a_frozen_encoder_keeps_its_bits(self, make_trainer, make_model):
        model = make_model()
        model.freeze_encoder()
        before = weights_of(model)
        make_trainer(model=model, steps=6, learning_rate=0.1, weight_decay=0.5).train()
        after = model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("encoder."))
        assert any(not torch.equal(after[name], value) for name, value in before.items() if name.startswith("heads."))

    def test_bf16(self, make_trainer):
        trainer = make_trainer(bf16=True, steps=4, eval_strategy="epoch", schedule=Schedule("round_robin"), max_steps=4)
        before = weights_of(trainer.model)
        trainer.train()
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
        losses = [logs["loss"] for logs in trainer.state.log_history if "loss" in logs]
        assert len(losses) == 4 and np.isfinite(losses).all()
        assert any(not torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
        logits = trainer.predict(trainer.eval_dataset).predictions
        assert all(each.dtype == np.float32 and np.isfinite(each).all() for each in logits.values())

    def test_training_lowers_the_loss(self, make_trainer):
        trainer = make_trainer(num_train_epochs=2, learning_rate=3e-3, schedule=Schedule("uniform"))
        before = trainer.evaluate()
        trainer.train()
        after = trainer.evaluate()
        assert after["eval_loss"] < before["eval_loss"]


class TestLogs:
    @pytest.mark.parametrize("logging_steps", [1, 5, 1000])
    @pytest.mark.parametrize(
        "schedule", [Schedule("annealed", steps_per_epoch=7), Schedule("sqrt", mixed=True, steps_per_epoch=4)]
    )
    def test_examples_sum_up_to_the_plan(self, make_trainer, schedule, logging_steps):
        trainer = make_trainer(schedule=schedule, num_train_epochs=2, logging_steps=logging_steps)
        plan = trainer.plan()
        trainer.train()
        logs = [each for each in trainer.state.log_history if "loss" in each]
        steps = 2 * plan.steps_per_epoch
        assert len(logs) == steps // logging_steps
        if logging_steps == 1:
            for row in plan.describe():
                assert sum(each[f"examples_{row['task']}"] for each in logs) == row["examples"]
        else:
            logged = steps // logging_steps * logging_steps
            counts = np.concatenate([plan.counts(epoch, 0) for epoch in range(2)])[:logged]
            for task, name in enumerate(NAMES):
                assert sum(each[f"examples_{name}"] for each in logs) == (counts[:, task].sum() if logged else 0)

    def test_losses_are_means_over_a_tasks_rows(self, make_trainer, plain_model, tasks):
        schedule = Schedule("uniform", steps_per_epoch=6)
        trainer = make_trainer(model=plain_model(), schedule=schedule, learning_rate=0.0, logging_steps=6)
        trainer.train()
        (logs,) = [each for each in trainer.state.log_history if "loss" in each]
        passed = {}
        for step in StepSampler(trainer.plan()):
            for task_id, rows in step.parts:
                passed.setdefault(task_id, []).extend(rows.tolist())
        assert len(passed) > 1
        for task_id, task in enumerate(tasks):
            assert logs[f"examples_{task.name}"] == len(passed.get(task_id, []))
            if task_id in passed:
                examples = [trainer.train_dataset[task.name][row] for row in passed[task_id]]
                expected = mean_loss(trainer.model.eval(), task, examples)
                assert logs[f"loss_{task.name}"] == pytest.approx(expected, rel=1e-4)
            else:
                assert f"loss_{task.name}" not in logs

    def test_a_task_that_was_not_seen_has_no_loss(self, make_trainer):
        trainer = make_trainer(schedule=Schedule("round_robin"), max_steps=2)
        trainer.train()
        first = trainer.state.log_history[0]
        assert "loss_stars" in first
        assert not {"loss_same", "loss_close", "loss_topics"} & set(first)
        assert [first[f"examples_{name}"] for name in NAMES] == [6, 0, 0, 0]

    def test_tensorboard(self, make_trainer, tmp_path):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        trainer = make_trainer(report_to="tensorboard", steps=3, eval_strategy="epoch")
        trainer.train()
        (file,) = tmp_path.rglob("events.out.tfevents*")
        events = EventAccumulator(str(file))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        assert {"train/loss", "train/examples_stars", "eval/overall", "eval/stars_accuracy"} <= tags
        assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]

    def test_tensorboard_is_the_default(self, tmp_path):
        assert MtBertTrainingArguments(output_dir=str(tmp_path)).report_to == ["tensorboard"]

    def test_the_plan_is_printed(self, make_trainer, capsys):
        trainer = make_trainer(steps=3)
        capsys.readouterr()
        trainer.train()
        out = capsys.readouterr().out
        assert "Plan: annealed" in out and all(name in out for name in NAMES)

    @pytest.mark.parametrize(
        ("settings", "title"),
        [
            ({"max_steps": 4}, "Plan: annealed, 0.211 epochs × 19 steps = 4 steps"),
            ({"max_steps": 40}, "Plan: annealed, 2.105 epochs × 19 steps = 40 steps"),
            ({"num_train_epochs": 1.5}, "Plan: annealed, 1.526 epochs × 19 steps = 29 steps"),
            ({"num_train_epochs": 0.01}, "Plan: annealed, 0.053 epochs × 19 steps = 1 steps"),
            (
                {"num_train_epochs": 2, "gradient_accumulation_steps": 3},
                "Plan: annealed, 2 epochs × 7 steps = 14 steps",
            ),
        ],
    )
    def test_the_plan_that_is_printed_is_run(self, make_trainer, capsys, settings, title):
        trainer = make_trainer(logging_steps=1, **settings)
        trainer.train()
        printed = " ".join(capsys.readouterr().out.split())
        assert title in printed
        plan, logs = trainer.plan(), [each for each in trainer.state.log_history if "loss" in each]
        assert trainer.state.global_step == plan.total_steps == len(logs)
        for row in plan.describe():
            assert sum(each[f"examples_{row['task']}"] for each in logs) == row["examples"]
            assert f"{row['task']} │ {row['rows']} │ {row['batch']} │ {row['examples']} │" in printed


class TestEvaluate:
    def test_metrics_are_those_of_the_predictions(self, make_trainer, tasks):
        trainer = make_trainer(task_training={"stars": TaskTraining(metric="f1_macro")})
        metrics = trainer.evaluate()
        predictions = trainer.predict(trainer.eval_dataset)
        main = {}
        for task in tasks:
            metric = {"stars": "f1_macro"}.get(task.name)
            labels = predictions.label_ids[task.name]
            scores = score_task(task, predictions.predictions[task.name], labels, metric)
            for name, value in scores.items():
                assert metrics[f"eval_{task.name}_{name}"] == value
            main[task.name] = (metric or default_metrics(task)[0], scores[metric or default_metrics(task)[0]])
            rows = list(trainer.eval_dataset[task.name])
            assert metrics[f"eval_{task.name}_loss"] == pytest.approx(
                mean_loss(trainer.model.eval(), task, rows), rel=1e-4
            )
        expected = averages(main)
        assert metrics["eval_overall"] == expected["overall"]
        assert metrics["eval_raw_mean"] == expected["raw_mean"]
        assert metrics["eval_loss"] == pytest.approx(np.mean([metrics[f"eval_{name}_loss"] for name in NAMES]))

    def test_one_event_with_all_metrics(self, make_trainer):
        seen = []

        class Look(TrainerCallback):
            def on_evaluate(self, args, state, control, metrics=None, **kwargs):
                seen.append(dict(metrics))

        trainer = make_trainer(callbacks=[Look()], steps=2, num_train_epochs=2, eval_strategy="epoch")
        trainer.evaluate()
        assert len(seen) == 1
        trainer.train()
        assert len(seen) == 3
        for metrics in seen:
            assert {"eval_overall", "eval_raw_mean", "eval_loss", "eval_runtime"} <= set(metrics)
            assert {f"eval_{name}_loss" for name in NAMES} <= set(metrics)
            wanted = ("stars_accuracy", "same_f1", "close_pearson", "topics_f1_micro")
            assert {f"eval_{name}" for name in wanted} <= set(metrics)
        evaluations = [logs for logs in trainer.state.log_history if "eval_overall" in logs]
        assert [logs["step"] for logs in evaluations if logs["step"] > 0] == [2, 4]

    def test_evaluation_does_not_change_the_training(self, make_trainer):
        found = []
        for settings in ({}, {"eval_strategy": "steps", "eval_steps": 2}):
            trainer = make_trainer(steps=6, **settings)  # a new trainer sets the seed
            trainer.train()
            found.append(trainer.model.state_dict())
        for name, value in found[0].items():
            assert torch.equal(found[1][name], value), name

    def test_train_splits(self, make_trainer):
        trainer = make_trainer(eval_train=True)
        metrics = trainer.evaluate()
        plain = make_trainer().evaluate()
        added = set(metrics) - set(plain)
        assert all(name.startswith("train_") for name in added)
        assert {f"train_{name}_loss" for name in NAMES} | {"train_overall", "train_raw_mean", "train_loss"} <= added
        assert {name: metrics[name] for name in plain if "loss" in name or "overall" in name} == {
            name: value for name, value in plain.items() if "loss" in name or "overall" in name
        }
        other = trainer.evaluate(trainer.train_dataset)
        assert not any(name.startswith("train_") for name in other)
        for name in NAMES:
            assert metrics[f"train_{name}_loss"] == pytest.approx(other[f"eval_{name}_loss"])

    def test_raw_rows_and_a_prefix(self, make_trainer, splits):
        trainer = make_trainer()
        raw = splits((9, 10, 11, 12), seed=1)
        expected = trainer.evaluate()
        found = trainer.evaluate({"close": raw["close"]}, metric_key_prefix="other")
        assert found["other_close_pearson"] == expected["eval_close_pearson"]
        assert not any("stars" in name or name.startswith("eval") for name in found)

    def test_one_task_by_name_or_by_rows(self, make_trainer):
        trainer = make_trainer()
        expected = trainer.evaluate()
        found = trainer.evaluate("close")
        again = trainer.evaluate(eval_dataset={"close": trainer.eval_dataset["close"]})
        assert without_times(again) == without_times(found)
        for name in ("loss", "pearson", "spearman", "mse"):
            assert found[f"eval_close_{name}"] == expected[f"eval_close_{name}"]
        assert found["eval_raw_mean"] == expected["eval_close_pearson"]
        assert not any("stars" in name for name in found)
        with pytest.raises(InputError, match="eval_dataset is 'cloze', .*has rows of: stars, same, close, topics"):
            trainer.evaluate("cloze")
        with pytest.raises(InputError, match="'stars', which must be .* eval_dataset is missing; .*evaluate"):
            make_trainer(eval_dataset=None).evaluate("stars")

    def test_the_loaders_hold_every_row_once(self, make_trainer, splits):
        trainer = make_trainer()
        for loader, expected in (
            (trainer.get_eval_dataloader(), trainer.eval_dataset),
            (trainer.get_eval_dataloader("same"), {"same": trainer.eval_dataset["same"]}),
            (trainer.get_test_dataloader(splits((5, 3, 2, 1), seed=4)), splits((5, 3, 2, 1), seed=4)),
        ):
            rows = {name: [] for name in expected}
            for batch in loader:
                for name, own in batch["rows"].items():
                    rows[name] += own.tolist()
            assert {name: sorted(own) for name, own in rows.items()} == {
                name: list(range(len(split))) for name, split in expected.items()
            }

    def test_the_loop_called_directly(self, make_trainer):
        trainer = make_trainer()
        output = trainer.evaluation_loop(trainer.get_eval_dataloader(), "Evaluation", metric_key_prefix="mine")
        expected = trainer.evaluate(metric_key_prefix="mine")
        assert output.metrics.items() <= expected.items() and "mine_overall" in output.metrics
        assert output.num_samples == 9 + 10 + 11 + 12
        with pytest.raises(InputError, match="only the loaders of get_eval_dataloader and get_test_dataloader give"):
            trainer.evaluation_loop(trainer.get_train_dataloader(), "Evaluation")

    def test_a_step_called_directly(self, make_trainer, plain_model):
        trainer = make_trainer(model=plain_model())
        for batch in trainer.get_eval_dataloader("stars"):
            loss, outputs, labels = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
            with torch.no_grad():
                expected = trainer.model(
                    **{key: batch[key] for key in ("input_ids", "token_type_ids", "layout", "labels")}
                )
            assert float(loss) == pytest.approx(float(expected.loss))
            assert any(isinstance(each, torch.Tensor) and torch.equal(each, expected.logits) for each in outputs)
            assert torch.equal(labels["stars"], batch["labels"]["stars"])

    def test_the_model_stays_in_its_mode(self, make_trainer):
        trainer = make_trainer()
        for training in (True, False):
            trainer.model.train(training)
            trainer.evaluate()
            assert trainer.model.training is training

    @pytest.mark.parametrize("only_model", [False, True])
    def test_the_best_checkpoint_is_restored(self, make_trainer, only_model):
        class Spoil(TrainerCallback):
            """Empties the heads after the second epoch, so that the last epoch is not the best."""

            def on_epoch_end(self, args, state, control, model=None, **kwargs):
                if round(state.epoch) > 1:
                    with torch.no_grad():
                        for parameter in model.heads.parameters():
                            parameter.zero_()

        trainer = make_trainer(
            callbacks=[Spoil()],
            schedule=Schedule("uniform", steps_per_epoch=40),
            num_train_epochs=2,
            learning_rate=3e-3,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_only_model=only_model,
            load_best_model_at_end=True,
            metric_for_best_model="eval_overall",
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*best checkpoint")
            trainer.train()
        scores = [logs["eval_overall"] for logs in trainer.state.log_history if "eval_overall" in logs]
        assert len(scores) == 2 and scores[0] > scores[1]
        assert trainer.state.best_metric == scores[0]
        best = MtBertForMultiTask.from_pretrained(trainer.state.best_model_checkpoint)
        own = trainer.model.state_dict()
        assert all(torch.equal(own[name], value) for name, value in best.state_dict().items())
        assert trainer.evaluate()["eval_overall"] == pytest.approx(scores[0])

    @pytest.mark.parametrize("patience", [1, 3])
    def test_early_stopping(self, make_trainer, patience):
        trainer = make_trainer(
            early_stopping_patience=patience,
            metric_for_best_model="eval_overall",
            steps=1,
            num_train_epochs=9,
            learning_rate=0.0,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_only_model=True,
            load_best_model_at_end=True,
        )
        trainer.train()
        assert trainer.state.global_step == 1 + patience
        assert len([logs for logs in trainer.state.log_history if "eval_overall" in logs]) == 1 + patience

    def test_early_stopping_needs_a_metric(self, make_trainer):
        message = "it must be said what has to get better, such as metric_for_best_model: eval_overall"
        with pytest.raises(ValueError, match=message):
            make_trainer(early_stopping_patience=2, eval_strategy="epoch")


class TestComputeMetrics:
    """A user's own scores, as transformers' Trainer has them."""

    @staticmethod
    def shares(prediction):
        """The share of rows whose first logit is positive, over all tasks; `seen` for each task."""
        assert prediction.predictions.keys() == prediction.label_ids.keys()
        firsts = np.concatenate([logits[:, 0] for logits in prediction.predictions.values()])
        lengths = {f"seen_{name}": len(labels) for name, labels in prediction.label_ids.items()}
        return {"positive": np.mean(firsts > 0), **lengths}

    def test_is_called_once_with_all_tasks_and_logged_beside_our_scores(self, make_trainer):
        calls = []
        trainer = make_trainer(compute_metrics=lambda given: calls.append(given) or self.shares(given))
        metrics = trainer.evaluate()
        assert len(calls) == 1 and tuple(calls[0].predictions) == NAMES
        expected = trainer.predict(trainer.eval_dataset)
        for name in NAMES:
            np.testing.assert_array_equal(calls[0].predictions[name], expected.predictions[name])
            np.testing.assert_array_equal(calls[0].label_ids[name], expected.label_ids[name])
        firsts = np.concatenate([expected.predictions[name][:, 0] for name in NAMES])
        assert metrics["eval_positive"] == np.mean(firsts > 0)
        assert [metrics[f"eval_seen_{name}"] for name in NAMES] == [9, 10, 11, 12]
        ours = make_trainer().evaluate()
        assert without_times(metrics).keys() == without_times(ours).keys() | {
            "eval_positive",
            *(f"eval_seen_{name}" for name in NAMES),
        }
        assert without_times(ours).items() <= metrics.items()
        assert trainer.state.log_history[0]["eval_positive"] == metrics["eval_positive"]

    def test_of_predictions_it_gets_the_labelled_tasks(self, make_trainer, splits):
        raw = splits((20, 7, 9, 5), seed=3)
        unlabelled = {name: split.remove_columns("label") for name, split in raw.items()}
        trainer = make_trainer(compute_metrics=self.shares)
        metrics = trainer.predict({**unlabelled, "same": raw["same"]}).metrics
        assert metrics["test_seen_same"] == 7 and not any("stars" in name for name in metrics)
        assert trainer.predict(unlabelled).metrics.keys() == {f"test_{each}" for each in TIMES}

    def test_its_score_chooses_the_best_checkpoint(self, make_trainer, tmp_path):
        values = iter([0.25, 0.75, 0.5])
        settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
        trainer = make_trainer(
            compute_metrics=lambda _: {"mine": next(values)},
            steps=3,
            metric_for_best_model="mine",
            load_best_model_at_end=True,
            **settings,
        )
        trainer.train()
        assert trainer.state.best_metric == 0.75
        assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / "checkpoint-2")

    @pytest.mark.parametrize(
        ("returned", "message"),
        [
            ({"overall": 1.0}, r"compute_metrics returned \['eval_overall'\], which the trainer computes itself"),
            ({"eval_stars_accuracy": 1.0}, r"returned \['eval_stars_accuracy'\], .*; give other names"),
            ({"runtime": 1.0}, r"returned \['eval_runtime'\]"),
            (0.5, "compute_metrics returned a float, but must return {name: number}"),
        ],
    )
    def test_what_it_must_not_return(self, make_trainer, returned, message):
        with pytest.raises(InputError, match=message):
            make_trainer(compute_metrics=lambda _: returned).evaluate()


class TestPredict:
    def test_equals_a_loop_over_rows_in_order(self, make_trainer, tasks, splits, tokenizer):
        trainer = make_trainer(per_device_eval_batch_size=3)
        raw = splits((20, 7, 9, 5), seed=3)
        output = trainer.predict(raw)
        model = trainer.model.eval()
        for task in tasks:
            expected = []
            for row in raw[task.name]:
                pairs = [row["text_pair"]] if task.texts == 2 else None
                columns = encode_texts(task, tokenizer, model.config.encoder, [row["text"]], pairs)
                example = {key: value[0] for key, value in columns.items()}
                with torch.no_grad():
                    expected.append(model(**padded(task, [example]), task=task.name).logits[0].numpy())
            np.testing.assert_allclose(output.predictions[task.name], np.stack(expected), atol=1e-5, rtol=1e-4)
        assert output.label_ids["stars"].tolist() == raw["stars"]["label"][:]
        np.testing.assert_allclose(output.label_ids["close"], raw["close"]["label"][:])
        wanted = [[float(name in own) for name in tasks[3].labels] for own in raw["topics"]["label"]]
        assert output.label_ids["topics"].tolist() == wanted

    def test_rows_without_labels(self, make_trainer, splits):
        trainer = make_trainer()
        raw = splits((20, 7, 9, 5), seed=3)
        labelled = trainer.predict(raw)
        unlabelled = trainer.predict({name: split.remove_columns("label") for name, split in raw.items()})
        assert unlabelled.label_ids == dict.fromkeys(NAMES)
        assert unlabelled.metrics.keys() == {f"test_{each}" for each in TIMES}
        for name in NAMES:
            assert np.array_equal(unlabelled.predictions[name], labelled.predictions[name])

    def test_some_labelled_tasks_give_their_metrics(self, make_trainer, splits):
        raw = splits((20, 7, 9, 5), seed=3)
        output = make_trainer().predict({"stars": raw["stars"], "close": raw["close"].remove_columns("label")})
        assert list(output.predictions) == ["stars", "close"]
        assert output.label_ids["close"] is None and output.label_ids["stars"] is not None
        assert "test_stars_accuracy" in output.metrics
        assert not any("close" in name for name in output.metrics)

    def test_fires_on_predict_with_times(self, make_trainer, splits):
        heard = []

        class Listener(TrainerCallback):
            def on_predict(self, args, state, control, metrics, **kwargs):
                heard.append(metrics)

        output = make_trainer(callbacks=[Listener()]).predict(splits((20, 7, 9, 5), seed=3))
        assert len(heard) == 1 and heard[0] == output.metrics
        assert {f"test_{each}" for each in TIMES} < output.metrics.keys()
        rate = output.metrics["test_samples_per_second"] * output.metrics["test_runtime"]
        assert rate == pytest.approx(20 + 7 + 9 + 5, rel=0.02)

    def test_every_row_has_a_prediction(self, make_trainer):
        """Also one without a label among labelled ones: it is the row whose label one wants to know."""
        rows = Dataset.from_dict({"text": ["a cat", "the dog", "a bird"], "label": [0, None, 2]})
        output = make_trainer().predict({"stars": rows})
        assert output.predictions["stars"].shape == (3, 3)

    def test_before_and_after_training(self, make_trainer, splits):
        trainer, raw = make_trainer(steps=3), splits((20, 7, 9, 5), seed=3)
        before = trainer.predict(raw).predictions
        trainer.train()
        after = trainer.predict(raw).predictions
        assert any(not np.allclose(before[name], after[name]) for name in NAMES)
        assert np.array_equal(trainer.predict(raw).predictions["stars"], after["stars"])


@pytest.mark.parametrize("inside", [lambda model: model, lambda model: wrap(model, {"target_modules": ["query"]})])
def test_a_model_predicts_after_training_with_its_trainers_tokenizer(
    inside, make_model, make_trainer, tokenizer, tmp_path
):
    model = inside(MtBertForMultiTask(make_model().config))
    trainer = make_trainer(model=model, max_steps=2)
    trainer.train()
    texts = ["the cat sleeps .", "a dog"]
    expected = model.predict(texts, task="stars", tokenizer=tokenizer).logits
    np.testing.assert_array_equal(trainer.model.predict(texts, task="stars").logits, expected)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(same.predict(texts, task="stars").logits, expected)
    assert not any("tokenizer" in name for name in model.state_dict())


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
    assert "warning: topics train: 1 of 17 rows have an empty label cell" in told and "write [] there" in told


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
