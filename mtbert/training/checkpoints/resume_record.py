"""Records: each checkpoint has a record of everything that the run depends on, which is compared before a resume.

A record maps dotted names (recipe keys where there are any) to JSON values. Different values are an error. Three
differences give a warning only: a name that the checkpoint's record lacks, as in older versions; another length of the
run; and changed dev data. Settings that a resumed run may change are in no record; docs/resuming.md lists them.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedConfig, SchedulerType, TrainingArguments

from ...data.collation import TEACHER
from ...data.sampling import Plan
from ...errors import CheckpointError
from ...modeling.checkpoint_loading import read_json
from ...modeling.configuration_mtbert import MtBertConfig
from ...modeling.display import masked
from ...modeling.tokenization import LENGTHS
from ..methods import method_classes

Record = dict[str, Any]

FILE = "resume_record.json"
TRAIN, DEV = "data.train", "data.dev"
LENGTH = "num_train_epochs or max_steps, in "  # prefix of the names that depend on the length of the run
OPTIMIZATION = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "weight_decay", "max_grad_norm", "optim"),
    *("optim_args", "adam_beta1", "adam_beta2", "adam_epsilon"),
)
_DECISIVE = (*OPTIMIZATION, "optim_target_modules", "neftune_noise_alpha", "seed")
_WATCHING = ("eval_strategy", "eval_steps", "metric_for_best_model", "greater_is_better")
# Learning-rate schedules that depend on evaluations, and those that do not depend on the length of the run.
_FOLLOWING = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
_LENGTHLESS = (
    *(SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP, SchedulerType.INVERSE_SQRT),
    *_FOLLOWING,
)
# Keys of an encoder's config that do not change its outputs.
_NO_FUNCTION = (
    *("architectures", "dtype", "transformers_version", "id2label", "label2id", "problem_type", "use_cache"),
    *("output_attentions", "output_hidden_states", "return_dict", "bos_token_id", "eos_token_id", "pad_token_id"),
)
# Keys of a peft config that do not change the outputs.
_OF_A_PLACE = ("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping")
# Names that records of earlier versions lack → the value that such a run had.
_LATER: Record = {
    "training.max_tokens_per_step": None,
    "schedule.resample": False,
    "sources": {},
    "affinity": None,
}
_LATER_OF_TASKS: Record = {"loss": None, "focal_gamma": 2.0, "smooth_l1_beta": 1.0}
_READ = ("input_ids", "token_type_ids", *LENGTHS, "label", TEACHER)  # the columns of encoded data
_ROWS = 20_000  # rows that are hashed at a time
_LINES, _WIDTH = 6, 200  # in a message: lines for one name, and characters of a value
_MOMENTS_OF_EACH_WEIGHT = (torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop)
_NOT_SET = object()


# ---- what a record states ----


def _plain_value(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def arguments_record(args: TrainingArguments, plan: Plan, section: str, counts_steps: bool = False) -> Record:
    """The arguments on which weights and plan depend, without those that have no effect in this run.

    Args:
        section: recipe section of the arguments.
        counts_steps: whether something besides the learning rate depends on the length of the run.
    """
    kind = SchedulerType(args.lr_scheduler_type)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * plan.steps_per_epoch)
    names = (*_DECISIVE, *(_WATCHING if kind in _FOLLOWING else ()))
    warmup = 0 if kind == SchedulerType.CONSTANT else args.warmup_steps
    values = {
        **{name: getattr(args, name) for name in names},
        "warmup_steps": warmup,  # a value below 1 is a share of the run's steps
        "data_seed": plan.seed,
        "per_device_train_batch_size × processes × gradient_accumulation_steps": plan.batch,
    }
    if section == "training":
        values["max_tokens_per_step"] = getattr(args, "max_tokens_per_step", None)
    if plan.schedule.depends_on_epochs:
        values[f"{LENGTH}epochs of the schedule"] = plan.epochs
    if counts_steps or kind not in _LENGTHLESS or 0 < warmup < 1:
        values[f"{LENGTH}steps"] = steps
    return {f"{section}.{name}": value for name, value in values.items()}


def encoder_record(config: PreTrainedConfig) -> Record:
    """The keys of an encoder's config on which its outputs depend."""
    values = config.to_dict().items()
    return {f"encoder.{key}": value for key, value in values if key not in _NO_FUNCTION and not key.startswith("_")}


def model_record(config: MtBertConfig) -> Record:
    """The record of a model: tasks in their order, encoder and adapter."""
    specs = config.task_specs
    record: Record = {"tasks": [spec.name for spec in specs], "model.adapter": config.adapter}
    for spec in specs:
        record |= {f"tasks.{spec.name}.{key}": value for key, value in spec.to_dict().items() if key != "name"}
    return record | encoder_record(config.encoder)


