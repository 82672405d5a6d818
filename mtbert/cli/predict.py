"""Predict raw rows with a checkpoint, for all its tasks or some; memory does not grow with the number of rows.

    mtbert predict runs/tickets new.csv --output answers.csv.gz --keep_columns
    mtbert predict runs/tickets --split test --output answers.parquet
    mtbert predict runs/quickstart reviews.csv --tasks sentiment --text review --output out.csv
    mtbert predict runs/E6 quora-test.csv --tasks para --format cs224n --output para-test-output.csv
    echo "What a day." | mtbert predict runs/quickstart --tasks sentiment --format jsonl --output -

FILE is csv, tsv, json (lines), jsonl or parquet, compressed (.gz, .bz2, .xz, .zst, .zip) or not, a pattern such as
'new-*.csv', or a folder of datasets' save_to_disk, and is read as in training. Standard input is json lines, or one
text per line. Rows keep their order and none is left out; an empty text gets a prediction, too. Blank lines are
skipped, except where each line is a text. The output has the id (or the row's number, from 1), the prediction of each
task, and the probability of each label in a column task:label. Its name says its format and compression: out.csv.gz.

Where the run's recipe.json is beside the checkpoint, it says which columns hold the texts and the ids, and how csv
files are written; the options below come first. Tasks whose columns FILE lacks are left out, with a note, unless
--tasks names them. With `--split test` the rows are those of the recipe's split, in place of FILE.

With `--num_processes N`, or under `accelerate launch`, N processes share the chunks of the input; the file is that of
one process. On CPUs, the last digits of probabilities and scores may differ where one process has another number of
threads than each of the N.

`--format cs224n` writes the CS224N default project's submission files; with several tasks, --output is then a folder.
The label column that the run's recipe.json names for a task chooses its file: sentiment, is_duplicate or similarity. If
there is no recipe.json or the column has another name, the task's name chooses: sst, cfimdb, para or sts. Otherwise the
problem type does: single_label_classification and ordinal_classification write sentiment, binary_classification
paraphrase, regression similarity. The file of each task is printed.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import distributed
from transformers import PreTrainedTokenizerBase

from ..data.streaming import STDIN, RowSource, StandardInput, TableSource
from ..errors import InputError
from ..evaluation.course_files import saved_label_columns
from ..evaluation.prediction_files import KeptColumns, PredictionFile
from ..export import ExportedModel, is_export
from ..files import refuse_same_file
from ..modeling import encoder_loading
from ..modeling.configuration_mtbert import MtBertConfig
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.task_spec import TaskSpec
from ..runs.predicted_splits import plan_split
from ..runs.prediction_plan import Flags, PredictionPlan, plan_prediction
from ..runs.saved_recipe import saved_data
from ..runs.text_scorer import Chunk, SharedScorer, TextScorer
from ..training.progress.phases import phase
from . import arguments
from .main import run as run_command
from .processes import is_launched


def load(checkpoint: str, encoder: str | None, device: str | None) -> MtBertForMultiTask:
    """Load the model of a checkpoint.

    Args:
        checkpoint: a folder or hub name.
        encoder: for a checkpoint of peft, the encoder that it was trained on.
        device: the device; None: a GPU if there is one.

    Raises:
        ValueError: the checkpoint is not mtbert's, or is a checkpoint of peft and `encoder` is None.
    """
    try:
        config = encoder_loading.load_config(checkpoint)
    except Exception as error:  # errors of a hub, of JSON or of the config have no common type
        what = "has no config that can be read" if Path(checkpoint).is_dir() else "is no folder, and no hub gives it"
        raise InputError(f"{checkpoint} {what}: {error}") from error
    if not isinstance(config, MtBertConfig):
        raise InputError(f"{checkpoint} is a checkpoint of {config.model_type}, not of mtbert")
    if Path(checkpoint, "adapter_config.json").is_file():
        from ..training.peft import load_adapter  # imports datasets and accelerate, which takes long

        if encoder is None:
            raise InputError(f"{checkpoint} holds what peft has added only; name the encoder with --encoder")
        base = MtBertForMultiTask.from_encoder(encoder, config.task_specs, config.adapter, config.packed)
        model: Any = load_adapter(base, checkpoint)
    else:
        model = MtBertForMultiTask.from_pretrained(checkpoint)
    try:
        return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:  # PyTorch does not know or have the device
        raise InputError(f"--device is {device!r}, which can not be used: {error}") from error


def load_tokenizer(checkpoint: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint; raise ValueError if that fails."""
    try:
        return encoder_loading.load_tokenizer(checkpoint)
    except Exception as error:  # tokenizers raises plain Exceptions
        what = "has no tokenizer that can be loaded; save it there"
        raise InputError(f"{checkpoint} {what}: {str(error) or type(error).__name__}") from error


