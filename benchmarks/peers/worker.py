"""A peer of benchmarks/inference.py in a process, and an environment, of its own. Imports nothing of mtbert.

It reads one JSON object a line from standard input: `{"texts": [...], "batch": 32}`, and answers with the seconds that
it took to predict the texts in batches of this size, once it has printed `{"ready": ...}` with its versions.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "sentence-transformers",
    "transformers",
    "torch",
    "onnxruntime",
    "openvino",
    "optimum-onnx",
    "optimum-intel",
)
Predict = Callable[[list[str]], Any]


def pipeline(args: argparse.Namespace) -> Predict:
    """Return transformers' pipeline with a classification head on the encoder."""
    from transformers import pipeline as make

    pipe = make("text-classification", model=args.encoder, tokenizer=args.encoder, device="cpu")
    return lambda texts: pipe(texts, batch_size=len(texts), truncation=True)


def sentence_transformer(args: argparse.Namespace) -> Predict:
    """Return sentence-transformers' `encode` with one of its backends."""
    from sentence_transformers import SentenceTransformer

    if args.peer == "st-torch":
        model = SentenceTransformer(args.encoder, device="cpu")
    elif args.peer.startswith("st-onnx"):
        model = _onnx(args, SentenceTransformer)
    else:
        model = _openvino(args, SentenceTransformer)
    return lambda texts: model.encode(texts, batch_size=len(texts), show_progress_bar=False)


def _onnx(args: argparse.Namespace, model_class: Any) -> Any:
    import onnxruntime
    from sentence_transformers import export_dynamic_quantized_onnx_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    settings: dict[str, Any] = {"provider": "CPUExecutionProvider", "session_options": options}
    plain = Path(args.work, "plain")
    if not plain.is_dir():
        model_class(args.encoder, backend="onnx", model_kwargs=settings).save_pretrained(str(plain))
    if args.peer == "st-onnx":
        return model_class(str(plain), backend="onnx", model_kwargs={**settings, "file_name": "onnx/model.onnx"})
    if not list(plain.glob("onnx/model_q*")):
        model = model_class(str(plain), backend="onnx", model_kwargs={**settings, "file_name": "onnx/model.onnx"})
        export_dynamic_quantized_onnx_model(model, args.instructions, str(plain))
    name = f"onnx/{next(iter(plain.glob('onnx/model_q*'))).name}"
    return model_class(str(plain), backend="onnx", model_kwargs={**settings, "file_name": name})


def _openvino(args: argparse.Namespace, model_class: Any) -> Any:
    from optimum.intel import OVQuantizationConfig
    from sentence_transformers import export_static_quantized_openvino_model

    settings = {"device": "CPU", "ov_config": {"INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY"}}
    plain = Path(args.work, "plain")
    if not list(plain.glob("openvino/*q*.xml")):
        model = model_class(args.encoder, backend="openvino", model_kwargs=settings)
        model.save_pretrained(str(plain))
        rows = Path(args.work, "rows")
        rows.mkdir(exist_ok=True)
        lines = [json.dumps({"text": text}) for text in json.loads(Path(args.texts).read_text(encoding="utf-8"))]
        (rows / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
        config = OVQuantizationConfig(num_samples=min(len(lines), 64))  # of 384 tokens each, which takes long
        where = {"dataset_name": str(rows), "dataset_config_name": "default"}
        where |= {"dataset_split": "train", "column_name": "text"}
        export_static_quantized_openvino_model(model, config, str(plain), **where)
    name = f"openvino/{next(iter(plain.glob('openvino/*q*.xml'))).name}"
    return model_class(str(plain), backend="openvino", model_kwargs={**settings, "file_name": name})


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def serve(predict: Predict, answers: Any, prepared: dict[str, Any]) -> None:
    """Say that the contender is ready, then time what standard input asks for."""
    print(json.dumps({"ready": prepared}), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        texts, size = question["texts"], question["batch"]
        start = time.perf_counter()
        for first in range(0, len(texts), size):
            predict(texts[first : first + size])
        print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)


def main() -> None:
    """Prepare the peer and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=("pipeline", "st-torch", "st-onnx", "st-onnx-int8", "st-openvino-int8"))
    parser.add_argument("--encoder", required=True, help="folder of the encoder and its tokenizer")
    parser.add_argument("--work", required=True, help="folder for what the peer exports")
    parser.add_argument("--texts", required=True, help="JSON list of texts to calibrate on")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--instructions", default="avx2", help="as optimum names them")
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")  # what libraries print goes to standard error
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(args.threads)
    Path(args.work).mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        predict = pipeline(args) if args.peer == "pipeline" else sentence_transformer(args)
        serve(predict, answers, versions())


if __name__ == "__main__":
    main()
