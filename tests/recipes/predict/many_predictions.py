"""Run several commands of `mtbert predict` in one process of several, so that each need not start processes anew.

    RANK=0 WORLD_SIZE=2 … python many_predictions.py COMMANDS.json

COMMANDS.json is a list of lists of arguments. One process that is told to be one of LOCAL_WORLD_SIZE has their threads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import distributed

from mtbert.cli import predict
from mtbert.training.distributed.machine import cores_of_process


def main() -> None:
    """Predict; the processes leave each other after the last command alone."""
    torch.set_num_threads(cores_of_process())
    leave, distributed.destroy_process_group = distributed.destroy_process_group, lambda: None
    for words in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        predict.main(words)
    if distributed.is_initialized():
        leave()


if __name__ == "__main__":
    main()