def choose_tasks(names: str, model: MtBertForMultiTask | ExportedModel) -> list[str]:
    """Return the task names of `--tasks`.

    Raises:
        ValueError: the checkpoint has no task of a name, or a name is listed twice.
    """
    all_names = [task.name for task in model.tasks]
    chosen = all_names if names == "all" else names.split(",")
    unknown = [name for name in chosen if name not in all_names]
    if unknown:
        raise InputError(f"--tasks has {unknown}, but the checkpoint's tasks are: {', '.join(all_names)}")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"--tasks names a task twice: {names}")
    return chosen


def join_processes(args: Namespace) -> None:
    """Join the processes of a launcher: choose this one's device, and its share of the cores.

    Raises:
        InputError: several processes would read standard input.
    """
    from accelerate import PartialState

    from ..training.distributed.machine import cores_of_process

    if args.file == STDIN and args.split is None:
        raise InputError("standard input can be read by one process, but a launcher started several; give a file")
    state = PartialState(cpu=args.device == "cpu")
    args.device = args.device or str(state.device)
    if state.device.type == "cpu":
        torch.set_num_threads(cores_of_process())


def main(argv: list[str]) -> None:
    """Predict all rows, and print their number on standard error."""
    args = arguments.predict(argv)
    shared = is_launched() and int(os.environ.get("WORLD_SIZE", 1)) > 1
    if shared:
        join_processes(args)
    exported = is_export(args.checkpoint)
    if exported and (args.device not in (None, "cpu") or args.encoder):
        raise InputError(f"{args.checkpoint} is an exported model, which runs on the CPU; drop --device and --encoder")
    model: Any
    if exported:
        model = ExportedModel(args.checkpoint, torch.get_num_threads() if shared else None)
    else:
        model = load(args.checkpoint, args.encoder, args.device)
    chosen = choose_tasks(args.tasks, model)
    tokenizer = None if exported else load_tokenizer(args.checkpoint)
    tasks = [model.tasks[model.task_id(name)] for name in chosen]
    stdin = StandardInput() if args.file == STDIN and args.split is None else None
    plan = make_plan(args, tasks, stdin)
    source = replace(plan.source, words=any(task.kind.units.dims > 1 for task in model.tasks))
    scorer = TextScorer(model, tokenizer, list(plan.columns), args.batch_size, plan.columns)
    kept = KeptColumns.of(columns_of(source, stdin), scorer.tasks, source.id) if args.keep_columns else None
    label_columns = saved_label_columns(args.checkpoint) if args.format == "cs224n" else {}
    target = PredictionFile(
        args.output, scorer.tasks, args.format, source.id, args.overwrite, label_columns, kept, args.defuse_formulas
    )
    for path in target.paths:
        refuse_same_file([*source.files(), *Path(args.checkpoint).glob("*")], path)
    if not shared or distributed.get_rank() == 0:
        for note in [*plan.notes, *renamed(kept)]:
            print(f"note: {note}", file=sys.stderr)
    chunks = source.chunks(stdin)
    if not shared:
        notes = write(target, scorer.chunks(chunks))
        report(target, scorer.cut, notes)
        return
    distributed.barrier()  # no process may look for the output's name once another has written it
    sharing = SharedScorer(scorer)
    scored = sharing.chunks(chunks)
    if sharing.process == 0:
        notes = write(target, scored)
        report(target, sharing.cut(), notes)
    else:
        for _ in scored:  # yields nothing, but computes this process's chunks
            pass
        sharing.cut()
    distributed.destroy_process_group()


