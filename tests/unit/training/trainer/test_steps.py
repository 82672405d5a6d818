"""A step's loss and gradients, and what is logged of them."""

import numpy as np
import pytest
import torch
from padded_rows import mean_loss
from transformers import TrainerCallback

from mtbert.data.sampling import Schedule, StepSampler
from mtbert.training.arguments import MtBertTrainingArguments, TaskTraining
from mtbert.training.trainer import MtBertTrainer

NAMES = ("stars", "same", "close", "topics")


class Spy(MtBertTrainer):
    """Keeps what every micro-batch adds to its step's loss."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.__dict__.setdefault("micro_losses", []).append(float(loss))
        return loss


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
            ({"max_steps": 4}, "Plan: annealed, 4 steps = 0.211 epochs of 19 steps"),
            ({"max_steps": 40}, "Plan: annealed, 40 steps = 2.105 epochs of 19 steps"),
            ({"num_train_epochs": 1.5}, "Plan: annealed, 29 steps = 1.526 epochs of 19 steps"),
            ({"num_train_epochs": 0.01}, "Plan: annealed, 1 step = 0.053 epochs of 19 steps"),
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

    @pytest.mark.parametrize("mixed", [False, True])
    def test_a_resumed_run_prints_what_is_left(self, make_trainer, capsys, mixed):
        settings = {"logging_steps": 1, "save_strategy": "steps", "save_steps": 3, "max_steps": 5}
        schedule = Schedule("annealed", mixed, steps_per_epoch=4)
        make_trainer(schedule=schedule, **settings).train()
        capsys.readouterr()
        resumed = make_trainer(schedule=schedule, **settings)
        resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-3")
        printed = " ".join(capsys.readouterr().out.split())
        assert "5 steps = 1.250 epochs of 4 steps; the 2 steps that are left" in printed.replace(" (mixed)", "")
        logs = [each for each in resumed.state.log_history if "loss" in each and each["step"] > 3]
        assert len(logs) == 2
        for row in resumed.plan().describe(3):
            assert sum(each.get(f"examples_{row['task']}", 0) for each in logs) == row["examples"]
            assert f" │ {row['examples']} │ {row['passes']:.2f} │" in printed
