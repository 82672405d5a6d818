"""peft around a whole model: it trains the encoder its way, and every head and adapter as they are."""

import copy
import warnings

import pytest
import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    inject_adapter_in_model,
)
from safetensors import safe_open
from transformers import set_seed

from mtbert import AdapterSpec, MtBertConfig, MtBertForMultiTask, TaskSpec
from mtbert.training.peft import adopt, peft_config, trainable, wrap

LORA = {"r": 4, "target_modules": ["query", "value"]}
PAL = AdapterSpec("pal", size=12, heads=3)


def logits(model, splits_of, tokenizer):
    batch = tokenizer(splits_of["stars"]["text"][:6], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch, tasks="all").task_logits


@pytest.fixture
def trained(make_model, train, tmp_path):
    """A model with adapters that was trained inside peft, and the folder it was saved to."""
    trainer = train(wrap(make_model(adapter=PAL), LORA), steps=4)
    return trainer.model, tmp_path / "run"


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


TARGETS = ["query", "value"]
SHAPE = {"num_layers": 2, "token_dim": 32, "num_attention_heads": 4}
PROMPTS = {"task_type": "SEQ_CLS", "num_virtual_tokens": 2, **SHAPE}


@pytest.fixture
def train(make_trainer):
    """A function: train a model for some steps and save it; the trainer."""

    def run(model, steps=2):
        trainer = make_trainer(model, max_steps=steps, learning_rate=0.01)
        trainer.train()
        trainer.save_model()
        return trainer

    return run


def fresh(encoder_dir, tasks, adapter=None):
    """What a user starts a loading from: the same encoder, other heads."""
    set_seed(7)
    return MtBertForMultiTask.from_encoder(encoder_dir, tasks, adapter=adapter)


