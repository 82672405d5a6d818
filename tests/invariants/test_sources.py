"""Invariant 13: a text with k labels that is encoded once is its k rows encoded apart, in loss and gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from shared_texts import PAIRS, SINGLE, make_table, numbers_of, rows_of
from tagged import SLOTS

from mtbert import Source
from mtbert.data.collation import MultiTaskDataset
from mtbert.data.given_splits import prepare_splits
from mtbert.data.sampling import Schedule, Step
from mtbert.modeling.task_spec import TaskSpec
from mtbert.training.arguments import TaskTraining
from mtbert.training.objective import StepLosses, counted

ALONE = TaskSpec("stars", labels=3, dropout=0.0)  # a task with texts of its own, in the same step
ADAPTERS = {
    "no adapter": None,
    "low rank": {"type": "low_rank", "size": 8},
    "on top": {"type": "pal_top", "size": 12, "heads": 3},
}
SETTINGS = {"tags": TaskTraining(weight=3.0), "queue": TaskTraining(class_weights="balanced", label_smoothing=0.1)}


def other_ways(tasks):
    """The tasks, of which one reads texts cut shorter than the others."""
    return tuple(replace(task, max_length=6) if task.name == "mood" else task for task in tasks)


CASES = {
    "single texts": SINGLE,
    "pairs": PAIRS,
    "texts of two lengths": other_ways(SINGLE),
}
WORDS = (SINGLE[0], replace(SLOTS, dropout=0.0), SINGLE[2])  # tags of words beside labels of texts
every_case = pytest.mark.parametrize("specs", CASES.values(), ids=CASES)
ways = pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])


@pytest.fixture
def both(tokenizer, make_model):
    """A function: tasks, table → encoded splits of a source, and of each task's labelled rows apart."""

    def make(specs, table):
        encoder, tasks = make_model([*specs, ALONE]).config.encoder, [*specs, ALONE]
        alone = {"stars": make_table([ALONE], 9, seed=5, blank=0).rename_column("stars", "label")}
        source = Source(table, [task.name for task in specs])
        shared, _ = prepare_splits(tasks, "train", {"tickets": source, **alone}, tokenizer, encoder)
        apart = {task.name: rows_of(task, table) for task in specs} | alone
        return shared, prepare_splits(tasks, "train", apart, tokenizer, encoder)[0]

    return make


def steps_of(specs, table, rows, alone):
    """The same rows as a step of a source, and as one of tasks."""
    parts = []
    for number, task in enumerate(specs):
        places = numbers_of(task, table)
        own = np.flatnonzero(np.isin(places, rows))
        own = own[np.argsort([list(rows).index(place) for place in places[own]])]  # in the order of the step
        if len(own):
            parts.append((number, own))
    last = [(len(specs), alone)]
    return Step(((0, rows), (1, alone))), Step((*parts, *last))


def losses_and_gradients(model, schedule, batch, settings, splits):
    """The loss of a step and every parameter's gradient, None where a parameter has none."""
    training = {task.name: settings.get(task.name, TaskTraining()) for task in model.tasks}
    losses = StepLosses(model, training, schedule, [], torch.device("cpu"))
    losses.weigh_classes(splits)
    model.zero_grad(set_to_none=True)
    by_task, outputs = losses(model, batch, counted(batch))
    sum(by_task.values()).backward()
    totals = {name: float(rows.detach().double().sum()) for name, rows in outputs.row_losses.items()}
    return totals, {name: value.grad for name, value in model.named_parameters()}


def assert_equal(one, other):
    losses, gradients = zip(one, other, strict=True)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # row losses are fp32
    for name, gradient in gradients[0].items():
        assert (gradient is None) == (gradients[1][name] is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, gradients[1][name], rtol=0, atol=1e-10, msg=name)


@ways
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
@every_case
def test_a_text_with_several_labels_is_its_rows_apart(specs, adapter, packed, both, make_model):
    assert_its_rows_apart(specs, adapter, packed, both, make_model)


@ways
@pytest.mark.parametrize("adapter", [None, ADAPTERS["low rank"]], ids=["no adapter", "low rank"])
def test_a_text_with_tags_of_its_words_too(adapter, packed, both, make_model):
    assert_its_rows_apart(WORDS, adapter, packed, both, make_model)


