"""Labels of words beside sentence tasks: the loss of a step, accumulation, packing, processes, methods, a resume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from tagged import SLOTS, tagged_split

from mtbert.data.sampling import Schedule
from mtbert.errors import InputError
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.distillation import Distillation
from mtbert.training.methods.group_weights import GroupWeights
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.rdrop import RDrop
from mtbert.training.methods.simcse import SimCSE
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.objective import TaskTraining
from mtbert.training.trainer import MtBertTrainer

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MIXED = Schedule("annealed", mixed=True, steps_per_epoch=3)
WEIGHED = {"slots": TaskTraining(class_weights=(1.0, 2.0, 3.0, 4.0), label_smoothing=0.1, weight=2.0)}


@pytest.fixture
def specs(tasks):
    return tuple(replace(task, dropout=0.0) for task in (tasks[0], tasks[1], SLOTS))


@pytest.fixture
def trainer_of(make_model, make_args, splits, specs, tasks, tokenizer):
    """A function: folder, settings → a trainer of two sentence tasks and one that labels words, without dropout."""

    def make(folder="run", schedule=MIXED, tasks=None, methods=(), packed=True, adapter=None, dev=True, **settings):
        values = {"per_device_train_batch_size": 8, "num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.05}
        train = splits((20, 12), specs=specs[:2]) | {"slots": tagged_split(18)}
        evaluated = splits((9, 8), 1, specs[:2]) | {"slots": tagged_split(10, 1)}
        return MtBertTrainer(
            make_model(specs, packed=packed, adapter=adapter, **STILL),
            make_args(folder, **values | settings),
            train,
            evaluated if dev else None,
            processing_class=tokenizer,
            settings={"schedule": schedule, "tasks": tasks},
            methods=methods,
        )

    return make


def trained(trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def assert_close(one, other):
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-5, atol=5e-6, msg=lambda text, name=name: name + text)


def apart(one, other) -> float:
    return max(float((weight - other[name]).abs().max()) for name, weight in one.items())


@pytest.mark.parametrize("schedule", [MIXED, Schedule("simultaneous", steps_per_epoch=2)], ids=lambda s: s.name)
def test_the_loss_of_a_step_is_the_mean_over_labelled_words_times_the_share_of_rows(trainer_of, schedule):
    trainer = trainer_of(schedule=schedule, tasks={"slots": TaskTraining(weight=2.0)})
    samples, counts = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    (batch,) = samples
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=counts)
    expected, rows = 0, {name: len(of_task) for name, of_task in batch["rows"].items()}
    for name, of_task in batch["rows"].items():
        task = trainer.tasks[trainer.task_ids[name]]
        encoded = trainer.train_dataset[name].select(of_task.tolist())
        losses = []
        for row in encoded:
            inputs = {"input_ids": torch.tensor([row["input_ids"]]), "tasks": name}
            if "token_type_ids" in row:
                inputs["token_type_ids"] = torch.tensor([row["token_type_ids"]])
            logits = trainer.model(**inputs).logits
            if name == "slots":
                losses += F.cross_entropy(logits[0, row["words"]], torch.tensor(row["label"]), reduction="none")
            elif task.kind.binary:
                losses.append(F.binary_cross_entropy_with_logits(logits[0, 0], torch.tensor(float(row["label"]))))
            else:
                losses.append(F.cross_entropy(logits[0], torch.tensor(row["label"])))
        share = 1 if schedule.name == "simultaneous" else rows[name] / sum(rows.values())
        expected = expected + (2 if name == "slots" else 1) * share * torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert "slots" in rows and len(rows) > 1


@pytest.mark.parametrize("training", [None, WEIGHED], ids=["plain", "weighed"])
def test_a_batch_is_its_accumulated_parts(trainer_of, training):
    whole = trained(trainer_of("whole", tasks=training))
    parts = trained(trainer_of("parts", tasks=training, per_device_train_batch_size=2, gradient_accumulation_steps=4))
    assert_close(whole, parts)


@pytest.mark.parametrize(
    "adapter", [None, {"type": "pal", "size": 12}, {"type": "pal_top", "size": 12, "input": "all"}]
)
def test_packed_is_padded(trainer_of, adapter):
    packed = trainer_of("packed", adapter=adapter)
    padded = trainer_of("padded", adapter=adapter, packed=False)
    assert_close(trained(packed), trained(padded))
    for key, score in packed.evaluate().items():
        if key.endswith(("loss", "f1", "accuracy")):
            assert padded.evaluate()[key] == pytest.approx(score, abs=1e-4)


METHODS = {
    "surgery": (Surgery(), Schedule("simultaneous", steps_per_epoch=2)),
    "rdrop": (RDrop(), MIXED),
    "smart": (Smart(), MIXED),
    "proximal": (Proximal(), MIXED),
    "averaging": (Averaging("ema", decay=0.5), MIXED),
    "uncertainty": (LossSettings("uncertainty"), MIXED),
    "focal": (None, MIXED),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_its_accumulated_parts_and_changes_weights(trainer_of, name):
    method, schedule = METHODS[name]
    tasks = {"slots": TaskTraining(loss="focal")} if method is None else None
    given = {"schedule": schedule, "methods": () if method is None else (method,), "tasks": tasks}
    trainer = trainer_of("whole", **given)
    whole = trained(trainer)
    assert all(weight.isfinite().all() for weight in whole.values())
    if name not in ("surgery", "smart"):  # surgery combines the gradients of micro-batches; SMART draws for each
        size = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        assert_close(whole, trained(trainer_of("parts", **given, **size)))
    if name in ("smart", "proximal"):
        assert any(entry.get(f"{name}_slots", 0) > 0 for entry in trainer.state.log_history)
    if name in ("surgery", "uncertainty", "focal"):
        assert apart(whole, trained(trainer_of("plain", schedule=schedule))) > 1e-6


def test_groups_weigh_the_words_of_their_rows(trainer_of):
    trainer = trainer_of(methods=(GroupWeights(power=1.0),), dev=False)
    rows = trainer.train_dataset["slots"]
    trainer.train_dataset["slots"] = rows.add_column("group", ["a" if i % 3 else "b" for i in range(len(rows))])
    trainer.get_train_dataloader()
    weights = trainer.methods["group_weights"].weights["slots"]
    batch = trainer.batches(trainer.train_dataset).__getitems__(
        next(iter(trainer.get_train_dataloader().batch_sampler))
    )
    outputs, changed = trainer.losses.forward(trainer.model.train(), batch)
    trainer.methods["group_weights"].change_rows(batch, changed)
    lengths = [len(trainer.train_dataset["slots"][int(row)]["input_ids"]) for row in batch["rows"]["slots"]]
    by_token = weights[batch["rows"]["slots"]].repeat_interleave(torch.tensor(lengths))
    torch.testing.assert_close(changed.row_losses["slots"], outputs.row_losses["slots"] * by_token)


def test_what_does_not_go_with_words_is_refused_by_name(trainer_of, tmp_path):
    with pytest.raises(InputError, match=r"task_training\['slots'\].balanced is True, but the words of a row"):
        trainer_of(tasks={"slots": TaskTraining(balanced=True)})
    with pytest.raises(InputError, match="simcse.tasks would include task 'slots', a token_classification"):
        trainer_of(methods=(SimCSE(),))
    trainer_of(methods=(SimCSE(tasks=("stars",)),))
    with pytest.raises(InputError, match=r"task_training\['slots'\].loss is 'cosine'"):
        trainer_of(tasks={"slots": TaskTraining(loss="cosine")})
    trainer = trainer_of("teacher")
    trainer.save_model(str(tmp_path / "teacher"))
    (problem,) = Distillation(teachers=(str(tmp_path / "teacher"),)).preflight(trainer.tasks, {})
    assert "distillation.teachers would include task 'slots', a token_classification: teachers answer" in str(problem)


@pytest.mark.parametrize("name", ["plain", "surgery", "uncertainty"])
def test_a_run_resumes(trainer_of, assert_same_weights, tmp_path, name):
    method, schedule = (None, MIXED) if name == "plain" else METHODS[name]
    settings = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 1e-3}
    given = {"schedule": schedule, "methods": () if method is None else (method,), **settings}
    trainer_of("whole", **given).train()
    again = trainer_of("again", **given)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    end = f"checkpoint-{again.state.global_step}"
    assert_same_weights(tmp_path / "whole" / end, tmp_path / "again" / end)


def test_a_broken_word_names_its_row(trainer_of):
    trainer = trainer_of(schedule=Schedule("round_robin", steps_per_epoch=3))
    with torch.no_grad():
        trainer.model.heads["slots"].out_proj.bias[1] = float("nan")
    with pytest.raises(Exception, match=r"the loss of task 'slots' is nan in the file's rows \d+"):
        trainer.train()


def test_it_learns_words_and_scores_those_that_were_cut(trainer_of, make_model, make_args, specs, tokenizer):
    values = {"per_device_train_batch_size": 16, "num_train_epochs": 12, "learning_rate": 3e-3}
    dev = tagged_split(20, 5)
    trainer = MtBertTrainer(
        make_model([SLOTS]), make_args(**values), {"slots": tagged_split(160)}, {"slots": dev}, tokenizer
    )
    trainer.train()
    scores = trainer.evaluate()
    assert scores["eval_slots_span_f1"] > 0.95 and scores["eval_overall"] == scores["eval_slots_span_f1"]
    found = trainer.model.predict(Dataset.from_dict({"words": dev["text"]}), tokenizer=tokenizer)
    right = sum(tags == given for tags, given in zip(found.labels, dev["label"], strict=True))
    assert right > 15
    cut = make_model([replace(SLOTS, max_length=5)])
    cut.load_state_dict(trainer.model.state_dict())
    short = MtBertTrainer(cut, make_args(**values), None, {"slots": dev}, tokenizer).evaluate()
    expected = [tags[:3] + ["O"] * (len(tags) - 3) for tags in found.labels]
    by_hand = np.mean([a == b for tags, given in zip(expected, dev["label"], strict=True) for a, b in zip(tags, given)])
    assert short["eval_slots_word_accuracy"] == pytest.approx(by_hand, abs=0.02)
    assert short["eval_slots_span_recall"] < scores["eval_slots_span_recall"]


def test_peft_trains_it(trainer_of, make_model, make_args, specs, splits, tokenizer):
    from mtbert.training.peft import wrap

    model = wrap(make_model(specs), {"type": "lora", "r": 4, "target_modules": ["query", "value"]})
    data = splits((20, 12), specs=specs[:2]) | {"slots": tagged_split(18)}
    trainer = MtBertTrainer(model, make_args(learning_rate=0.01), data, {"slots": tagged_split(8, 1)}, tokenizer)
    before = trainer.evaluate()["eval_slots_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_slots_loss"] < before
