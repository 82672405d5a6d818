"""A changed number is seen: by the comparison of two trees' results, and by the losses that are stored here."""

import json
import shutil

import datasets
import numpy as np
import pytest
import ways
import ways_stored
from safetensors.numpy import load_file, save_file
from ways_compare import compare_folders, compare_way, report
from ways_table import WAYS, Way

from mtbert.data.sampling import Schedule

TOLERANCE = 1e-3  # relative, of a loss: other processors add up in another order


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden") / "start"
    ways.make_start(folder, ["schedule sqrt"], dropout=0.1)
    return folder


@pytest.fixture
def train(start, tmp_path, monkeypatch):
    """A function: more of the recipe of "schedule sqrt" → the folder of its results."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def run(**recipe):
        monkeypatch.setitem(WAYS, "schedule sqrt", Way({"schedule": {"name": "sqrt"}, **recipe}))
        ways.run_way(ways_stored.ROOT, start, tmp_path, "schedule sqrt")
        return tmp_path

    return run


@pytest.fixture(scope="module")
def base(start, tmp_path_factory):
    """The folder of the results of "schedule sqrt" as it is."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        ways.run_way(ways_stored.ROOT, start, folder, "schedule sqrt")
    return folder


def test_two_runs_alike_are_the_same(base, train):
    outcome = compare_way(base, train(), "schedule_sqrt")
    assert (outcome.text, outcome.failed) == ("same", False)
    assert outcome.numbers > 5000


def test_another_learning_rate_is_reported_at_the_first_step_that_has_it(base, train):
    outcome = compare_way(base, train(training={"learning_rate": 0.0100001}), "schedule_sqrt")
    assert outcome.failed
    assert "step 2: " in outcome.text  # the rate of step 1 is 0, it warms up
    assert " is 0.005 in the base and 0.00500005 in the new tree" in outcome.text


def test_another_exponent_of_a_schedule_is_reported(base, train, monkeypatch):
    monkeypatch.setattr(Schedule, "exponent", lambda self, epoch, epochs: 4.0)
    outcome = compare_way(base, train(), "schedule_sqrt")
    assert outcome.failed
    assert "in the base and" in outcome.text


@pytest.fixture
def results(tmp_path):
    """Two folders with the same log and weights."""
    log = [{"step": 1, "loss": 0.5, "train_runtime": 3.0}, {"step": 2, "loss": 0.25}]
    for name in ("base", "new"):
        folder = tmp_path / name / "way"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        save_file({"a": np.zeros((2, 2), np.float32), "b": np.ones(3, np.float32)}, folder / "model.safetensors")
        (tmp_path / name / "way.json").write_text('{"way": "way", "error": null, "refused": false}')
    return tmp_path / "base", tmp_path / "new"


def change_log(folder, change):
    file = folder / "way" / "trainer_state.json"
    state = json.loads(file.read_text())
    change(state["log_history"])
    file.write_text(json.dumps(state))


def change_weights(folder, change):
    file = folder / "way" / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def test_numbers_are_counted_and_times_are_not_compared(results):
    change_log(results[1], lambda log: log[0].update(train_runtime=4.0))
    outcome = compare_way(*results, "way")
    assert (outcome.text, outcome.failed, outcome.numbers) == ("same", False, 4 + 7)


def test_a_logged_number_that_differs_in_its_last_bit_is_named_with_its_step(results):
    change_log(results[1], lambda log: log[1].update(loss=float(np.nextafter(0.25, 1))))
    outcome = compare_way(*results, "way")
    assert outcome.failed
    expected = "step 2: loss is 0.25 in the base and 0.25000000000000006 in the new tree"
    assert outcome.text == f"trainer_state.json: {expected}"


def test_a_log_key_of_one_tree_only_is_named(results):
    change_log(results[1], lambda log: log[1].update(extra=1.0))
    assert "step 2: extra is 'nothing' in the base and 1.0 in the new tree" in compare_way(*results, "way").text


def test_a_log_entry_of_one_tree_only_is_seen(results):
    change_log(results[0], lambda log: log.pop())
    assert compare_way(*results, "way").text.endswith("there are 1 entries in the base and 2 in the new tree")


def test_a_weight_that_differs_in_its_sign_bit_is_named_with_its_place(results):
    change_weights(results[1], lambda weights: weights["a"].__setitem__((1, 0), -0.0))
    text = compare_way(*results, "way").text
    assert text.startswith("model.safetensors: a[1, 0] is ")
    assert text.endswith("1 of its 4 numbers differ")


def test_a_weight_of_one_tree_only_is_named(results):
    change_weights(results[1], lambda weights: weights.pop("b"))
    assert compare_way(*results, "way").text == "model.safetensors: b is missing in the new tree"


def test_a_file_of_one_tree_only_is_named(results):
    (results[0] / "way" / "model.safetensors").unlink()
    assert compare_folders(results[0] / "way", results[1] / "way").text == "model.safetensors is missing in the base"


@pytest.mark.parametrize(
    ("base", "new", "refused", "failed", "text"),
    [
        ("no such key", None, True, False, "not compared, the base has no such feature: no such key"),
        ("it broke", None, False, True, "it fails in the base only: it broke"),
        (None, "no such key", True, True, "it fails in the new tree only: no such key"),
        ("it broke", "it broke", True, True, "it fails in both trees: it broke"),
    ],
)
def test_a_way_of_one_tree_only_fails_unless_the_base_refuses_its_recipe(results, base, new, refused, failed, text):
    for folder, error in zip(results, (base, new)):
        ended = {"way": "way", "error": error, "refused": bool(error and refused)}
        (folder / "way.json").write_text(json.dumps(ended))
    outcome = compare_way(*results, "way")
    assert (outcome.text, outcome.failed) == (text, failed)


def test_the_report_ends_with_the_sum(results):
    for folder in results:
        shutil.copytree(folder / "way", folder / "other")
        shutil.copy(folder / "way.json", folder / "other.json")
    change_weights(results[1], lambda weights: weights.pop("b"))
    lines = list(report(*results, [("a way", "way"), ("another", "other")]))
    assert lines[1] == ("another: same", False)
    assert lines[-1] == ("2 of 2 ways and 15 numbers were compared: 1 ways differ or fail", True)


def test_every_way_has_a_folder_of_its_own():
    assert len({ways.folder_name(name) for name in WAYS}) == len(WAYS)


def test_losses_are_as_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    stored = json.loads(ways_stored.FILE.read_text())
    found = ways_stored.losses(tmp_path)
    assert found.keys() == stored.keys()
    for name, steps in stored.items():
        assert len(found[name]) == len(steps) > ways_stored.STEPS
        for number, step in enumerate(steps, start=1):
            assert found[name][number - 1] == pytest.approx(step, rel=TOLERANCE), f"{name}, entry {number}"
