"""Runs and commands that are repeated with a failure at every file operation, and folders with damaged bytes.

Each function of `CAMPAIGNS` is run in a process that has taken no gradient (autograd would not work in its copies).
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from failing_files import KILLED, WAYS, Failure, in_child, install

import mtbert
from mtbert.evaluation.metrics import score_task
from mtbert.training.checkpoints import interruption
from mtbert.training.checkpoints.sealing import damage

TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.part")
STAGES = [{"training": {"learning_rate": 0.01}}, {"schedule": {"name": "uniform"}}]
SCORED = {"eval_strategy": "steps", "eval_steps": 1}
RUNS: dict[str, dict[str, Any]] = {
    "one stage": {},
    "two stages": {"stages": STAGES},
    "best": {
        "training": {**SCORED, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "max_steps": 3}
    },
    "averaging": {"averaging": {"type": "ema", "decay": 0.5}},
}
RESULT = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
FLIPS, CUTS = 20, 5  # of each file
COMMANDS = ("average", "ensemble", "predict csv", "predict jsonl", "predict parquet", "predict cs224n")


def load_script(name: str, folder: str = "cli"):
    """A command, or what it runs, as a module of its own, whose functions can be replaced."""
    file = Path(mtbert.__file__).with_name(folder) / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"mtbert.{folder}.failing_{name}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data classes look themselves up there
    spec.loader.exec_module(module)
    return module


class Campaign:
    """What is repeated, and counts of what came of it.

    Args:
        work: a folder for everything.
        encoder: folder of a tiny encoder.
        data: folder of the files `stars-train.jsonl`, `stars-dev.jsonl`.
        share: of all operations at which something fails: every one (1), or one in so many.
    """

    def __init__(self, work: Path, encoder: str, data: Path, share: int = 1):
        self.work, self.encoder, self.data, self.share = work, encoder, data, share
        self.counts, self.faults, self.named = Counter(), [], Counter()
        work.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)

    def injections(self, operations: list[str], offset: int = 0) -> Iterator[tuple[int, str]]:
        """Numbers of operations and ways to fail; of a share of them, the ways take turns."""
        self.counts["operations"] += len(operations)
        for number in range(1 + offset % self.share, len(operations) + 1, self.share):
            ways = WAYS if self.share == 1 else [WAYS[(number // self.share) % len(WAYS)]]
            if number % 20 == 1:
                print(f"{number} of {len(operations)} operations, {len(self.faults)} faults", flush=True)
            yield from ((number, way) for way in ways)

    def fault(self, where: str, what: str, report: dict[str, Any]) -> None:
        self.faults.append(f"{where}: {what}; {report.get('error', '')[:300]}\n{report.get('trace', '')[-1500:]}")


def recipe_tree(campaign: Campaign, output: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe of one task and two steps, with a checkpoint after each."""
    training = {
        "output_dir": str(output),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 1,
        "logging_steps": 1,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "cpu_threads": 1,
        "use_cpu": True,
        "resume_from_checkpoint": "auto",
        **changes.get("training", {}),
    }
    files = {"train": "stars-train.jsonl", "dev": "stars-dev.jsonl"}
    return {
        "encoder": campaign.encoder,
        "data_dir": str(campaign.data),
        "tasks": {"stars": {"labels": 3, "data": {"text": ["text"], **files}}},
        "schedule": {"name": "annealed", "steps_per_epoch": 3},
        **changes,
        "training": training,
    }


def prepared_run(campaign: Campaign, output: Path, changes: dict[str, Any]) -> Callable[[], Any]:
    """A function that trains a recipe whose data are read and encoded beforehand."""
    finetune = load_script("finetuning", "runs")
    path = campaign.work / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_tree(campaign, output, changes)))
    recipe = finetune.Recipe.from_cli([str(path)])
    raw, tokenizer = finetune.load_data(recipe), finetune.load_tokenizer(recipe)
    encode, encoded = finetune.encode_tasks, []

    def once(*args):
        if not encoded:
            encoded.append(encode(*args))
        return encoded[0]

    finetune.load_data, finetune.load_tokenizer, finetune.encode_tasks = lambda _: raw, lambda _: tokenizer, once
    model = finetune.MtBertForMultiTask.from_encoder(campaign.encoder, [recipe.tasks["stars"].spec("stars")])
    specs, splits = [recipe.tasks["stars"].spec("stars")], {"stars": raw["stars"].splits}
    once(specs, splits, recipe.drawn_sources, tokenizer, model.config.encoder)
    finetune.check_model = lambda *_: None
    finetune.MtBertForMultiTask.from_encoder = lambda *_, **__: copy.deepcopy(model)
    score_task(recipe.tasks["stars"].spec("stars"), np.eye(3), np.arange(3))  # loads the metrics
    return lambda: finetune.train(recipe)


