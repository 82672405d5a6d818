"""Confusions, rates, calibration and suspected labels, against loops written out."""

import warnings

import numpy as np
import pytest

from mtbert.evaluation.report.classification import calibration, class_rates, confusion, shares, suspects

NAMES = ("a", "b", "c")


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    return random.integers(0, 3, 200), random.integers(0, 3, 200)


def test_confusions_are_counted(pair):
    labels, predicted = pair
    counts = confusion(labels, predicted, 3)
    for i in range(3):
        for j in range(3):
            assert counts[i, j] == sum(1 for a, b in zip(labels, predicted, strict=True) if (a, b) == (i, j))
            assert shares(counts)[i, j] == pytest.approx(counts[i, j] / np.sum(labels == i))


def test_rates_follow_their_formulas(pair):
    labels, predicted = pair
    for i, row in enumerate(class_rates(labels, predicted, NAMES)):
        tp, fp = np.sum((labels == i) & (predicted == i)), np.sum((labels != i) & (predicted == i))
        fn, tn = np.sum((labels == i) & (predicted != i)), np.sum((labels != i) & (predicted != i))
        assert row == {
            "class": NAMES[i],
            "rows": tp + fn,
            "predicted": tp + fp,
            "precision": pytest.approx(tp / (tp + fp)),
            "recall": pytest.approx(tp / (tp + fn)),
            "f1": pytest.approx(2 * tp / (2 * tp + fp + fn)),
            "false_positives": fp,
            "false_positive_rate": pytest.approx(fp / (fp + tn)),
            "false_negatives": fn,
            "false_negative_rate": pytest.approx(fn / (fn + tp)),
            "selection_rate": pytest.approx((tp + fp) / 200),
        }


def test_a_class_without_rows_has_undefined_rates():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = class_rates(np.array([0, 0]), np.array([0, 1]), NAMES)
        rates = shares(confusion(np.array([0, 0]), np.array([0, 1]), 3))
    assert np.isnan(rates[1:]).all()
    assert rates[0].tolist() == [0.5, 0.5, 0]
    assert np.isnan(table[1]["recall"])
    assert np.isnan(table[1]["false_negative_rate"])
    assert table[1]["precision"] == 0
    assert np.isnan([table[2][key] for key in ("precision", "recall", "f1")]).all()
    assert np.isnan(table[0]["false_positive_rate"])


def test_no_rows_at_all():
    nothing = np.zeros(0, dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert confusion(nothing, nothing, 2).tolist() == [[0, 0], [0, 0]]
        assert np.isnan(class_rates(nothing, nothing, ("a", "b"))[0]["precision"])
        assert calibration(np.zeros(0), np.zeros(0, dtype=bool))["bins"] == []
        assert suspects(nothing, np.zeros((0, 2)))[0].tolist() == []


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_the_loop_over_bins(bins):
    random = np.random.default_rng(1)
    confidence = np.concatenate([random.uniform(0, 1, 500), [0.0, 1.0, 0.5]])
    right = random.uniform(size=503) < confidence**2
    total, worst, held = 0.0, 0.0, 0
    for m in range(1, bins + 1):
        own = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins or (m == 1 and c == 0)]
        if own:
            gap = abs(sum(right[own]) / len(own) - sum(confidence[own]) / len(own))
            total, worst, held = total + len(own) / 503 * gap, max(worst, gap), held + 1
    found = calibration(confidence, right, bins)
    assert (found["ece"], found["mce"]) == (pytest.approx(total), pytest.approx(worst))
    assert len(found["bins"]) == held
    assert sum(each["rows"] for each in found["bins"]) == 503


def test_a_calibrated_model_has_no_error():
    confidence = np.repeat([0.25, 0.75], 400)
    right = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0])
    assert calibration(confidence, right)["ece"] == pytest.approx(0)


def suspects_by_hand(labels, p):
    """Equations 1 and 2 of the paper, one row at a time."""
    thresholds = {j: np.mean([p[i, j] for i in range(len(p)) if labels[i] == j]) for j in set(labels.tolist())}
    found = {}
    for i in range(len(p)):
        above = [j for j in thresholds if p[i, j] >= thresholds[j]]
        if above and (best := max(above, key=lambda j: p[i, j])) != labels[i]:
            found[i] = best
    return found


@pytest.mark.parametrize("seed", range(5))
def test_suspects_are_those_of_the_papers_equations(seed):
    random = np.random.default_rng(seed)
    labels, p = random.integers(0, 3, 100), random.dirichlet(np.ones(4), 100)  # class 3 has no rows
    found, instead = suspects(labels, p)
    assert dict(zip(found.tolist(), instead.tolist(), strict=True)) == suspects_by_hand(labels, p)
    own = p[found, labels[found]]
    assert (np.diff(own) >= 0).all()


def test_flipped_labels_are_found():
    random = np.random.default_rng(3)
    true = random.integers(0, 2, 300)
    p1 = np.clip(true * 0.8 + 0.1 + random.normal(0, 0.05, 300), 0.01, 0.99)
    labels, flipped = true.copy(), random.choice(300, 20, replace=False)
    labels[flipped] = 1 - labels[flipped]
    p = np.stack([1 - p1, p1], 1)
    found, instead = suspects(labels, p)
    sure = [i for i in flipped if p[i, true[i]] >= p[labels == true[i], true[i]].mean()]
    assert set(found) == set(sure)
    assert len(sure) >= 18
    assert (instead == true[found]).all()