def peft_record(configs: Mapping[str, Any]) -> Record:
    """Name of a peft adapter → its settings."""
    return {
        name: {key: value for key, value in config.to_dict().items() if key not in _OF_A_PLACE}
        for name, config in configs.items()
    }


def parameters_record(model: nn.Module, decayed: Collection[str]) -> dict[str, list[str]]:
    """Names and shapes of the trained parameters, with and without weight decay, each in the model's order."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {
        key: [f"{name} {tuple(parameter.shape)}" for name, parameter in trained if (name in decayed) is decays]
        for key, decays in (("decayed", True), ("not decayed", False))
    }


def given_record(optimizer: Any, scheduler: Any, to_be_made: Any) -> Record:
    """The record of the optimizer and scheduler that a user gave to the trainer; None for those not given.

    Args:
        to_be_made: class and arguments of an optimizer to be made, or None.
    """
    record: Record = {}
    for key, given in (("optimizer", optimizer), ("scheduler", scheduler)):
        record[key] = None
        if given is not None:
            record[key] = {"class": type(given).__name__, **getattr(given, "defaults", {})}
    record["optimizer_cls_and_kwargs"] = to_be_made
    return record


def weights_hash(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of parameters' names and weights."""
    digest = _digest()
    for name, weight in parameters:
        digest.update(name.encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def teacher_hash(folder: str) -> str | None:
    """A hash of a teacher's weights, config and tokenizer; None if the folder has none of their files."""
    path = Path(folder)
    files = sorted([*path.glob("*.safetensors"), *path.glob("config.json"), *path.glob("tokenizer.json")])
    digest = _digest()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, _digest).digest())
    return digest.hexdigest() if files else None


def data_record(
    train: Mapping[str, Dataset] | Dataset, dev: Mapping[str, Dataset] | Dataset | None, without: Collection[str] = ()
) -> Record:
    """Number of rows and content hash of encoded splits, in the order of rows; the storage format does not matter.

    Args:
        train: task → split, or one split.
        dev: the same; None: there is none.
        without: columns that are left out.
    """
    return {TRAIN: _splits(train, without), DEV: {} if dev is None else _splits(dev, without)}


def _splits(splits: Mapping[str, Dataset] | Dataset, without: Collection[str]) -> Record:
    if isinstance(splits, Dataset):
        splits = {"texts": splits}
    read = [name for name in _READ if name not in without]
    return {name: {"rows": len(rows), "content_hash": _content_hash(rows, read)} for name, rows in splits.items()}


def _content_hash(rows: Dataset, read: Collection[str]) -> str:
    names, digest = [name for name in read if name in rows.column_names], _digest()
    for table in rows.select_columns(names).with_format("arrow").iter(_ROWS):
        for name in names:
            column = table[name]
            digest.update(name.encode())
            if pa.types.is_nested(column.type):
                digest.update(_content(pc.list_value_length(column)))
                column = pc.list_flatten(column)
            digest.update(_content(column))
    return digest.hexdigest()


def _content(column: pa.ChunkedArray) -> bytes | np.ndarray:
    """The bytes of a column's values, independent of the width of its type."""
    values = column.to_numpy()
    if values.dtype.kind in "iub":
        return np.ascontiguousarray(values, dtype=np.int64)
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values, dtype=np.float64)
    return repr(values.tolist()).encode()


def _digest() -> Any:
    return hashlib.blake2b(digest_size=16)


# ---- comparing ----


def write_record(folder: str | Path, record: Record) -> None:
    """Write a record into a checkpoint or the folder of a finished stage."""
    text = json.dumps(_as_read(record), indent=2, ensure_ascii=False)
    Path(folder, FILE).write_text(text + "\n", encoding="utf-8")


def _as_read(record: Record) -> Record:
    """A record as it is read back from JSON, with tokens and passwords masked."""
    return json.loads(masked(json.dumps(record, default=_plain_value)))


def _read_record(folder: Path) -> Record:
    """A checkpoint's record; if it has none, the model's record from its config.json; else empty."""
    if (folder / FILE).is_file():
        record: Record = _LATER | _as_read(read_json(folder / FILE, remedy="", limited=False))
        for name in record.get("tasks", ()):
            record = {f"tasks.{name}.{key}": value for key, value in _LATER_OF_TASKS.items()} | record
        for method in method_classes():
            if method.later and isinstance(record.get(method.section), dict):
                record[method.section] = {**method.later, **record[method.section]}
        return record
    config = folder / "config.json"
    if config.is_file() and read_json(config, remedy="").get("model_type") == MtBertConfig.model_type:
        return _as_read(model_record(MtBertConfig.from_pretrained(folder)))
    return {}


