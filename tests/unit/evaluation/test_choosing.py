"""Candidates on made-up predictions: equal ones are not told apart, a better one is found, intervals are right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from mtbert.errors import InputError
from mtbert.evaluation.choosing import HeldOut, compare, mean_score
from mtbert.evaluation.metrics import averages, scorer

REPETITIONS = 100
AT_MOST = 5  # of these may decide something although nothing is to be decided


@dataclass(frozen=True)
class Made:
    """A made-up comparison: accuracy of a binary task.

    Attributes:
        candidates, folds, seeds, rows: their numbers; `rows` of all folds.
        accuracy: of each candidate; the first is the baseline.
        disagree: share of rows on which two runs of equal accuracy differ in being right.
        run_sd: standard deviation of a run's true accuracy.
        copies: how many rows share a text, label and prediction.
    """

    candidates: int = 5
    folds: int = 4
    seeds: int = 1
    rows: int = 1200
    accuracy: float = 0.75
    better: float = 0.0
    disagree: float = 0.12
    run_sd: float = 0.0
    copies: int = 1

    def draw(self, seed: int):
        """Candidates and rows for `compare`."""
        random = np.random.default_rng(seed)
        names = ["baseline", *(f"c{i}" for i in range(1, self.candidates))]
        rows, found = {}, {name: {} for name in names}
        size = self.rows // self.folds // self.copies
        for fold in range(self.folds):
            labels = random.integers(2, size=size)
            ease = random.random(size)  # rows are easy or hard for all runs
            for i, name in enumerate(names):
                for run in range(self.seeds):
                    accuracy = self.accuracy + self.run_sd * random.standard_normal() + (self.better if i == 1 else 0)
                    noise = self.disagree / 2 / (2 * self.accuracy * (1 - self.accuracy))
                    own = np.where(random.random(size) < noise, random.random(size), ease)
                    right = np.repeat(own < accuracy, self.copies)
                    y = np.repeat(labels, self.copies)
                    found[name][fold, run] = {"t": np.where(right, y, 1 - y).astype(float)}
            groups = np.repeat(np.arange(size), self.copies) if self.copies > 1 else None
            rows[fold] = {"t": HeldOut("accuracy", np.repeat(labels, self.copies).astype(float), groups)}
        return found, rows

    def count(self, repetitions: int = REPETITIONS, resamples: int = 300, **options) -> dict[str, int]:
        """Verdicts of the candidates but the baseline: how many repetitions have one that is `better` or `worse`."""
        counts = {"decided": 0, "found": 0, "wrong": 0}
        for seed in range(repetitions):
            found, rows = self.draw(seed)
            compared = compare(found, rows, "baseline", seed=seed, resamples=resamples, **options)
            verdicts = {entry["candidate"]: entry["verdict"] for entry in compared.entries}
            decided = {name for name, verdict in verdicts.items() if verdict in ("better", "worse")}
            counts["decided"] += bool(decided)
            counts["found"] += verdicts.get("c1") == "better"
            counts["wrong"] += bool(decided - {"c1"})
        return counts


@pytest.mark.parametrize(
    "made",
    [
        Made(),
        Made(candidates=2),
        Made(candidates=12, rows=800),
        Made(run_sd=0.015),  # more noise from run to run than of rows
        Made(candidates=10, folds=2, run_sd=0.01),
        Made(candidates=2, folds=5, run_sd=0.02),
        Made(candidates=3, folds=2, seeds=2, run_sd=0.01),
        Made(seeds=3, run_sd=0.005),
        Made(copies=6),
        Made(candidates=2, folds=2, run_sd=0.02),
        Made(accuracy=0.97, disagree=0.02),
        Made(rows=80),
    ],
    ids=str,
)
def test_of_equal_candidates_nothing_is_decided(made):
    assert made.count()["decided"] <= AT_MOST


def test_rows_that_share_a_text_are_one():
    """Six copies of each row make its interval wider than as rows by themselves."""
    made, decided = Made(candidates=12, copies=6, rows=2400), 0
    for seed in range(10):
        found, rows = made.draw(seed)
        apart = {fold: {"t": replace(by_task["t"], groups=None)} for fold, by_task in rows.items()}
        alone = {"baseline": found["baseline"]}  # a comparison would see the difference in the variance of runs
        results = [compare(alone, of, "baseline", resamples=200).entries[0] for of in (rows, apart)]
        widths = [entry["high"] - entry["low"] for entry in results]
        decided += widths[0] > 1.5 * widths[1]
    assert decided == 10


@pytest.mark.parametrize(
    "made",
    [
        Made(candidates=8, folds=5, rows=40_000, better=0.01),
        Made(candidates=8, folds=4, seeds=2, rows=20_000, better=0.01),
        Made(candidates=8, folds=5, seeds=2, rows=25_000, better=0.01, run_sd=0.003),
    ],
    ids=str,
)
def test_a_candidate_that_is_better_by_a_point_is_found(made):
    """The power that docs/choosing.md states: at least nine times of ten."""
    counts = made.count(20, 200)
    assert counts["found"] >= 18 and counts["wrong"] <= 2


def test_without_the_runs_noise_and_the_family_too_much_would_be_decided():
    """Intervals of single differences, over rows only, are what the tests above would fail with."""
    made, decided = Made(candidates=12, rows=800, run_sd=0.015), 0
    for seed in range(40):
        found, rows = made.draw(seed)
        random = np.random.default_rng(seed)
        differs = []
        for name in found:
            right = [
                np.concatenate([found[each][fold, 0]["t"] == rows[fold]["t"].labels for fold in rows])
                for each in (name, "baseline")
            ]
            change = right[0].astype(float) - right[1]
            means = change[random.integers(len(change), size=(200, len(change)))].mean(axis=1)
            low, high = np.quantile(means, [0.025, 0.975])
            differs.append(low > 0 or high < 0)
        decided += any(differs)
    assert decided > 20


def test_a_candidate_whose_runs_vary_more_does_not_hide_the_others():
    made, found_before, found_after, wrong = Made(candidates=6, folds=5, rows=30_000, better=0.012), 0, 0, 0
    for seed in range(10):
        found, rows = made.draw(seed)
        random = np.random.default_rng(seed)
        for (fold, run), predicted in found["c5"].items():
            flipped = random.random(len(predicted["t"])) < (0.4 if fold == 2 else 0.0)
            found["c5"][fold, run] = {"t": np.where(flipped, 1 - predicted["t"], predicted["t"])}
        compared = compare(found, rows, "baseline", resamples=200)
        entries = {entry["candidate"]: entry for entry in compared.entries}
        found_after += entries["c1"]["verdict"] == "better"
        wrong += entries["c5"]["verdict"] != "undecided"
        assert any("runs of c5 vary more" in note for note in compared.notes)
        del found["c5"]
        others = compare(found, rows, "baseline", resamples=200).entries
        found_before += others[1]["verdict"] == "better"
    assert found_before >= 9 and found_after >= found_before - 1 and wrong == 0


# ---- what is computed ----


def two_tasks(seed=0, folds=3, seeds=2, rows=40):
    random = np.random.default_rng(seed)
    held, found = {}, {name: {} for name in ("a", "b", "c")}
    for fold in range(folds):
        labels = random.normal(size=rows)
        held[fold] = {
            "sst": HeldOut("accuracy", random.integers(3, size=rows).astype(float)),
            "sts": HeldOut("pearson", labels),
        }
        for name in found:
            for run in range(seeds):
                found[name][fold, run] = {
                    "sst": random.integers(3, size=rows).astype(float),
                    "sts": labels + random.normal(size=rows),
                }
    return found, held


def test_scores_are_means_over_folds_and_seeds():
    found, rows = two_tasks()
    compared = compare(found, rows, "b", resamples=50)
    assert compared.cells == ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1))
    by_name = {}
    for entry in compared.entries:
        cells = []
        for (fold, run), predicted in found[entry["candidate"]].items():
            assert (fold, run) in compared.cells
            scores = {
                task: (held.metric, scorer(held.metric)(predicted[task], held.labels))
                for task, held in rows[fold].items()
            }
            cells.append([averages(scores)["overall"], scores["sst"][1], scores["sts"][1]])
        means = np.mean(cells, axis=0)
        ours = [entry["score"], entry["tasks"]["sst"]["score"], entry["tasks"]["sts"]["score"]]
        assert ours == pytest.approx(means)
        assert mean_score(found[entry["candidate"]], rows) == pytest.approx(means[0])
        by_name[entry["candidate"]] = entry
    for name, entry in by_name.items():
        assert entry["difference"] == pytest.approx(entry["score"] - by_name["b"]["score"])
        assert entry["low"] < entry["score"] < entry["high"]
        if name != "b":
            assert entry["difference_low"] < entry["difference"] < entry["difference_high"]
    assert by_name["b"]["verdict"] == "baseline" and compared.named("baseline") == ["b"]
    of_task = compare(found, rows, "b", score="sts", resamples=50)
    assert [e["score"] for e in of_task.entries] == [e["tasks"]["sts"]["score"] for e in compared.entries]


def test_the_interval_of_rows_is_the_normal_one():
    """Without noise of runs, the interval's half is about 1.96 · √(p (1 − p) / n) for a score."""
    random = np.random.default_rng(0)
    labels = random.integers(2, size=4000).astype(float)
    right = random.random(4000) < 0.8
    predicted = np.where(right, labels, 1 - labels)
    rows = {0: {"t": HeldOut("accuracy", labels)}}
    entry = compare({"a": {(0, 0): {"t": predicted}}}, rows, "a").entries[0]
    assert (entry["high"] - entry["low"]) / 2 == pytest.approx(1.96 * (0.8 * 0.2 / 4000) ** 0.5, rel=0.06)


