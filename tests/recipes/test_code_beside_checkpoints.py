"""A folder full of payloads, with consent on standard input: whatever loads it, nothing of it runs."""

import importlib
import io
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, pipeline

from mtbert import MtBertForMultiTask
from mtbert.evaluation.ensemble import load_member, member_config
from mtbert.modeling import encoder_loading
from mtbert.modeling.pipeline import PIPELINE_TASK
from mtbert.recipe import Recipe, check_model, load_tokenizer
from mtbert.training.peft import load_adapter, wrap

KINDS = ("Config", "Model", "ModelForSequenceClassification", "ModelForMaskedLM", "Tokenizer", "Processor")
CODE = {f"Auto{kind}": "payload.Payload" for kind in KINDS} | {"AutoTokenizer": ["payload.Payload", "payload.Payload"]}
PIPELINE = {PIPELINE_TASK: {"impl": "payload.Payload", "pt": ["AutoModel"], "type": "text"}}
MODULES = ("payload", "__init__", "modeling_mtbert", "configuration_mtbert", "pipeline", "sitecustomize", "generate")
PICKLED = ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl")


class Order:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def change(file: Path, **values) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | values))


def command(name: str):
    """A command, imported."""
    return importlib.import_module(f"mtbert.cli.{name}")


predict, evaluate_run = command("predict"), command("evaluate")


def plant(folder: Path, harm: Path) -> None:
    """Put whatever may run beside a checkpoint."""
    source = f"open({str(harm)!r}, 'w').close()\nclass Payload:\n    pass\n"
    (folder / "custom_generate").mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(source)
        (folder / "custom_generate" / f"{name}.py").write_text(source)
    (folder / "payload.pth").write_text(f"import os; open({str(harm)!r}, 'w')\n")
    for name in PICKLED:
        torch.save({"x": Order(harm)}, folder / name) if name != "tokenizer.pkl" else (folder / name).write_bytes(
            pickle.dumps(Order(harm))
        )
    for name in ("processor_config.json", "preprocessor_config.json", "generation_config.json", "adapter.json"):
        change(folder / name, auto_map=CODE, custom_generate="payload")


@pytest.fixture
def harm(tmp_path, monkeypatch) -> Path:
    """A file that is not there unless something was run; with standard input that agrees to everything."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 1000))
    return tmp_path / "harm.txt"


@pytest.fixture
def checkpoint(make_model, tokenizer, tmp_path, harm) -> Path:
    folder = tmp_path / "checkpoint"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plant(folder, harm)
    change(folder / "config.json", auto_map=CODE, custom_pipelines=PIPELINE)
    return folder


def everything(folder: Path):
    """Every way in which the package, its commands and transformers read a folder."""
    encoder = str(folder)
    task = {"labels": 3, "data": {"text": "t", "train": "t.csv"}}
    recipe = Recipe.from_dict({"encoder": encoder, "tasks": {"stars": task}, "training": {"output_dir": "x"}})
    loaded = lambda: MtBertForMultiTask.from_pretrained(folder)  # noqa: E731
    return {
        "predict.py: model": lambda: predict.load(encoder, None, "cpu"),
        "predict.py: tokenizer": lambda: predict.load_tokenizer(encoder),
        "predict.py: encoder of peft": lambda: predict.load(encoder, encoder, "cpu"),
        "evaluate_run.py: model": lambda: evaluate_run.load_model(folder, recipe),
        "evaluate_run.py: run": lambda: evaluate_run.evaluate(folder, recipe, "dev", []),
        "model.predict": lambda: loaded().predict(["a cat"], task="stars"),
        "model.embed": lambda: loaded().embed(["a cat"], task="close"),
        "AutoModel": lambda: AutoModel.from_pretrained(folder).predict(["a cat"], task="stars"),
        "AutoConfig": lambda: AutoConfig.from_pretrained(folder),
        "pipeline": lambda: pipeline(PIPELINE_TASK, model=encoder)("a cat", task="stars"),
        "pipeline with a tokenizer": lambda: pipeline(PIPELINE_TASK, model=loaded(), tokenizer=encoder)(
            "a", task="stars"
        ),
        "ensemble": lambda: load_member(encoder, "cpu"),
        "ensemble: config": lambda: member_config(encoder),
        "encoder": lambda: MtBertForMultiTask.from_encoder(encoder, loaded().tasks),
        "encoder's config": lambda: encoder_loading.encoder_config(encoder),
        "tokenizer": lambda: encoder_loading.load_tokenizer(encoder),
        "recipe: tokenizer": lambda: load_tokenizer(recipe),
        "recipe: model": lambda: check_model(recipe, None),
    }


def run_all(folder: Path, harm: Path) -> dict[str, str]:
    """What came of every way: empty, or the error."""
    found = {}
    for name, load in everything(folder).items():
        sys.stdin.seek(0)
        try:
            load()
            found[name] = ""
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        assert not harm.exists(), name
        assert sys.stdin.tell() == 0, f"{name} asked"
    return found


def test_code_that_the_config_names(checkpoint, harm):
    """The model is mtbert's, whose own code is taken, so that everything but an encoder works."""
    found = run_all(checkpoint, harm)
    fine = {name for name in found if "encoder" not in name and "run" not in name and "recipe" not in name}
    assert {name: found[name] for name in fine} == dict.fromkeys(fine, "")


