"""mtbert and its alternatives behind one interface: prepare once, train any number of times.

All train the same weights on the same encoded rows with the same optimizer, and take the same batches in the same
order. Only `grouped` orders the rows by length.
"""

from __future__ import annotations

import contextlib
import io
import time
from importlib.util import find_spec
from statistics import median

import numpy as np
import torch
from accelerate.utils import send_to_device
from datasets import Dataset, DatasetDict
from tables import Table
from timed_steps import SEED, Contender, NotAvailable, Timing, TrainerContender
from torch.utils.data import DataLoader, SequentialSampler
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import get_length_grouped_indices
from workload import WARM_UP, Workload

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.sampling import Plan, Schedule, StepSampler
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.distributed.machine import keep_freed_memory
from mtbert.training.trainer import MtBertTrainer

# ---- mtbert ----


def packed_rows(work: Workload) -> tuple[Plan, Dataset]:
    """Return mtbert's plan of one epoch, and the rows, ordered so that the plan takes them as the workload does."""
    count = len(work.pairs)
    plan = Plan(Schedule(), (work.task.name,), (count,), work.batch, epochs=1, seed=SEED)
    arranged = np.argsort(plan.take(0, 0, count))
    columns = {**work.encoded, "label": work.pairs["label"][:]}
    return plan, Dataset.from_dict({name: [values[row] for row in arranged] for name, values in columns.items()})


class MtBert(TrainerContender):
    name = "mtbert"
    what = "MtBertTrainer, packed batches"
    packed = True

    def make_trainer(self) -> Trainer:
        _, rows = packed_rows(self.work)
        return MtBertTrainer(
            model=MtBertForMultiTask.from_encoder(self.work.encoder, [self.work.task], packed=self.packed),
            args=MtBertTrainingArguments(**self.arguments()),
            train_dataset={self.work.task.name: rows},
            processing_class=self.work.tokenizer,
        )


class Bucketed(MtBert):
    """Takes part where packing is new to a family: MPNet was computed like this before."""

    name = "bucketed"
    what = "MtBertTrainer, packed: false: a pass of the encoder for each of a few lengths"
    packed = False


def _identity(batch):
    return batch


