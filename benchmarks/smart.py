"""Time SMART: the seconds of a micro-batch's loss and gradients, against the passes that they need at least.

    python benchmarks/smart.py

The lower bound is the sum of: the plain loss and gradients; K times a forward pass and the gradient of the embeddings
only; one more forward and backward pass; and, for the proximal point, a forward pass without gradients. Each pass is
timed by itself. Writes benchmarks/results/smart.md and smart.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch
from datasets import Dataset
from measure import environment
from tables import Table, report
from transformers import AutoTokenizer
from workload import ROOT, Workload, find_encoder, make_pairs, quiet

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.sampling import Step
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.tokenization import has_token_types
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.smart import Smart

CASES = {
    "smart": (Smart(), None),
    "smart, 3 steps": (Smart(steps=3), None),
    "proximal": (None, Proximal()),
    "both": (Smart(), Proximal()),
}


def make_passes(model: MtBertForMultiTask, batch: dict) -> dict[str, Callable[[], None]]:
    """Return the passes of the bound, and the whole computation of each case, by name."""
    inputs = {key: batch[key] for key in ("input_ids", "token_type_ids", "layout") if key in batch}
    others = {key: value for key, value in inputs.items() if key != "input_ids"}
    trained, at_start = [*model.parameters()], SimpleNamespace(global_step=1, max_steps=100)
    trainer = SimpleNamespace(
        model=model,
        tasks=model.tasks,
        args=SimpleNamespace(device=torch.device("cpu"), torch_compile=False),
        accelerator=SimpleNamespace(mixed_precision="no"),
    )

    def plain() -> None:
        model(**inputs, labels=batch["labels"]).loss.backward()

    def forward_backward() -> None:
        model(**others, inputs_embeds=model.get_input_embeddings()(inputs["input_ids"])).logits.sum().backward()

    def input_gradient() -> None:
        embeds = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
        for parameter in trained:
            parameter.requires_grad_(False)
        torch.autograd.grad(model(**others, inputs_embeds=embeds).logits.sum(), embeds)
        for parameter in trained:
            parameter.requires_grad_(True)

    def forward() -> None:
        with torch.no_grad():
            model.eval()(**inputs)
        model.train()

    def regularised(*chosen: Smart | Proximal | None) -> Callable[[], None]:
        methods = [settings.build() for settings in chosen if settings is not None]
        for method in methods:
            method.attach(trainer)

        def run() -> None:
            for method in methods:
                method.before_forward(inputs)
            outputs = model(**inputs, labels=batch["labels"])
            for method in methods:
                method.change_rows(inputs, outputs)
            sum(rows.mean() for rows in outputs.row_losses.values()).backward()
            for method in methods:
                method.on_step_end(None, at_start, None, model=model)

        return run

    found = {"plain": plain, "forward and backward": forward_backward}
    found |= {"forward and input gradient": input_gradient, "forward": forward}
    return found | {name: regularised(*chosen) for name, chosen in CASES.items()}


def measure(passes: dict[str, Callable[[], None]], model: torch.nn.Module, rounds: int) -> dict[str, float]:
    """Return the median seconds of each pass; the passes take turns, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(rounds + 1):
        for name, run in passes.items():
            model.zero_grad()
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def bound(seconds: dict[str, float], smart: Smart | None, proximal: Proximal | None) -> float:
    """Return the seconds of the passes of a case."""
    total = seconds["plain"]
    if smart is not None:
        total += smart.steps * seconds["forward and input gradient"] + seconds["forward and backward"]
    return total + (seconds["forward"] if proximal is not None else 0.0)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", help="folder of the encoder; default: the quickstart's, or random weights")
    parser.add_argument("--batch", type=int, default=32, help="rows of a micro-batch")
    parser.add_argument("--rounds", type=int, default=10, help="times that every pass is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        encoder = find_encoder(args.encoder, f"{folder}/encoder")
        pairs = make_pairs(AutoTokenizer.from_pretrained(encoder), 3 * args.batch)
        work = Workload(encoder, pairs, args.batch, 1, folder)
        model = MtBertForMultiTask.from_encoder(encoder, [work.task]).train()
        rows = Dataset.from_dict({**work.encoded, "label": work.pairs["label"][:]})
    dataset = MultiTaskDataset(model.tasks, {"pairs": rows}, has_token_types(model.config.encoder))
    batch = dataset.__getitems__(Step(((0, torch.arange(args.batch).numpy()),)))
    seconds = measure(make_passes(model, batch), model, args.rounds)
    cases = [[name, seconds[name], bound(seconds, *case)] for name, case in CASES.items()]
    cases = [[*row, row[1] / row[2], row[1] / seconds["plain"]] for row in cases]
    tables = [
        Table("Passes", ["pass", "seconds"], [[name, value] for name, value in seconds.items() if name not in CASES]),
        Table("SMART", ["case", "seconds", "bound", "seconds / bound", "× plain"], cases),
    ]
    values = {"environment": environment(batch=args.batch, threads=args.threads), "seconds": seconds}
    report("smart", "What SMART costs", values, tables, args.results)


if __name__ == "__main__":
    main()
