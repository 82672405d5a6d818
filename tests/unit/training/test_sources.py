"""Training on sources: what a step draws, every schedule, method and setting, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from shared_texts import PAIRS, SINGLE, make_table, numbers_of, rows_of

from mtbert import GroupWeights, OptimizerSettings, RDrop, SimCSE, Smart, Source, Surgery, TaskSpec
from mtbert.data.collation import TEACHER, MultiTaskDataset
from mtbert.data.sampling import SCHEDULES, Schedule, StepSampler
from mtbert.errors import MtBertError
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.trainer import MtBertTrainer

NAMES = [task.name for task in SINGLE]
ALONE = TaskSpec("stars", labels=3, dropout=0.0)
TABLE = make_table(SINGLE, 30)
STARS = make_table([ALONE], 12, seed=7, blank=0).rename_column("stars", "label")
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SGD = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant"}


def source(table: Dataset = TABLE, tasks=SINGLE) -> Source:
    return Source(table, [task.name for task in tasks])


@pytest.fixture
def trainer_of(make_model, make_trainer):
    """A function: settings of the trainer → a trainer of a source and of a task by itself, without dropout."""

    def make(model=None, data=None, specs=(*SINGLE, ALONE), folder="run", **settings) -> MtBertTrainer:
        model = model or make_model(specs, **STILL)
        data = {"tickets": source(), "stars": STARS} if data is None else data
        values = {"per_device_train_batch_size": 6, "num_train_epochs": 2, **SGD, **settings}
        return make_trainer(model, folder, train_dataset=data, **values)

    return make


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def trained(trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return weights(trainer)


def assert_alike(one, other, **bounds):
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **{"rtol": 1e-5, "atol": 1e-6, **bounds}, msg=name)


class TestPlan:
    def test_a_source_is_one_unit_of_its_texts(self, trainer_of):
        plan = trainer_of(schedule="proportional").plan()
        assert plan.names == ("tickets", "stars") and plan.rows == (30, 12)
        assert plan.probabilities(0) == pytest.approx([30 / 42, 12 / 42])
        assert plan.steps_per_epoch == 7

    def test_or_each_task_is_drawn_by_itself(self, trainer_of):
        plan = trainer_of(schedule=Schedule("proportional", draw="task")).plan()
        assert plan.names == (*NAMES, "stars")
        assert plan.rows == (*(len(numbers_of(task, TABLE)) for task in SINGLE), 12)

    def test_every_text_passes_once_an_epoch_with_all_its_labels(self, trainer_of):
        trainer = trainer_of(schedule="sequential", per_device_train_batch_size=4)
        data = trainer.batches(trainer.train_dataset, training=True)
        counts, seen = torch.zeros(6), []
        for step in StepSampler(trainer.plan()):
            batch = data.__getitems__(step)
            counts += batch["labelled"]
            seen += [row for pool, rows in step.parts for row in rows.tolist() if pool == 0]
        assert sorted(seen) == list(range(30))
        assert counts.tolist() == [*(len(numbers_of(task, TABLE)) for task in SINGLE), 12]

    @pytest.mark.parametrize("draw", ["source", "task"])
    @pytest.mark.parametrize("mixed", [False, True])
    def test_the_printed_plan_counts_the_texts_that_training_reads(self, draw, mixed, trainer_of, capsys):
        trainer = trainer_of(schedule=Schedule("annealed", mixed=mixed, draw=draw), max_steps=9)
        plan, read = trainer.plan(), Counter()
        data, steps = trainer.batches(trainer.train_dataset, training=True), StepSampler.of(plan, trainer.args)
        drawn = []
        for epoch in range(plan.epochs):
            steps.set_epoch(epoch)
            drawn += steps
        for step in drawn[: plan.total_steps]:
            read.update({plan.names[pool]: len(rows) for pool, rows in step.parts})
            labels, texts = data.__getitems__(step)["labelled"].sum(), sum(len(rows) for _, rows in step.parts)
            assert labels == texts if draw == "task" else labels > 0
        trainer.train()
        lines = capsys.readouterr().out.splitlines()
        for row in plan.describe():
            assert row["examples"] == read[row["task"]]
            cells = [[cell.strip() for cell in line.split("│")] for line in lines if row["task"] in line]
            (shown,) = [each for each in cells if each[1:3] == [row["task"], str(row["rows"])]]
            assert shown[4:6] == [str(row["examples"]), f"{row['passes']:.2f}"]

    def test_what_is_encoded_together_and_apart_is_printed(self, trainer_of, make_model, capsys):
        specs = (*(replace(task, max_length=9) if task.name == "mood" else task for task in SINGLE), ALONE)
        trainer_of(specs=specs, max_steps=1).train()
        out = " ".join(capsys.readouterr().out.split())
        assert "Source tickets: each text is encoded once for queue, tags, urgency and angry; once more for mood" in out
        specs = (*(replace(task, adapter=task.name == "tags") for task in SINGLE), ALONE)
        model = make_model(specs, adapter={"type": "low_rank", "size": 4}, **STILL)
        trainer_of(model, max_steps=1).train()
        out = " ".join(capsys.readouterr().out.split())
        assert "once for queue, mood, urgency and angry; once more for tags, which has an adapter" in out

    def test_a_resumed_run_needs_the_same_sources(self, trainer_of):
        assert trainer_of().resume_record()["sources"] == {"tickets": NAMES}
        assert trainer_of(schedule=Schedule(draw="task")).resume_record()["sources"] == {}


SCHEDULE_CASES = {name: Schedule(name, temperature=3.0 if name == "temperature" else None) for name in SCHEDULES}
SCHEDULE_CASES["mixed"] = Schedule("annealed", mixed=True)


class TestSteps:
    @pytest.mark.parametrize("schedule", SCHEDULE_CASES.values(), ids=SCHEDULE_CASES)
    def test_training_is_the_textbook_loop_over_the_rows_apart(self, schedule, trainer_of, make_model):
        """Each step of the plan, written out: the mean over all labels of the step, or the sum of the tasks' means."""
        training = {"mood": TaskTraining(weight=0.3)}
        trainer = trainer_of(schedule=schedule, task_training=training, max_grad_norm=0, max_steps=5)
        rows = {task.name: rows_of(task, TABLE) for task in SINGLE} | {"stars": STARS}
        places = {task.name: {n: i for i, n in enumerate(numbers_of(task, TABLE).tolist())} for task in SINGLE}
        apart = trainer.encoded("train", rows)
        model = make_model((*SINGLE, ALONE), **STILL)
        data = MultiTaskDataset(model.tasks, apart, True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        sampler, steps = StepSampler(trainer.plan()), []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            steps += list(sampler)
        for step in steps[:5]:
            losses, count = {}, 0
            for pool, drawn in step.parts:
                for number, task in enumerate(model.tasks):
                    own = drawn if task.name == "stars" else [places[task.name].get(n) for n in drawn.tolist()]
                    own = np.array([row for row in own if row is not None], dtype=np.int64)
                    if (pool == 1) == (task.name == "stars") and len(own):
                        batch = data.__getitems__(type(step)(((number, own),)))
                        inputs = {key: value for key, value in batch.items() if key not in ("labelled", "rows")}
                        losses[task.name] = model(**inputs).row_losses[task.name], len(own)
                        count += len(own)
            weight = {"mood": 0.3}
            means = schedule.name == "simultaneous"
            total = sum(
                weight.get(name, 1.0) * values.sum() / (own if means else count)
                for name, (values, own) in losses.items()
            )
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        end = trained(trainer)
        assert_alike(end, {name: value.detach() for name, value in model.named_parameters()}, rtol=1e-4, atol=2e-6)

    def test_drawn_by_task_it_is_the_run_without_a_source(self, trainer_of):
        schedule = Schedule("annealed", draw="task")
        rows = {task.name: rows_of(task, TABLE) for task in SINGLE} | {"stars": STARS}
        one, other = trained(trainer_of(schedule=schedule)), trained(trainer_of(data=rows, schedule="annealed"))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_accumulation_changes_nothing(self, trainer_of):
        whole = trained(trainer_of(schedule="proportional"))
        parts = trained(
            trainer_of(schedule="proportional", per_device_train_batch_size=2, gradient_accumulation_steps=3)
        )
        assert_alike(whole, parts)

    def test_packed_is_padded(self, trainer_of, make_model):
        ends = [trained(trainer_of(make_model((*SINGLE, ALONE), packed=packed, **STILL))) for packed in (True, False)]
        assert_alike(*ends, rtol=1e-4, atol=1e-5)

    def test_pairs_of_three_encodings_and_a_frozen_encoder_train(self, trainer_of, make_model):
        model = make_model(PAIRS, **STILL)
        model.freeze_encoder()
        data = {"pairs": source(make_table(PAIRS, 20), PAIRS)}
        before = weights(trainer_of(model, data, PAIRS))
        after = trained(trainer_of(model, data, PAIRS, schedule="proportional"))
        moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
        assert moved == {task.name for task in PAIRS}

    def test_logged_rows_are_labels(self, trainer_of):
        trainer = trainer_of(data=source(), specs=SINGLE, schedule="sequential", num_train_epochs=1)
        trainer.train()
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        for task in SINGLE:
            assert sum(entry.get(f"examples_{task.name}", 0) for entry in logs) == len(numbers_of(task, TABLE))

    def test_a_budget_of_tokens_bounds_all_encodings_of_a_text(self, trainer_of):
        specs = (*(replace(task, max_length=9) if task.name == "mood" else task for task in SINGLE), ALONE)
        trainer = trainer_of(specs=specs, schedule="proportional", max_tokens_per_step=60)
        data = trainer.batches(trainer.train_dataset, training=True)
        tokens = [data.__getitems__(step)["input_ids"].numel() for step in StepSampler(trainer.plan())]
        assert max(tokens) <= 60 and len(tokens) > 6
        trainer.train()
        with pytest.raises(MtBertError, match="row .* of the source 'tickets' has .* tokens.*tasks.queue.max_length"):
            trainer_of(specs=specs, max_tokens_per_step=8)


class TestMethods:
    METHODS = {
        "smart": Smart(),
        "proximal": Proximal(),
        "rdrop": RDrop(),
        "simcse": SimCSE(),
        "uncertainty": LossSettings("uncertainty", 0.2),
        "pcgrad": Surgery("pcgrad"),
        "cagrad": Surgery("cagrad", 0.4),
        "mgda": Surgery("mgda"),
        "upgrad": Surgery("upgrad"),
    }

    @pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
    def test_trains_on_a_source(self, method, trainer_of):
        trainer = trainer_of(methods=[method], schedule="proportional", max_steps=3)
        start = weights(trainer)
        end = trained(trainer)
        assert all(value.isfinite().all() for value in end.values())
        assert any(not torch.equal(start[name], end[name]) for name in start)
        assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)

    @pytest.mark.parametrize("method", [Smart(), Proximal(), RDrop(), SimCSE(), Surgery("mgda")], ids=str)
    def test_a_source_with_labels_of_one_task_is_that_task(self, method, trainer_of, make_model):
        """The other task has a label of a single text, which the first steps do not draw."""
        table = make_table(SINGLE[:2], 30, blank=0)
        labels = [None] * 30
        trainer = trainer_of(data={"tickets": source(table, SINGLE[:2])}, specs=SINGLE[:2], schedule="proportional")
        drawn = next(iter(StepSampler(trainer.plan()))).parts[0][1].tolist()
        labels[next(row for row in range(30) if row not in drawn)] = ["cat"]
        table = table.remove_columns("tags").add_column("tags", labels)
        settings = {"methods": [method], "schedule": "proportional", "max_steps": 1, "specs": SINGLE[:2]}
        if isinstance(method, Surgery):
            settings |= {"data": {"tickets": source(table, SINGLE[:2])}}
            end = trained(trainer_of(**settings))
            settings |= {"methods": []}
            return assert_alike(end, trained(trainer_of(**settings)))
        both = make_model(SINGLE[:2], **STILL)
        alone = make_model(SINGLE[:1], **STILL)
        alone.load_state_dict(both.state_dict(), strict=False)
        one = trained(trainer_of(both, {"tickets": source(table, SINGLE[:2])}, **settings))
        return assert_alike(trained(trainer_of(alone, {"queue": rows_of(SINGLE[0], table)}, **settings)), one)

    def test_group_weights_are_of_labelled_rows(self, trainer_of):
        groups = ["small" if row % 5 == 0 else "large" for row in range(30)]
        table = TABLE.add_column("group", groups)
        trainer = trainer_of(data={"tickets": source(table), "stars": STARS}, methods=[GroupWeights()])
        trainer.get_train_dataloader()
        alone = {task.name: rows_of(task, table.rename_column("group", "g")) for task in SINGLE} | {"stars": STARS}
        for task in SINGLE:
            own = [groups[row] for row in numbers_of(task, TABLE)]
            alone[task.name] = alone[task.name].add_column("group", own)
        other = trainer_of(data=alone, methods=[GroupWeights()])
        other.get_train_dataloader()
        for task in SINGLE:
            of_source = trainer.methods["group_weights"].weights[task.name][numbers_of(task, TABLE)]
            torch.testing.assert_close(of_source, other.methods["group_weights"].weights[task.name])
        trainer.train()

    def test_a_teacher_also_teaches_texts_without_a_label(self, trainer_of):
        trainer = trainer_of(schedule="sequential")
        rows = trainer.train_dataset["mood"]
        trainer.train_dataset["mood"] = rows.add_column(TEACHER, [[1.0]] * len(rows))
        batch = trainer.batches(trainer.train_dataset, training=True).__getitems__(
            next(iter(StepSampler(trainer.plan())))
        )
        assert batch["labelled"][2] == batch["rows"]["mood"].numel() == len(batch[TEACHER]["mood"])

    def test_class_weights_focal_and_correlation_take_labelled_texts_only(self, trainer_of):
        training = {
            "queue": TaskTraining(loss="focal", class_weights="balanced"),
            "mood": TaskTraining(loss="correlation"),
        }
        end = trained(trainer_of(task_training=training, max_steps=4))
        assert all(value.isfinite().all() for value in end.values())


