"""A step reads nothing from the device, and copies nothing to it from pageable memory: both wait for all earlier work.

Runs of one step and of two are on a device whose values cannot be read (`unreadable.py`). They differ in what a step
reads; what is read once, before the first step or at a log, is in both.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import pytest
from datasets import List, Value
from families import family_config
from transformers import set_seed
from unreadable import unreadable_device

from mtbert.data.collation import TEACHER
from mtbert.data.given_splits import prepare_splits
from mtbert.data.sampling import Schedule
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec
from mtbert.training.arguments import MtBertTrainingArguments, TaskTraining
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.distillation import Distillation
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.settings import MultiTaskSettings
from mtbert.training.trainer import MtBertTrainer

EVERY = Schedule("simultaneous")
PAL = {"type": "pal", "size": 8, "heads": 2}


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        reads: function → values that it reads from the device in each step, as the documentation of its setting says.
    """

    schedule: Schedule = EVERY
    methods: tuple = ()
    adapter: dict | None = None
    family: str = "bert"
    layers: int = 1
    tasks: dict = field(default_factory=dict)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    specs: tuple = ()
    arguments: dict = field(default_factory=dict)
    reads: dict = field(default_factory=dict)


ATTENTION = TaskSpec("stars", labels=3, head={"type": "attention", "attention_heads": 4})
WEIGHTS = {"stars": TaskTraining(class_weights=(1.0, 2.0, 3.0), label_smoothing=0.1)}
ORDERED = (TaskSpec("stars", ordinal=True, labels=3), TaskSpec("close", range=(0, 5), texts=2))
LOSSES = {"stars": TaskTraining(loss="focal"), "close": TaskTraining(loss="correlation")}
TWICE = {"gradient_accumulation_steps": 2}
WAYS = {
    "one task a step": Way(Schedule("proportional")),
    "mixed steps, adapters": Way(Schedule("proportional", mixed=True), adapter=PAL),
    "class weights, accumulation without clipping": Way(tasks=WEIGHTS, arguments={**TWICE, "max_grad_norm": 0.0}),
    "losses of tasks, one of them ordinal": Way(specs=ORDERED, tasks=LOSSES),
    "modernbert": Way(family="modernbert", layers=2),
    "by length": Way(family="fnet"),
    "mpnet": Way(family="mpnet"),
    "deberta": Way(family="deberta-v2"),
    "an attention head": Way(specs=(ATTENTION,), family="roberta"),
    "an adapter on first tokens": Way(adapter=PAL | {"type": "pal_top"}, specs=(TaskSpec("stars", labels=3),)),
    "an optimizer of each task": Way(Schedule("round_robin"), optimizer=OptimizerSettings(per_task="separate")),
    "uncertainty, proximal, averaging": Way(methods=(LossSettings("uncertainty"), Proximal(), Averaging())),
    "pcgrad and adapters": Way(methods=(Surgery(),), adapter=PAL),
    "distillation": Way(methods=(Distillation(("a teacher",)),)),
    # what waits, and says so; transformers asks whether a padded batch has padding
    "padded": Way(family="squeezebert", reads={"encoder_call.py:call_encoder": 1}),
    "mgda": Way(methods=(Surgery("mgda"),), reads={"surgery.py:weights": 1}),
    "smart": Way(methods=(Smart(),), arguments=TWICE, reads={"smart.py:penalties": 2}),
    "skipping": Way(arguments={"on_nonfinite": "skip"}, reads={"finite_steps.py:_judge": 1}),
}


def make_model(way: Way, tasks, tokenizer) -> MtBertForMultiTask:
    set_seed(1)
    config = family_config(way.family, vocab_size=len(tokenizer), num_hidden_layers=way.layers)
    config.pad_token_id = tokenizer.pad_token_id
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*computed with padding")
        return MtBertForMultiTask(MtBertConfig(encoder=config, tasks=list(tasks), adapter=way.adapter))


@pytest.fixture
def waits(tasks, splits, tokenizer, tmp_path, monkeypatch):
    """A function: a way and a number of steps → what a run of it waited for."""
    monkeypatch.setattr("mtbert.training.trainer.print_beginning", lambda *args: None)

    def run(way: Way, steps: int):
        specs = way.specs or tasks
        model = make_model(way, specs, tokenizer)
        names = [task.name for task in specs]
        rows = {name: split for name, split in splits().items() if name in names}
        data = prepare_splits(specs, "train", rows, tokenizer, model.config.encoder)[0]
        if way.methods and isinstance(way.methods[0], Distillation):
            feature, column = List(Value("float32")), [[0.1, 0.2, 0.7]] * len(data["stars"])
            data["stars"] = data["stars"].add_column(TEACHER, column, feature=feature)
        values = {"optim": "adamw_torch", "logging_strategy": "no", "save_strategy": "no", "report_to": "none"}
        values |= {"disable_tqdm": True, "per_device_train_batch_size": 8, "max_steps": steps} | way.arguments
        with unreadable_device(monkeypatch) as found:
            trainer = MtBertTrainer(
                model,
                MtBertTrainingArguments(str(tmp_path / f"run {steps}"), **values),
                data,
                processing_class=tokenizer,
                settings=MultiTaskSettings(way.schedule, way.tasks, way.optimizer),
                methods=way.methods,
            )
            trainer.train()
        return found

    return run


@pytest.mark.parametrize("name", WAYS)
def test_a_step_waits_for_nothing_but_what_is_stated(name, waits):
    one, two = (waits(WAYS[name], steps) for steps in (1, 2))
    two.reads.subtract(one.reads)
    assert {place: count for place, count in two.reads.items() if count} == WAYS[name].reads
    two.copies.subtract(one.copies)
    assert not any(two.copies.values()), two.copies
