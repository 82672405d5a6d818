"""Where tokens are found, and what a user is told when a hub refuses, breaks off or is not there."""

from __future__ import annotations

import pytest

LOST = "nothing was committed that the hub did not confirm; push again"
LATER = "the fault is the hub's; push again later"

# A small model `small`; `without_token(kept)`: no HF_TOKEN, and `kept` as what `hf auth login` leaves.
SET_UP = """
import os
from contextlib import contextmanager
from pathlib import Path
from huggingface_hub import constants
from transformers import AutoModel, AutoTokenizer
from mtbert import MtBertForMultiTask, TaskSpec

small = MtBertForMultiTask.from_encoder(ENCODER, [TaskSpec("only", labels=2)])
words = AutoTokenizer.from_pretrained(ENCODER)

@contextmanager
def without_token(kept=None):
    before, file = os.environ.pop("HF_TOKEN"), Path(constants.HF_TOKEN_PATH)
    if kept is not None:
        file.write_text(kept)
    try:
        yield
    finally:
        os.environ["HF_TOKEN"] = before
        file.unlink(missing_ok=True)
"""
OTHER_WEIGHTS = "small.encoder.embeddings.LayerNorm.bias.data += 1"  # so that the hub does not have them yet


@pytest.fixture(scope="module")
def pusher(owner, encoder_dir):
    """The client with mtbert, with a small model."""
    owner.run(f"ENCODER = {encoder_dir!r}\n{SET_UP}")
    return owner


@pytest.fixture
def faulty(hub):
    """The hub, which is well again after the test."""
    yield hub
    hub.gone_at, hub.gone = None, False
    hub.answers.clear()


def push(name: str, arguments: str = "") -> str:
    """A job that pushes without waiting between the client's attempts."""
    return f"at_once(lambda: small.push_to_hub({name!r}, tokenizer=words, {arguments}))"


class TestToken:
    def test_of_the_login_file(self, hub, pusher, all_files):
        pusher.run(f"with without_token('hf_owner'): {push('ada/by-file', 'private=True')}")
        assert set(hub.files("ada/by-file")) == all_files and hub.repos["ada/by-file"].private

    def test_given(self, hub, pusher, all_files):
        given = push("ada/by-argument", "token='hf_owner'")
        pusher.run(f"with without_token(): {given}")
        assert set(hub.files("ada/by-argument")) == all_files

    @pytest.mark.parametrize("argument", ["", "token=True"])
    def test_nowhere(self, argument, pusher, client_error):
        with pytest.raises(client_error, match="push to 'ada/nobody': .*log in with `hf auth login`") as caught:
            pusher.run(f"with without_token(): {push('ada/nobody', argument)}")
        assert caught.value.kinds[0] == "PushError"

    def test_wrong_one_while_loading(self, pusher, client_error):
        pusher.run(push("ada/readable"))
        with pytest.raises(client_error, match="ada/readable") as caught:
            pusher.run("AutoModel.from_pretrained('ada/readable', token='hf_wrong')")
        assert "OSError" in caught.value.kinds


class TestPush:
    @pytest.mark.parametrize(
        "where",
        [
            "/api/repos/create",
            "/api/validate-yaml",
            "/preupload/",
            ".git/info/lfs/objects/batch",
            "PUT /",
            ".git/verify",
            "/commit/",
        ],
    )
    def test_a_hub_that_is_gone_from_any_request_on(self, where, faulty, pusher, client_error, all_files):
        name = f"ada/gone-{sum(map(ord, where))}"
        pusher.run(OTHER_WEIGHTS)
        faulty.gone_at = where
        with pytest.raises(client_error, match=f"push to '{name}': .*{LOST}") as caught:
            pusher.run(push(name))
        assert caught.value.kinds[0] == "PushError"
        assert name not in faulty.repos or set(faulty.files(name)) == {".gitattributes"}
        faulty.gone_at, faulty.gone = None, False
        pusher.run(push(name))
        assert set(faulty.files(name)) == all_files

    @pytest.mark.parametrize(
        ("where", "status", "message"),
        [
            ("/commit/", 409, "the hub answered 409 .*; something else was pushed meanwhile; push again"),
            ("/commit/", 413, r"the hub answered 413 .*; save smaller files \(max_shard_size=\)"),
            ("/preupload/", 429, "the hub answered 429 .*; wait some minutes, then push again"),
            ("/api/repos/create", 500, f"the hub answered 500 .*; {LATER}"),
            (".git/info/lfs/objects/batch", 403, "the token may not write there .*; use a token with write access"),
            ("PUT /", 503, f"Error while uploading 'model.safetensors' .*the hub answered 503 .*; {LATER}"),
        ],
    )
    def test_a_hub_that_refuses_any_request(self, where, status, message, faulty, pusher, client_error):
        pusher.run(OTHER_WEIGHTS)
        faulty.answers[where] = status
        with pytest.raises(client_error, match=f"push to 'ada/refused': .*{message}") as caught:
            pusher.run(push("ada/refused"))
        assert caught.value.kinds[0] == "PushError"

    def test_to_a_pull_request_that_is_not_there(self, pusher, client_error):
        with pytest.raises(
            client_error, match="no such revision; give a branch, or the reference of an open"
        ) as caught:
            pusher.run(push("ada/no-request", "revision='refs/pr/9'"))
        assert caught.value.kinds[0] == "PushError"