class TestEvaluation:
    def test_each_text_is_encoded_once_and_scores_are_those_of_the_tasks_alone(self, trainer_of):
        trainer = trainer_of(eval_dataset={"tickets": source(), "stars": STARS})
        lengths = []
        trainer.model.encoder.embeddings.register_forward_hook(
            lambda module, inputs, output: lengths.append(output.shape[1])
        )
        metrics = trainer.evaluate()
        tokens = [sum(map(len, trainer.eval_dataset[name]["input_ids"][:])) for name in ("queue", "stars")]
        assert sum(lengths) == sum(tokens)
        alone = trainer.evaluate({task.name: rows_of(task, TABLE) for task in SINGLE} | {"stars": STARS})
        assert metrics.keys() == alone.keys()
        for name in metrics:
            if not name.endswith(("runtime", "per_second")):
                assert metrics[name] == pytest.approx(alone[name], abs=1e-4), name

    def test_a_prediction_has_a_row_for_each_text(self, trainer_of):
        trainer = trainer_of()
        test = TABLE.remove_columns(["mood", "tags"])
        predicted = trainer.predict({"tickets": source(test)})
        assert {name: len(logits) for name, logits in predicted.predictions.items()} == dict.fromkeys(NAMES, 30)
        assert predicted.label_ids["mood"] is None and len(predicted.label_ids["queue"]) == 30


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"task_training": {"queue": TaskTraining(balanced=True)}}, "balanced.*sources: drawn together"),
            ({"task_training": {"queue": TaskTraining(batch_size=3)}}, "batch_size.*sources: drawn together"),
            ({"task_training": {"mood": TaskTraining(examples_per_epoch=3)}}, "examples_per_epoch.*sources"),
            ({"optimizer": OptimizerSettings(per_task="separate"), "optim": "adamw_torch"}, "optimizer.per_task.*draw"),
            ({"schedule": Schedule(draw="both")}, "draw is 'both', but must be source or task"),
        ],
    )
    def test_settings_that_a_source_can_not_have(self, settings, message, trainer_of):
        with pytest.raises(MtBertError, match=message):
            trainer_of(**settings)
        if "schedule" not in settings:
            trainer_of(**settings, schedule=Schedule("proportional", draw="task"))

    def test_settings_that_all_tasks_of_a_source_share(self, trainer_of):
        training = {task.name: TaskTraining(batch_size=3, examples_per_epoch=9) for task in SINGLE}
        plan = trainer_of(task_training=training, schedule="sequential").plan()
        assert plan.batches == (3, None) and plan.sizes == (9, None) and plan.steps_per_epoch == 3 + 2

    def test_surgery_of_steps_with_one_task(self, trainer_of):
        rows = {task.name: rows_of(task, TABLE) for task in SINGLE} | {"stars": STARS}
        with pytest.raises(MtBertError, match=r"schedule.mixed"):
            trainer_of(data=rows, methods=[Surgery()], schedule="proportional")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"stars": Source(TABLE, ["queue"])}, "'stars' is the name of a task; rename the source"),
            ({"t": Source(TABLE, ["quue"])}, r"labels names \['quue'\], but the model's tasks are"),
            ({"t": Source(TABLE, [])}, "labels names no task"),
            ({"t": Source(TABLE, "queue")}, "labels is 'queue', but must map tasks to columns"),
            (
                {"t": Source(TABLE, {name: name.replace("queue", "quue") for name in NAMES}), "stars": STARS},
                "no column 'quue' for the labels of 'queue'",
            ),
            ({"t": source(), "queue": STARS}, "task 'queue' has rows twice"),
            ({"t": source()}, r"lacks the tasks \['stars'\]"),
            ({"t": Source(TABLE.to_iterable_dataset(), NAMES), "stars": STARS}, "streamed"),
            ({"t": Source([{"text": "a"}], NAMES), "stars": STARS}, "expected a datasets.Dataset, but got a list"),
            ({"t": Source(TABLE, NAMES, text="body"), "stars": STARS}, "no column 'body' for text"),
        ],
    )
    def test_sources_that_are_wrong(self, data, message, trainer_of):
        with pytest.raises((MtBertError, TypeError), match=message):
            trainer_of(data=data)

    def test_tasks_of_single_texts_and_of_pairs(self, trainer_of):
        specs = (SINGLE[0], PAIRS[0])
        table = make_table(PAIRS[:1], 10).add_column("queue", ["bug"] * 10)
        with pytest.raises(MtBertError, match=r"different numbers of texts \(queue: 1, same: 2\)"):
            trainer_of(data=Source(table, ["queue", "same"]), specs=specs)

    def test_a_column_without_a_label_is_named(self, trainer_of):
        table = TABLE.remove_columns("mood").add_column("mood", [None] * 30)
        with pytest.raises(MtBertError, match="column 'mood' has no label in 30 usable rows"):
            trainer_of(data={"tickets": source(table), "stars": STARS})

    def test_a_wrong_label_names_task_row_and_value(self, trainer_of):
        labels = TABLE["queue"][:]
        labels[4] = "bilingual"
        table = TABLE.remove_columns("queue").add_column("queue", labels)
        with pytest.raises(MtBertError, match="task 'queue'.*column 'queue' is wrong in 1 row.*row 5: 'bilingual'"):
            trainer_of(data={"tickets": source(table), "stars": STARS})


