"""Tiny models with adapters, and a batch for them."""

import torch
from families import family_config
from transformers import set_seed

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec

LENGTHS = (3, 11, 1, 7, 9, 4, 11)
TASKS = (
    TaskSpec("first", labels=3),
    TaskSpec("bare", labels=2, adapter=False),
    TaskSpec("average", range=(0, 5), pooling="mean"),
)
TASK_IDS = [0, 0, 0, 1, 2, 2, 2]
SMALL = {
    "pal": {"type": "pal", "size": 12, "heads": 3},
    "pal_top": {"type": "pal_top", "size": 12, "heads": 3},
    "low_rank": {"type": "low_rank", "size": 8},
    "houlsby": {"type": "houlsby", "size": 6},
    "top_layers": {"type": "top_layers", "size": 12, "heads": 3, "depth": 2},
}


def make_model(adapter, specs=TASKS, packed=True, **settings) -> MtBertForMultiTask:
    """Freshly initialised, in eval mode, with the same weights at each call."""
    set_seed(1)
    encoder = family_config("bert", **settings)
    return MtBertForMultiTask(MtBertConfig(encoder=encoder, tasks=list(specs), adapter=adapter, packed=packed)).eval()


@torch.no_grad()
def randomised(model: MtBertForMultiTask) -> MtBertForMultiTask:
    """The same weights at each call, so large that every part matters."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        noise = torch.empty_like(parameter).normal_(0, 0.2, generator=generator)
        parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model
