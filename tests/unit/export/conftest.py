"""Tiny models with every kind of head and layout, exported once a session."""

import subprocess
import sys

import pytest
from transformers import AutoTokenizer, set_seed

from mtbert.export.folder import write_model
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import AdapterSpec, TaskSpec

CALIBRATED = {"temperature": 2.0, "coverage": 0.9, "quantile": 0.6, "abstain_below": 0.5}
TASKS = (
    TaskSpec("stars", labels=3, pooling="mean", calibration=CALIBRATED),
    TaskSpec("plain", labels=3),
    TaskSpec("yes", "binary_classification", labels=["no", "yes"], calibration={"thresholds": [0.3]}),
    TaskSpec("two", labels=["a", "b"], pooling="mean", calibration={"temperature": 0.5, "thresholds": [0.6]}),
    TaskSpec("topics", "multi_label_classification", labels=["cat", "dog", "bird"], pooling="max"),
    TaskSpec(
        "tags",
        "multi_label_classification",
        labels=["x", "y z", "|"],
        max_length=7,
        calibration={"temperature": 0.5, "thresholds": [None, 0.2, 0.7]},
    ),
    TaskSpec("deep", labels=4, pooling="pooler", head={"type": "mlp", "layers": 2}),
    TaskSpec("reader", range=(1, 5), head={"type": "attention", "attention_heads": 2, "output": "sigmoid"}),
    TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2, head={"type": "mlp", "layers": 1}),
    TaskSpec("split", labels=3, texts=2, separator=["[SEP]", "[MASK]", "[SEP]"], pooling="max", max_length=9),
    TaskSpec("untyped", labels=3, texts=2, token_types=False),
    TaskSpec(
        "angle",
        range=(0, 5),
        texts=2,
        pair="siamese",
        pooling="mean",
        head={"type": "cosine"},
        calibration={"coverage": 0.8, "quantile": 0.7},
    ),
    TaskSpec("both", labels=2, texts=2, pair="both", max_length=12),
    TaskSpec("free", texts=2, pair="siamese", pooling="max", calibration={"coverage": 0.8, "quantile": 0.1}),
)


@pytest.fixture(scope="session")
def make_exported(encoder_dir, tmp_path_factory):
    """A function that makes and exports a tiny model; returns the model and the folder."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir)

    def make(specs, engine="onnx", **kwargs):
        set_seed(1)
        model = MtBertForMultiTask.from_encoder(encoder_dir, specs, **kwargs).eval()
        folder = tmp_path_factory.mktemp("exported")
        write_model(model, tokenizer, folder, engine, "runs/tiny")
        return model, folder

    return make


@pytest.fixture(scope="session")
def exported(make_exported):
    """The model with all tasks of this file, and its folder."""
    return make_exported(TASKS)


ADAPTED = (
    TaskSpec("near", range=(0, 5), texts=2, pair="siamese", head={"output": "sigmoid"}),
    TaskSpec("shared", labels=2, adapter=False),
)


@pytest.fixture(scope="session")
def adapted(make_exported):
    """A model with adapters, and its folder: one graph for each task that has one, one for the others."""
    return make_exported(ADAPTED, adapter=AdapterSpec("pal", size=12, heads=3, init="published"))


ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(%r))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BLOCKED = ("torch", "transformers", "mtbert", "datasets", "onnx", "scipy", "huggingface_hub")


@pytest.fixture(scope="session")
def run_example():
    """A function that runs a folder's example in a process in which packages cannot be imported."""

    def run(folder, *arguments, blocked=BLOCKED):
        command = [sys.executable, "-c", ALONE % (blocked,), str(folder / "example.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd="/")

    return run
