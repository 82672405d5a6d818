"""A model that its checkpoint could not give back is refused before it is trained."""

from functools import partial

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mtbert.modeling.adapters import LowRank
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.heads import ClassificationHead
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import AdapterSpec, HeadSpec, TaskSpec
from mtbert.training.arguments import TaskTraining

HEADS = [f"heads.{name}" for name in ("stars", "same", "close", "topics")]


class OtherHead(nn.Module):
    def __init__(self, like: ClassificationHead):
        super().__init__()
        self.dropout, self.layers, self.out_proj = like.dropout, like.layers, like.out_proj

    def forward(self, pooled):
        return -self.out_proj(pooled)


class OwnModel(MtBertForMultiTask):
    """A subclass that makes a head of its own."""

    config_class = MtBertConfig

    def __init__(self, config):
        super().__init__(config)
        self.heads["stars"] = OtherHead(self.heads["stars"])


def swap_head(model):
    model.heads["stars"] = nn.Linear(32, 3)


def same_weights(model):
    model.heads["stars"] = OtherHead(model.heads["stars"])


def wider(model):
    model.heads["stars"].out_proj = nn.Linear(32, 5)


def other_activation(model):
    model.heads["same"].layers[1] = nn.GELU()


def more_layers(model):
    model.heads["same"].layers.append(nn.Tanh())


def swap_adapter(model):
    spec = AdapterSpec("low_rank", size=3)
    model.adapters["stars"] = LowRank(spec, 32, (0, 1), model.config.encoder)


def no_adapter(model):
    del model.adapters["stars"]


def new_head(model):
    model.heads["new"] = nn.Linear(32, 2)


def new_part(model):
    model.extra = nn.Linear(2, 2)


def other_embeddings(model):
    model.set_input_embeddings(nn.Embedding(50, 32))


@pytest.fixture
def make_trainer(make_trainer):
    return partial(make_trainer, max_steps=2)


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (swap_head, r"heads.stars \(Linear\) has weights that do not fit: bias \(3,\), out_proj.bias is missing"),
        (same_weights, "heads.stars has OtherHead where ClassificationHead is described"),
        (wider, r"heads.stars .*out_proj.bias \(5,\)"),
        (other_activation, "heads.same has GELU where ReLU is described"),
        (more_layers, "heads.same has Tanh where Linear is described"),
        (swap_adapter, r"adapters.stars \(LowRank\) has weights that do not fit: layers.0.decode.weight \(32, 3\)"),
        (no_adapter, r"adapters.stars \(NoneType\) has weights that do not fit: .*is missing"),
        (new_head, r"heads.new \(Linear\) has weights that do not fit"),
        (new_part, r"extra \(Linear\)"),
        (other_embeddings, r"encoder \(BertModel\) .*embeddings.word_embeddings.weight \(50, 32\)"),
    ],
)
def test_what_would_not_load_is_refused(make_model, make_trainer, swap, message):
    model = make_model(adapter={"type": "low_rank", "size": 4})
    trainer = make_trainer(model)
    swap(model)
    for refused in (lambda: make_trainer(model), trainer.train):
        with pytest.raises(ValueError, match=message):
            refused()


def test_what_does_load_is_not(make_model, make_trainer, tmp_path, encoder_dir, tasks, tokenizer):
    model = make_model(adapter={"type": "pal", "size": 8, "heads": 2})
    model.resize_token_embeddings(len(tokenizer) + 3)
    model.heads["stars"].dropout.p = 0.3
    model.set_attn_implementation("eager")
    make_trainer(model).train()
    make_trainer(get_peft_model(make_model(), LoraConfig(target_modules=["query"], modules_to_save=HEADS)))
    own = OwnModel.from_encoder(encoder_dir, tasks)
    make_trainer(own).train()
    own.save_pretrained(tmp_path / "own")
    inputs = {"input_ids": torch.tensor([[2, 6, 7, 3]]), "task": "stars"}
    loaded = OwnModel.from_pretrained(tmp_path / "own").eval()
    assert torch.equal(loaded(**inputs).logits, own.eval()(**inputs).logits)


def test_a_swapped_head_inside_peft_is_refused(make_model, make_trainer):
    model = make_model()
    swap_head(model)
    with pytest.raises(ValueError, match="heads.stars"):
        make_trainer(get_peft_model(model, LoraConfig(target_modules=["query"], modules_to_save=HEADS)))


def test_training_keeps_the_encoders_special_tokens(make_model, make_trainer):
    model = make_model()
    model.config.encoder.pad_token_id, model.config.encoder.eos_token_id = 5, 4
    make_trainer(model).train()
    assert (model.config.encoder.pad_token_id, model.config.encoder.eos_token_id) == (5, 4)


def test_numbers_of_numpy_are_saved_after_training(encoder_dir, make_trainer, tmp_path, splits, tokenizer):
    head = HeadSpec("mlp", layers=np.int64(1), hidden_size=np.int32(8), dropout=np.float32(0.25))
    specs = [
        TaskSpec("stars", labels=np.int64(3), dropout=np.float32(0.5), max_length=np.int16(12), texts=np.int64(1)),
        TaskSpec("same", "binary_classification", labels=np.array(["no", "yes"]), texts=2, head=head),
        TaskSpec("close", range=np.array([0, 5]), texts=2, adapter=np.bool_(False)),
        TaskSpec("topics", "multi_label_classification", labels=["cat", "dog", "bird"], token_types=np.True_),
    ]
    adapter = AdapterSpec("pal", size=np.int64(8), heads=torch.tensor(2), layers=np.arange(2))
    model = MtBertForMultiTask.from_encoder(encoder_dir, specs, adapter=adapter, packed=np.True_)
    trainer = make_trainer(model, task_training={"stars": TaskTraining(weight=np.float32(2))})
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    loaded = MtBertForMultiTask.from_pretrained(tmp_path / "final")
    assert loaded.tasks == model.tasks == tuple(specs) and loaded.config.adapter == adapter.to_dict()
    for spec in (*specs, adapter, head):
        for value in vars(spec).values():
            for each in value if isinstance(value, tuple) else [value]:
                assert type(each).__module__ in ("builtins", "mtbert.modeling.task_spec")


@pytest.mark.parametrize("number", [60, 12])
def test_resized_embeddings_are_loaded_again(make_model, tmp_path, number):
    model = make_model().eval()
    assert model.config.get_text_config() is model.config.encoder is model.encoder.config
    model.resize_token_embeddings(number)
    assert model.config.encoder.vocab_size == number
    model.save_pretrained(tmp_path)
    loaded = MtBertForMultiTask.from_pretrained(tmp_path).eval()
    inputs = {"input_ids": torch.tensor([[2, number - 1, 7, 3]]), "task": "stars"}
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