@pytest.mark.parametrize("code", [CODE["AutoTokenizer"], ["payload.Payload", None], ["user/repo--payload.Payload"] * 2])
def test_code_that_the_tokenizer_names(checkpoint, harm, code):
    change(checkpoint / "tokenizer_config.json", auto_map={"AutoTokenizer": code}, model_type="mtbert")
    found = run_all(checkpoint, harm)
    for name in ("model.predict", "pipeline", "predict.py: tokenizer", "ensemble", "AutoModel"):
        assert "tokenizer_config.json names code of its own (auto_map" in found[name], name


@pytest.mark.parametrize("kind", [None, "homemade", "bert", "gpt2", "mtbert2"])
def test_a_config_of_another_type(checkpoint, harm, kind):
    """transformers' own `pipeline` and `AutoModel`, which do not know it as mtbert's, are the user's to call."""
    change(checkpoint / "config.json", model_type=kind)
    ways = everything(checkpoint)
    for name in set(ways) - {"pipeline", "AutoModel", "AutoConfig"}:
        sys.stdin.seek(0)
        with pytest.raises((ValueError, OSError)):
            ways[name]()
        assert not harm.exists() and sys.stdin.tell() == 0, name


def test_code_and_kernels_that_the_encoder_inside_names(checkpoint, harm):
    config = json.loads((checkpoint / "config.json").read_text())
    change(checkpoint / "config.json", encoder=config["encoder"] | {"auto_map": CODE})
    assert run_all(checkpoint, harm)["model.predict"] == ""
    change(checkpoint / "config.json", encoder=config["encoder"] | {"model_type": "dpr", "auto_map": CODE})
    assert "Error" in run_all(checkpoint, harm)["model.predict"]


@pytest.mark.parametrize(
    "settings", [{"megatron_config": {"a": 1}, "megatron_core": "payload"}, {"tokenizer_kwargs": {"a": 1}}]
)
def test_code_that_an_adapter_names(make_model, tokenizer, tmp_path, harm, settings):
    folder = tmp_path / "adapter"
    wrap(make_model(), {"r": 2, "target_modules": ["query"]}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plant(folder, harm)
    assert load_adapter(make_model(), folder) is not None and not harm.exists()
    change(folder / "adapter_config.json", **settings)
    with pytest.raises(ValueError, match=f"adapter_config.json names code .{next(iter(settings))}.*not run"):
        load_adapter(make_model(), folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no adapter_model.safetensors, and pickles are not read"):
        load_adapter(make_model(), folder)
    assert not harm.exists()


def test_the_payloads_do_run_where_they_are_trusted(checkpoint, harm):
    """So that the tests above would have seen it."""
    change(checkpoint / "config.json", model_type="homemade")
    with pytest.raises(AttributeError):
        AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
    assert harm.exists()


def test_a_copy_of_a_model_holds_no_token(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    model = MtBertForMultiTask.from_pretrained(tmp_path, token="hf_secret", revision="main")
    assert model._source == {"encoder": tmp_path, "token": "hf_secret", "revision": "main"}
    assert b"hf_secret" not in pickle.dumps(model)
