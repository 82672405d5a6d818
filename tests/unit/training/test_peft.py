"""peft around a whole model: it trains the encoder its way, and every head and adapter as they are."""

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open

from mtbert import AdapterSpec, MtBertConfig, MtBertTrainer, MtBertTrainingArguments
from mtbert.training.peft import peft_config, wrap

LORA = {"r": 4, "target_modules": ["query", "value"]}
PAL = AdapterSpec("pal", size=12, heads=3)


def logits(model, splits_of, tokenizer):
    batch = tokenizer(splits_of["stars"]["text"][:6], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch, tasks="all").task_logits


@pytest.fixture
def trained(make_model, splits, tokenizer, tmp_path):
    """A model with adapters that was trained inside peft, and the folder it was saved to."""
    args = MtBertTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=4, learning_rate=0.01, report_to="none", disable_tqdm=True
    )
    model = wrap(make_model(adapter=PAL), LORA)
    trainer = MtBertTrainer(model, args, splits(), processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    return model, tmp_path / "run"


def test_lora_acts_on_the_encoder_alone(make_model):
    model = wrap(make_model(adapter=PAL), LORA)
    inserted = [name for name, _ in model.named_modules() if name.endswith("lora_A")]
    assert len(inserted) == 4 and all(".encoder.encoder.layer." in name for name in inserted)


def test_heads_and_adapters_are_trained_and_the_encoder_is_not(make_model):
    model = wrap(make_model(adapter=PAL), LORA)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("heads.stars.modules_to_save" in name for name in trained)
    assert any("adapters.same.modules_to_save" in name for name in trained)
    assert not any(".encoder." in name and "lora" not in name and "adapters." not in name for name in trained)


def test_saved_adapter_loads_with_every_head(trained, make_model, splits, tokenizer):
    model, folder = trained
    again = PeftModel.from_pretrained(make_model(adapter=PAL), folder)
    expected, found = logits(model, splits(), tokenizer), logits(again, splits(), tokenizer)
    for task in expected:
        torch.testing.assert_close(found[task], expected[task], rtol=0, atol=1e-6)


def test_saved_folder_says_what_its_heads_are_and_holds_no_encoder(trained, make_model):
    _, folder = trained
    assert MtBertConfig.from_pretrained(folder).task_specs == make_model().tasks
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert not any(name.endswith("word_embeddings.weight") for name in file.keys())  # noqa: SIM118


def test_merged_model_gives_the_same_logits(trained, splits, tokenizer):
    model, _ = trained
    expected = logits(model, splits(), tokenizer)
    found = logits(model.merge_and_unload(), splits(), tokenizer)
    for task in expected:
        torch.testing.assert_close(found[task], expected[task], rtol=0, atol=1e-5)


def test_other_methods_of_peft(make_model, splits, tokenizer):
    model = wrap(make_model(), {"type": "ia3", "target_modules": ["key", "value"], "feedforward_modules": []})
    assert set(logits(model, splits(), tokenizer)) == {"stars", "same", "close", "topics"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "lorax"}, "peft.type is 'lorax', but must be one of: .*lora"),
        ({"rank": 4}, r"peft has \['rank'\], which LoraConfig does not know"),
        ({"modules_to_save": ["x"]}, "every head and adapter is trained and saved anyway"),
    ],
)
def test_wrong_settings_are_refused(settings, message, make_model):
    with pytest.raises(ValueError, match=message):
        peft_config(settings, make_model())
