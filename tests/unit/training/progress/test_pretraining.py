"""Further pre-training shows its progress as `pretraining.console` says."""

import re

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from mtbert.training.arguments import PretrainingArguments
from mtbert.training.pretraining import pretrain

TEXTS = ["the cat runs", "a dog eats", "the dog runs", "a cat eats fish"] * 2


@pytest.fixture
def printed(encoder_dir, tmp_path, capsys):
    """A function: the value of `console` → standard output and error of a short pre-training."""

    def run(console) -> tuple[str, str]:
        args = PretrainingArguments(
            output_dir=str(tmp_path / "out"),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            report_to="none",
            mask_probability=0.5,
            use_cpu=True,
            console=console,
            disable_tqdm=False,  # whatever verbosity another test has set
        )
        splits = {"a": {name: Dataset.from_dict({"text": TEXTS}) for name in ("train", "dev")}}
        splits["a"]["dev"] = Dataset.from_dict({"text": [f"{text} and the fish eats" for text in TEXTS[:4]]})
        capsys.readouterr()
        pretrain(args, encoder_dir, splits, AutoTokenizer.from_pretrained(encoder_dir))
        return capsys.readouterr()

    return run


def test_lines(printed):
    out, err = printed("lines")
    assert len(re.findall(r"^step \d of 4, epoch \d, \d+ s: loss [\d.]+$", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^step \d of 4, epoch \d, \d+ s: dev loss [\d.]+$", out, re.MULTILINE)) == 2
    assert "{" not in out and "/4 [" not in err


def test_table(printed):
    out, err = printed("table")
    assert re.search(r"texts +│ +8 │ +[\d.]* │ +[\d.]+ │ +loss [\d.]+ │ +[\d.]+ │", out)
    assert "trained" in out and "4/4" in out and "{" not in out and "/4 [" not in err


def test_dicts(printed):
    out, err = printed("dicts")
    assert "'eval_loss':" in out + err and "4/4 [" in err and "dev loss" not in out
