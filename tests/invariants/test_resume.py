"""Invariant 5: a run that was interrupted and resumed is the uninterrupted one, bit for bit."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from forked import start, wait

from mtbert.data.pools import TaskSplits
from mtbert.data.sampling import SCHEDULES, Schedule
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.rdrop import RDrop
from mtbert.training.methods.simcse import SimCSE
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings

STEPS = 6  # an epoch's, so that checkpoint 3 and 9 are in the middle of an epoch, and 6 at its end
MIDDLE, BOUNDARY, LATE, LAST = 3, 6, 9, 12
SETTINGS = {
    "save_strategy": "steps",
    "save_steps": 3,
    "eval_strategy": "epoch",
    "num_train_epochs": 2,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
}
SCHEDULE_CASES = {
    **{
        name: Schedule(name, steps_per_epoch=STEPS, temperature=2.0 if name == "temperature" else None)
        for name in SCHEDULES
    },
    "annealed mixed": Schedule("annealed", mixed=True, steps_per_epoch=STEPS),
}
VOLATILE = ("runtime", "per_second", "total_flos")


def history(folder: Path, after: int) -> list[dict]:
    """What was logged after a step, without the times."""
    logged = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    logged = [each for each in logged if each["step"] > after]
    assert any("loss" in each for each in logged)
    return [{k: v for k, v in each.items() if not any(word in k for word in VOLATILE)} for each in logged]


@pytest.fixture
def assert_resumes(make_model, make_trainer, assert_same_weights, tmp_path):
    """A function: trains to the end, then again from each of some checkpoints, and compares the ends."""

    def check(schedule, steps=(BOUNDARY, LATE), last=LAST, task_training=None, own=None, **settings):
        values = {**SETTINGS, **settings}
        whole = tmp_path / "whole"
        trainer = make_trainer(make_model(), whole, schedule, task_training, own=own, **values)
        result = trainer.train()
        assert trainer.state.global_step == last
        for step in steps:
            resumed = tmp_path / f"from-{step}"
            trainer = make_trainer(make_model(), resumed, schedule, task_training, own=own, **values)
            again = trainer.train(resume_from_checkpoint=str(whole / f"checkpoint-{step}"))
            assert again.training_loss == result.training_loss == trainer.state.log_history[-1]["train_loss"]
            end = f"checkpoint-{last}"
            assert not (resumed / f"checkpoint-{step}").exists()
            assert_same_weights(whole / end, resumed / end)
            assert history(whole / end, step) == history(resumed / end, step)

    return check


@pytest.mark.parametrize("schedule", SCHEDULE_CASES.values(), ids=SCHEDULE_CASES)
def test_a_resumed_run_is_the_uninterrupted_one(schedule, assert_resumes):
    assert_resumes(schedule)


def test_a_sequential_run_with_uneven_last_steps_resumes(assert_resumes):
    """Epochs of 3 + 2 + 3 + 2 steps: 9 is in the middle of the first, 10 its end, 15 in the middle of the second."""
    assert_resumes(Schedule("sequential"), (9, 10, 15), 20, save_steps=1)


OWN = ({"surgery": Surgery()}, {"smart": Smart(), "proximal": Proximal()}, {"methods": [RDrop(2.0), SimCSE()]})


@pytest.mark.parametrize("own", OWN, ids=str)
def test_the_log_after_a_resume_covers_what_came_before_it(assert_resumes, own):
    """Steps 3, 6 and 9 lie between logs, which are written after 4, 8 and 12."""
    schedule = Schedule("annealed", mixed=True, steps_per_epoch=STEPS)
    assert_resumes(schedule, (MIDDLE, BOUNDARY, LATE), own=own, logging_strategy="steps", logging_steps=4)


def test_an_accumulating_run_resumes(assert_resumes):
    assert_resumes(
        Schedule("annealed", mixed=True, steps_per_epoch=STEPS),
        (MIDDLE, BOUNDARY, LATE),
        per_device_train_batch_size=3,
        gradient_accumulation_steps=3,
    )


def test_a_run_with_weights_and_unequal_batches_resumes(assert_resumes):
    settings = {"stars": TaskTraining(weight=2.0, batch_size=3), "close": TaskTraining(examples_per_epoch=5)}
    assert_resumes(Schedule("annealed", steps_per_epoch=STEPS), task_training=settings)


RATES = {"stars": TaskTraining(learning_rate=3e-3, weight_decay=0.3), "close": TaskTraining(learning_rate=1e-4)}


@pytest.mark.parametrize("per_task", ["separate", "rates"])
def test_a_run_with_an_optimizer_for_each_task_resumes(per_task, assert_resumes):
    """At step 3 the fourth task has no state yet."""
    settings = OptimizerSettings(per_task=per_task, layer_decay=0.8, head_learning_rate=5e-3)
    schedule = Schedule("round_robin", steps_per_epoch=STEPS)
    assert_resumes(schedule, (MIDDLE, LATE), task_training=RATES, own={"optimizer": settings}, weight_decay=0.1)


def test_a_run_with_trained_weights_of_losses_and_balanced_classes_resumes(assert_resumes):
    own = {"stars": TaskTraining(balanced=True), "same": TaskTraining(class_weights="balanced", label_smoothing=0.1)}
    schedule = Schedule("annealed", mixed=True, steps_per_epoch=STEPS)
    assert_resumes(schedule, (MIDDLE,), task_training=own, own={"loss": LossSettings("uncertainty", 0.1)})


def test_a_run_with_a_loading_worker_resumes(assert_resumes):
    schedule = Schedule("annealed", steps_per_epoch=STEPS)
    assert_resumes(schedule, (MIDDLE, BOUNDARY), dataloader_num_workers=1)


def test_a_run_that_loads_its_best_checkpoint_resumes(assert_resumes):
    schedule = Schedule("uniform", steps_per_epoch=STEPS)
    assert_resumes(
        schedule,
        (BOUNDARY, LATE),
        eval_strategy="steps",
        eval_steps=3,
        metric_for_best_model="eval_overall",
        load_best_model_at_end=True,
    )


def test_loading_workers_and_evaluations_do_not_change_a_run(make_model, make_trainer, assert_same_weights, tmp_path):
    schedule = Schedule("annealed", steps_per_epoch=STEPS)
    runs = {"plain": {"eval_strategy": "no"}, "watched": {"dataloader_num_workers": 1}}
    for name, settings in runs.items():
        make_trainer(make_model(), tmp_path / name, schedule, **{**SETTINGS, **settings}).train()
    assert_same_weights(*(tmp_path / name / f"checkpoint-{LAST}" for name in runs))


def test_a_run_killed_after_a_checkpoint_resumes(killed_run, make_model, encoded, assert_same_weights, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    for split, data in (("train", encoded()), ("eval", encoded((10, 9, 8, 7), 1))):
        for name, rows in data.items():
            rows.save_to_disk(str(tmp_path / split / name))
    common = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "seed": 3, "logging_steps": 1}
    settings = {**SETTINGS, **common, "save_steps": 2, "num_train_epochs": 3, "per_device_train_batch_size": 8}
    (tmp_path / "settings.json").write_text(json.dumps(settings))

    checkpoint = tmp_path / "killed" / "checkpoint-2"
    process = start(Path(killed_run.__file__), tmp_path, log=tmp_path / "log.txt")
    try:
        until = time.monotonic() + 120
        while not (checkpoint / "trainer_state.json").exists():
            assert process.is_alive() and time.monotonic() < until, (tmp_path / "log.txt").read_text()
            time.sleep(0.01)
        time.sleep(0.1)  # it goes on to the next step
    finally:
        process.kill()
    assert wait(process, 60) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "checkpoint-18").exists()

    killed_run.make_trainer(tmp_path, tmp_path / "whole").train()
    killed_run.make_trainer(tmp_path, tmp_path / "killed").train(resume_from_checkpoint=str(checkpoint))
    ends = [tmp_path / name / "checkpoint-18" for name in ("whole", "killed")]
    assert_same_weights(*ends)
    assert history(ends[0], 2) == history(ends[1], 2)


@pytest.mark.parametrize("name", ["annealed mixed", "proportional", "simultaneous"])
def test_a_run_on_a_source_resumes(name, assert_resumes, encoded):
    """Two tasks share their texts; each lacks labels of some."""

    def share(rows):
        stars = rows["stars"]
        several = [[float(row % 2), 1.0, 0.0] if row % 3 else [float("nan")] * 3 for row in range(len(stars))]
        topics = stars.remove_columns("label")
        topics = topics.add_column("label", several, feature=rows["topics"].features["label"])
        topics.info.description = rows["topics"].info.description  # the classes of the labels
        return TaskSplits({**rows, "topics": topics}, {"texts": ("stars", "topics")})

    own = {"train_dataset": share(encoded()), "eval_dataset": share(encoded((10, 9, 8, 7), 1))}
    assert_resumes(SCHEDULE_CASES[name], (MIDDLE, LATE), own=own)
