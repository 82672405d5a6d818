"""Graphs of the model itself, by torch.export and torch.jit.trace, hold for inputs of other sizes and lengths."""

import pytest
import torch

from mtbert.modeling.task_spec import TaskSpec


def inputs_of(sequences: int, length: int) -> dict[str, torch.Tensor]:
    """Padded inputs; the sequences get shorter one by one."""
    mask = (torch.arange(length) < (length - torch.arange(sequences)).clamp(min=2)[:, None]).long()
    return {"input_ids": torch.randint(5, 28, (sequences, length)) * mask, "attention_mask": mask}


@torch.no_grad()
@pytest.mark.parametrize(
    "make",
    [pytest.param({}, marks=pytest.mark.soak), {"packed": False}, {"adapter": {"type": "low_rank", "size": 4}}],
)  # what is packed is padded in a graph, as the others
def test_the_model_itself_is_exported(make, make_model):
    model = make_model(**make).eval()
    sizes = dict.fromkeys((0, 1), torch.export.Dim.AUTO)
    inputs, task = inputs_of(4, 8), "topics"
    shapes = {**dict.fromkeys(inputs, sizes), "task": None}
    graph = torch.export.export(model, (), {**inputs, "task": task}, dynamic_shapes=shapes).module()
    for other in (inputs_of(6, 12), inputs_of(2, 5)):
        expected = model(**other, task=task)
        found = graph(**other, task=task)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.task_logits[task], expected.logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task_ids": torch.zeros(4, dtype=torch.long)}, r"no place for \['task_ids'\]"),
        ({"task": "stars", "labels": torch.zeros(4)}, r"no place for \['labels'\]"),
        ({"task": "stars", "output_hidden_states": True}, r"no place for \['output_hidden_states'\]"),
        ({}, "give tasks"),
    ],
)
def test_what_a_graph_has_no_place_for(more, message, make_model):
    with pytest.raises(Exception, match=message):
        torch.export.export(make_model().eval(), (), {**inputs_of(4, 8), **more})


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_traced_model_holds_for_other_inputs(make_model):
    model = make_model([TaskSpec("only", labels=2)]).eval()
    model.config.return_dict = False
    traced = torch.jit.trace(model, example_kwarg_inputs=inputs_of(4, 8), strict=False)
    other = inputs_of(2, 5)
    torch.testing.assert_close(traced(**other)[0], model(**other)[0], atol=1e-5, rtol=1e-4)
