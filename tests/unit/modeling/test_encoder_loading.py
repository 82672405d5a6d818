"""What comes with an encoder or a checkpoint is read, never run: neither code beside it nor a pickle's commands."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mtbert import MtBertForMultiTask, TaskSpec
from mtbert.modeling.encoder_loading import load_tokenizer
from mtbert.training.checkpoints.sealing import seal

TASK = TaskSpec("t", labels=2)


class Order:
    """A pickle of this writes a file as soon as it is opened the old way."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def harm(tmp_path) -> Path:
    """A file that is not there unless something was run."""
    return tmp_path / "harm.txt"


@pytest.fixture
def copy(encoder_dir, tmp_path, harm):
    """A copy of the tiny encoder with a module beside it that does harm when it is imported."""
    folder = Path(shutil.copytree(encoder_dir, tmp_path / "copy"))
    (folder / "custom.py").write_text(f"open({str(harm)!r}, 'w').close()\nclass Custom: pass\n")
    return folder


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# ---- weights ----


@pytest.fixture
def logged(caplog):
    """The log of transformers' loading, whatever other tests have set."""
    logger = logging.getLogger("transformers.modeling_utils")
    before = logger.level
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.WARNING)
    yield caplog
    logger.setLevel(before)
    logger.removeHandler(caplog.handler)


def without(folder: Path, *parts: str) -> Path:
    """Take the weights whose names contain one of these words out of a folder."""
    file = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if not any(part in k for part in parts)}, file)
    return folder


def test_missing_weights_are_told_in_one_line(copy, logged):
    without(copy, "layer.1.")
    with pytest.warns(UserWarning, match=r"copy has no weights for \['encoder.layer.1.*\(16 in all\), which begin at"):
        MtBertForMultiTask.from_encoder(copy, [TASK])
    assert "LOAD REPORT" not in logged.text


def test_a_missing_pooler_is_told_where_a_task_reads_it(copy, recwarn):
    without(copy, "pooler.")
    MtBertForMultiTask.from_encoder(copy, {"t": {"labels": 2}, "u": {"labels": 3, "pooling": "mean"}})
    assert not recwarn.list
    for tasks in ([TaskSpec("t", labels=2, pooling="pooler")], {"t": {"labels": 2, "pooling": "pooler"}}):
        with pytest.warns(UserWarning, match=r"copy has no weights for \['pooler.dense.bias', 'pooler.dense.weight'\]"):
            MtBertForMultiTask.from_encoder(copy, tasks)


def test_weights_of_other_heads_are_not_told(copy, logged, recwarn):
    file = copy / "model.safetensors"
    save_file({**load_file(file), "cls.predictions.bias": torch.zeros(3)}, file)
    MtBertForMultiTask.from_encoder(copy, [TASK])
    assert not recwarn.list and "LOAD REPORT" not in logged.text


def test_the_table_is_shown_where_weights_do_not_fit(copy, logged):
    change(copy / "config.json", intermediate_size=24)
    with pytest.raises(RuntimeError, match="above report"):
        MtBertForMultiTask.from_encoder(copy, [TASK])
    assert "LOAD REPORT" in logged.text and "MISMATCH" in logged.text


# ---- code ----


@pytest.mark.parametrize("kind", ["bert", "homemade"])
def test_an_encoder_with_code_of_its_own_is_refused(copy, harm, kind):
    """Of a type that transformers knows, too: its own model of that type need not be the one that was trained."""
    code = {"AutoConfig": "custom.Custom", "AutoModel": "custom.Custom"}
    change(copy / "config.json", auto_map=code, model_type=kind)
    message = rf"copy: config.json names code of its own .*custom.Custom.* not run; .* transformers' own '{kind}'"
    for load in (lambda: MtBertForMultiTask.from_encoder(copy, [TASK]), lambda: load_tokenizer(copy)):
        with pytest.raises(ValueError, match=message):
            load()
    with pytest.raises(ValueError, match=message):
        MtBertForMultiTask.from_encoder(copy, [TASK], trust_remote_code=True)
    assert not harm.exists()


def test_a_tokenizer_with_code_of_its_own_is_refused(copy, harm):
    change(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["custom.Custom", None]})
    with pytest.raises(ValueError, match=r"copy: tokenizer_config.json names code of its own .*without auto_map"):
        load_tokenizer(copy)
    assert not harm.exists()


def test_the_code_beside_a_checkpoint_is_not_run_where_mtbert_is_installed(make_model, tokenizer, harm, tmp_path):
    folder = tmp_path / "checkpoint"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    code = {"AutoConfig": "custom.Custom", "AutoModel": "custom.Custom"}
    change(folder / "config.json", auto_map=code)
    (folder / "custom.py").write_text(f"open({str(harm)!r}, 'w').close()\nclass Custom: pass\n")
    assert isinstance(AutoModel.from_pretrained(folder), MtBertForMultiTask)
    assert AutoConfig.from_pretrained(folder).model_type == "mtbert"
    assert len(load_tokenizer(folder)) == len(tokenizer) == len(AutoTokenizer.from_pretrained(folder))
    assert not harm.exists()


# ---- pickles ----


def test_weights_in_a_pickle_are_read_as_weights_only(copy, harm, encoder_dir):
    """pytorch_model.bin, which old encoders have: transformers opens it with weights_only=True."""
    state = AutoModel.from_pretrained(encoder_dir).state_dict()
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    model = MtBertForMultiTask.from_encoder(copy, [TASK])
    name = "encoder.layer.0.output.dense.weight"
    assert torch.equal(model.encoder.get_parameter(name), state[name])
    torch.save({**state, "extra": Order(harm)}, copy / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError, match="(?s)Weights only load failed"):
        MtBertForMultiTask.from_encoder(copy, [TASK])
    assert not harm.exists()


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_resume_opens_no_pickle_as_it_is(file, make_trainer, harm, tmp_path):
    trainer = make_trainer(per_device_train_batch_size=4, save_strategy="steps", save_steps=1, max_steps=2)
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    torch.save({"state": Order(harm)}, checkpoint / file)
    seal(checkpoint)
    with pytest.raises(pickle.UnpicklingError, match="(?s)Weights only load failed"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    torch.load(checkpoint / file, weights_only=False)
    assert harm.exists()  # so that the test would have seen it


def test_a_tokenizer_cuts_and_pads_as_a_call_says_and_not_as_its_file(encoder_dir, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir)
    tokenizer.backend_tokenizer.enable_truncation(7)
    tokenizer.backend_tokenizer.enable_padding(length=7)
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(f"{encoder_dir}/config.json", tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer.padding["length"] == 7
    loaded = load_tokenizer(tmp_path)
    assert loaded.backend_tokenizer.truncation is None
    assert loaded.backend_tokenizer.padding is None
    before = loaded.backend_tokenizer.to_str()
    loaded(["a cat", "the good dog"])
    assert loaded.backend_tokenizer.to_str() == before
