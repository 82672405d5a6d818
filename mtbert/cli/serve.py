"""Serve all heads of a model over HTTP: one encoding of a text answers every task.

    mtbert serve runs/quickstart --port 8000
    curl http://127.0.0.1:8000/predict --json '{"inputs": ["What a day.", ["A cat.", "One cat."]]}'

`POST /predict` takes texts, and pairs as lists of two texts, and answers each with all tasks that fit, or with those of
a list "tasks". A page at `/` shows the answers of a text. `/openapi.json` describes the server; `/health`, `/ready` and
`/metrics` are for those who run it. docs/serving.md says what to put in front.

One process runs one model. To serve more requests, start more of them behind a load balancer. On SIGTERM the server
answers all requests that it has taken, and ends with status 0.
"""

from __future__ import annotations

import sys

import torch

from ..errors import InputError
from ..serving import served_model
from ..serving.app import Service
from ..serving.security import Keys, allowed_hosts, is_local
from ..serving.server import listen, serve
from . import arguments
from .main import run as run_command
from .predict import choose_tasks, load, load_tokenizer

MOST_WORKERS = 4  # the threads of one Python process take turns between the layers


def load_model(checkpoint: str, tasks: str, device: str | None, encoder: str | None) -> served_model.ServedModel:
    """Load a checkpoint, or a folder that `mtbert export` wrote.

    Args:
        checkpoint: a folder or hub name.
        tasks: names, separated by commas; `all`: every task.
        device: the device; None: a GPU if there is one.
        encoder: for a checkpoint of peft, the encoder that it was trained on.

    Raises:
        InputError: it cannot be loaded, or has no task of a name.
    """
    if served_model.exported(checkpoint):
        if device is not None or encoder is not None:
            raise InputError("--device and --encoder are for checkpoints; an exported graph runs on the processor")
        model = served_model.load_exported(checkpoint, torch.get_num_threads())
    else:
        module, tokenizer = load(checkpoint, encoder, device), load_tokenizer(checkpoint)
        if not tokenizer.is_fast:
            raise InputError(f"{checkpoint} has a slow tokenizer; save one with a fast version (tokenizer.json)")
        model = served_model.ServedModel(served_model.TorchModel(module, tokenizer), tokenizer.backend_tokenizer)
    model.choose(choose_tasks(tasks, model.model))
    model.warm_up()
    return model


def choose_workers(device: str | None) -> int:
    """Batches to run at a time: on a CPU, passes of one thread each do more than one pass of several threads."""
    on_gpu = not device.startswith("cpu") if device else torch.cuda.is_available()
    return 1 if on_gpu else min(torch.get_num_threads(), MOST_WORKERS)


def main(argv: list[str]) -> None:
    """Serve until SIGTERM or SIGINT."""
    args = arguments.PARSERS["serve"](argv)
    keys, hosts = Keys.read(args.api_key_file), allowed_hosts(args.host, args.allowed_hosts)
    bound = listen(args.host, args.port)
    workers = args.workers or choose_workers("cpu" if served_model.exported(args.checkpoint) else args.device)
    torch.set_num_threads(args.threads or max(1, torch.get_num_threads() // workers))
    model = load_model(args.checkpoint, args.tasks, args.device, args.encoder)
    if not keys and not is_local(args.host):
        print(f"anyone who reaches {args.host} may ask; --api_key_file asks for a key", file=sys.stderr)
    host, port = bound.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    names = ", ".join(task.name for task in model.tasks)
    serve(
        Service(model, args.limits, keys, workers),
        bound,
        hosts,
        lambda: print(f"serving {names} at {address}", flush=True),
    )


if __name__ == "__main__":
    sys.exit(run_command("serve"))
