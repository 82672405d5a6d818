"""Folders that are no whole checkpoint: each is refused before anything of it is used, with file and remedy."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from mtbert import MtBertForMultiTask
from mtbert.errors import InputError
from mtbert.modeling.checkpoint_loading import read_json
from mtbert.training.peft import wrap

HEAD = "heads.stars.out_proj.bias"


@pytest.fixture
def folder(make_model, tmp_path) -> Path:
    make_model(adapter={"size": 12}).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, *path, value) -> None:
    config = json.loads((folder / "config.json").read_text())
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


def edit_index(folder: Path, name) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    values = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(values))


class Touch:
    """A pickle that leaves a file behind where it is read."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(folder.parent / "ran")))


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


WEIGHTS = [
    (
        lambda f: edit_weights(f, lambda w: w.pop(HEAD)),
        rf"checkpoint: weights are missing: {HEAD}; config.json and the",
    ),
    (
        lambda f: edit_weights(f, lambda w: w.update({f"x{i}": torch.zeros(1) for i in range(7)})),
        "checkpoint: weights are not the model's: x0, x1, x2, x3, x4 and 2 more; config.json and the weights",
    ),
    (
        lambda f: edit_weights(f, lambda w: w.update({HEAD: torch.zeros(7)})),
        rf"checkpoint: weights have other shapes: {HEAD} is \(7,\), but config.json asks for \(3,\); save the",
    ),
    (
        lambda f: edit_weights(f, lambda w: w.update({HEAD: torch.zeros(3, dtype=torch.int8)})),
        rf"model.safetensors: weight '{HEAD}' holds I8, but must hold floats",
    ),
    (
        lambda f: write(f, "model.safetensors", b""),
        "model.safetensors can not be read as safetensors: .*save the model",
    ),
    (
        lambda f: write(f, "model.safetensors", (f / "model.safetensors").read_bytes()[:-9]),
        "model.safetensors can not be read as safetensors: .*save the model again, or take another copy",
    ),
    (
        lambda f: write(f, "model.safetensors", pickle.dumps(Touch(f.parent / "ran"))),
        "model.safetensors can not be read as safetensors",
    ),
    (only_pickles, "pytorch_model.bin is a pickle, which may run any code when it is read, and is refused; save the"),
    (lambda f: (f / "model.safetensors").unlink(), "checkpoint has no model.safetensors; save the model again"),
    (
        lambda f: edit_index(f, "../outside.safetensors"),
        r"index.json: weight '.*' is in '../outside.safetensors', but must be in a .safetensors file of the folder",
    ),
    (lambda f: edit_index(f, "/etc/passwd"), "index.json: weight '.*' is in '/etc/passwd', but must be in"),
    (lambda f: edit_index(f, "pytorch_model.bin"), "index.json: weight '.*' is in 'pytorch_model.bin', but must be in"),
    (lambda f: edit_index(f, 3), "index.json: weight '.*' is in '3', but must be in a .safetensors file"),
    (lambda f: edit_index(f, "gone.safetensors"), "index.json: weight '.*' is in 'gone.safetensors', but there is no"),
    (
        lambda f: (edit_index(f, ""), write(f, "model.safetensors.index.json", b'{"weight_map": []}')),
        r"index.json: weight_map is \[\], but must map weights to files",
    ),
    (
        lambda f: (edit_index(f, ""), write(f, "model.safetensors.index.json", b"{")),
        "index.json can not be read as JSON: .*save the model again",
    ),
]
CONFIGS = [
    (lambda f: edit_config(f, "tasks", value=3), "tasks is 3, but must be a list of tasks"),
    (lambda f: edit_config(f, "tasks", value=[]), "tasks is empty; a model needs at least one task"),
    (lambda f: edit_config(f, "tasks", 0, "name", value="../../a"), "task '../../a': the name must be made of letters"),
    (lambda f: edit_config(f, "tasks", 0, "dropout", value="x"), "task 'stars': dropout is 'x', but must be a finite"),
    (
        lambda f: edit_config(f, "tasks", 0, "added_later", value=1),
        r"task has unknown keys \['added_later'\]; known ones: .*; take the versions that wrote it \(transformers \d",
    ),
    (lambda f: edit_config(f, "packed", value="x"), "packed is 'x', but must be true or false"),
    (lambda f: edit_config(f, "encoder", "model_type", value="brt"), "encoder.model_type is 'brt', which this version"),
    (lambda f: edit_config(f, "adapter", "layers", value=[7]), "checkpoint: .*7"),
    (lambda f: edit_config(f, "encoder", "num_attention_heads", value=0), "checkpoint: config.json does not make a"),
    (
        lambda f: edit_config(f, "encoder", "vocab_size", value=9_000_000),
        "word_embeddings.weight is .*asks for .9000000",
    ),
    (
        lambda f: edit_config(f, "encoder", "num_hidden_layers", value=900),
        "config.json: encoder.num_hidden_layers is 900, but there are 111 weights",
    ),
]
OTHERS = [
    (lambda f: edit_config(f, "model_type", value="bert"), "config.json: model_type is 'bert', but must be 'mtbert'"),
    (lambda f: edit_config(f, "model_type", value=None), "config.json: model_type is None, but must be 'mtbert'"),
    (lambda f: (f / "config.json").unlink(), "config.json is missing; save the model again"),
    (lambda f: write(f, "config.json", b"{"), "config.json can not be read as JSON: .*line 1"),
    (lambda f: write(f, "config.json", b"\xff{}"), "config.json can not be read as JSON: .*utf-8"),
    (lambda f: write(f, "config.json", b"[" * 9999), "config.json can not be read as JSON"),
    (lambda f: write(f, "config.json", b"[]"), "config.json holds a list, but must hold an object"),
]


