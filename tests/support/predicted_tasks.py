"""A task of each kind, for predictions of a model with all of them."""

from __future__ import annotations

from mtbert import AdapterSpec, TaskSpec

SPECS = (
    TaskSpec("stars", labels=3, pooling="mean"),
    TaskSpec("topics", "multi_label_classification", labels=["cat", "dog"], pooling="max"),
    TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2),
    TaskSpec("alike", range=(0, 5), texts=2),
    TaskSpec("close", range=(0, 5), texts=2, pair="siamese", head={"output": "sigmoid"}),
    TaskSpec("near", range=(0, 5), texts=2, pair="both", pooling="mean"),
    TaskSpec("plain", range=(0, 5), texts=2, token_types=False, max_length=9),
)

PAL = AdapterSpec("pal", size=12, heads=3, init="published")
MORE = (TaskSpec("mood", labels=["sad", "glad"]), TaskSpec("stars2", labels=4, pooling="max", max_length=5))