class TestAUsersOwn:
    """`get_peft_model(model, config)`, given to the trainer as it is."""

    @pytest.mark.parametrize(
        ("config", "adapter"),
        [
            (LoraConfig(r=4, target_modules=TARGETS), PAL),
            (LoraConfig(r=4, target_modules=TARGETS, task_type="SEQ_CLS"), None),
            (LoraConfig(r=4, target_modules=TARGETS, task_type="FEATURE_EXTRACTION", use_dora=True), None),
            (LoraConfig(r=4, target_modules="all-linear", bias="all"), PAL),
            (LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["heads.stars"]), None),
            (LoraConfig(r=4, target_modules=TARGETS, trainable_token_indices={"word_embeddings": [7, 8]}), None),
            (IA3Config(target_modules=TARGETS, feedforward_modules=[]), PAL),
            (LoHaConfig(r=4, target_modules=TARGETS), None),
        ],
        ids=["lora", "task type", "dora", "all-linear", "some heads", "tokens", "ia3", "loha"],
    )
    def test_heads_and_adapters_are_trained_and_load_again(
        self, config, adapter, make_model, train, splits, tokenizer, encoder_dir, tasks, tmp_path
    ):
        base = make_model(adapter=adapter)
        before = logits(base, splits(), tokenizer)
        model = train(get_peft_model(base, copy.deepcopy(config))).model
        expected = logits(model, splits(), tokenizer)
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        for name in [f"heads.{task}" for task in base.heads] + [f"adapters.{task}" for task in base.adapters]:
            assert any(f"{name}.modules_to_save" in each for each in trained), name
        assert all("lora" not in name for name in trained if "heads" in name or "adapters" in name)
        again = PeftModel.from_pretrained(fresh(encoder_dir, tasks, adapter), tmp_path / "run")
        loaded = logits(again, splits(), tokenizer)
        for task in expected:
            assert (expected[task] - before[task]).abs().max() > 1e-3
            torch.testing.assert_close(loaded[task], expected[task], rtol=0, atol=1e-6)
        ids = torch.zeros(2, dtype=torch.long)
        batch = tokenizer(["a cat", "a dog"], return_tensors="pt")
        assert again(**batch, task_ids=ids).logits.shape == (2, 3)

    def test_of_several_adapters_the_active_one_is_trained(
        self, make_model, train, splits, tokenizer, encoder_dir, tasks, tmp_path
    ):
        model = get_peft_model(make_model(), LoraConfig(r=4, target_modules=TARGETS))
        train(model)
        first = logits(model, splits(), tokenizer)
        model.add_adapter("other", LoraConfig(r=2, target_modules=["key"]))
        model.set_adapter("other")
        train(model)
        second = logits(model, splits(), tokenizer)
        again = PeftModel.from_pretrained(fresh(encoder_dir, tasks), tmp_path / "run")
        torch.testing.assert_close(logits(again, splits(), tokenizer), first, rtol=0, atol=1e-6)
        again.load_adapter(tmp_path / "run" / "other", "other")
        again.set_adapter("other")
        torch.testing.assert_close(logits(again, splits(), tokenizer), second, rtol=0, atol=1e-6)

    def test_a_loaded_one_goes_on(self, trained, train, splits, tokenizer, encoder_dir, tasks):
        _, folder = trained
        start = PeftModel.from_pretrained(fresh(encoder_dir, tasks, PAL), folder, is_trainable=True)
        before = logits(start, splits(), tokenizer)
        model = train(start).model
        after = logits(model, splits(), tokenizer)
        loaded = logits(PeftModel.from_pretrained(fresh(encoder_dir, tasks, PAL), folder), splits(), tokenizer)
        assert all((after[task] - before[task]).abs().max() > 1e-3 for task in after)
        torch.testing.assert_close(loaded, after, rtol=0, atol=1e-6)

    def test_lora_of_a_head_that_was_trained_before_is_kept(self, make_model, splits, tokenizer):
        """Trained elsewhere, with layers of peft inside of a head: the head goes on from what it computes."""
        model = get_peft_model(make_model(), LoraConfig(r=4, target_modules=[*TARGETS, "out_proj"]))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_()
        before = logits(model, splits(), tokenizer)
        torch.testing.assert_close(logits(adopt(model), splits(), tokenizer), before, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda m: get_peft_model(m, LoraConfig(target_modules=TARGETS), mixed=True), "leave out mixed=True"),
            (lambda m: get_peft_model(m, LoraConfig(target_modules=["out_proj"])), "name no module of the encoder"),
            (
                lambda m: get_peft_model(m, LoraConfig(target_modules=TARGETS, modules_to_save=["out_proj"])),
                "modules_to_save names a part of heads.stars; drop it",
            ),
            (
                lambda m: with_prompts(m, PromptTuningConfig),
                "prompt_tuning adds tokens",
            ),
            (
                lambda m: with_prompts(m, PrefixTuningConfig),
                "prefix_tuning adds tokens",
            ),
            (lambda m: merged(m), r"call model.unmerge_adapter\(\) first"),
            (lambda m: switched_off(m), "call model.base_model.enable_adapter_layers"),
            (lambda m: two_at_once(m), r"the adapters \['default', 'b'\] are active; activate the one to train"),
            (lambda m: with_norms(m), r"weights would be trained, but not saved \(.*LayerNorm"),
            (lambda m: for_inference(m), "adapter 'default' was loaded for inference; load it with is_trainable=True"),
            (lambda m: m.add_adapter(LoraConfig(target_modules=TARGETS)) or m, "use get_peft_model"),
            (lambda m: inject_adapter_in_model(LoraConfig(target_modules=TARGETS), m), "use get_peft_model"),
            (lambda m: around_the_encoder(m), "use get_peft_model"),
            (
                lambda m: m.requires_grad_(False),
                r"no weight of the model is trained; call model.requires_grad_\(True\)",
            ),
            (
                lambda m: get_peft_model(m, LoraConfig(target_modules=TARGETS)).merge_and_unload(),
                "no weight .* is trained",
            ),
        ],
    )
    def test_what_would_not_be_trained_or_saved_is_refused(self, make, message, make_model, train):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make(make_model())
        with pytest.raises(ValueError, match=message):
            train(model)

    def test_a_frozen_head_is_told(self, make_model, train):
        model = make_model()
        model.heads["stars"].requires_grad_(False)
        before = copy.deepcopy(model.heads["stars"].state_dict())
        with pytest.warns(UserWarning, match=r"the heads of \['stars'\] are frozen, and stay as they are"):
            train(model)
        torch.testing.assert_close(dict(model.heads["stars"].state_dict()), dict(before), rtol=0, atol=0)

    def test_a_head_without_weights_is_not_frozen(self, encoder_dir, recwarn):
        head = {"type": "cosine"}
        task = TaskSpec("near", range=(0, 5), texts=2, pair="siamese", pooling="mean", head=head)
        trainable(MtBertForMultiTask.from_encoder(encoder_dir, task))
        assert not [each for each in recwarn if "frozen" in str(each.message)]


def with_prompts(model, config):
    model.config.vocab_size = model.config.encoder.vocab_size  # without it, peft itself refuses
    return get_peft_model(model, config(**PROMPTS))


def merged(model):
    model = get_peft_model(model, LoraConfig(target_modules=TARGETS))
    model.merge_adapter()
    return model


def switched_off(model):
    model = get_peft_model(model, LoraConfig(target_modules=TARGETS))
    model.base_model.disable_adapter_layers()
    return model


def two_at_once(model):
    model = get_peft_model(model, LoraConfig(target_modules=TARGETS))
    model.add_adapter("b", LoraConfig(target_modules=TARGETS))
    model.base_model.set_adapter(["default", "b"])
    return model


def with_norms(model):
    model = get_peft_model(model, LoraConfig(target_modules=TARGETS))
    for name, weight in model.named_parameters():
        if "LayerNorm" in name:
            weight.requires_grad_(True)
    return model


def for_inference(model):
    model = get_peft_model(model, LoraConfig(target_modules=TARGETS, inference_mode=True))
    return model


def around_the_encoder(model):
    model.encoder = get_peft_model(model.encoder, LoraConfig(target_modules=TARGETS))
    return model
