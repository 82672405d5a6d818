"""Speed of prediction: one encoder with the heads of 1, 3 and 10 tasks, against one model for each task.

The time includes tokenization. All heads of the shared encoder predict with one pass of it; without it, each task's
model encodes the texts anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from tables import Table
from transformers import AutoTokenizer, set_seed
from workload import random_encoder, read_pairs

from mtbert import MtBertForMultiTask, TaskSpec

from .setting import Setting

TASKS = (1, 3, 10)
ROUNDS = 5
BATCH_TOKENS = 32768


def run(setting: Setting) -> None:
    """Time both ways in turns, and write after each number of tasks."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # the default; no process is forked here
    encoder = random_encoder(f"{setting.folder}/encoder", setting.bert())
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    pairs, what = read_pairs(setting.args.data_dir, tokenizer, setting.args.texts)
    texts = {"text": pairs["text"][:], "text_pair": pairs["text_pair"][:]}
    specs = [TaskSpec(f"task{number}", labels=3, texts=2, pooling="mean") for number in range(max(TASKS))]

    def predictor(count: int) -> Callable[[], Any]:
        set_seed(0)
        model = MtBertForMultiTask.from_encoder(encoder, specs[:count]).to(setting.device).eval()
        return lambda: model.predict(texts, tasks="all", tokenizer=tokenizer, batch_tokens=BATCH_TOKENS)

    single, values, rows = predictor(1), {"data": what}, []
    for count in TASKS:
        shared = predictor(count)
        rounds = 2 if setting.rehearsal else ROUNDS
        both = [(seconds(setting, shared), count * seconds(setting, single)) for _ in range(rounds + 1)][1:]
        own, theirs = (len(pairs) / median(each) for each in zip(*both, strict=True))
        ratio = median([many / one for one, many in both])
        values[f"{count} tasks"] = {
            "texts/s": own,
            "texts/s, one model a task": theirs,
            "ratio": ratio,
            "seconds": both,
        }
        rows.append([f"{count}", own, theirs, ratio])
        table = Table(
            f"Prediction of {len(pairs):,} pairs of texts, {setting.precision}",
            ["tasks", "texts/s", "with one model for each task", "mtbert is × as fast"],
            rows,
            "Texts of which all tasks are predicted. One model for each task: the time of one, times their number.",
        )
        setting.put(values, [table], stopped="" if count == TASKS[-1] else f"{count} tasks were the last")


def seconds(setting: Setting, predict: Callable[[], Any]) -> float:
    """Return the wall time of a prediction, whose results are on the CPU."""
    start = time.perf_counter()
    with torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bf16"):
        predict()
    return time.perf_counter() - start
