"""int8 under guard: what is quantised, what goes back to fp32 and in which order, and what is said of it."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from mtbert.export import ExportedModel, int8, standalone
from mtbert.export.card import int8_section
from mtbert.export.graphs import TaskGraph, find_parts
from mtbert.export.scored_rows import ScoredTask
from mtbert.modeling.task_spec import TaskSpec

ROWS = 200
PARTS = {name: (name,) for name in ("small", "large", "middle")}


def scored(task, rows=ROWS, metric="accuracy", labels=None):
    """Rows of a task, whose labels are 0 and 1 in turns."""
    texts = [f"text {row}" for row in range(rows)]
    columns = {"text": texts, "row": list(range(rows))}
    columns["label"] = [row % 2 for row in range(rows)] if labels is None else labels
    if task.texts == 2:
        columns["text_pair"] = texts
    lines = [(text, text if task.texts == 2 else None) for text in texts]
    return ScoredTask(task, metric, lines[:8], lines, Dataset.from_dict(columns))


class MadeUpGuard(int8.Guard):
    """A guard whose graphs are files that name their int8 parts.

    `wrong`: part → how many rows of each task turn, or, if negative, have larger logits.
    """

    def __init__(self, folder, tasks, wrong, **kwargs):
        self.wrong = wrong
        self.model = type("Model", (), {"folder": folder})
        (folder / "model.onnx").write_text("")
        graph = TaskGraph("model.onnx", {name: name for name in tasks}, PARTS)
        self.said = []
        super().__init__(self.model, graph, tasks, kwargs.pop("max_loss", 0.5), self.said.append)

    def logits(self, path, rows=None):
        parts = path.read_text().split() if path and path.read_text() else []
        table = {}
        for name, task in self.rows.items():
            logits = np.where(np.arange(len(task.dev))[:, None] % 2 == np.arange(2), 1.0, -1.0)
            for part in parts:
                if count := self.wrong[part].get(name, 0):
                    logits[:: len(logits) // abs(count)][: abs(count)] *= -1 if count > 0 else 3
            table[name] = logits if rows is None else logits[rows[name]]
        return table

    def seconds(self, paths):
        return [float(len(path.read_text().split()) == 0) for path in paths]


class Writer:
    """A quantiser that writes the names of the int8 parts."""

    parts = PARTS
    families = (("int8 dynamic",),)

    def __call__(self, way, parts, target):
        target.write_text(" ".join(parts))


def test_the_most_sensitive_parts_go_back_first_until_every_head_is_within(tmp_path):
    tasks = {"a": scored(TaskSpec("a", labels=2)), "b": scored(TaskSpec("b", labels=2))}
    wrong = {"small": {"a": 1}, "large": {"b": 40}, "middle": {"a": 20}}
    guard = MadeUpGuard(tmp_path, tasks, wrong)
    result = guard.run(Writer())
    assert list(result.kept) == ["large", "middle"]
    assert "b lost 20.00 points" in result.kept["large"] and "a lost" in result.kept["middle"]
    assert (tmp_path / "model.onnx").read_text() == "small"  # which costs half a point, as much as is allowed
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    lost = {head.task: head.lost for head in result.heads}
    assert lost == {"a": pytest.approx(0.5), "b": 0} and all(
        head.low - 1e-6 <= head.lost <= head.high + 1e-6 for head in result.heads
    )
    text = "\n".join(int8_section(result))
    assert "`large`" in text and "points lost" in text and "large stays in fp32" in "\n".join(guard.said)


def test_a_part_that_need_not_have_been_taken_back_goes_to_int8_again(tmp_path):
    """`large` changes the logits most, but no decision."""
    tasks = {"a": scored(TaskSpec("a", labels=2))}
    guard = MadeUpGuard(tmp_path, tasks, {"small": {"a": 1}, "large": {"a": -100}, "middle": {"a": 20}})
    result = guard.run(Writer())
    assert list(result.kept) == ["middle"] and "a lost 9.50" in result.kept["middle"]
    assert sorted((tmp_path / "model.onnx").read_text().split()) == ["large", "small"]
    assert result.heads[0].lost == pytest.approx(0.5)


def test_with_no_loss_allowed_everything_may_stay_in_fp32(tmp_path):
    tasks = {"a": scored(TaskSpec("a", labels=2))}
    wrong = {name: {"a": 3 + number} for number, name in enumerate(PARTS)}
    result = MadeUpGuard(tmp_path, tasks, wrong, max_loss=0).run(Writer())
    assert set(result.kept) == set(PARTS) and result.heads[0].lost == 0
    assert (tmp_path / "model.onnx").read_text() == ""


def test_a_loss_of_an_error_is_a_rise(tmp_path):
    labels = [float(row % 2) for row in range(ROWS)]
    task = scored(TaskSpec("near", range=(0, 1)), metric="mse", labels=labels)
    guard = MadeUpGuard(tmp_path, {"a": scored(TaskSpec("a", labels=2))}, {})
    guard.rows, exact = {"near": task}, np.array(labels)[:, None]
    guard.fp32 = {"near": exact}
    (worse,) = guard.losses({"near": exact + 0.1})
    assert worse.lost == pytest.approx(1) and worse.low - 1e-6 <= 1 <= worse.high + 1e-6


OF_A_LAYER = ("attention", "feed-forward in", "feed-forward out")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_parts_are_layers_and_adapters_without_poolers_and_heads(exported, adapted):
    _, folder = exported
    layers = {f"layer {number} {part}" for number in (0, 1) for part in OF_A_LAYER}
    parts = find_parts(folder / "model.onnx")
    assert set(parts) == layers
    assert sorted(map(len, parts.values())) == [1, 1, 1, 1, 4, 4]
    _, folder = adapted
    found = [set(find_parts(file)) for file in sorted(folder.glob("*.onnx"))]
    assert found[0] == layers and layers <= found[1] <= layers | {"adapter"}


@pytest.mark.parametrize("way", ["int8 dynamic", "int8 dynamic, smoothed, 7-bit weights", "int8 static, smoothed"])
def test_chosen_parts_are_quantised_per_channel_and_no_others(exported, tmp_path, way, capfd, recwarn):
    from mtbert.export.int8_onnx import OnnxQuantiser

    onnx = pytest.importorskip("onnx")
    model, folder = exported
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    parts = find_parts(folder / "model.onnx")
    own = standalone.Model(folder, threads=1)
    graph = TaskGraph("model.onnx", {"stars": "stars", "angle": "angle"}, parts)
    rows = {name: scored(model.tasks[model.task_id(name)], 16) for name in graph.outputs}
    arrays = int8.calibration_arrays(own, graph, rows)
    assert sum(len(batch["input_ids"]) for batch in arrays) == 8 + 16  # a pair of `angle` is two inputs
    quantiser = OnnxQuantiser(folder / "model.onnx", parts, arrays)
    assert any("smoothed" in way for way in quantiser.families[0])
    quantiser(
        way, ["layer 0 attention", "layer 1 feed-forward in", "layer 1 feed-forward out"], tmp_path / "model.onnx"
    )
    written = onnx.load(tmp_path / "model.onnx").graph
    kinds = [node.op_type for node in written.node]
    if "static" in way:
        weights = [
            weight for weight in written.initializer if weight.data_type == onnx.TensorProto.INT8 and weight.dims
        ]
        assert sum(len(weight.dims) == 2 for weight in weights) == 6
    else:
        assert kinds.count("MatMulInteger") == 6
        scales = [w for w in written.initializer if w.name.endswith("_scale") and w.dims]
        assert sum(max(w.dims) > 1 for w in scales) == 6
    found, expected = (
        each.predict(["the cat"] * 3, ["stars"])["stars"] for each in (ExportedModel(tmp_path, 1), model)
    )
    assert 0 < np.abs(found.logits - expected.logits).max() < 0.5
    assert capfd.readouterr().err == "" and [str(warning.message) for warning in recwarn] == []


def test_a_whole_run_is_written_into_folder_and_card(exported, tmp_path):
    model, folder = exported
    answers = model.predict([f"text {row}" for row in range(40)], ["plain"])["plain"]
    task = model.tasks[model.task_id("plain")]
    labels = answers.logits.argmax(1).tolist()
    rows = {"plain": scored(task, 40, labels=labels)}
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    graph = TaskGraph("model.onnx", {"plain": "plain"}, find_parts(folder / "model.onnx"))
    said = []
    result = int8.quantise_graphs(tmp_path, [graph], rows, 0.5, said.append)
    assert result.precision.startswith("int8 ") and len(result.tried) == 2 and result.heads[0].lost <= 0.5
    assert not list(Path(tmp_path).glob("part-*")) and any(line.startswith("taken: ") for line in said)
    assert json.loads(json.dumps(asdict(result)))["heads"][0]["task"] == "plain"
