"""Attention operators of graphs take their states unsplit; the answers stay the same."""

from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from mtbert.export.attention_nodes import merge_heads
from mtbert.export.graphs import ATTENTION_OPSET, check_graph, write_graphs
from mtbert.export.standalone import Graph
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.onnx_export import export_onnx
from mtbert.modeling.task_spec import TaskSpec

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SIZES = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 24, "vocab_size": 40}
READER = TaskSpec("reader", range=(1, 5), head={"type": "attention", "attention_heads": 2})


@pytest.fixture
def make_model(tmp_path):
    def make(family, *tasks, **sizes):
        config = AutoConfig.for_model(family, **{**SIZES, **sizes})
        torch.manual_seed(3)
        AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
        return MtBertForMultiTask.from_encoder(tmp_path / "encoder", tasks or [TaskSpec("a", labels=2)]).eval()

    return make


def kinds(file) -> Counter:
    return Counter(node.op_type for node in onnx.load(file).graph.node)


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_the_states_are_not_copied_and_the_answers_are_the_same(make_model, tmp_path, family):
    sizes = {"dim": 16, "n_heads": 4, "n_layers": 2, "hidden_dim": 24} if family == "distilbert" else {}
    model = make_model(family, TaskSpec("a", labels=2), READER, **sizes)
    file = tmp_path / "model.onnx"
    outputs = export_onnx(model, file, ["a", "reader"], ATTENTION_OPSET)
    ids = np.arange(3, 21).reshape(3, 6)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    inputs["attention_mask"][1, 4:] = 0
    inputs = {entry.name: inputs[entry.name] for entry in onnx.load(file).graph.input}
    before, copies = Graph(file, 1)(outputs, inputs), kinds(file)["Transpose"]
    assert merge_heads(file) >= 2
    assert kinds(file)["Transpose"] <= copies - 8
    for own, expected in zip(Graph(file, 1)(outputs, inputs), before, strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-5)
    check_graph(model, file, ["a", "reader"], outputs)
    assert merge_heads(file) == 0  # nothing is left to do


def test_rotary_positions_are_left_as_they_are(make_model, tmp_path):
    model = make_model("modernbert", pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    file = tmp_path / "model.onnx"
    outputs = export_onnx(model, file, ["a"], ATTENTION_OPSET)
    assert merge_heads(file) == 0
    check_graph(model, file, ["a"], outputs)


def test_exports_are_so(make_model, tmp_path):
    (graph,) = write_graphs(make_model("bert"), tmp_path, "onnx")
    counted = kinds(tmp_path / graph.file)
    assert counted["Attention"] == 2 and counted["Transpose"] == 0
