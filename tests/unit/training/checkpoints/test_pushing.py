"""What a push collects: the files that the save has written, by their exact names, and nothing that a link leads to."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers.trainer_utils import HubStrategy

from mtbert import MtBertForMultiTask
from mtbert.modeling import hub_upload
from mtbert.modeling.hub_upload import PushError
from mtbert.training.checkpoints import pushing
from mtbert.training.checkpoints.pushing import collect, model_files

SECRET = "the content of another file"


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder with a model, and with files that look as if they belonged to it."""
    folder = tmp_path / "run"
    folder.mkdir()
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    for name in ("config.json", "model.safetensors", "trainer_state.json", "optimizer.pt", "rng_state_1.pth"):
        (folder / name).write_text("{}")
    for name in ("model_old.safetensors", "model-00001-of-00002.safetensors", "notes.json", "adapter_config.json"):
        (folder / name).write_text(SECRET)
    (folder / "model.x.index.json").symlink_to(secret)
    return folder


def contents(folder: Path | str) -> str:
    return "".join(file.read_text() for file in Path(folder).iterdir())


def test_only_exact_names_of_the_model(saved):
    assert model_files(saved) == ["config.json", "model.safetensors"]
    with collect(saved, model_files(saved)) as folder:
        assert SECRET not in contents(folder)
    assert model_files(saved, inside_peft=True) == ["config.json", "adapter_config.json", "adapter_model.safetensors"]


def test_a_model_in_shards(saved):
    (saved / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = saved / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    assert model_files(saved) == ["config.json", index.name, *shards]
    for name in ("../secret.txt", "secret.txt", "model_old.safetensors", "model-00001-of-00002.safetensors/x"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(PushError, match="must name shards of this model"):
            model_files(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("target", ["secret.txt", "run/notes.json", "nowhere"])
def test_a_link_is_not_followed(saved, tmp_path, name, target):
    (saved / name).unlink()
    (saved / name).symlink_to(tmp_path / target)
    with pytest.raises(PushError, match=f"{name} is no regular file, which is not pushed"):
        collect(saved, model_files(saved) if target != "nowhere" else [name])
    assert not list(tmp_path.glob("_push-*"))


def test_a_folder_and_a_pipe_are_not_pushed(saved):
    import os

    os.mkfifo(saved / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(PushError, match="no regular file"):
            collect(saved, [name])


def test_a_checkpoint_takes_what_a_resume_needs_and_nothing_else(saved, monkeypatch):
    names = {}

    def upload(folder, repo, background=False, path_in_repo="", **options):
        names[path_in_repo] = sorted(file.name for file in Path(folder.name).iterdir())
        assert SECRET not in contents(folder.name)

    monkeypatch.setattr(pushing, "upload", upload)
    monkeypatch.setattr(pushing, "card_of", lambda trainer: None)
    monkeypatch.setattr(pushing, "finish_repository", lambda *given: None)
    args = SimpleNamespace(
        hub_always_push=False, hub_token=None, hub_revision=None, hub_strategy=HubStrategy.CHECKPOINT
    )
    trainer = SimpleNamespace(
        args=args, push_in_progress=None, state=SimpleNamespace(global_step=1), control=None, model=None,
        callback_handler=SimpleNamespace(on_push_begin=lambda *given: None), hub_model_id="a/b", processing_class=None,
    )  # fmt: skip
    pushing.push_checkpoint(trainer, str(saved))
    state = ["checksums.json", "optimizer.pt", "rng_state_1.pth", "trainer_state.json"]
    model = ["config.json", "model.safetensors"]
    assert names == {"": model, "last-checkpoint": sorted(model + state)}


def test_a_model_pushed_again_takes_nothing_from_outside_its_folder(make_model, tokenizer, tmp_path, monkeypatch):
    """Its tokenizer's files and its card are read from the folder, and pushed."""
    folder, secret = tmp_path / "a" / "b", tmp_path / "secret.txt"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    secret.write_text(SECRET)
    uploaded = []
    monkeypatch.setattr(hub_upload, "create", lambda repo, private, token: repo)
    monkeypatch.setattr(
        hub_upload, "upload", lambda folder, *given, **options: uploaded.append(contents_of(folder.name))
    )
    model = MtBertForMultiTask.from_pretrained(folder)
    model.push_to_hub("ada/x")
    for name in ("README.md", "chat_template.jinja", "recipe.json"):
        (folder / name).symlink_to(secret)
        with pytest.raises(PushError, match=f"{name} is a link to .*secret.txt, which is not pushed"):
            MtBertForMultiTask.from_pretrained(folder).push_to_hub("ada/x")
        (folder / name).unlink()
    blob = tmp_path / "blobs" / "x"  # as in a hub's cache: <repository>/snapshots/<revision>/README.md
    blob.parent.mkdir()
    blob.write_text("# The card")
    (folder / "README.md").symlink_to(blob)
    model.push_to_hub("ada/x")
    assert len(uploaded) == 2 and "# The card" in uploaded[1] and SECRET not in "".join(uploaded)


def contents_of(folder: str) -> str:
    return "".join(file.read_text() for file in Path(folder).iterdir() if file.suffix in (".md", ".json", ".jinja"))
