"""Load the recipe and the model of a run, and predict the rows of a split with it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from ..data.pools import sources_of
from ..data.sources import encode_tasks, split_of
from ..data.tokenize import EncodingReport
from ..errors import InputError
from ..evaluation.report import recording
from ..modeling.configuration_mtbert import MtBertConfig
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..recipe import Recipe, load_recipe
from ..training.arguments import MtBertTrainingArguments
from ..training.distributed.machine import share_cores
from ..training.peft import load_adapter
from ..training.trainer import MtBertTrainer

OF_EVALUATION = ("per_device_eval_batch_size", "use_cpu", "bf16", "fp16", "tf32", "cpu_threads", "seed")


def find_recipe(folder: Path, given: Path | None, changes: Sequence[str]) -> Recipe:
    """Load the recipe of a run or checkpoint: `given`, or the recipe.json in the folder or in its parent folder."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    candidates = [given] if given else [folder / "recipe.json", folder.resolve().parent / "recipe.json"]
    for path in candidates:
        if path.is_file():
            return load_recipe(path, ["--training.output_dir", str(folder), *changes])
    raise InputError(f"{folder} has no recipe.json, which a run leaves at its end; name its recipe with --recipe")


def load_model(folder: Path, recipe: Recipe) -> MtBertForMultiTask | PeftModel:
    """Load the model of a run; for a run with peft, the encoder is that of the recipe."""
    if recipe.peft is None:
        return MtBertForMultiTask.from_pretrained(folder)
    tasks = MtBertConfig.from_pretrained(folder).task_specs
    part = recipe.model
    model = MtBertForMultiTask.from_encoder(
        recipe.encoder, tasks, part.adapter, part.packed, attention_dropout=part.attention_dropout
    )
    return load_adapter(model, folder)


def predict_split(
    model: MtBertForMultiTask | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    raw: Mapping[str, Dataset],
    split: str,
    left_out: Sequence[str] = (),
) -> tuple[dict[str, Any], Any, Any, list[EncodingReport]]:
    """Predict rows of several tasks.

    Args:
        raw: task name → checked rows; `TaskSplits` if tasks of a source share theirs.
        split: name of the split, for messages.
        left_out: keys of the recipe's training arguments that are not used.

    Returns:
        Task name → encoded rows; `predictions` and `label_ids` by task, as `MtBertTrainer.predict` returns them; task
        name → the recorded weights of the head's attention, for heads that have one; and reports on cut texts.
    """
    settings = {key: recipe.training[key] for key in OF_EVALUATION if key in recipe.training and key not in left_out}
    with tempfile.TemporaryDirectory() as scratch:
        args = MtBertTrainingArguments(output_dir=scratch, report_to="none", **settings)
        share_cores(args)
        trainer = MtBertTrainer(model, args, processing_class=tokenizer)
        sources = {source: [name for name in names if name in raw] for source, names in sources_of(raw).items()}
        rows = {name: {split: of_task} for name, of_task in raw.items()}
        encoded_splits, reports = encode_tasks(model.tasks, rows, sources, tokenizer, model.config.encoder)
        encoded: Any = split_of(encoded_splits, split, sources)
        with recording(model.heads.items()) as recorded:
            predicted = trainer.predict(encoded)
    return encoded, predicted, recorded, reports
