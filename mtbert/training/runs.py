"""The folder of a run: nothing in it is overwritten unasked, and what made it stands beside the checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint


def choose_checkpoint(args: TrainingArguments) -> str | None:
    """The checkpoint that a run goes on from; None for a new one.

    `resume_from_checkpoint: true` (or `latest`) means the last one in the output folder, a path means that one.

    Raises:
        ValueError: if there is no such checkpoint, or the output folder of a new run has files in it.
    """
    folder, wanted = Path(args.output_dir), args.resume_from_checkpoint
    if wanted in (True, "true", "True", "latest"):
        found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        if found is None:
            raise ValueError(f"resume_from_checkpoint: there is no checkpoint in {folder}; drop the key to start anew")
        return found
    if wanted:
        if not os.path.isdir(wanted):
            raise ValueError(f"resume_from_checkpoint: there is no folder {wanted}")
        return str(wanted)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"output_dir {folder} has files in it, which would be overwritten; give another folder, remove this one, "
            "or go on with it: --training.resume_from_checkpoint true"
        )
    return None


def start_scores(state: TrainerState) -> dict[str, float]:
    """The scores before the first step, if `eval_on_start` took them."""
    first = next((each for each in state.log_history if "eval_overall" in each), {})
    return first if first.get("step") == 0 else {}


def save_run(folder: str, recipe: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """Write the resolved recipe (`recipe.json`) and the final scores (`scores.json`) beside a checkpoint."""
    for name, values in (("recipe", recipe), ("scores", scores)):
        text = json.dumps(values, indent=2, default=str)
        Path(folder, f"{name}.json").write_text(text + "\n", encoding="utf-8")
