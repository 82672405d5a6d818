"""A checkpoint on a hub: pushed, loaded with and without mtbert, offline, from a private repository, and every refusal.

The jobs run in client processes, which are started once for all tests.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

REPO = "ada/tasks"
TEXTS = ["the cat sleeps .", "a dog", "is the old house not very good ?"]
PAIRS = [["the cat", "a dog"], ["a bird flies", "fish"]]
COMPAT = Path(__file__).resolve().parents[1] / "compat"


@pytest.fixture(scope="module")
def checkpoint(encoder_dir, tasks, tmp_path_factory, tokenizer) -> str:
    """A folder with a model that has adapters, and its tokenizer."""
    from transformers import set_seed

    from mtbert import MtBertForMultiTask

    folder = str(tmp_path_factory.mktemp("checkpoint"))
    set_seed(1)
    adapter = {"type": "pal", "size": 12, "heads": 3, "init": "published"}
    MtBertForMultiTask.from_encoder(encoder_dir, tasks, adapter).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pushed(owner, checkpoint, logits_of) -> dict:
    """The logits of the model that was pushed to REPO."""
    owner.run("from mtbert import MtBertForMultiTask")
    owner.run(f"model = MtBertForMultiTask.from_pretrained({checkpoint!r})")
    owner.run(f"result = model.push_to_hub({REPO!r}, commit_message='first').oid")
    return owner.run(logits_of())


@pytest.fixture(scope="module")
def loaded(visitor, pushed):
    """The client without mtbert, with `model` loaded into an empty cache."""
    visitor.run("from transformers import AutoModel, pipeline")
    visitor.run(f"model = AutoModel.from_pretrained({REPO!r}, trust_remote_code=True)")
    return visitor


@pytest.fixture(scope="module")
def offline(make_client, home, loaded):
    """A client without mtbert and without network, with `model` from the other one's cache."""
    client = make_client("mtbert", home=home, HF_HUB_OFFLINE="1")
    client.run("from transformers import AutoModel")
    client.run(f"model = AutoModel.from_pretrained({REPO!r}, trust_remote_code=True)")
    return client


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, logits in expected.items():
        np.testing.assert_allclose(found[name], logits, atol=1e-5)


class TestPush:
    def test_it_uploads_what_loading_needs_and_nothing_else(self, hub, pushed, all_files):
        assert set(hub.files(REPO)) == all_files
        assert hub.repos[REPO].messages[-1] == "first" and not hub.repos[REPO].private

    def test_no_file_has_a_path_of_this_machine(self, hub, pushed, checkpoint, encoder_dir):
        for name, content in hub.files(REPO).items():
            for path in (checkpoint, encoder_dir, "/tmp/", "/root", "/home/"):
                assert path.encode() not in content, f"{name} has {path}"

    def test_config_names_the_code(self, hub, pushed, code_files):
        config = json.loads(hub.files(REPO)["config.json"])
        modules = [each.partition(".")[0] for each in config["auto_map"].values()]
        modules += [each["impl"].partition(".")[0] for each in config["custom_pipelines"].values()]
        assert {f"{name}.py" for name in modules} <= code_files

    def test_code_imports_nothing_of_mtbert(self, hub, pushed, code_files):
        for name in code_files:
            assert not re.search(rb"^\s*(from|import) (mtbert|\.\.)", hub.files(REPO)[name], re.MULTILINE), name

    def test_pushed_again_unchanged_it_makes_no_commit(self, hub, owner, pushed):
        before = list(hub.repos[REPO].messages)
        owner.run(f"model.push_to_hub({REPO!r})")
        assert hub.repos[REPO].messages == before

    def test_private_with_tags_on_a_branch(self, hub, owner, pushed):
        owner.run("model.push_to_hub('ada/secret', private=True, tags=['x-tag'], revision='trial')")
        assert hub.repos["ada/secret"].private
        assert b"x-tag" in hub.files("ada/secret", "trial")["README.md"]
        assert "README.md" not in hub.files("ada/secret", "main")

    def test_save_pretrained_writes_no_code(self, owner, pushed, tmp_path):
        owner.run(f"model.save_pretrained({str(tmp_path)!r})")
        assert not list(tmp_path.glob("*.py"))