def test_the_critical_value_grows_with_the_family():
    """A difference of its own has an interval of 95 %, one of many together a wider one."""
    halves = []
    for count in (2, 4, 12):
        found, rows = Made(candidates=count, folds=10, rows=4000).draw(3)
        entry = compare(found, rows, "baseline", resamples=1000).entries[1]
        alone = entry["difference_high"] - entry["difference"]
        by_itself = entry["tasks"]["t"]["difference_high"] - entry["tasks"]["t"]["difference"]
        halves.append(alone / by_itself)
    assert 1 < halves[0] < halves[2] < 1.9


def test_candidates_that_were_dropped_still_count():
    found, rows = Made(candidates=12, folds=5, rows=4000).draw(1)
    everything = compare(found, rows, "baseline", resamples=500)
    kept = {name: found[name] for name in ("baseline", "c1", "c2")}
    left = {name: each for name, each in everything.deviations.items() if name not in kept}
    halves = []
    for dropped in ({}, left):
        entry = compare(kept, rows, "baseline", resamples=500, dropped=dropped).entries[1]
        halves.append(entry["difference_high"] - entry["difference"])
    assert halves[1] > 1.05 * halves[0]


def test_equal_predictions_are_undecided_and_do_not_narrow_the_others():
    found, rows = Made(candidates=3, folds=5, run_sd=0.01).draw(2)
    compared = compare(found, rows, "baseline", resamples=500)
    found["copy"] = found["baseline"]
    with_copy = compare(found, rows, "baseline", resamples=500)
    assert with_copy.entries[-1]["verdict"] == "undecided" and with_copy.entries[-1]["difference"] == 0
    assert not with_copy.notes
    for before, after in zip(compared.entries[1:], with_copy.entries[1:], strict=False):
        halves = [entry["difference_high"] - entry["difference"] for entry in (before, after)]
        assert halves[1] > 0.9 * halves[0]
    same = dict.fromkeys(("baseline", "x", "y"), found["baseline"])
    assert {entry["verdict"] for entry in compare(same, rows, "baseline").entries} == {"baseline", "undecided"}


