"""Tiny models with a task of each kind, to be edited, and their logits."""

import warnings

import pytest
import torch
from families import family_config
from transformers import set_seed

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec

OTHER_FAMILIES = ("deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta")
TASKS = (
    TaskSpec("linear", labels=["no", "maybe", "yes"], pooling="pooler"),
    TaskSpec("score", range=(1, 5), pooling="mean", head={"output": "sigmoid"}),
    TaskSpec("mlp", "multi_label_classification", labels=4, pooling="max", head={"type": "mlp", "layers": 2}),
    TaskSpec("attention", labels=2, head={"type": "attention", "attention_heads": 2, "layers": 1}),
    TaskSpec("cosine", range=(0, 1), texts=2, pair="siamese", head={"type": "cosine", "layers": 1, "output": "relu"}),
    TaskSpec("siamese", "binary_classification", labels=["a", "b"], texts=2, pair="siamese", pooling="mean"),
    TaskSpec("bare", "binary_classification", labels=["a", "b"], texts=2, pooling="pooler", adapter=False),
)
NAMES = [task.name for task in TASKS]
NEW = TaskSpec("new", labels=3, pooling="mean", head={"type": "mlp", "layers": 1, "hidden_size": 12})
ADAPTERS = {
    "without": None,
    "pal": {"type": "pal", "size": 12, "heads": 3},
    "pal_top": {"type": "pal_top", "size": 12, "heads": 3, "input": "all"},
    "low_rank": {"type": "low_rank", "size": 8, "layers": [0, 2]},
    "houlsby": {"type": "houlsby", "size": 6},
    "top_layers": {"type": "top_layers", "size": 12, "heads": 3, "depth": 2},
}
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)


@torch.no_grad()
def make_model(adapter=None, specs=TASKS, family="bert", **settings) -> MtBertForMultiTask:
    """In eval mode, with random weights as after a training: nothing is at an initial value."""
    set_seed(1)
    encoder = family_config(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some families are computed with padding
        model = MtBertForMultiTask(MtBertConfig(encoder=encoder, tasks=list(specs), adapter=adapter, **settings))
    for parameter in model.parameters():
        noise = torch.randn_like(parameter) * 0.2
        parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model.eval()


@torch.no_grad()
def logits(model, batch, names=None) -> dict[str, torch.Tensor]:
    """Each task's logits on the batch alone."""
    names = [task.name for task in model.tasks] if names is None else names
    return {name: model(**batch, task=name).logits for name in names}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@torch.no_grad()
def realigned(model):
    """The same model with its weights where torch would put them: elsewhere, products may round in another order."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()
