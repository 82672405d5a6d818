"""Ways to change a run's settings, tasks and rows, and what it warns of."""

from __future__ import annotations

import warnings
from dataclasses import replace

import datasets

from mtbert.data.sampling import Schedule

SETTINGS = {
    **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_steps": 2, "logging_steps": 1, "seed": 3},
    **{"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-3},
    "lr_scheduler_type": "constant",
}
SCHEDULE = Schedule("uniform", mixed=True, steps_per_epoch=2)  # four steps, checkpoints after 2 and 4
LENGTH = "num_train_epochs or max_steps, in steps was 4 and is 6"
BATCH = "training.per_device_train_batch_size × processes × gradient_accumulation_steps was 4 and is 8"


def rename(values: dict, old: str = "same", new: str = "alike") -> dict:
    return {new if name == old else name: value for name, value in values.items()}


def without(values: dict, name: str = "topics") -> dict:
    return {key: value for key, value in values.items() if key != name}


def swap(rows: datasets.Dataset) -> datasets.Dataset:
    return rows.select([1, 0, *range(2, len(rows))])


def change(rows: datasets.Dataset, column: str, value) -> datasets.Dataset:
    values = rows.with_format(None)[:]
    values[column][3] = value
    return datasets.Dataset.from_dict(values, features=rows.features)


def rows_of(**changes):
    """The same data with the rows of some tasks changed."""
    return {"train": lambda data: data | {name: change(data[name]) for name, change in changes.items()}}


def settings(**values):
    return {"settings": values}


def reverse(values: dict) -> dict:
    return dict(reversed(values.items()))


def with_fields(**changes):
    """The same tasks with other fields, and data that does not say which classes its labels are of."""
    specs = lambda specs: specs | {name: replace(specs[name], **fields) for name, fields in changes.items()}  # noqa: E731
    return {"specs": specs, "train": without_classes, "dev": without_classes}


def without_classes(splits: dict) -> dict:
    bare = {name: rows.select(range(len(rows))) for name, rows in splits.items()}
    for rows in bare.values():
        rows._info = rows.info.copy()
        rows.info.description = ""
    return bare


def content(*tasks: str) -> list[str]:
    return [f"data.train.{task}.content_hash was " for task in tasks]


def other_words(rows: datasets.Dataset) -> list[int]:
    """The tokens of the row that `change` changes, with another word before the last token."""
    *first, word, last = rows.with_format(None)[3]["input_ids"]
    return [*first, 9 if word != 9 else 10, last]


def told(trainer, checkpoint) -> list[str]:
    """What a resumed run warns of its checkpoint."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train(resume_from_checkpoint=str(checkpoint))
    return [str(each.message) for each in caught if "checkpoint-" in str(each.message)]