def test_one_run_of_each_decides_nothing_and_says_so():
    found, rows = Made(folds=1, better=0.2).draw(0)
    compared = compare(found, rows, "baseline", resamples=50)
    assert all(entry["difference_low"] is None for entry in compared.entries)
    assert [entry["verdict"] for entry in compared.entries[1:]] == ["undecided"] * 4
    assert "one run of each candidate does not show" in compared.notes[0]
    alone = compare({"baseline": found["baseline"]}, rows, "baseline", resamples=50)
    assert "can not be compared" in alone.notes[0]


def test_the_same_seed_gives_the_same_intervals():
    found, rows = two_tasks()
    first, again, other = (compare(found, rows, "a", resamples=60, seed=seed).entries for seed in (1, 1, 2))
    assert first == again != other


def test_several_labels_a_row_and_f1_are_scored():
    random = np.random.default_rng(0)
    labels = [random.integers(2, size=(30, 4)).astype(float) for _ in range(2)]
    rows = {fold: {"t": HeldOut("f1_micro", labels[fold])} for fold in (0, 1)}
    found = {
        name: {(fold, 0): {"t": np.abs(labels[fold] - (random.random((30, 4)) < wrong))} for fold in (0, 1)}
        for name, wrong in (("a", 0.4), ("b", 0.1))
    }
    entries = compare(found, rows, "a", resamples=20).entries
    assert entries[1]["score"] > entries[0]["score"] > 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f, r: f["a"].pop((0, 1)),
            r"candidate 'b' has the folds and seeds .* but 'a' has .*; all candidates need",
        ),
        (lambda f, r: f["b"][1, 0].pop("sts"), "candidate 'b', fold 1, seed 0, task 'sts': there are no predictions"),
        (
            lambda f, r: f["b"][1, 0].update(sts=np.zeros(39)),
            r"predictions have the shape \(39,\), but the labels \(40,\)",
        ),
        (
            lambda f, r: f["c"][2, 1]["sts"].fill(np.nan),
            "candidate 'c', fold 2, seed 1, task 'sts': a prediction is not",
        ),
        (lambda f, r: r[1].pop("sst"), r"fold 1 has rows of the tasks \['sts'\], but must have \['sst', 'sts'\]"),
        (lambda f, r: f["a"].clear(), "candidate 'a' has no predictions"),
        (lambda f, r: f.pop("a"), "the baseline is 'a', but the candidates are: b, c"),
    ],
)
def test_wrong_predictions_are_refused(change, message):
    found, rows = two_tasks()
    change(found, rows)
    with pytest.raises(InputError, match=message):
        compare(found, rows, "a", resamples=10)
    with pytest.raises(InputError, match="score is 'para', but must be overall or a task: sst, sts"):
        compare(*two_tasks(), "a", score="para")
