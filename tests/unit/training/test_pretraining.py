"""The head of a masked-language model on the chosen tokens alone, and a tokenizer without a mask."""

import pytest
import torch
from families import family_config
from transformers import AutoModelForMaskedLM, set_seed

from mtbert.training.arguments import PretrainingArguments
from mtbert.training.pretraining import _claim, _settings, only_chosen, pretrain

FAMILIES = ("albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta")


@pytest.mark.parametrize("family", FAMILIES)
def test_its_logits_are_those_of_the_chosen_tokens(family):
    set_seed(0)
    model = AutoModelForMaskedLM.from_config(family_config(family)).eval()
    inputs = {"input_ids": torch.randint(5, 90, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    chosen = torch.rand(3, 7) < 0.3
    with torch.no_grad():
        whole = model(**inputs).logits
        with only_chosen(model, chosen):
            found = model(**inputs).logits
        torch.testing.assert_close(found, whole[chosen].unsqueeze(0), atol=1e-5, rtol=1e-5)
        assert model(**inputs).logits.shape == whole.shape
        with only_chosen(model, torch.zeros_like(chosen)):
            assert model(**inputs).logits.shape == (1, 0, whole.shape[-1])


def test_a_tokenizer_without_a_mask_is_refused_before_anything_is_written(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "_special_tokens_map", {**tokenizer._special_tokens_map, "mask_token": None})
    args = PretrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none")
    message = "^some/encoder: the tokenizer has no mask token, .* needs; give an encoder with one, or drop pretraining$"
    with pytest.raises(ValueError, match=message):
        pretrain(args, "some/encoder", {}, tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_told_together(tmp_path):
    message = r"^pretraining.mask_probability is 2, but must be in \(0, 1\)\npretraining.max_length is 1, but must be 3"
    with pytest.raises(ValueError, match=message):
        PretrainingArguments(str(tmp_path), use_cpu=True, report_to="none", mask_probability=2, max_length=1)


def test_the_settings_of_a_run_hold_no_token(tmp_path):
    """And still tell a run from another."""

    class OneText:
        train = ("a",)

        def digest(self):
            return "0" * 64

    args, token = PretrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none"), "hf_" + "x9" * 17
    settings = _settings(args, f"https://user:{token}@host/encoder", OneText())
    _claim(tmp_path / "out", settings)
    assert token not in next((tmp_path / "out").iterdir()).read_text()
    _claim(tmp_path / "out", settings)
    with pytest.raises(ValueError, match="holds a run with other settings: texts was 1 and is 2"):
        _claim(tmp_path / "out", settings | {"texts": 2})
