"""Train, predict and report in a process that no socket leads out of; prints every address that was asked for.

python tests/recipes/offline.py RECIPE ENCODER RUN_DIR
"""

from __future__ import annotations

import importlib
import json
import socket
import sys
from pathlib import Path

from mtbert.modeling.encoder_loading import load_encoder, load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
asked: list[str] = []


def refuse(*args, **kwargs):
    asked.append(repr(args[-1:] if isinstance(args[0], socket.socket) else args[:2]))
    raise OSError("this process has no network")


def script(name: str):
    return importlib.import_module(f"mtbert.cli.{name}")


def main(recipe: str, encoder: str, run: str) -> None:
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, refuse)
    socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
    settings = ["--training.output_dir", run, "--training.max_steps", "2", "--training.cpu_threads", "1"]
    settings += ["--training.eval_strategy", "no", "--training.eval_on_start", "false"]
    script("finetune").main([recipe, "--encoder", encoder, *settings])
    rows = str(ROOT / "recipes" / "sample_data" / "sentiment-dev.csv")
    script("predict").main([run, rows, "--tasks", "sentiment", "--output", str(Path(run, "out.csv"))])
    script("evaluate").main([run])
    for load in (load_tokenizer, load_encoder):
        try:
            load("someone/not-here")  # a name on the hub
        except OSError as error:
            print(f"refused: {error}".splitlines()[0])
    print(json.dumps(asked))


if __name__ == "__main__":
    main(*sys.argv[1:])
