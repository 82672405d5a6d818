"""Every public name and key of mtbert, found by asking the package. This stores them:

    PYTHONPATH=tests/support python tests/compat/public_names.py

Names of tasks stand as NAME, numbers of steps as N. What transformers' own training arguments add is left out.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from tiny import make_tokenizer
from transformers import AutoModel, BertConfig, PreTrainedConfig, TrainingArguments

import mtbert
from mtbert.cli.arguments import COMMANDS, PARSERS
from mtbert.recipe import Recipe, help_text
from mtbert.training.methods import sections

STORED = Path(__file__).with_suffix(".json")
TASKS = ("one", "two")
RUNS = {
    "every task in a step": {
        "schedule": {"name": "simultaneous", "steps_per_epoch": 2},
        **{"surgery": {}, "rdrop": {}, "smart": {}, "proximal": {}, "simcse": {}, "averaging": {}},
        "model": {"adapter": {"type": "low_rank", "size": 4}},
    },
    "a task a step": {
        "schedule": {"name": "round_robin", "steps_per_epoch": 2},
        "optimizer": {"per_task": "separate"},
    },
}


def collect() -> dict[str, list[str]]:
    """Kind of name → the names, sorted."""
    found = {"names of mtbert": list(mtbert.__all__), "commands": list(COMMANDS)}
    found |= {f"options of mtbert {command}": options(command) for command in PARSERS}
    found["keys of a recipe"] = recipe_keys()
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in RUNS.items():
            for kind, names in of_a_run(Path(folder, name), changes).items():
                found.setdefault(kind, []).extend(names)
    return {kind: sorted(set(names)) for kind, names in found.items()}


def options(command: str) -> list[str]:
    """The options that a command's help names."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        PARSERS[command](["--help"])
    described = re.findall(r"^  (-\S.*)$", printed.getvalue().partition("\noptions:\n")[2], re.M)
    return [name for line in described for name in re.findall(r"--[\w-]+", line.partition("   ")[0])]


def recipe_keys() -> list[str]:
    """Dotted keys of a recipe."""
    inherited = {each.name for each in fields(TrainingArguments)}
    keys = sorted({each.name for each in fields(Recipe)} - {"methods"} | set(sections()))
    keys += re.findall(r"^  --(\S+)  \(", help_text(), re.M)
    return [key for key in keys if not (key.startswith("training.") and key.partition(".")[2] in inherited)]


def of_a_run(folder: Path, changes: dict[str, Any]) -> dict[str, list[str]]:
    """What a tiny run logs, and what it leaves."""
    encoder, output = folder / "encoder", folder / "out"
    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    AutoModel.from_config(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    Path(folder, "rows.csv").write_text("text,label\n" + "the cat runs,0\na dog eats,1\n" * 4)
    data = {"train": "rows.csv", "dev": "rows.csv"}
    training = {
        **{
            "output_dir": output,
            "max_steps": 2,
            "logging_steps": 1,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
        },
        **{"on_nonfinite": "skip", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "cpu_threads": 1},
    }
    tasks = {name: {"labels": 2, "data": data} for name in TASKS}
    recipe = {"encoder": encoder, "data_dir": folder, "tasks": tasks, "training": training, **changes}
    with contextlib.redirect_stdout(io.StringIO()):
        state = mtbert.train(recipe).trainer.state
    config = json.loads((output / "config.json").read_text())
    files = [file.relative_to(output) for file in output.rglob("*") if file.is_file()]
    return {
        "keys of a log": [general(key) for entry in state.log_history for key in entry],
        "keys of config.json": config_keys(config),
        "keys of scores.json": [general(key) for key in json.loads((output / "scores.json").read_text())],
        "files of a run": [re.sub(r"checkpoint-\d+", "checkpoint-N", str(file)) for file in files],
    }


def config_keys(config: dict[str, Any]) -> list[str]:
    """Keys of config.json, without those of the encoder's own config and those that transformers adds to every one."""
    own = [key for key in config if key not in PreTrainedConfig().to_dict()]
    parts = {"": own, "tasks.": config["tasks"][0], "tasks.head.": config["tasks"][0]["head"]}
    parts["adapter."] = config.get("adapter") or {}
    return [prefix + key for prefix, values in parts.items() for key in values]


def general(key: str) -> str:
    """A key of a log with NAME for a task's."""
    return re.sub(rf"(?<=_)({'|'.join(TASKS)})(?=_|$)", "NAME", key)


if __name__ == "__main__":
    STORED.write_text(json.dumps(collect(), indent=1) + "\n")
    print(f"written: {STORED}")