def check_record(folder: str | Path, now: Record, says: bool = True) -> None:
    """Compare a checkpoint's record with that of the run to be resumed. Collective: every process must call it.

    Args:
        folder: the checkpoint, or the folder of a finished stage.
        now: the run's record.
        says: whether this process warns.

    Raises:
        CheckpointError: with all differences; on all processes if there is one on any.
    """
    now = _as_read(now)
    try:
        before, problems = _read_record(Path(folder)), []
    except (OSError, ValueError) as error:
        before, problems = {}, [str(error)]
    lengths = [name for name in now if LENGTH in name]
    for name in now:
        if name in before and name != DEV and name not in lengths:
            lines = _differences(name, before[name], now[name])
            problems += lines[:_LINES]
            if len(lines) > _LINES:
                problems.append(f"{name}: {len(lines) - _LINES} more")
    problems = list(dict.fromkeys(gather_object(problems)))
    if problems:
        raise CheckpointError(
            f"resume_from_checkpoint: {folder} is of another run than this one:\n"
            + "\n".join(problems)
            + "\nGo on with what it was trained with, or train anew in another output_dir (what may change: "
            "docs/resuming.md)"
        )
    if not says:
        return
    unstated = [name for name in now if name not in before]
    if unstated:
        warnings.warn(
            f"{folder} is of a version that did not state all that a run depends on, so that it could not be checked "
            f"whether these are those of the interrupted run: {', '.join(_patterns(unstated, before))}",
            stacklevel=3,
        )
    changed = [line for name in lengths if name in before for line in _differences(name, before[name], now[name])]
    if changed:
        warnings.warn(
            f"{folder}: the run has another length than the interrupted one, and its steps depend on it, so that it "
            f"ends otherwise than a run that had this length from the start: {'; '.join(changed)}",
            stacklevel=3,
        )
    changed = _differences(DEV, before[DEV], now[DEV]) if DEV in before else []
    if changed:
        warnings.warn(
            f"{folder}: the dev data has changed, so that scores before and after it do not compare: "
            f"{'; '.join(changed)}",
            stacklevel=3,
        )


def _differences(name: str, before: Any, now: Any) -> list[str]:
    """One sentence for each value that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        values = [(f"{name}.{key}", before.get(key, _NOT_SET), now.get(key, _NOT_SET)) for key in keys]
        return [line for value in values for line in _differences(*value)]
    if before == now:
        return []
    if isinstance(before, list) and isinstance(now, list) and max(len(before), len(now)) > _LINES:
        pairs = enumerate(zip_longest(before, now, fillvalue=_NOT_SET))
        (place, first), *others = [(place, pair) for place, pair in pairs if pair[0] != pair[1]]
        where = f"{name}[{place}]"
        more = f", and so on at {len(others)} other places" if others else ""
        return [f"{where} was {_shown(first[0])} and is {_shown(first[1])}{more}"]
    return [f"{name} was {_shown(before)} and is {_shown(now)}"]


def _shown(value: Any) -> str:
    text = "not there" if value is _NOT_SET else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]} …"


def _patterns(unstated: Iterable[str], before: Record) -> list[str]:
    """Names for a message: only the section if no name of it is stated, and `tasks.*` for keys of several tasks."""
    stated = {name.partition(".")[0] for name in before}
    patterns = []
    for name in unstated:
        section, _, key = name.partition(".")
        if section not in stated:
            patterns.append(section)
        elif section == "tasks" and key:
            patterns.append(f"tasks.*.{key.partition('.')[2]}")
        else:
            patterns.append(name)
    return list(dict.fromkeys(patterns))


# ---- an optimizer's state ----


def check_moments(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer, names: Mapping[int, str], folder: str
) -> None:
    """Check that a saved optimizer state fits the optimizer's parameters, which it identifies by position only.

    Args:
        state: the state to be loaded.
        names: `id` of a parameter → its name.
        folder: the checkpoint.

    Raises:
        CheckpointError: if sizes of groups or shapes of tensors differ.
    """
    sizes = [[len(group["params"]) for group in groups] for groups in (state["param_groups"], optimizer.param_groups)]
    problems = []
    if sizes[0] != sizes[1]:
        problems.append(f"it has groups of {sizes[0]} parameters, but {sizes[1]} are trained")
    elif isinstance(optimizer, _MOMENTS_OF_EACH_WEIGHT):
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for key, value in state["state"].get(number, {}).items():
                if key != "step" and isinstance(value, Tensor) and value.shape != parameter.shape:
                    name = names.get(id(parameter), f"parameter {number}")
                    problems.append(f"{key} of {name} is {tuple(value.shape)}, but must be {tuple(parameter.shape)}")
    if problems:
        more = f" (and {len(problems) - _LINES} more)" if len(problems) > _LINES else ""
        raise CheckpointError(
            f"resume_from_checkpoint: the optimizer's state in {folder} is of another model or other tasks: "
            f"{'; '.join(problems[:_LINES])}{more}; go on with those that it was trained with"
        )
