"""mtbert as a contender of benchmarks/inference.py, in a process of its own; it speaks as `worker.py` does."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from worker import Predict, serve, versions

from mtbert import MtBertForMultiTask
from mtbert.export import ExportedModel


def predictor(kind: str, folder: str, threads: int) -> Predict:
    """Return a function that predicts texts for every task that takes one text.

    Args:
        kind: `torch`, `bf16`, or the engine of an exported folder.
        folder: the checkpoint or exported folder.
        threads: number of threads.
    """
    if kind in ("torch", "bf16"):
        model = MtBertForMultiTask.from_pretrained(folder).eval()

        def predict(texts: list[str]) -> object:
            with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
                return model.predict(texts, "all")

        return predict
    exported = ExportedModel(folder, threads)
    return lambda texts: exported.predict(texts, "all")


def main() -> None:
    """Load the model and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind")
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(args.threads)
    serve(predictor(args.kind, args.folder, args.threads), answers, versions())


if __name__ == "__main__":
    main()
