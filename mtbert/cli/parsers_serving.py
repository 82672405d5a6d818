"""The parser of `mtbert serve`. Does not import torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields

from ..errors import InputError
from ..serving.limits import Limits
from .parsing import add_imports, at_least, make_parser

WHAT = {
    "max_body": "bytes of a request's body; more: status 413",
    "max_texts": "inputs of a request; more: 422",
    "max_tokens": "tokens of a request; more: 422",
    "max_queue_tokens": "tokens that wait for the model, in each class of length; more: 429",
    "max_connections": "open connections; more: 503",
    "timeout": "seconds that a request waits for its answer; longer: 503",
    "body_timeout": "seconds in which a body must have arrived; longer: 408",
    "gather_ms": "milliseconds that a request waits for others, to share a pass of the encoder",
    "batch_tokens": "tokens of one pass of the encoder; a GPU takes more, such as 8192",
}


def serve(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert serve`; `limits` are a `Limits`."""
    parser = make_parser("serve")
    add_imports(parser)
    what = "a folder that finetune or `mtbert export` wrote, or a hub name"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=what)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0: a free one (default: %(default)s)")
    parser.add_argument("--tasks", default="all", help="names of tasks, separated by commas (default: all)")
    parser.add_argument("--api_key_file", metavar="FILE", help="keys of clients, one a line (default: none is needed)")
    hosts = "names of the host to answer to (default: those of this machine if --host is, else any)"
    parser.add_argument("--allowed_hosts", nargs="+", metavar="NAME", help=hosts)
    parser.add_argument("--device", help="such as cuda or cpu (default: a GPU if there is one)")
    parser.add_argument("--encoder", help="for a checkpoint of peft: the encoder that it was trained on")
    workers = "batches that run at a time, of one copy of the weights (default: one a core, at most 4; on a GPU 1)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers)
    threads = "threads of each batch on a CPU (default: all cores, shared among the batches)"
    parser.add_argument("--threads", type=int, metavar="N", help=threads)
    group = parser.add_argument_group("limits")
    for field in fields(Limits):
        kind = float if field.type == "float" else int
        help_ = f"{WHAT[field.name]} (default: %(default)s)"
        group.add_argument(f"--{field.name}", type=kind, default=field.default, metavar="N", help=help_)
    args = parser.parse_args(argv)
    if not 0 <= args.port < 2**16:
        parser.error(f"--port is {args.port}, but must be 0 to {2**16 - 1}")
    at_least(parser, args, 1, *(name for name in ("workers", "threads") if getattr(args, name) is not None))
    try:
        args.limits = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})
    except InputError as error:
        parser.error(str(error))
    return args
