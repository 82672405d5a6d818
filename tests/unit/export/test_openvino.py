"""A folder for OpenVINO answers as the model does, in fp32 and with parts in int8."""

import json
import shutil

import numpy as np
import pytest

from mtbert.export import ExportedModel, int8, standalone
from mtbert.export.graphs import TaskGraph, find_parts
from mtbert.modeling.task_spec import AdapterSpec, TaskSpec

pytest.importorskip("openvino")
pytest.importorskip("onnxscript")
TASKS = (
    TaskSpec("stars", labels=3, pooling="mean", calibration={"temperature": 2.0, "abstain_below": 0.5}),
    TaskSpec("topics", "multi_label_classification", labels=["cat", "dog", "bird"], pooling="max", max_length=7),
    TaskSpec("angle", range=(0, 5), texts=2, pair="siamese", pooling="mean", head={"type": "cosine"}),
    TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2, pooling="pooler"),
)
TEXTS = ["", "the cat", "a dog eats . " * 9, "bird"]
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))


@pytest.fixture(scope="module")
def for_openvino(make_exported):
    return make_exported(TASKS, "openvino")


@pytest.mark.filterwarnings("ignore:of .* rows, some were cut")
def test_answers_are_those_of_predict(for_openvino, run_example):
    model, folder = for_openvino
    assert {file.suffix for file in folder.iterdir()} == {".xml", ".bin", ".json", ".py", ".md"}
    own = ExportedModel(folder, threads=1)
    for rows in (TEXTS, PAIRS, TEXTS[:1], PAIRS[:1]):
        for name, expected in model.predict(rows, "all").items():
            found = own.predict(rows, [name])[name]
            np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
            assert found.to_dict().keys() == expected.to_dict().keys()
            if not found.task.kind.numeric:
                assert found.labels == expected.labels
    done = run_example(folder, "the cat", blocked=("torch", "transformers", "mtbert", "onnxruntime"))
    answer = json.loads(done.stdout)
    assert answer["stars"]["label"] == model.predict("the cat", "stars").labels[0]


@pytest.mark.soak  # adapters are another graph for the same converter
def test_adapters_have_a_graph_for_each_task(make_exported):
    model, folder = make_exported(TASKS[:3], "openvino", adapter=AdapterSpec("low_rank", size=6, init="published"))
    own = ExportedModel(folder, threads=1)
    for name, expected in model.predict(TEXTS[:2], "all").items():
        np.testing.assert_allclose(own.predict(TEXTS[:2], [name])[name].logits, expected.logits, atol=1e-4)


@pytest.mark.soak  # nncf takes half a minute; what is left in fp32 is chosen by the code that test_int8 tests
def test_chosen_parts_are_quantised_and_no_others(for_openvino, make_exported, tmp_path):
    pytest.importorskip("nncf")
    from mtbert.export.int8_openvino import STATIC, OpenVinoQuantiser

    model, folder = for_openvino
    model.export_onnx(tmp_path / "model.onnx", "stars")
    parts = find_parts(tmp_path / "model.onnx")
    model, folder = make_exported(TASKS[:1], "openvino")
    arrays = [standalone.pad([([2, 8, 9, 3], [0] * 4)] * 4, 0, standalone.Model(folder).inputs)]
    graph = TaskGraph("model.xml", {"stars": "stars"}, parts)
    quantiser = OpenVinoQuantiser(folder / graph.file, parts, arrays)
    target = shutil.copytree(folder, tmp_path / "int8")
    counts = {}
    for chosen in ([], ["layer 0 attention"], list(parts)):
        int8.remove_graph(target / "model.xml")
        quantiser(STATIC, chosen, target / "model.xml")
        counts[len(chosen)] = (target / "model.xml").read_text().count('element_type="i8"')
        found = ExportedModel(target, threads=1).predict(TEXTS[:2], "stars")
        np.testing.assert_allclose(found.logits, model.predict(TEXTS[:2], "stars").logits, atol=0.5)
    assert counts[0] == 0 < counts[1] < counts[len(parts)]
