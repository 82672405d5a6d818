"""The name of an encoder: of a local folder, of a hub, of the package, or none."""

import hashlib
import json

import pytest

from mtbert.model_card import model_card
from mtbert.origins import encoder_name as module
from mtbert.origins.encoder_name import encoder_name
from mtbert.origins.known_encoders import BASE_NAME, SMALL_NAME, SMALL_PACKAGE

README = """---
base_model: {base}
---
# any

    model = SentenceTransformer('{loaded}')
    other = AutoModel.from_pretrained("{loaded}")
"""


def folder(path, readme=None, config=None):
    path.mkdir(exist_ok=True)
    if readme is not None:
        (path / "README.md").write_text(readme, encoding="utf-8")
    if config is not None:
        (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return str(path)


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("bert-base-uncased", "bert-base-uncased"),
        ("google/bert", "google/bert"),
        ("/nowhere/at/all", None),
        ("./nowhere", None),
        (f"/home/x/site-packages/{SMALL_PACKAGE}/model", SMALL_NAME),
        ("", None),
        (None, None),
        (3, None),
    ],
)
def test_names_and_folders_that_are_not_there(encoder, expected):
    assert encoder_name(encoder) == expected


@pytest.mark.parametrize(
    ("readme", "config", "expected"),
    [
        (None, None, None),
        (None, {"_name_or_path": "a/b"}, "a/b"),
        (None, {"_name_or_path": "bert-base-uncased"}, "bert-base-uncased"),
        (None, {"_name_or_path": ""}, None),
        (None, {"_name_or_path": "/home/ada/bert"}, None),
        (None, {"_name_or_path": "../bert"}, None),
        (None, {"_name_or_path": 3}, None),
        (None, "no json", None),
        (None, "[1]", None),
        (README.format(base="x/y", loaded="a/b"), {"_name_or_path": "c/d"}, "a/b"),
        (README.format(base="x/y", loaded="/home/ada/b"), {"_name_or_path": "c/d"}, "c/d"),
        (README.format(base="x/y", loaded="./b"), {}, "x/y"),
        (README.format(base="[x/y, z/z]", loaded="./b"), {}, "x/y"),
        (README.format(base="/home/ada/b", loaded="./b"), {}, None),
        ("---\n[broken\n---\n", {}, None),
        ("---\njust a text\n---\n", {}, None),
    ],
)
def test_a_local_folder_has_the_name_that_its_files_give(readme, config, expected, tmp_path):
    assert encoder_name(folder(tmp_path / "mine", readme, config)) == expected


def test_a_folder_is_not_its_own_name(tmp_path, monkeypatch):
    folder(tmp_path / "mine", None, {"_name_or_path": "mine"})
    assert encoder_name(str(tmp_path / "mine")) is None
    monkeypatch.chdir(tmp_path)
    assert encoder_name("mine") is None


def test_known_weights_decide(tmp_path, monkeypatch):
    path = folder(tmp_path / "mine", None, {"_name_or_path": "microsoft/mpnet-base"})
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"weights")
    assert encoder_name(path) == "microsoft/mpnet-base"
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(module._BY_DIGEST, digest, BASE_NAME)
    assert encoder_name(path) == BASE_NAME


def test_a_card_never_has_the_path_of_a_local_encoder(make_model, tmp_path):
    named = folder(tmp_path / "named", None, {"_name_or_path": "a/b"})
    for encoder, expected in ((named, "a/b"), (folder(tmp_path / "unnamed"), None), ("c/d", "c/d"), (None, None)):
        card = model_card(make_model(), "ada/tasks", recipe={"encoder": encoder, "schedule": {"name": "uniform"}})
        assert card.data.base_model == expected and str(tmp_path) not in str(card)
        assert ("started from" in card.text) == (expected is not None)