def name_of(value) -> str:
    """The same in every process, as pytest-xdist needs it: no address."""
    return str(getattr(value, "__name__", value))[:40]


@pytest.mark.parametrize(("spoil", "message"), WEIGHTS + CONFIGS + OTHERS, ids=name_of)
def test_a_folder_that_is_no_whole_checkpoint(folder, spoil, message):
    spoil(folder)
    before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message) as error:
        MtBertForMultiTask.from_pretrained(folder)
    assert str(folder) in str(error.value)
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("spoil", "message"), WEIGHTS[:2] + WEIGHTS[7:10] + CONFIGS, ids=name_of)
def test_the_auto_class_refuses_it_too(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        AutoModel.from_pretrained(folder)
    assert str(folder) in str(error.value)
    assert not (folder.parent / "ran").exists()


def test_what_is_loaded_as_ever(folder, make_model, tmp_path):
    model, info = MtBertForMultiTask.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    state = model.state_dict()
    sharded = tmp_path / "sharded"
    model.save_pretrained(sharded, max_shard_size="20KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    for again in (
        MtBertForMultiTask.from_pretrained(sharded),
        MtBertForMultiTask.from_pretrained(None, config=AutoConfig.from_pretrained(folder), state_dict=state),
        MtBertForMultiTask.from_pretrained(folder.parent, subfolder=folder.name),
    ):
        assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    shutil.move(folder / "model.safetensors", folder / "model.fp16.safetensors")
    assert MtBertForMultiTask.from_pretrained(folder, variant="fp16").num_parameters() == model.num_parameters()


def test_a_folder_of_peft_is_left_to_peft(make_model, tmp_path):
    wrap(make_model(), {"r": 2, "target_modules": ["query"]}).save_pretrained(tmp_path / "peft")
    with pytest.raises(Exception) as error:
        MtBertForMultiTask.from_pretrained(tmp_path / "peft")
    assert "missing; config.json" not in str(error.value)


@pytest.mark.parametrize("remedy", ["", "start the run again"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, " is missing"),
        (b"{", " can not be read as JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"[]", " holds a list, but must hold an object"),
        (b"null", " holds a NoneType, but must hold an object"),
    ],
)
def test_a_file_of_json_is_named_with_the_remedy(content, told, remedy, tmp_path):
    file = tmp_path / "record.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(file, remedy)
    assert str(error.value) == f"{file}{told}" + (f"; {remedy}" if remedy else "")


def test_a_file_of_json_may_be_long_where_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("MTBERT_MAX_CONFIG_BYTES", "10")
    (tmp_path / "state.json").write_text('{"key": "value"}')
    assert read_json(tmp_path / "state.json", limited=False) == {"key": "value"}
    with pytest.raises(InputError, match="state.json has 16 bytes, but must be at most 10; MTBERT_MAX_CONFIG_BYTES"):
        read_json(tmp_path / "state.json")
