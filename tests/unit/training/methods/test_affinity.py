"""Affinity: against textbook loops, of tasks that agree and that fight, and without a trace in the training."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from mtbert.data.sampling import Schedule, Step
from mtbert.errors import InputError
from mtbert.modeling.task_spec import AdapterSpec, TaskSpec
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.affinity import FILE, Affinity, AffinityMeter, cosines_of, lookahead_affinity
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.optimizers import OptimizerSettings

SETTINGS = {"num_train_epochs": 2, "learning_rate": 1e-2, "warmup_steps": 2, "per_device_train_batch_size": 6}
MIXED = Schedule("annealed", mixed=True, steps_per_epoch=4)


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def numbers_of(trainer) -> list[dict]:
    kept = [entry for entry in trainer.state.log_history if "loss" in entry or "train_loss" in entry]
    return [{k: v for k, v in entry.items() if not k.endswith(("_runtime", "_per_second"))} for entry in kept]


def meter_of(trainer) -> AffinityMeter:
    """The meter of a trainer, ready to measure."""
    meter = trainer.methods["affinity"]
    meter.check_data(trainer.train_dataset)
    return meter


WAYS = {
    "annealed": ({"schedule": Schedule("annealed", steps_per_epoch=4)}, []),
    "mixed": ({"schedule": MIXED}, [Smart(weight=1.0)]),
    "surgery": ({"schedule": Schedule("simultaneous", steps_per_epoch=4)}, [Surgery()]),
    "in turn": (
        {
            "schedule": Schedule("round_robin", steps_per_epoch=4),
            "optimizer": OptimizerSettings(per_task="separate"),
            "task_training": {"stars": TaskTraining(learning_rate=3e-3, weight=2.0)},
        },
        [],
    ),
    "accumulated": ({"schedule": MIXED, "gradient_accumulation_steps": 2}, []),
    "bf16": ({"schedule": MIXED, "bf16": True}, []),
}


@pytest.mark.parametrize(("settings", "methods"), WAYS.values(), ids=WAYS)
def test_a_run_with_it_gives_bit_for_bit_the_same_weights(make_model, make_trainer, settings, methods):
    adapter = AdapterSpec("low_rank", size=4)
    own = {key: settings[key] for key in ("schedule", "optimizer", "task_training") if key in settings}
    own = {"tasks" if key == "task_training" else key: value for key, value in own.items()}
    rest = {key: value for key, value in settings.items() if key not in ("schedule", "optimizer", "task_training")}
    runs = []
    for name, more in (("without", []), ("with", [Affinity(every=2, rows=3)])):
        model = make_model(adapter=adapter)
        trainer = make_trainer(model, name, settings=own, methods=[*methods, *more], **SETTINGS, **rest)
        trainer.train()
        runs.append(trainer)
    one, other = map(weights_of, runs)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert numbers_of(runs[0]) == numbers_of(runs[1])
    measured = runs[1].methods["affinity"].measurements
    assert [entry["step"] for entry in measured] == [2, 4, 6, 8]
    assert all(np.isfinite(entry["affinity"]).all() and np.isfinite(entry["cosines"]).all() for entry in measured)


def by_hand(trainer, meter, step, rate):
    """Losses, cosines and affinities by plain loops over copies of the model."""
    names = [task.name for task in trainer.tasks]

    def loss(model, number):
        batch = trainer.batches(trainer.train_dataset).__getitems__(Step(((number, meter._draw(number, step)),)))
        _, outputs = trainer.losses.forward(model, batch)
        rows = outputs.row_losses[names[number]]
        return trainer.task_training[names[number]].weight * rows.sum() / outputs.labelled[names[number]].sum()

    def gradient(number):
        model = copy.deepcopy(trainer.model).eval()
        loss(model, number).backward()
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.encoder.named_parameters()}

    gradients = [gradient(number) for number in range(len(names))]
    flat = [torch.cat([g.flatten() for g in each.values()]).double() for each in gradients]
    cosines = [[float(a @ b / a.norm() / b.norm()) for b in flat] for a in flat]
    with torch.no_grad():
        before = [float(loss(copy.deepcopy(trainer.model).eval(), number)) for number in range(len(names))]
        affinity = []
        for each in gradients:
            moved = copy.deepcopy(trainer.model).eval()
            for name, parameter in moved.encoder.named_parameters():
                parameter -= rate * each[name]
            affinity.append([1 - float(loss(moved, j)) / before[j] for j in range(len(names))])
    return before, cosines, affinity, [float(each.norm()) for each in flat]


@pytest.mark.parametrize("adapter", [None, AdapterSpec("low_rank", size=4)], ids=["shared", "adapters"])
def test_a_measurement_is_the_textbook_loop(make_model, make_trainer, adapter):
    tasks = {"stars": TaskTraining(weight=3.0, label_smoothing=0.1), "close": TaskTraining(loss="smooth_l1")}
    methods = [Affinity(every=1, rows=5)]
    trainer = make_trainer(make_model(adapter=adapter), settings={"tasks": tasks}, methods=methods)
    meter, rate = meter_of(trainer), 0.05
    found = meter.measure(7, [rate] * len(meter.shared))
    losses, cosines, affinity, norms = by_hand(trainer, meter, 7, rate)
    assert found["losses"] == pytest.approx(losses, rel=1e-4) and found["norms"] == pytest.approx(norms, rel=1e-4)
    np.testing.assert_allclose(found["cosines"], cosines, atol=1e-4)
    np.testing.assert_allclose(found["affinity"], affinity, atol=2e-4)
    assert max(map(max, affinity)) > 1e-2 and found["rate"] == rate and found["step"] == 7


def test_a_measurement_leaves_everything_as_it_was(make_trainer):
    trainer = make_trainer(methods=[Affinity(rows=4)])
    meter, model = meter_of(trainer), trainer.model
    model.train()
    model.heads["stars"].eval()
    modes = [module.training for module in model.modules()]
    weights, state = weights_of(trainer), torch.get_rng_state()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    meter.measure(1, [0.5] * len(meter.shared))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())
    assert all(bool((parameter.grad == 1).all()) for parameter in model.parameters())
    assert not model.encoder.get_input_embeddings().sparse


def twins(make_model, make_trainer, splits, flipped: bool):
    """A trainer of two binary tasks with the same rows and the same head; the labels of the second may be flipped."""
    specs = [TaskSpec(name, "binary_classification", labels=["no", "yes"]) for name in ("one", "two")]
    model = make_model(specs)
    model.heads["two"].load_state_dict(model.heads["one"].state_dict())
    rows = splits((40,), specs=specs[:1])["one"]
    second = rows.map(lambda row: {"label": 1 - row["label"]}) if flipped else rows
    return make_trainer(model, train_dataset={"one": rows, "two": second}, methods=[Affinity(rows=40)])


def test_copies_have_a_higher_affinity_than_tasks_that_fight(make_model, make_trainer, splits):
    found = {}
    for flipped in (False, True):
        trainer = twins(make_model, make_trainer, splits, flipped)
        meter = meter_of(trainer)
        found[flipped] = meter.measure(1, [0.01] * len(meter.shared))
    same, fights = found[False], found[True]
    np.testing.assert_allclose(same["cosines"], 1, atol=1e-5)
    np.testing.assert_allclose(same["affinity"], same["affinity"][0][0], rtol=1e-3)
    assert min(map(min, same["affinity"])) > 0 and fights["affinity"][0][0] > 0
    assert fights["affinity"][0][1] < 0 and fights["affinity"][1][0] < 0 and fights["cosines"][0][1] < 0


def test_formulas():
    before, after = torch.tensor([2.0, 0.0, 4.0]), torch.tensor([[1.0, 0.0, 4.0], [2.0, 1.0, 8.0], [3.0, 0.0, 2.0]])
    found = lookahead_affinity(before, after)
    assert found[0].tolist()[0] == 0.5 and found[1].tolist()[2] == -1.0 and found[:, 1].isnan().all()
    cosines = cosines_of(torch.tensor([[4.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert cosines[0].tolist()[:2] == [1.0, -0.5] and cosines[2].isnan().all()


def test_rates_are_those_of_groups_and_tasks(make_trainer):
    own = {"optimizer": OptimizerSettings(per_task="rates", layer_decay=0.5), "schedule": Schedule("round_robin")}
    own["tasks"] = {"stars": TaskTraining(learning_rate=2e-2)}
    trainer = make_trainer(settings=own, methods=[Affinity()], learning_rate=1e-2)
    meter = meter_of(trainer)
    assert meter._own_rate(0) == pytest.approx(2) and meter._own_rate(1) == 1
    seen = []
    meter.settings = Affinity(every=1)
    meter.measure = lambda step, rates: seen.append(rates) or {}
    meter.on_step_begin(trainer.args, trainer.state, trainer.control, optimizer=trainer.create_optimizer())
    assert len({round(rate, 9) for rate in seen[0]}) > 1 and max(seen[0]) == pytest.approx(1e-2)


def test_a_rate_of_0_says_nothing_of_affinities(make_trainer):
    trainer = make_trainer(methods=[Affinity(rows=2)])
    meter = meter_of(trainer)
    found = meter.measure(1, [0.0] * len(meter.shared))
    assert {value for row in found["affinity"] for value in row} == {None}
    assert np.isfinite(found["cosines"]).all()


def without_labels(trainer, of_row) -> None:
    """Take the labels of some rows of the task `stars`, as texts for distillation have none."""
    rows = trainer.train_dataset["stars"]
    labels = [-100 if of_row(number) else label for number, label in enumerate(rows["label"][:])]
    trainer.train_dataset["stars"] = rows.remove_columns("label").add_column("label", labels)


def test_the_rows_depend_on_seed_and_step_alone_and_have_labels(make_trainer):
    trainer = make_trainer(methods=[Affinity(rows=6)], seed=5)
    without_labels(trainer, lambda number: number % 2 == 0)
    meter = meter_of(trainer)
    rows = meter._draw(0, 3)
    assert len(set(rows.tolist())) == 6 and (rows % 2 == 1).all() and (np.diff(rows) > 0).all()
    assert (meter._draw(0, 3) == rows).all() and meter._draw(0, 4).tolist() != rows.tolist()
    assert len(meter._draw(3, 3)) == 6


def test_more_rows_than_there_are_takes_all(make_trainer):
    meter = meter_of(make_trainer(methods=[Affinity(rows=999)]))
    assert [len(meter._draw(number, 1)) for number in range(4)] == [40, 24, 33, 17]


def test_a_resumed_run_has_measured_the_same(make_trainer, tmp_path):
    settings = {**SETTINGS, "save_strategy": "steps", "save_steps": 3, "settings": MIXED}
    whole = make_trainer(None, "whole", methods=[Affinity(every=2, rows=3)], **settings)
    whole.train()
    again = make_trainer(None, "again", methods=[Affinity(every=2, rows=3)], **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))

    def plain(trainer):
        return [
            {k: v for k, v in entry.items() if k != "seconds"} for entry in trainer.methods["affinity"].measurements
        ]

    assert plain(again) == plain(whole) and len(plain(whole)) == 4
    written = json.loads((tmp_path / "again" / FILE).read_text())
    assert written["tasks"] == ["stars", "same", "close", "topics"] and len(written["measured"]) == 4
    assert (written["every"], written["rows"]) == (2, 3)


def test_the_cost_is_printed(make_trainer):
    trainer = make_trainer(methods=[Affinity(every=50, rows=8)], per_device_train_batch_size=16)
    meter = trainer.methods["affinity"]
    assert meter.describe() == (
        "Affinity: before every 50th step, 4 tasks × 8 rows; about 11% more time than the steps alone"
    )


def test_what_it_cannot_measure_is_refused_by_name(make_model, make_trainer, splits):
    one = [TaskSpec("one", labels=3)]
    with pytest.raises(InputError, match="tasks: one"):
        make_trainer(make_model(one), train_dataset=splits((9,), specs=one), methods=[Affinity()])
    frozen = make_model()
    frozen.freeze_encoder()
    with pytest.raises(InputError, match=r"affinity: any: the tasks train no parameter that they share"):
        make_trainer(frozen, methods=[Affinity()])
    with pytest.raises(InputError, match=r"affinity: shared weights are bfloat16, which rounds small steps away"):
        make_trainer(make_model().to(torch.bfloat16), methods=[Affinity()])
    with pytest.raises(InputError, match="affinity: compute_loss_func takes the place of the tasks' losses"):
        make_trainer(methods=[Affinity()], compute_loss_func=lambda *_, **__: 0)
    trainer = make_trainer(methods=[Affinity()])
    without_labels(trainer, lambda number: True)
    with pytest.raises(InputError, match=r"affinity: no training row of task 'stars' has a label"):
        trainer.methods["affinity"].check_data(trainer.train_dataset)
    for values, message in (({"every": 0}, "every is 0"), ({"rows": -1}, "rows is -1")):
        with pytest.raises(InputError, match=f"affinity.{message}, but must be 1 or more"):
            make_trainer(methods=[Affinity(**values)])


def test_frozen_but_for_the_norms_is_measured(make_model, make_trainer):
    model = make_model()
    model.freeze_encoder(True, layer_norms=False)
    meter = meter_of(make_trainer(model, methods=[Affinity(rows=3)]))
    assert meter._words is None
    found = meter.measure(1, [0.1] * len(meter.shared))
    assert np.isfinite(found["affinity"]).all()