@contextmanager
def noted_seals(log: Path) -> Iterator[None]:
    """Within, each checkpoint that is sealed is written down in a file that no failure meets."""
    seal = interruption.seal

    def noted(folder):
        seal(folder)
        with open(log, "a") as file:
            file.write(f"{folder}\n")

    interruption.seal = noted
    yield
    interruption.seal = seal


def weights(output: Path) -> bytes | None:
    """The final weights' file."""
    path = output / "model.safetensors"
    return path.read_bytes() if path.is_file() else None


def leftovers(folder: Path) -> list[str]:
    """Temporary names that are left below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if TEMPORARY.fullmatch(path.name)]


def refuses_removal(operation: str) -> bool:
    """Whether an operation that fails is the removal of a temporary name, which then stays."""
    kind, _, path = operation.partition(" ")
    return kind in ("unlink", "rmdir") and any(TEMPORARY.fullmatch(part) for part in Path(path).parts)


def fail_runs(campaign: Campaign, case: str) -> None:
    """A run with a failure at every operation, resumed."""
    output = campaign.work / "disk" / "run"
    run = prepared_run(campaign, output, RUNS[case])
    sealed = campaign.work / "sealed.txt"
    output.parent.mkdir(exist_ok=True)
    with noted_seals(sealed):
        whole = in_child(run, Failure(output.parent))
        assert whole["status"] == 0, whole
        wanted = weights(output)
        for number, way in campaign.injections(whole["operations"]):
            where = f"{case}, {way} at {number} ({whole['operations'][number - 1]})"
            shutil.rmtree(output)
            sealed.write_text("")
            failed = in_child(run, Failure(output.parent, number, way))
            campaign.counts["injections"] += 1
            if way == "kill" and failed["status"] != KILLED:
                campaign.fault(where, "it was not killed", failed)
            removable = way != "kill" and not refuses_removal(whole["operations"][number - 1])
            if removable and leftovers(output.parent):
                campaign.fault(where, f"it left {leftovers(output.parent)}", failed)
            if failed["status"] == 0:
                campaign.counts["went on"] += 1
            if failed["status"] == 1:
                campaign.named[failed["error"].split(":")[0]] += 1
                if not re.match(r"(CheckpointError|File\w*Error|OSError)", failed["error"]):
                    campaign.fault(where, "its error is none of ours", failed)
            lines = sealed.read_text().split()
            last = Path(lines[-1]) if lines else None
            if last is not None and damage(last):
                campaign.fault(where, f"{last} was sealed and is damaged: {damage(last)}", failed)
            again = in_child(run) if failed["status"] else failed
            if again["status"]:
                campaign.fault(where, "it does not go on", again)
            elif weights(output) != wanted:
                campaign.fault(where, "it goes on to other weights", again | {"error": str(again["warnings"])})
            else:
                campaign.counts["survived"] += 1
            if (output / "running.json").exists():
                campaign.fault(where, "the lock is left", again)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prepared_command(campaign: Campaign, case: str, target: Path) -> Callable[[], Any]:
    """A function that runs a command on two small checkpoints, with its output in `target`."""
    inputs = campaign.work / "inputs"
    for seed in (1, 2):
        folder = inputs / f"run-{seed}"
        if not folder.exists():
            training = {"seed": 1, "data_seed": seed, "save_strategy": "no", "resume_from_checkpoint": None}
            run = prepared_run(campaign, folder, {"training": training})
            assert in_child(run)["status"] == 0
    rows = inputs / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": "the cat", "key": f"r{i}"}) + "\n" for i in range(6)))
    members = [str(inputs / "run-1"), str(inputs / "run-2")]
    kind, _, form = case.partition(" ")
    script = load_script(kind)
    if kind == "average":
        return lambda: script.main([*members, "--out", str(target / "mean")])
    if kind == "ensemble":
        given = ["--output", str(target / "joint"), "--predict", "dev", "--device", "cpu", "--overwrite"]
        return lambda: script.main([*members, *given])
    given = [members[0], str(rows), "--format", form, "--id", "key", "--chunk_size", "2", "--device", "cpu"]
    return lambda: script.main([*given, "--output", str(target / f"out.{form}"), "--overwrite"])


def fail_command(campaign: Campaign, case: str, over: bool) -> None:
    """A command with a failure at every operation: its output is there whole, or as it was before.

    Args:
        over: whether the output of an earlier call is there.
    """
    target = campaign.work / "disk"
    target.mkdir(exist_ok=True)
    command = prepared_command(campaign, case, target)
    inputs = contents(campaign.work / "inputs")
    before = {}
    if over and case != "average":  # which replaces nothing
        assert in_child(command)["status"] == 0
        before = dict.fromkeys(contents(target), b"an old one")

    def reset() -> None:
        shutil.rmtree(target)
        target.mkdir()
        for name, content in before.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)

    reset()
    whole = in_child(command, Failure(target))
    assert whole["status"] == 0, whole
    wanted = contents(target)
    for number, way in campaign.injections(whole["operations"]):
        where = f"{case}{' over' if over else ''}, {way} at {number} ({whole['operations'][number - 1]})"
        reset()
        failed = in_child(command, Failure(target, number, way))
        campaign.counts["injections"] += 1
        if failed["status"] == 1:
            campaign.named[failed["error"].split(":")[0]] += 1
        left = leftovers(target)
        if left and way != "kill" and not refuses_removal(whole["operations"][number - 1]):
            campaign.fault(where, f"it left {left}", failed)
        there = {name: each for name, each in contents(target).items() if not TEMPORARY.search(name)}
        if half := [name for name, each in there.items() if each not in (wanted.get(name), before.get(name))]:
            campaign.fault(where, f"{half} are neither whole nor as they were", failed)
        if lost := [name for name in before if name not in there]:
            campaign.fault(where, f"{lost} are lost", failed)
        if failed["status"] == 0 and there != wanted:
            campaign.fault(where, "it ended well, but its output is not there", failed)
        if contents(campaign.work / "inputs") != inputs:
            campaign.fault(where, "an input has changed", failed)
        campaign.counts["survived"] += 1


def damages(path: Path, random: np.random.Generator, flips: int, cuts: int) -> Iterator[tuple[str, bytes]]:
    """What a file becomes with a bit flipped at a random place, and where it is cut."""
    content = path.read_bytes()
    for place in random.integers(0, len(content), flips) if content else ():
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        yield f"flipped at {place} of {len(content)}", bytes(changed)
    for place in random.integers(0, len(content), cuts) if content else ():
        yield f"cut at {place} of {len(content)}", content[:place]


def damage_files(
    campaign: Campaign, case: str, ended: bool, flips: int = FLIPS, cuts: int = CUTS, seed: int = 0
) -> None:
    """A run's folder with one file damaged, from which the run is started again.

    Args:
        ended: whether the run had ended; else it had been killed in its last save.
    """
    output, copy = campaign.work / "disk" / "run", campaign.work / "copy"
    changes = RUNS[case]
    changes = {**changes, "training": {**changes.get("training", {}), "save_total_limit": 2}}
    run = prepared_run(campaign, output, changes)
    output.parent.mkdir(exist_ok=True)
    assert in_child(run)["status"] == 0
    wanted = contents(output)
    if not ended:
        for path in output.iterdir():
            if path.is_file():
                path.unlink()
        shutil.rmtree(max(output.rglob("checkpoint-*"), key=lambda path: (path.parent.name, path.name)))
    shutil.copytree(output, copy)
    random = np.random.default_rng(0)
    flips, cuts = (FLIPS, CUTS) if campaign.share == 1 else (1, 1)
    files = sorted(path.relative_to(copy) for path in copy.rglob("*") if path.is_file())
    for number, name in enumerate(files):
        if number % campaign.share:
            continue
        campaign.counts["files"] += 1
        print(f"file {number} of {len(files)}: {name}, {len(campaign.faults)} faults", flush=True)
        for how, content in damages(copy / name, random, flips, cuts):
            where = f"{case}{', ended' if ended else ''}: {name} {how}"
            shutil.rmtree(output)
            shutil.copytree(copy, output)
            (output / name).write_bytes(content)
            again = in_child(run)
            campaign.counts["damages"] += 1
            told = " ".join([again["error"], *again["warnings"]])
            named = name.name in told or str(name.parent) in told and str(name.parent) != "."
            campaign.counts["named"] += named
            if again["status"] == 1 and not named:
                campaign.fault(where, "the error names no file", again)
            elif again["status"] not in (0, 1):
                campaign.fault(where, "it crashed", again)
            elif again["status"] == 0 and not named:
                now = {each: contents(output).get(each) for each in RESULT}
                changed = [each for each in RESULT if now[each] != wanted[each]]
                if changed:
                    campaign.fault(where, f"it is not named, and {changed} differ", again)
                else:
                    campaign.counts["without effect"] += 1


def run_campaigns(work: Path, encoder: str, data: Path, jobs: list[tuple], report: Path) -> None:
    """Run jobs in this process's copies; write their counts and faults to a file.

    Args:
        jobs: of each a function's name, its arguments, and of how many operations or files one is tried.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    handle = os.open(report.with_suffix(".log"), os.O_CREAT | os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    install()
    results = []
    for number, (name, *arguments, share) in enumerate(jobs):
        start = time.time()
        campaign = Campaign(work / str(number), encoder, data, share)
        globals()[name](campaign, *arguments)
        counts = {**campaign.counts, "seconds": round(time.time() - start, 1)}
        job = " ".join(map(str, (name, *arguments)))
        results.append({"job": job, "counts": counts, "errors": campaign.named, "faults": campaign.faults})
        report.write_text(json.dumps(results, indent=1))