def assert_its_rows_apart(specs, adapter, packed, both, make_model):
    table, rows, alone = make_table(specs, 24), np.array([7, 0, 3, 21, 11, 12]), np.array([4, 1])
    shared, apart = both(specs, table)
    model = make_model([*specs, ALONE], adapter=adapter, packed=packed).double().eval()
    together = MultiTaskDataset(model.tasks, shared, True, model.config, training=True)
    single = MultiTaskDataset(model.tasks, apart, True)
    one, other = steps_of(specs, table, rows, alone)
    batches = together.__getitems__(one), single.__getitems__(other)
    assert torch.equal(batches[0]["labelled"], batches[1]["labelled"])
    assert ("units" in batches[0]) == ("units" in batches[1]) == (specs is WORDS)
    assert torch.equal(counted(batches[0]), counted(batches[1]))
    assert len(batches[0]["layout"].lengths) <= len(batches[1]["layout"].lengths)
    for schedule in (Schedule("annealed"), Schedule("simultaneous")):
        results = [
            losses_and_gradients(model, schedule, batch, SETTINGS, splits)
            for batch, splits in zip(batches, (shared, apart), strict=True)
        ]
        assert_equal(*results)


def test_each_text_is_encoded_once_and_only_where_it_has_a_label(both, make_model):
    table = make_table(SINGLE, 24)
    shared, _ = both(SINGLE, table)
    model = make_model([*SINGLE, ALONE])
    batch = MultiTaskDataset(model.tasks, shared, True, model.config, training=True).__getitems__(
        Step(((0, np.array([2, 5, 8])),))
    )
    lengths = [len(shared["queue"][row]["input_ids"]) for row in (2, 5, 8)]
    assert list(batch["layout"].lengths) == lengths
    adapted = make_model([*SINGLE, ALONE], adapter={"type": "low_rank", "size": 8})
    batch = MultiTaskDataset(adapted.tasks, shared, True, adapted.config, training=True).__getitems__(
        Step(((0, np.array([2, 5, 8])),))
    )
    assert len(batch["layout"].lengths) == int(batch["labelled"].sum())


def test_a_task_that_no_text_of_a_step_has_a_label_of_has_no_gradient(both, make_model):
    table = make_table(SINGLE, 24)
    shared, _ = both(SINGLE, table)
    model = make_model([*SINGLE, ALONE])
    without = np.array([row for row, label in enumerate(table["angry"][:]) if label is None])[:3]
    batch = MultiTaskDataset(model.tasks, shared, True, model.config, training=True).__getitems__(Step(((0, without),)))
    assert "angry" not in batch["rows"] and batch["labelled"][4] == 0
    _, gradients = losses_and_gradients(model, Schedule(), batch, {}, shared)
    assert all(gradient is None for name, gradient in gradients.items() if name.startswith("heads.angry"))
    filler = MultiTaskDataset(model.tasks, shared, True, model.config, training=True).__getitems__(
        Step(((0, without[:1]),), filler=True)
    )
    assert filler["labelled"].sum() == 0 and list(filler["rows"]) == [
        task.name for task in SINGLE if table[task.name][int(without[0])] is not None
    ]


@ways
def test_evaluation_gives_each_task_all_texts(packed, both, make_model):
    """Logits of a text do not depend on the tasks that are read with it."""
    specs = (*PAIRS,)
    table = make_table(specs, 15)
    shared, _ = both(specs, table)
    model = make_model([*specs, ALONE], packed=packed).eval()
    data = MultiTaskDataset(model.tasks, shared, True, model.config)
    names = [[model.tasks[task].name for task in pool[0]] for pool in data.pools]
    assert names == [["same"], ["near", "far"], ["kind"], ["stars"]]
    rows = np.array([3, 14, 0])
    for number, pool in enumerate(names):
        batch = data.__getitems__(Step(((number, rows if number < 3 else rows[:1]),)))
        inputs = {key: value for key, value in batch.items() if key not in ("labelled", "rows")}
        with torch.no_grad():
            logits = model(**inputs).task_logits
        for name in pool:
            alone = MultiTaskDataset(model.tasks, {name: shared[name]}, True)
            place = [task.name for task in model.tasks].index(name)
            own = alone.__getitems__(Step(((place, rows if number < 3 else rows[:1]),)))
            inputs = {key: value for key, value in own.items() if key not in ("labelled", "rows")}
            with torch.no_grad():
                torch.testing.assert_close(logits[name], model(**inputs).logits, rtol=1e-5, atol=1e-5)
