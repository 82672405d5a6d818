"""A tiny encoder with its tokenizer, made once a session, and tiny tasks; nothing here touches a network."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import numpy as np
import psutil
import pytest
import torch
from tiny import WORDS, make_tokenizer
from transformers import AutoModel, AutoTokenizer, BertConfig, set_seed

from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.trainer import MtBertTrainer

OF_ARGUMENTS = {field.name for field in fields(MtBertTrainingArguments)}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file go to one process, and so do those of folders that share a hub, or processes they start."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((folder for folder in ("tests/hub", "tests/soak") if file.startswith(f"{folder}/")), file)

        def _reschedule(self, node):
            # the files of a process that died come back, also those that it had finished: with such a file alone,
            # the process that replaces it would wait for ever
            for scope in [scope for scope, tests in self.workqueue.items() if all(tests.values())]:
                del self.workqueue[scope]
            super()._reschedule(node)

        def _assign_work_unit(self, node):
            super()._assign_work_unit(node)
            # a process waits with its last test until it is told that there is no other
            if not self.workqueue and not node.shutting_down:
                node.shutdown()

    return Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Say how a process of tests ended before its time: -9, for one, is a kill, as where memory has run out."""
    if error:
        status, free = node.gateway._io.popen.wait(10), psutil.virtual_memory().available >> 20
        print(f"\n{node.gateway.id} ended with status {status}; {free:,} MB of memory are free", flush=True)


def pytest_collection_modifyitems(config, items):
    """Leave out tests marked `soak`, unless all cases or these tests are asked for."""
    if os.environ.get("MTBERT_ALL_CASES") or "soak" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter):
    """Print the minutes of each folder of tests; CONTRIBUTING.md states their shares."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folder, *below = report.nodeid.split("::")[0].split("/")[:-1] or ["."]
                seconds["/".join([folder, *below[:1]])] += report.duration
    times = ", ".join(f"{folder} {value / 60:.1f}" for folder, value in seconds.most_common())
    terminalreporter.write_line(f"minutes of tests, one after another: {times or 'none'}")


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory) -> str:
    """A folder with a tiny random BERT (2 layers, width 32, no dropout is changed) and its tokenizer."""
    folder = str(tmp_path_factory.mktemp("encoder"))
    tokenizer = make_tokenizer()
    set_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,  # so that inputs matter although nothing is trained
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(encoder_dir):
    return AutoTokenizer.from_pretrained(encoder_dir)


@pytest.fixture(scope="session")
def tasks() -> tuple[TaskSpec, ...]:
    """One task of each kind of problem and of each kind of input."""
    return (
        TaskSpec("stars", labels=3, pooling="mean"),
        TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2, head={"type": "mlp", "layers": 1}),
        TaskSpec("close", range=(0, 5), texts=2, pair="siamese", head={"output": "sigmoid"}),
        TaskSpec("topics", "multi_label_classification", labels=["cat", "dog", "bird"], pooling="max"),
    )


@pytest.fixture
def make_model(encoder_dir, tasks):
    """A function that makes a model with the same weights at each call."""

    def make(specs=None, **kwargs) -> MtBertForMultiTask:
        set_seed(1)
        return MtBertForMultiTask.from_encoder(encoder_dir, specs or tasks, **kwargs)

    return make


def make_split(task: TaskSpec, rows: int, seed: int = 0) -> datasets.Dataset:
    """Random sentences of 2 to 12 words, with labels that follow from their words."""
    random = np.random.default_rng([seed, sum(map(ord, task.name))])

    def sentence() -> str:
        return " ".join(random.choice(WORDS, size=random.integers(2, 13)))

    columns: dict[str, list] = {"text": [sentence() for _ in range(rows)]}
    if task.texts == 2:
        columns["text_pair"] = [sentence() for _ in range(rows)]
    count = [sum(word in ("good", "cat", "the") for word in text.split()) for text in columns["text"]]
    if task.problem_type == "regression":
        columns["label"] = [min(5.0, each * 1.5) for each in count]
    elif task.problem_type == "multi_label_classification":
        columns["label"] = [[name for name in task.labels if name in text.split()] for text in columns["text"]]
    else:
        columns["label"] = [min(each, len(task.labels) - 1) for each in count]
    return datasets.Dataset.from_dict(columns)


@pytest.fixture
def splits(tasks):
    """A function: rows by task → raw splits; (40, 24, 33, 17) rows by default."""

    def make(rows=(40, 24, 33, 17), seed=0, specs=None) -> dict[str, datasets.Dataset]:
        return {t.name: make_split(t, n, seed) for t, n in zip(specs or tasks, rows, strict=True)}

    return make


@pytest.fixture
def make_args(tmp_path):
    """A function: folder, settings → arguments of a run on the CPU that prints and saves nothing."""

    def make(folder="run", **settings) -> MtBertTrainingArguments:
        quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
        return MtBertTrainingArguments(str(tmp_path / folder), **quiet | settings)

    return make


@pytest.fixture
def make_trainer(make_model, make_args, splits, tokenizer):
    """A function: model, settings of the trainer and of its arguments → a trainer, on `splits()` by default."""

    def make(model=None, folder="run", kind=MtBertTrainer, **settings) -> MtBertTrainer:
        own = {key: settings.pop(key) for key in settings.keys() - OF_ARGUMENTS}
        own = {"train_dataset": splits(), "processing_class": tokenizer} | own
        return kind(model or make_model(), make_args(folder, **settings), **own)

    return make


@pytest.fixture
def reword(monkeypatch, tmp_path):
    """A function: put another comment at the top of a module's source, and import that in its place."""

    def import_again(module):
        file = tmp_path / Path(module.__file__).name
        file.write_text("# another comment\n" + Path(module.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(module.__name__, file)
        again = importlib.util.module_from_spec(spec)
        package, _, name = module.__name__.rpartition(".")
        monkeypatch.setitem(sys.modules, module.__name__, again)
        monkeypatch.setattr(sys.modules[package], name, again)
        spec.loader.exec_module(again)
        return again

    return import_again


@pytest.fixture(scope="module", autouse=True)
def _fast_garbage_collection():
    """Each training collects garbage, which need not search the modules and models that are there already."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _quiet_and_seeded():
    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # the models are so small that threads only wait for each other
    torch.manual_seed(0)
