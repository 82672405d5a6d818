"""What a repository must not tell of this machine, and what a user is told of a push that broke off."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError

from mtbert.modeling.hub_upload import (
    REMOTE_CODE,
    PushError,
    add_code,
    explained,
    finish_repository,
    forget_paths,
    is_path,
)


@pytest.mark.parametrize("name", ["/a/b", "./a", "~/a", "../a/b", "a/b/c"])
def test_places_on_this_machine(name):
    assert is_path(name)
    tree = {"encoder": {"_name_or_path": name, "n": 1}, "list": [{"base_model_name_or_path": name}]}
    assert forget_paths(tree) == {"encoder": {"_name_or_path": "", "n": 1}, "list": [{"base_model_name_or_path": None}]}


@pytest.mark.parametrize("name", ["bert-base-uncased", "google-bert/bert-base-uncased", "", None, 3])
def test_names_of_the_hub_stay(name):
    assert not is_path(name)
    assert forget_paths({"_name_or_path": name}) == {"_name_or_path": name}


def test_a_relative_folder_that_looks_like_a_name(tmp_path, monkeypatch):
    (tmp_path / "models" / "small").mkdir(parents=True)
    assert not is_path("models/small")
    monkeypatch.chdir(tmp_path)
    assert is_path("models/small") and forget_paths({"_name_or_path": "models/small"}) == {"_name_or_path": ""}


def test_code_is_put_beside_a_model_and_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mtbert"}')
    add_code(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"model_type": "mtbert", **REMOTE_CODE}
    named = [each.partition(".")[0] for each in config["auto_map"].values()]
    assert all((tmp_path / f"{name}.py").is_file() for name in (*named, "pipeline", "packing"))


def test_an_adapter_alone_has_no_code(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/home/someone/bert"}')
    finish_repository(tmp_path, None, None)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "adapter_config.json"}
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {"base_model_name_or_path": None}


class TestExplained:
    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (
                RuntimeError("Data processing error: no route."),
                "Data processing error: no route: nothing was committed",
            ),
            (ConnectionError("reset by peer"), "reset by peer: nothing was committed .*; push again"),
            (PermissionError("the storage refuses"), "the storage refuses: nothing was committed"),
            (ValueError("LFS batch API returned errors:\nfull"), "the hub takes no large files: .*\nfull"),
            (LocalTokenNotFoundError("x"), "there is no token; log in with `hf auth login`"),
        ],
    )
    def test_what_the_storage_of_large_files_raises(self, error, message):
        with pytest.raises(PushError, match=rf"(?s)^push to 'a/b': {message}") as caught, explained("a/b"):
            raise error
        assert caught.value.__cause__ is error

    def test_a_repository_that_is_not_there(self):
        error = RepositoryNotFoundError("x", response=SimpleNamespace(status_code=404, headers={}, request=None))
        message = "^push to 'a/b': no such repository, or the token may not see it; log in with `hf auth login`"
        with pytest.raises(PushError, match=message), explained("a/b"):
            raise error

    @pytest.mark.parametrize("error", [ValueError("revision and create_pr"), TypeError("x"), PushError("said already")])
    def test_mistakes_in_the_call_stay_what_they_are(self, error):
        with pytest.raises(type(error)) as caught, explained("a/b"):
            raise error
        assert caught.value is error
