"""What a figure draws is what its numbers say; every axis has a title."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from mtbert.evaluation.report import figures
from mtbert.evaluation.report.classification import calibration, confusion, shares
from mtbert.evaluation.report.distances import signed_errors
from mtbert.evaluation.report.slices import by_group, by_length


@pytest.fixture(autouse=True)
def _drawn(monkeypatch):
    """Every figure that a test makes is drawn, and its axes are labelled."""
    made = []
    for name in ("_panels", "Figure"):
        original = getattr(figures, name)

        def remember(*args, original=original, **kwargs):
            result = original(*args, **kwargs)
            made.append(result[0] if isinstance(result, tuple) else result)
            return result

        monkeypatch.setattr(figures, name, remember)
    yield
    assert made
    for figure in made:
        figure.canvas.draw()
        for axes in figure.axes:
            assert axes.get_ylabel()
        assert any(axes.get_xlabel() for axes in figure.axes)
        assert any(axes.get_title() for axes in figure.axes)


def course(*values):
    return [{"epoch": i / 2, "step": i, "value": value} for i, value in enumerate(values)]


def points(axes, label):
    return next(line for line in axes.lines if line.get_label().startswith(label)).get_xydata().tolist()


def test_learning_curves():
    curves = {
        "main": "accuracy",
        "loss": course(3, 2, 1),
        "dev": {"loss": course(3, 2.5), "accuracy": course(0.2, 0.6, 0.5)},
        "train": {"accuracy": course(0.3, 0.7)},
        "best": {"epoch": 0.5, "step": 1, "value": 0.6},
    }
    left, right = figures.learning_curves(curves, "a").axes
    assert points(left, "training steps") == [[0, 3], [0.5, 2], [1, 1]]
    assert points(left, "dev") == [[0, 3], [0.5, 2.5]]
    assert points(right, "dev") == [[0, 0.2], [0.5, 0.6], [1, 0.5]]
    assert points(right, "train split") == [[0, 0.3], [0.5, 0.7]]
    assert points(right, "best: 0.600, epoch 0.5") == [[0.5, 0.6]]
    same = [
        to_hex(next(line for line in axes.lines if line.get_label() == "dev").get_color()) for axes in (left, right)
    ]
    assert same[0] == same[1]
    assert left.get_xlim() == right.get_xlim() and left.get_xlim()[0] == 0
    figures.learning_curves({**curves, "loss": [], "dev": {}, "train": {}, "best": None}, "a")


def test_pretraining_losses():
    losses = {"train": course(3, 2, 1), "dev": course(3, 2.5), "best": None, "use_epoch": 1}
    (axes,) = figures.pretraining_losses(losses).axes
    assert points(axes, "train") == [[0, 3], [0.5, 2], [1, 1]]
    assert points(axes, "dev") == [[0, 3], [0.5, 2.5]]
    assert points(axes, "fine-tuned: epoch 1")[0][0] == 1
    (axes,) = figures.pretraining_losses({"train": course(3), "dev": [], "best": None, "use_epoch": None}).axes
    assert len(axes.lines) == 1


def test_sampling():
    table = [
        {"epoch": 1, "sampled": {"a": 30, "b": 10}, "planned": {"a": 32, "b": 8}, "probability": {"a": 0.9, "b": 0.1}},
        {"epoch": 2, "sampled": {"a": 20, "b": 20}, "planned": {"a": 24, "b": 16}, "probability": {"a": 0.6, "b": 0.4}},
    ]
    (axes,) = figures.sampling(table, ["a", "b"]).axes
    assert points(axes, "a: sampled") == [[1, 0.75], [2, 0.5]]
    assert points(axes, "b: probability") == [[1, 0.1], [2, 0.4]]
    (axes,) = figures.sampling([{**each, "probability": None} for each in table], ["a", "b"]).axes
    assert points(axes, "a: plan") == [[1, 0.8], [2, 0.6]]
    (axes,) = figures.sampling([{"epoch": 1, "sampled": {"a": 3}}], ["a"]).axes
    assert points(axes, "a: sampled") == [[1, 1]]


def test_confusion():
    counts = confusion(np.array([0, 0, 1, 0]), np.array([0, 1, 1, 0]), 3)
    left, right, *_ = figures.confusion(counts, shares(counts), ("a", "b", "c"), "t").axes
    assert left.images[0].get_array().tolist() == counts.tolist()
    np.testing.assert_allclose(right.images[0].get_array().filled(np.nan), shares(counts))
    assert [text.get_text() for text in left.texts] == ["2", "1", "0", "0", "1", "0", "0", "0", "0"]
    assert [text.get_text() for text in right.texts] == ["0.67", "0.33", "0.00", "0.00", "1.00", "0.00", "–", "–", "–"]


def test_reliability():
    confidence, right = np.array([0.55, 0.6, 0.95, 0.97]), np.array([True, False, True, True])
    found = calibration(confidence, right)
    upper, lower = figures.reliability(found, "t").axes
    assert [bar.get_height() for bar in upper.patches] == [0.5, 1.0]
    assert [bar.get_height() for bar in lower.patches] == [2, 2]
    assert [bar.get_x() for bar in upper.patches] == pytest.approx([8 / 15, 14 / 15])
    assert points(upper, "bins") == [pytest.approx([0.575, 0.5]), pytest.approx([0.96, 1.0])]


def test_scatter():
    (axes,) = figures.scatter([0, 2.5, 5], [1, 2, 4], "t").axes
    assert points(axes, "rows") == [[0, 1], [2.5, 2], [5, 4]]
    assert points(axes, "predicted = true") == [[0, 0], [5, 5]]


def test_by_length():
    found = by_length(np.array([1, 1, 2, 9]), np.array([0.0, 1.0, 1.0, 0.5]))
    axes, counts = figures.by_length(found, "t", "words", "error").axes
    middle = [(each["low"] + each["high"]) / 2 for each in found["bins"]]
    errors = axes.containers[0].lines[0].get_xydata().tolist()
    assert errors == [[x, each["error"]] for x, each in zip(middle, found["bins"], strict=True)]
    assert counts.lines[0].get_xydata()[:, 1].tolist() == [2, 1, 1]


def test_signed_errors(make_rows):
    found = signed_errors(make_rows("close", 40))
    left, right = figures.signed_errors(found, {"length": "words", "length_difference": "difference"}, "t").axes
    for axes, measure, xlabel in ((left, found["length"], "words"), (right, found["length_difference"], "difference")):
        expected = [list(point) for point in zip(measure["points"]["length"], measure["points"]["error"], strict=True)]
        assert points(axes, "rows") == expected and axes.get_xlabel() == xlabel
        means = axes.containers[0].lines[0].get_xydata().tolist()
        assert means == [[(each["low"] + each["high"]) / 2, each["error"]] for each in measure["bins"]]
    figures.signed_errors({"length": signed_errors(make_rows("close", 1))["length"]}, {"length": "words"}, "t")


def test_attention():
    many = {"row": "9", "label": "bad", "predicted": "good", "tokens": ["t"] * 130, "weights": [1 / 130] * 130}
    few = {**many, "row": "2", "tokens": ["[CLS]", "a" * 200, "cat"], "weights": [0.1, 0.2, 0.7]}
    axes, bar = figures.attention([few, many], "t").axes
    texts = [text for text in axes.texts if text.get_bbox_patch() is not None]
    assert [text.get_text() for text in texts] == [*few["tokens"], *["t"] * figures.MOST_TOKENS]
    shades = [text.get_bbox_patch().get_facecolor() for text in texts[:3]]
    assert [sum(shade) for shade in shades] == sorted((sum(shade) for shade in shades), reverse=True)  # darker
    assert len(set(shades)) == 3 and bar.get_ylim() == pytest.approx((0, 0.7))
    others = [text.get_text() for text in axes.texts if text not in texts]
    assert others == ["row 2: true bad, predicted good", "row 9: true bad, predicted good", "… and 10 more tokens"]
    places = [text.get_position() for text in axes.texts]
    assert len(set(places)) == len(places)
    figures.attention([{**many, "tokens": ["one"], "weights": [1.0]}], "t")


def test_groups(make_rows):
    found = by_group(make_rows("same"), ("x", "y") * 30, "accuracy")
    (axes,) = figures.groups(found, "accuracy", "t").axes
    assert [bar.get_width() for bar in axes.patches] == [each["accuracy"] for each in found["groups"]]
    found = by_group(make_rows("close"), ("x", "y") * 30, "pearson")
    (axes,) = figures.groups(found, "pearson", "t").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x (30)", "y (30)"]


def test_gradients():
    found = {
        "tasks": ["a", "b"],
        "cosines": [[1, -0.5], [-0.5, 1]],
        "course": {"a, b": course(-0.4, -0.6)},
        "conflicts": course(1, 1),
        "norms": {"a": course(2, 3)},
    }
    left, right, *_ = figures.cosines(found).axes
    assert left.images[0].get_array().tolist() == found["cosines"]
    assert points(right, "a, b") == [[0, -0.4], [1, -0.6]]
    left, right = figures.gradient_course(found).axes
    assert points(left, "conflicts") == [[0, 1], [1, 1]]
    assert points(right, "a") == [[0, 2], [1, 3]]
    right.set_ylim(0.05, 50)
    right.figure.canvas.draw()
    labels = [text.get_text() for text in right.get_yticklabels(which="both")]
    assert {"0.1", "1", "10"} <= set(labels) and not any("$" in label for label in labels)


def test_differences():
    found = {
        "a": {"difference": 0.1, "low": -0.05, "high": 0.2},
        "b": {"difference": 0.0, "low": np.nan, "high": np.nan},
    }
    (axes,) = figures.differences(found).axes
    assert axes.containers[0].lines[0].get_xydata().tolist() == [[0.1, 0], [0, 1]]
    (ends,) = axes.containers[0].lines[2]
    assert ends.get_segments()[0].tolist() == [pytest.approx([-0.05, 0]), pytest.approx([0.2, 0])]