class RawPacked(Contender):
    name = "raw_packed"
    what = "a bare loop over the same packed batches: the ceiling of our trainer"

    def prepare(self) -> None:
        work = self.work
        if work.device == "cpu":
            keep_freed_memory()  # as our trainer does, so that it is compared with no slower a loop
        set_seed(SEED)
        model = MtBertForMultiTask.from_encoder(work.encoder, [work.task]).to(work.device)
        plan, rows = packed_rows(work)
        self.loader = DataLoader(
            MultiTaskDataset([work.task], {work.task.name: rows}, "token_type_ids" in rows.column_names),
            batch_sampler=StepSampler(plan),
            collate_fn=_identity,
            num_workers=work.workers,
            pin_memory=work.device == "cuda",
        )
        groups = [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": work.weight_decay},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=work.learning_rate, fused=True)
        self._watch(model)

    def run(self) -> float:
        work, model, optimizer = self.work, self.model.train(), self.optimizer
        start = stop = 0.0
        for step, batch in enumerate(self.loader, 1):
            inputs = {key: batch[key] for key in ("input_ids", "token_type_ids", "labels", "layout") if key in batch}
            inputs = send_to_device(inputs, work.device, non_blocking=True)
            with torch.autocast(work.device, torch.bfloat16, enabled=work.precision == "bf16"):
                loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step == WARM_UP:
                work.synchronize()
                start = time.perf_counter()
            elif step == WARM_UP + work.steps:  # before the loader ends its workers
                work.synchronize()
                stop = time.perf_counter()
        return stop - start


# ---- transformers ----


class _Ordered(Trainer):
    """A Trainer that takes its rows in a given order instead of a random one."""

    order: list[int]

    def _get_train_sampler(self, train_dataset=None):
        return self.order


class Padded(TrainerContender):
    name = "padded"
    what = "transformers' Trainer, padded to the longest of the batch"
    padding: str | bool = True

    def order(self) -> list[int]:
        """Return the rows in the order in which training takes them."""
        return list(range(len(self.work.pairs)))

    def dataset(self, pairs: Dataset, encoded: dict[str, list]) -> Dataset:
        """Return the rows as a data set, as mapping a tokenizer over them would."""
        mask = [[1] * len(ids) for ids in encoded["input_ids"]]
        return Dataset.from_dict({**encoded, "attention_mask": mask, "labels": pairs["label"][:]})

    def make_trainer(self) -> Trainer:
        work = self.work
        limit = work.limit if self.padding == "max_length" else None
        trainer = _Ordered(
            model=AutoModelForSequenceClassification.from_pretrained(work.encoder, num_labels=2),
            args=TrainingArguments(**self.arguments()),
            train_dataset=self.dataset(work.pairs, work.encoded),
            data_collator=DataCollatorWithPadding(work.tokenizer, padding=self.padding, max_length=limit),
            processing_class=work.tokenizer,
        )
        trainer.order = self.order()
        return trainer


class Grouped(Padded):
    """Groups rows by length as `train_sampling_strategy="group_by_length"` does, with transformers' own function.

    That sampler sorts within blocks of 50 batches and begins with the longest rows, so that the first steps of a large
    data set are no sample of it. Here the timed rows, the same as everyone's, are what it sorts.
    """

    name = "grouped"
    what = 'the same with train_sampling_strategy="group_by_length"'

    def order(self) -> list[int]:
        first, lengths = WARM_UP * self.work.batch, self.work.timed_lengths.tolist()
        generator = torch.Generator().manual_seed(SEED)
        grouped = get_length_grouped_indices(lengths, self.work.batch, min(50, self.work.steps), generator)
        return [*range(first), *(first + row for row in grouped)]


class Padded128(Padded):
    name = "padded_128"
    what = "the same, all rows padded to 128 tokens"
    padding = "max_length"


# ---- tasknet ----


class Tasknet(TrainerContender):
    name = "tasknet"
    what = "tasknet 1.60: its own trainer, model and task classes; no token types"

    @staticmethod
    def load():
        """Import tasknet without the network: its import loads metrics of other tasks from the hub."""
        if find_spec("tasknet") is None:
            raise NotAvailable("the package tasknet is not installed (pip install -e '.[bench]')")
        import evaluate

        load, evaluate.load = evaluate.load, lambda *args, **kwargs: None
        try:
            import tasknet
        finally:
            evaluate.load = load
        return tasknet

    def make_trainer(self) -> Trainer:
        tasknet, work = self.load(), self.work
        if work.device == "cpu" and torch.cuda.is_available():
            raise NotAvailable("tasknet uses a GPU that is there; hide it with CUDA_VISIBLE_DEVICES=''")
        tasknet.models.RandomSampler = SequentialSampler  # so that it sees the others' batches
        few = work.pairs.select(range(2))
        task = tasknet.Classification(
            dataset=DatasetDict(train=work.pairs, validation=few, test=few),
            s1="text",
            s2="text_pair",
            y="label",
            name="pairs",
            num_labels=2,
        )
        settings = {
            **self.arguments(),
            "model_name": work.encoder,
            "max_length": work.limit,
            "eval_strategy": "no",
            "batched": True,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            _, trainer = tasknet.Model_Trainer([task], settings)
        return trainer


CONTENDERS = {each.name: each for each in (MtBert, RawPacked, Padded, Grouped, Padded128, Tasknet, Bucketed)}


def prepare(names: list[str], work: Workload) -> tuple[dict[str, Contender], dict[str, str]]:
    """Prepare the named contenders; return those that can train, and why the others do not take part."""
    ready, skipped = {}, {}
    for name in names:
        contender = CONTENDERS[name](work)
        try:
            contender.prepare()
        except NotAvailable as reason:
            skipped[name] = str(reason)
        else:
            ready[name] = contender
    return ready, skipped


def take_turns(contenders: dict[str, Contender], rounds: int, after=None) -> dict[str, list[Timing]]:
    """Train all contenders in turn, `rounds` times; call `after` with the name and timing of each."""
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            timings[name].append(contender.train())
            if after is not None:
                after(name, timings[name][-1])
    return timings


def compare(
    title: str,
    timings: dict[str, list[Timing]],
    more: dict[str, dict[str, float | None]],
    what: dict[str, str] | None = None,
) -> tuple[Table, dict]:
    """Return the table of a comparison, one row for each contender, and its values.

    Args:
        title: the title of the table.
        timings: of each round, by contender; `mtbert` is what the others are compared with.
        more: further columns: a column's name → values by contender.
        what: what each contender is; None: as `CONTENDERS` says.
    """
    what = what or {name: CONTENDERS[name].what for name in timings}
    values = {}
    for name, rounds in timings.items():
        # within a round, since the speed of a machine changes from minute to minute
        pairs = zip(timings["mtbert"], rounds, strict=True)
        ratios = [ours.examples_per_second / each.examples_per_second for ours, each in pairs]
        values[name] = {
            "examples/s": median([each.examples_per_second for each in rounds]),
            "real tokens/s": median([each.tokens_per_second for each in rounds]),
            **{column: each.get(name) for column, each in more.items()},
            "mtbert is × as fast": median(ratios),
            "ratios": ratios,
            "seconds": [each.seconds for each in rounds],
        }
    columns = ["examples/s", "real tokens/s", *more, "mtbert is × as fast"]
    rows = [[name, *(each[column] for column in columns), what[name]] for name, each in values.items()]
    return Table(title, ["contender", *columns, "what it is"], rows), values
