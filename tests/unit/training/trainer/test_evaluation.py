"""The trainer's evaluation and prediction."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from padded_rows import mean_loss, padded
from transformers import TrainerCallback

from mtbert.data.sampling import Schedule
from mtbert.errors import InputError
from mtbert.evaluation.metrics import averages, default_metrics, score_task
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.tokenization import encode_texts
from mtbert.training.arguments import TaskTraining
from mtbert.training.peft import wrap

NAMES = ("stars", "same", "close", "topics")

TIMES = ("runtime", "samples_per_second", "steps_per_second")


def without_times(metrics):
    return {name: value for name, value in metrics.items() if not name.endswith(("_runtime", "_per_second"))}


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