class TestLoad:
    def test_nobody_who_has_trusted_the_code_is_asked_again(self, loaded, logits_of):
        loaded.run("import builtins\nasked, before, model._tokenizer = [], builtins.input, None")
        loaded.run("builtins.input = lambda *question: asked.append(question) or 'n'")
        loaded.run(logits_of())
        assert loaded.run("builtins.input = before\nresult = asked") == []

    def test_without_mtbert(self, loaded, client_error, pushed, logits_of):
        for name in ("mtbert", "datasets", "accelerate", "peft", "evaluate"):
            with pytest.raises(client_error, match=f"import of {name} halted"):
                loaded.run(f"import {name}")
        assert_same(loaded.run(logits_of()), pushed)

    @pytest.mark.parametrize("folder", sorted(COMPAT.glob("*/hub")), ids=lambda folder: folder.parent.name)
    def test_what_an_earlier_version_pushed(self, loaded, folder):
        loaded.run((COMPAT / "logits.py").read_text())
        job = f"""
        from transformers import AutoTokenizer
        old = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)
        result = logits_of(old, AutoTokenizer.from_pretrained({str(folder)!r}))
        """
        assert_same(loaded.run(job), json.loads((folder.parent / "logits.json").read_text())["run"])

    def test_every_weight_is_the_one_that_was_pushed(self, owner, loaded, pushed):
        hashes = "sha256(tensor.contiguous().numpy().tobytes()).hexdigest()"
        job = f"""
        from hashlib import sha256
        result = {{name: {hashes} for name, tensor in model.state_dict().items()}}
        """
        found, expected = loaded.run(job), owner.run(job)
        assert found == expected
        for task in ("stars", "same", "close", "topics"):
            assert any(name.startswith(f"heads.{task}.") for name in found)
            assert any(name.startswith(f"adapters.{task}.") for name in found)

    def test_the_pipeline_without_mtbert(self, loaded, pushed):
        start = f"pipe = pipeline('multi-task-text-classification', model={REPO!r}, trust_remote_code=True)"
        loaded.run(start)
        found = loaded.run(f"result = pipe({TEXTS}, task='stars', top_k=None)")
        assert len(found) == len(TEXTS) and [len(row) for row in found] == [3] * len(TEXTS)
        close = loaded.run(f"result = pipe([tuple(pair) for pair in {PAIRS}], task='close')")
        np.testing.assert_allclose([each["score"] for each in close], np.ravel(pushed["close"]), atol=1e-5)

    def test_code_from_the_hub_is_pushed_again(self, hub, loaded, all_files, code_files):
        loaded.run("model.push_to_hub('ada/copy')")
        assert set(hub.files("ada/copy")) == all_files
        for name in (*code_files, "config.json", "model.safetensors"):
            assert hub.files("ada/copy")[name] == hub.files(REPO)[name], name

    def test_offline_from_the_cache(self, offline, pushed, hub, logits_of):
        before = len(hub.requests)
        assert_same(offline.run(logits_of()), pushed)
        offline.run("from transformers import pipeline")
        offline.run(f"pipe = pipeline('multi-task-text-classification', model={REPO!r}, trust_remote_code=True)")
        assert offline.run("result = pipe('a cat', task='stars')")["score"] > 0
        assert len(hub.requests) == before

    def test_with_mtbert_no_trust_is_needed(self, owner, pushed, logits_of):
        owner.run("from transformers import AutoModel, AutoConfig, pipeline")
        owner.run(f"loaded = AutoModel.from_pretrained({REPO!r})")
        assert owner.run("result = type(loaded) is MtBertForMultiTask")
        assert_same(owner.run(logits_of("loaded")), pushed)
        owner.run(f"pipe = pipeline('multi-task-text-classification', model={REPO!r})")
        assert owner.run("result = type(pipe).__module__") == "mtbert.modeling.pipeline"
        assert owner.run("result = pipe('a cat', task='stars')")["score"] > 0

    def test_of_a_private_repository(self, owner, loaded, client_error, pushed, logits_of):
        owner.run("model.push_to_hub('ada/hidden', private=True)")
        with pytest.raises(client_error, match="not a valid model identifier|private") as caught:
            loaded.run("AutoModel.from_pretrained('ada/hidden', token='hf_stranger', trust_remote_code=True)")
        assert "OSError" in caught.value.kinds
        loaded.run("hidden = AutoModel.from_pretrained('ada/hidden', trust_remote_code=True)")
        assert_same(loaded.run(logits_of("hidden")), pushed)

    def test_a_server_that_is_gone_in_the_middle_of_a_download(self, hub, owner, loaded, client_error, logits_of):
        owner.run("model.encoder.embeddings.LayerNorm.bias.data += 1\nmodel.push_to_hub('ada/heavy')")
        expected = owner.run(logits_of())
        owner.run("model.encoder.embeddings.LayerNorm.bias.data -= 1")
        hub.gone_at = "model.safetensors"
        try:
            with pytest.raises(client_error, match="ada/heavy") as caught:
                loaded.run("AutoModel.from_pretrained('ada/heavy', trust_remote_code=True)")
        finally:
            hub.gone_at, hub.gone = None, False
        assert "OSError" in caught.value.kinds
        loaded.run("heavy = AutoModel.from_pretrained('ada/heavy', trust_remote_code=True)")
        assert_same(loaded.run(logits_of("heavy")), expected)

    def test_of_a_missing_repository(self, loaded, client_error):
        with pytest.raises(client_error, match="ada/nothing is not a local folder and is not a valid model") as caught:
            loaded.run("AutoModel.from_pretrained('ada/nothing')")
        assert "OSError" in caught.value.kinds


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("'ada/tasks', token='hf_wrong'", "push to 'ada/tasks': the token was refused or is missing; log in with"),
            ("'ada/tasks', token=False", "the token was refused or is missing"),
            ("'bob/tasks'", "push to 'bob/tasks': the token may not write there .*namespace \"bob\".*write access"),
            ("'ada/tasks', token='hf_stranger'", "the token may not write there"),
            ("'not a name'", "this is no name of a repository; write 'user/name'"),
        ],
    )
    def test_a_push_that_may_not_be(self, arguments, message, owner, client_error, pushed):
        with pytest.raises(client_error, match=message) as caught:
            owner.run(f"model.push_to_hub({arguments})")
        assert caught.value.kinds[0] == "PushError" and "OSError" in caught.value.kinds

    def test_a_card_that_the_hub_refuses(self, owner, client_error, pushed):
        owner.run("from huggingface_hub import ModelCard")
        with pytest.raises(
            client_error, match='(?s)the hub refuses the model card: .*"license" must be one of'
        ) as caught:
            owner.run(f"model.push_to_hub({REPO!r}, card=ModelCard('---\\nlicense: nonsense\\n---\\n# x'))")
        assert caught.value.kinds[0] == "PushError"

    def test_offline_mode(self, offline, client_error):
        with pytest.raises(client_error, match="offline mode is on; unset HF_HUB_OFFLINE to push"):
            offline.run(f"model.push_to_hub({REPO!r})")

    def test_a_server_that_is_gone_in_the_middle(self, hub, owner, client_error, pushed, all_files):
        hub.gone_at = "/ada/late/commit/"
        try:
            with pytest.raises(client_error, match="push to 'ada/late': the hub gave no answer .*push again") as caught:
                owner.run("model.push_to_hub('ada/late')")
        finally:
            hub.gone_at, hub.gone = None, False
        assert caught.value.kinds[0] == "PushError"
        assert set(hub.files("ada/late")) == {".gitattributes"}
        owner.run("model.push_to_hub('ada/late')")
        assert set(hub.files("ada/late")) == all_files
