"""Arguments that the libraries of this machine can not carry out, each with its remedy."""

import pytest
import torch
from transformers import SchedulerType, get_scheduler

from mtbert.training.arguments import MtBertTrainingArguments, PretrainingArguments
from mtbert.training.distributed.feasible import argument_problems


def arguments(kind=MtBertTrainingArguments, **given):
    return kind(output_dir="unused", **{"report_to": "none", "use_cpu": True, "eval_strategy": "epoch", **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optim": "galore_adamw"}, "x.optim is 'galore_adamw', which is not installed: You need to install `galore"),
        ({"optim": "adalomo"}, "x.optim is 'adalomo', which is not installed: You need to install `lomo_optim`"),
        (
            {"lr_scheduler_kwargs": {"power": 2}},
            "x.lr_scheduler_kwargs is {'power': 2}, which lr_scheduler_type: linear does not take: ",
        ),
        (
            {"lr_scheduler_kwargs": "power"},
            "x.lr_scheduler_kwargs is 'power', which lr_scheduler_type: linear does not take: ",
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr"},
            "x.lr_scheduler_kwargs is {}, which lr_scheduler_type: cosine_with_min_lr does not take: One of min_lr",
        ),
        (
            {"optim_args": "momentum=0.9"},
            "x.optim_args has momentum, which optim: adamw_torch_fused does not read; drop",
        ),
        ({"optim": "sgd", "optim_args": "momentm=0.9"}, "x.optim_args has momentm, which optim: sgd does not read"),
        ({"optim": "sgd", "optim_args": "momentum"}, "x.optim_args has momentum without a value; write name=value"),
        ({"optim_target_modules": "all-linear"}, "x.optim_target_modules is 'all-linear', which optim: adamw_torch_fu"),
        ({"report_to": ["paper"]}, "x.report_to is ['paper'], which are not installed; these are: "),
        (
            {"torch_compile": True, "torch_compile_backend": "gcc"},
            "x.torch_compile_backend is 'gcc', but must be one of: no, eager,",
        ),
    ],
)
@pytest.mark.parametrize("kind", [MtBertTrainingArguments, PretrainingArguments])
def test_what_can_not_be_made_is_told(given, message, kind):
    (line,) = argument_problems(arguments(kind, **given))
    assert str(line.under("x")).startswith(message)


@pytest.mark.parametrize(
    ("optim", "text"),
    [
        ("sgd", "momentum=0.9, nesterov=True"),
        ("sgd", "momentum=0"),
        ("adagrad", "lr_decay=0.1"),
        ("rmsprop", "alpha=0.9,centered=false"),
        ("sgd", ""),
    ],
)
def test_arguments_that_an_optimizer_reads(optim, text):
    assert argument_problems(arguments(optim=optim, optim_args=text)) == []


def test_all_of_it_comes_at_once():
    assert len(argument_problems(arguments(optim="lomo", report_to=["paper"]))) == 2


@pytest.mark.parametrize("name", [each.value for each in SchedulerType])
def test_a_schedule_is_told_of_exactly_if_it_can_not_be_made(name):
    try:
        get_scheduler(name, torch.optim.AdamW([torch.zeros(1)]), 1, 9)
    except (TypeError, ValueError):
        assert len(argument_problems(arguments(lr_scheduler_type=name))) == 1
    else:
        assert argument_problems(arguments(lr_scheduler_type=name)) == []


def test_optimizers_that_ask_for_the_model_are_not_judged_without_it(monkeypatch):
    def refuse(args):
        raise ValueError("You need to define a model")

    monkeypatch.setattr("mtbert.training.distributed.feasible.Trainer.get_optimizer_cls_and_kwargs", refuse)
    assert argument_problems(arguments()) == []
