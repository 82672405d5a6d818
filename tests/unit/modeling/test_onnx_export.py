"""An exported graph in onnxruntime against the model, on other sizes than it was exported with."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import ModernBertConfig, RobertaConfig, set_seed

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.onnx_export import PaddedModel
from mtbert.modeling.task_spec import AdapterSpec, TaskSpec

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZES = ((2, 3), (6, 11), (4, 30))
HEADS = (
    TaskSpec("deep", labels=4, pooling="pooler", head={"type": "mlp", "layers": 2}),
    TaskSpec("reader", range=(1, 5), head={"type": "attention", "attention_heads": 2, "output": "sigmoid"}),
    TaskSpec("angle", range=(0, 1), texts=2, pair="siamese", pooling="mean", head={"type": "cosine", "layers": 1}),
)
ADAPTERS = (
    AdapterSpec("pal", size=12, heads=3, init="published"),
    AdapterSpec("pal_top", size=12, heads=3),
    AdapterSpec("pal_top", size=12, heads=3, input="all"),
    AdapterSpec("low_rank", size=6, init="published"),
    AdapterSpec("houlsby", size=6, init="published"),
    AdapterSpec("top_layers", size=12, heads=3, depth=2),
)


def padded(sequences: int, length: int, types: bool = True) -> dict[str, torch.Tensor]:
    """Random inputs; the first sequence has the whole length."""
    random = torch.Generator().manual_seed(sequences)
    lengths = torch.randint(1, length + 1, (sequences,), generator=random)
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    inputs = {"input_ids": torch.randint(0, 28, (sequences, length), generator=random) * mask, "attention_mask": mask}
    if types:
        inputs["token_type_ids"] = torch.randint(0, 2, (sequences, length), generator=random) * mask
    return inputs


def check(model, file, tasks=None, types=True):
    """Export, then compare every output at every size."""
    names = model.export_onnx(file, tasks)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == names
    for size in SIZES:
        inputs = padded(*size, types)
        found = session.run(names, {key: value.numpy() for key, value in inputs.items()})
        with torch.no_grad():
            for name, logits in zip(names, found, strict=True):
                expected = model.eval()(**inputs, task=name).logits.numpy()
                assert logits.shape == expected.shape
                np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_all_heads_in_one_graph(make_model, tasks, tmp_path):
    check(make_model([*tasks, *HEADS]), tmp_path / "model.onnx")


NAMES = ("linear", "embedding", "softmax", "val_3", "gelu", "layer_norm", "add", "length", "sequences", "heads")
NAMES += ("input_ids", "attention_mask", "token_type_ids", "input_ids_logits")


def test_tasks_called_like_values_of_the_graph_and_a_quantised_graph(make_model, tmp_path, monkeypatch):
    """A name is one of the graph's inputs, inner values and dimensions, or of the output that another name gets."""
    onnx, quantization = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime.quantization")
    model = make_model([TaskSpec(name, labels=2 + i, pooling=("cls", "mean")[i % 2]) for i, name in enumerate(NAMES)])
    monkeypatch.chdir(tmp_path)  # the quantiser leaves files where it runs
    file = tmp_path / "model.onnx"
    names = model.eval().export_onnx(file)
    longer = ("input_ids_logits_logits", "attention_mask_logits", "token_type_ids_logits")
    assert names == [*NAMES[:10], *longer, "input_ids_logits"]
    onnx.checker.check_model(onnx.load(file), full_check=True)
    quantization.shape_inference.quant_pre_process(str(file), str(tmp_path / "prepared.onnx"))
    for graph in ("model", "prepared"):
        quantization.quantize_dynamic(str(tmp_path / f"{graph}.onnx"), str(tmp_path / f"{graph}-int8.onnx"))
    for graph in ("model", "prepared", "model-int8", "prepared-int8"):
        session = onnxruntime.InferenceSession(str(tmp_path / f"{graph}.onnx"), providers=["CPUExecutionProvider"])
        assert [output.name for output in session.get_outputs()] == names
        for size in SIZES:
            inputs = padded(*size)
            logits = session.run(names, {key: value.numpy() for key, value in inputs.items()})
            with torch.no_grad():
                expected = model(**inputs, tasks="all").task_logits
            for own, name in zip(logits, NAMES, strict=True):
                difference = np.abs(own - expected[name].numpy())
                if "int8" in graph:
                    assert difference.mean() < 0.1 * max(1.0, float(expected[name].abs().max()))
                else:
                    assert difference.max() < 1e-4


@pytest.mark.soak  # test_all_heads_in_one_graph exports pairs, too, and all tasks
def test_chosen_tasks_of_a_training_model_and_an_odd_number_of_sequences(make_model, tasks, tmp_path):
    """A row is one sequence of `topics`, two of `close` and three of `both`."""
    both = TaskSpec("both", labels=3, texts=2, pair="both", pooling="mean")
    model = make_model([*tasks, both]).train()
    names = model.export_onnx(tmp_path / "model.onnx", ["topics", "close", "both"])
    assert model.training
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for rows in (1, 2):
        inputs = padded(3 * rows, 9)
        topics, close, found = session.run(names, {key: value.numpy() for key, value in inputs.items()})
        assert topics.shape == (3 * rows, 3) and close.shape == (3 * rows // 2, 1)
        expected = model.eval()(**inputs, task="both").logits.detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda spec: f"{spec.type}-{spec.input}")
def test_padded_adapters_equal_packed_ones(adapter, make_model):
    model = make_model(adapter=adapter).eval()
    for size in SIZES:
        inputs = padded(*size)
        for task in model.tasks:
            with torch.no_grad():
                (found,) = PaddedModel(model, [task.name])(**inputs)
                torch.testing.assert_close(found, model(**inputs, task=task.name).logits, atol=1e-5, rtol=1e-4)


# what is exported is `PaddedModel`, which the test above compares with every adapter
@pytest.mark.parametrize(
    "adapter", [ADAPTERS[0], pytest.param(ADAPTERS[1], marks=pytest.mark.soak)], ids=lambda spec: spec.type
)
def test_one_task_with_an_adapter(adapter, make_model, tmp_path):
    check(make_model(adapter=adapter), tmp_path / "model.onnx", "close")


@pytest.mark.soak  # make_model's BERT goes through the same export
@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_other_families(family, tasks, tmp_path):
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "pad_token_id": 0}
    make = {"roberta": partial(RobertaConfig, type_vocab_size=1), "modernbert": ModernBertConfig}[family]
    config = make(**sizes, num_hidden_layers=2, max_position_embeddings=64)
    set_seed(0)
    model = MtBertForMultiTask(MtBertConfig(encoder=config, tasks=list(tasks)))
    check(model, tmp_path / "model.onnx", types=False)


def test_several_tasks_with_adapters_are_refused(make_model, tmp_path):
    with pytest.raises(ValueError, match="adapters give each task an encoder of its own; export one task at a time"):
        make_model(adapter=ADAPTERS[0]).export_onnx(tmp_path / "model.onnx")
