"""Spoilt folders of checkpoints: the model is the one that was saved, or one error names the folder."""

from __future__ import annotations

import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from malformed import places, tries, untouched
from safetensors.torch import load_file, save
from transformers import AutoModel

from mtbert import MtBertForMultiTask, TaskSpec

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from(
        [10**6, 10**12, 10**30, 0.5, -1.0, "", "x", "../../x", "bert", "mtbert", [], {}, [[]], ["a"], {"a": 1}]
    ),
    st.text(max_size=5),
)


class Touch:
    """A pickle that leaves a file behind where it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture(scope="module")
def saved(encoder_dir, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tasks = [TaskSpec("stars", labels=3), TaskSpec("close", range=(0, 5), texts=2, pair="siamese")]
    model = MtBertForMultiTask.from_encoder(encoder_dir, tasks, adapter={"size": 12})
    model.save_pretrained(folder / "whole")
    model.save_pretrained(folder / "sharded", max_shard_size="40KB")
    for name in ("whole", "sharded"):
        tokenizer.save_pretrained(folder / name)
    return folder


def spoil_json(draw, file) -> None:
    tree = json.loads(file.read_text())
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(places(tree)))
        node = tree
        for key in path[:-1]:
            node = node[key]
        how = draw(st.sampled_from(["value", "value", "drop", "move"]))
        if how == "drop":
            del node[path[-1]]
        elif how == "move":
            tree[draw(st.text(max_size=5))] = copy.deepcopy(node[path[-1]])
        else:
            node[path[-1]] = copy.deepcopy(draw(VALUES))
        if not tree:
            break
    file.write_text(json.dumps(tree))


def spoil_weights(draw, file) -> None:
    weights = load_file(file)
    key = draw(st.sampled_from(sorted(weights)))
    how = draw(st.sampled_from(["drop", "rename", "shape", "type", "more"]))
    if how in ("drop", "rename"):
        value = weights.pop(key)
        if how == "rename":
            weights[draw(st.sampled_from(["x", "../x", key.upper(), key + ".weight"]))] = value
    elif how == "shape":
        weights[key] = torch.zeros(draw(st.lists(st.integers(0, 5), max_size=3)))
    elif how == "type":
        weights[key] = weights[key].to(draw(st.sampled_from([torch.int8, torch.bool, torch.float16, torch.float64])))
    else:
        weights["more"] = torch.zeros(2)
    file.write_bytes(save(weights, metadata={"format": "pt"}))


def spoil(draw, folder) -> None:
    """One thing wrong with one file."""
    file = draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.is_file())))
    how = draw(
        st.sampled_from(["inside", "inside", "inside", "inside", "cut", "flip", "pickle", "gone", "bin", "folder"])
    )
    raw = file.read_bytes()
    at = draw(st.integers(0, min(len(raw), 4000)))
    if how == "inside":
        (spoil_weights if file.suffix == ".safetensors" else spoil_json)(draw, file)
    elif how == "cut":
        file.write_bytes(raw[:at])
    elif how == "flip" and at < len(raw) and file.suffix != ".safetensors":
        file.write_bytes(raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1 :])
    elif how == "pickle":
        file.write_bytes(pickle.dumps(Touch(folder / "ran")))
    elif how == "bin" and file.suffix == ".safetensors":
        file.with_name("pytorch_model.bin").write_bytes(pickle.dumps(Touch(folder / "ran")))
        file.unlink()
    elif how in ("gone", "folder"):
        file.unlink()
        if how == "folder":
            file.mkdir()


@tries(40)
@given(data=st.data())
def test_folders(tally, saved, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("spoilt") / data.draw(st.sampled_from(["whole", "sharded"]))
    try:
        shutil.copytree(saved / folder.name, folder)
        spoil(data.draw, folder)
        with untouched(folder.parent):
            found = tally.judge(lambda: MtBertForMultiTask.from_pretrained(folder), str(folder), allowed=(ValueError,))
            if isinstance(found, MtBertForMultiTask):
                names = [task.name for task in found.tasks if task.texts == 1]
                answer = tally.judge(lambda: found.predict(["a cat"], tasks=names or "all"), allowed=(ValueError,))
                assert isinstance(answer, Exception | None) or all(
                    np.isfinite(each.logits).all() for each in answer.values()
                )
    finally:
        shutil.rmtree(folder.parent)


def test_the_folders_are_good_before(saved):
    for name in ("whole", "sharded"):
        assert AutoModel.from_pretrained(saved / name).predict(["a cat"], task="stars").logits.shape == (1, 3)
