"""Ensembles against means by hand, and one member against the trainer's own predictions."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.special import expit, softmax

from mtbert.evaluation.ensemble import check_members, combine, predict_members
from mtbert.modeling.decoding import decisions

NAMES = ("stars", "same", "close", "topics")


@pytest.fixture
def folders(make_model, tasks, tokenizer, tmp_path):
    """A member with every task, and one with the first two."""
    for name, specs in (("all", tasks), ("two", tasks[:2])):
        model = make_model(specs)
        torch.manual_seed(len(specs))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return [str(tmp_path / name) for name in ("all", "two")]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("number", range(4), ids=NAMES)
def test_combine_is_the_mean_by_hand(tasks, number, count):
    task = tasks[number]
    members = np.random.default_rng(count).normal(size=(count, 7, task.num_labels), scale=3)
    found = combine(task, list(members))
    if task.problem_type == "regression":
        np.testing.assert_allclose(found, members.mean(0))
    elif task.problem_type == "single_label_classification":
        p = softmax(members, axis=-1).mean(0)
        np.testing.assert_allclose(np.exp(found), p)
        assert (decisions(task, found) == p.argmax(1)).all()
    else:
        p = expit(members).mean(0)
        np.testing.assert_allclose(expit(found), p)
        np.testing.assert_array_equal(decisions(task, found).reshape(p.shape), (p > 0.5).astype(int))


def test_extreme_logits_stay_finite(tasks):
    for task in tasks:
        members = [np.full((2, task.num_labels), value) for value in (-1000.0, 1000.0)]
        assert np.isfinite(combine(task, members)).all()


def test_one_member_predicts_as_the_trainer_does(folders, tasks, splits, make_model, make_trainer):
    rows = splits((9, 8, 7, 6), 3)
    for folder, names in zip(folders, (NAMES, NAMES[:2]), strict=True):
        model = type(make_model()).from_pretrained(folder)
        expected = make_trainer(model, train_dataset=None).predict({n: rows[n] for n in names})
        found = predict_members([folder], tasks, rows, batch_size=4)[folder]
        assert tuple(found) == names
        for name in names:
            np.testing.assert_allclose(found[name], expected.predictions[name], rtol=1e-4, atol=1e-5)
            one = combine(tasks[NAMES.index(name)], [found[name]])
            spec = tasks[NAMES.index(name)]
            same = decisions(spec, one) == decisions(spec, found[name])
            assert np.all(same)


def test_members_and_their_tasks(folders, tasks, encoder_dir, tmp_path):
    assert check_members(folders, tasks) == {
        "stars": folders,
        "same": folders,
        "close": folders[:1],
        "topics": folders[:1],
    }
    with pytest.raises(ValueError) as told:
        check_members([encoder_dir, str(tmp_path / "gone"), folders[1]], tasks[2:])
    kinds = ("is a checkpoint of 'bert'", "no checkpoint can be read there", "has the tasks stars, same, but none of")
    assert len(str(told.value).splitlines()) == 3
    assert all(kind in line for kind, line in zip(kinds, str(told.value).splitlines(), strict=True))


def test_what_peft_saved_is_refused(folders, tasks, tmp_path):
    (tmp_path / "all" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds what peft trained, not a whole model; merge it"):
        check_members(folders, tasks)


def test_rows_without_labels_are_predicted(folders, tasks):
    rows = {"stars": Dataset.from_dict({"text": ["a cat", "the dog runs"]})}
    found = predict_members(folders, tasks, rows)
    assert [found[folder]["stars"].shape for folder in folders] == [(2, 3), (2, 3)]