def make_plan(args: Namespace, tasks: Sequence[TaskSpec], stdin: StandardInput | None) -> PredictionPlan:
    """Choose the rows and the columns: those of the flags, else those of the recipe beside the checkpoint.

    Raises:
        ValueError: there is no recipe with the split that `--split` names; or as `plan_prediction` and `plan_split` do.
    """
    every_task, size, keep = args.tasks == "all", args.chunk_size, args.keep_columns
    saved = None if args.no_recipe else saved_data(args.checkpoint)
    if args.split is not None:
        if saved is None:
            raise InputError(f"--split needs the recipe.json of a run beside {args.checkpoint}; give a file instead")
        return plan_split(tasks, saved, args.split, args.id, every_task, size, keep, args.data_dir)
    flags = Flags(args.text, args.text_pair, args.id, args.input_format, args.separator, args.quoting)
    return plan_prediction(args.file, tasks, saved.data if saved else {}, flags, every_task, size, keep, stdin)


def columns_of(source: RowSource | TableSource, stdin: StandardInput | None) -> pa.Schema:
    """Return the names and types of the columns of the rows."""
    schema = source.schema()
    if schema is None and stdin is not None:
        names = stdin.columns(source.kind()) if isinstance(source, RowSource) else ()
        return pa.schema([(name, pa.string()) for name in names])
    return schema


def renamed(kept: KeptColumns | None) -> list[str]:
    """Return a sentence if kept columns have other names in the output."""
    changed = kept.renamed if kept is not None else {}
    pairs = ", ".join(f"{column!r} is {name!r}" for column, name in changed.items())
    return [f"columns of the input that have names of answers: {pairs}"] if changed else []


def write(target: PredictionFile, scored: Iterable[tuple[Chunk, dict[str, np.ndarray]]]) -> list[str]:
    """Write all chunks; return notes on their rows."""
    empty = 0
    with target as output, phase("predicting the rows"):
        for chunk, logits in scored:
            output.write(chunk, logits)
            empty += sum(not text for texts in chunk["texts"].values() for text in texts)
    return [f"{empty:,} texts were empty"] if empty else []


def report(target: PredictionFile, cut: Mapping[str, int], notes: list[str]) -> None:
    """Print the number of rows, of truncated ones by task, and further notes on standard error."""
    for line in cut_warnings(target.tasks, cut, target.rows):
        print(line, file=sys.stderr)
    cuts = [f"{count:,} cut for task {name}" for name, count in cut.items() if count]
    headings = [f"{file.task.name}: {file.heading}" for file in target.course_files]
    print("; ".join([f"{target.rows:,} rows", *cuts, *notes, *headings]), file=sys.stderr)


def cut_warnings(tasks: Sequence[TaskSpec], cut: Mapping[str, int], rows: int) -> list[str]:
    """Return a warning for each number of rows whose texts were cut, with the tasks that it is true of."""
    tasks_by_cut: dict[tuple[int, int | None], list[str]] = {}
    for task in tasks:
        if cut.get(task.name):
            tasks_by_cut.setdefault((cut[task.name], task.max_length), []).append(task.name)
    lines = []
    for (count, length), names in tasks_by_cut.items():
        limit = f"max_length, {length:,} tokens" if length else "the longest input that the encoder takes"
        share = f"{count:,} of {rows:,} rows were cut at {limit}"
        lines.append(f"warning: {share} (task{'s' if len(names) > 1 else ''} {', '.join(names)})")
    return lines


if __name__ == "__main__":
    sys.exit(run_command("predict"))
