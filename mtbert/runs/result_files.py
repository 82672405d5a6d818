"""Result files of finished runs: small JSON files to commit, from which tables are made on any machine.

A file holds a run's scores, record, learning curve and dev logits in half precision, the commit of its code, and a hash
of its settings. The hash leaves out what does not change the result (paths, logging) and all keys that have their
default, so that a new key does not invalidate older files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ..errors import InputError
from ..files import write_json
from ..modeling.checkpoint_loading import read_json
from ..recipe import Recipe, TaskRecipe
from ..training.checkpoints.run_folder import LOGITS
from ..training.checkpoints.sealing import STATE
from ..training.methods import REGISTRY, sections, settings_class
from .bundled import folder as bundled_folder

AFFINITY = "affinity.json"  # as `training.methods.affinity` names it

# Keys that do not change a run's result, or that are stored by themselves.
_PLACES = (
    *("encoder", "data_dir", "card", "training.output_dir", "training.report_to", "training.disable_tqdm"),
    *("training.cpu_threads", "training.seed", "training.logging_steps", "training.save_strategy"),
    *("training.save_total_limit", "training.save_logits", "training.eval_strategy", "training.eval_steps"),
    *("training.per_device_eval_batch_size", "training.load_best_model_at_end", "pretraining.output_dir"),
)


@dataclass
class Result:
    """A finished run, as its result file holds it; it serves tables like a `Run`.

    Attributes:
        row: name of the row.
        path: the row's recipe file.
        seed: the training seed.
        settings: hash of the settings; see `settings_hash`.
        recipe: the recipe's tree.
        scores: the final dev scores.
        record: the run's record (`record.json`).
        log: logged dev scores, with their `epoch` and `step`.
        logits: task → dev logits, `(rows, num_labels)`, half precision.
        commit: the commit of the code.
        affinity: what the method `affinity` measured; empty without it.
        fold: of a run whose dev rows are a fold: `fold`, `folds`, `steps`, and `rows`, task → hash of its held-out
            rows; empty for other runs.
        failed: why there is no result; empty if there is one.
    """

    row: str
    path: Path
    seed: int
    settings: str
    recipe: dict[str, Any] = field(default_factory=dict, repr=False)
    scores: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict, repr=False)
    log: list[dict[str, float]] = field(default_factory=list, repr=False)
    logits: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    commit: str = ""
    affinity: dict[str, Any] = field(default_factory=dict, repr=False)
    fold: dict[str, Any] = field(default_factory=dict)
    failed: str = ""
    same_as: Result | None = None

    def commits(self) -> list[str]:
        """Return the commit of the code, as a list."""
        return [self.commit] if self.commit else []

    def write(self, file: Path) -> None:
        """Write the result file."""
        packed = {name: _packed(rows) for name, rows in self.logits.items()}
        kept = {key: getattr(self, key) for key in ("row", "seed", "settings", "commit", "scores", "log")}
        if self.affinity:
            kept["affinity"] = self.affinity
        file.parent.mkdir(parents=True, exist_ok=True)
        kept |= {"fold": self.fold} if self.fold else {}
        write_json(file, {**kept, "record": self.record, "recipe": self.recipe, "dev_logits": packed})

    @classmethod
    def read(cls, file: Path, path: Path) -> Result:
        """Read a result file.

        Args:
            file: the file.
            path: the row's recipe file.

        Raises:
            InputError: the file is damaged.
        """
        values = read_json(file, "remove it, and the run is run again", limited=False)
        try:
            logits = {name: _unpacked(rows) for name, rows in values["dev_logits"].items()}
            kept = {key: values[key] for key in ("scores", "record", "recipe", "log", "commit")}
            kept["affinity"] = values.get("affinity", {})
            kept["fold"] = values.get("fold", {})
            return cls(values["row"], path, values["seed"], values["settings"], logits=logits, **kept)
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise InputError(f"{file} is damaged ({error!r}); remove it, and the run is run again") from error


def result_of(row: str, path: Path, seed: int, settings: str, output: Path) -> Result:
    """Collect the result of a finished run from its output folder."""
    recipe, scores, record = (
        read_json(output / f"{name}.json", "run it again", limited=False) for name in ("recipe", "scores", "record")
    )
    log = read_json(output / STATE, "run it again", limited=False)["log_history"]
    dev_log = [
        {key: value for key, value in entry.items() if not key.endswith(("_runtime", "_per_second"))}
        for entry in log
        if "eval_overall" in entry
    ]
    for places in ("encoder", "data_dir"):  # paths of this machine
        recipe.pop(places, None)
    for section in ("training", "pretraining"):
        if recipe.get(section):
            recipe[section].pop("output_dir", None)
    logits = {name: rows.astype(np.float16) for name, rows in load_file(output / LOGITS).items()}
    measured = output / AFFINITY
    affinity = read_json(measured, "run it again", limited=False) if measured.is_file() else {}
    return Result(row, path, seed, settings, recipe, scores, record, dev_log, logits, code_commit(), affinity)


def _packed(rows: np.ndarray) -> dict[str, Any]:
    text = base64.b64encode(zlib.compress(rows.astype("<f2").tobytes(), 9)).decode("ascii")
    return {"shape": list(rows.shape), "float16": text}


def _unpacked(values: Mapping[str, Any]) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(values["float16"], validate=True))
    return np.frombuffer(data, dtype="<f2").reshape(values["shape"])


def settings_hash(recipe: Recipe) -> str:
    """Return a hash of everything in a recipe that decides a run's result, but for its seed; 16 hexadecimal digits."""
    text = json.dumps([portable(recipe), _encoder_identity(recipe.encoder)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def portable(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's tree without places, and without the keys that have their default."""
    tree = recipe.to_dict()
    for place in _PLACES:
        section, _, key = place.partition(".")
        if not key:
            tree.pop(section, None)
        elif tree.get(section):
            tree[section].pop(key, None)
    tree = {key: value for key, value in tree.items() if key not in REGISTRY or value is not None}
    defaults = asdict(Recipe("")) | {"tasks": dict.fromkeys(recipe.tasks, asdict(TaskRecipe()))}
    defaults |= {section: _method_defaults(section) for section in REGISTRY if "." not in section}
    changed: dict[str, Any] = json.loads(json.dumps(_changed(tree, defaults), default=str))
    switched_on = [section for section in sections() if not getattr(settings_class(section), "always_set", False)]
    present = ("pretraining", *switched_on)
    for section in present:  # a section whose keys all have their defaults
        if tree.get(section) is not None:
            changed.setdefault(section, {})
    return changed


def _method_defaults(section: str) -> dict[str, Any]:
    kind = settings_class(section)
    try:
        return asdict(kind())
    except TypeError:  # a key is required
        return {}


def _changed(tree: Any, defaults: Any) -> Any:
    """Return what differs from the defaults."""
    if not isinstance(tree, dict):
        return tree
    defaults = defaults if isinstance(defaults, dict) else {}
    changed = {}
    for key, value in tree.items():
        default = defaults.get(key)
        same = list(value) == list(default or ()) if isinstance(value, list | tuple) else value == default
        if not same and not (isinstance(value, dict) and not value):
            changed[key] = _changed(value, default)
    return changed


@cache
def _encoder_identity(encoder: str) -> str:
    """Return the hash of an encoder's weights; of an encoder on a hub, its name."""
    weights = sorted(Path(encoder).glob("*.safetensors"))
    if not weights:
        return encoder
    digest = hashlib.sha256()
    for file in weights:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def code_commit() -> str:
    """Return the last commit that changed the code or the recipes; empty outside of a repository."""
    root = bundled_folder()
    git = ["git", "-C", str(root), "log", "-1", "--format=%H", "--", "../mtbert", "configs"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip()


def commit_file(file: Path, subject: str) -> None:
    """Commit one file to the git repository that holds it.

    Raises:
        InputError: git refuses.
    """
    for words in (["add", "--", file.name], ["commit", "--quiet", "--message", subject, "--", file.name]):
        command = ["git", "-C", str(file.parent), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"{file} was not committed: git {words[0]}: {(done.stderr or done.stdout).strip()}")