class TestRows:
    def test_texts_without_any_label_are_left_out_and_told(self, trainer_of, capsys):
        table = make_table(SINGLE, 30, unlabelled=2)
        trainer = trainer_of(data={"tickets": source(table), "stars": STARS})
        assert all(len(trainer.train_dataset[name]) == 28 for name in NAMES)
        out = " ".join(capsys.readouterr().out.split())
        assert "28 kept; 2 left out: no label of any task (rows 29, 30)" in out
        assert "of these have no label of this task" in out

    @pytest.mark.parametrize("blank", [None, "", float("nan"), -100])
    def test_every_kind_of_blank(self, blank, trainer_of):
        texts = ["a cat runs", "the dog eats", "a bird"]
        scores = {None: [1.5, None, 2.5], "": ["1.5", "", "2.5"]}.get(blank, [1.5, blank, 2.5])
        labels = ["bug", "other", None]
        data = Source(Dataset.from_dict({"text": texts, "mood": scores, "queue": labels}), ["queue", "mood"])
        specs = (SINGLE[0], SINGLE[2])
        trainer = trainer_of(data=data, specs=specs)
        moods, queues = (trainer.train_dataset[name]["label"][:] for name in ("mood", "queue"))
        assert np.isnan(moods[1]) and moods[::2] == [1.5, 2.5] and queues == [1, 2, -100]

    def test_a_score_of_minus_100_is_no_blank(self, trainer_of):
        rows = Dataset.from_dict({"text": ["a cat", "a dog"], "cold": [-100.0, 3.0], "queue": ["bug", "bug"]})
        trainer = trainer_of(data=Source(rows, ["queue", "cold"]), specs=(SINGLE[0], TaskSpec("cold", "regression")))
        assert trainer.train_dataset["cold"]["label"][:] == [-100.0, 3.0]

    def test_tokenised_rows(self, trainer_of, tokenizer):
        encoded = TABLE.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns="text")
        ids = {"queue": {name: i for i, name in enumerate(SINGLE[0].labels)}, "angry": {"no": 0, "yes": 1}}
        for name, numbers in ids.items():
            column = [numbers.get(label, -100) for label in encoded[name][:]]
            encoded = encoded.remove_columns(name).add_column(name, column)
        specs = (SINGLE[0], SINGLE[4])
        data = Source(encoded.select_columns(["input_ids", "attention_mask", *ids]), list(ids))
        trainer = trainer_of(data=data, specs=specs)
        other = trainer_of(data=Source(TABLE.select_columns(["text", *ids]), list(ids)), specs=specs)
        for name in ids:
            assert trainer.train_dataset[name]["label"][:] == other.train_dataset[name]["label"][:]
            assert trainer.train_dataset[name]["input_ids"][:] == other.train_dataset[name]["input_ids"][:]
        assert trainer.train_dataset.sources == {"source": ("queue", "angry")}

    def test_a_source_of_one_task_is_the_task(self, trainer_of):
        data = {"tickets": Source(TABLE, {"queue": "queue"}), "stars": STARS}
        trainer = trainer_of(data=data, specs=(SINGLE[0], ALONE))
        assert trainer.plan().names == ("queue", "stars")
        assert len(trainer.train_dataset["queue"]) == len(numbers_of(SINGLE[0], TABLE))
