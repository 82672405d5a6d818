"""Compare this source tree with a commit: every way of training must give the same weights and logged numbers.

    python tests/golden/compare_trees.py COMMIT [--only NAME]... [--keep FOLDER]

Both trees train at once, each in one process and on one thread, from the same initial weights, which the commit's tree
writes. Changes that are not committed yet count. The exit status is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ways import READY, folder_name
from ways_compare import report
from ways_table import WAYS

ROOT = Path(__file__).resolve().parents[2]
WAYS_SCRIPT = Path(__file__).with_name("ways.py")


def start_tree(tree: Path, folder: Path, out: str, options: Sequence[str]) -> subprocess.Popen:
    """Start to train in every way with a tree's sources, in a process with caches of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / f"cache-{out}"),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(WAYS_SCRIPT), str(tree), str(folder / "start"), str(folder / out), *options]
    with open(folder / f"{out}.txt", "w", encoding="utf-8") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def train_trees(base: Path, folder: Path, options: Sequence[str]) -> None:
    """Train with the base's sources and with these; the results are in `folder/base` and `folder/new`.

    Raises:
        SystemExit: if a process ends before it has gone through all ways; with the end of its output.
    """
    trees = {"base": start_tree(base, folder, "base", ["--make", *options])}
    try:
        while not (folder / "start" / READY).exists() and trees["base"].poll() is None:
            time.sleep(0.2)
        trees["new"] = start_tree(ROOT, folder, "new", options)
        for out, process in trees.items():
            if process.wait():
                end = (folder / f"{out}.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
                sys.exit(f"{end}\nthe {out} tree's process ended with status {process.returncode}")
    finally:
        for process in trees.values():
            process.kill()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--only", action="append", choices=WAYS, metavar="NAME")
    parser.add_argument("--keep", type=Path, help="a new folder for the results of both trees")
    given = parser.parse_args(argv)
    names = given.only or list(WAYS)
    options = [word for name in given.only or () for word in ("--only", name)]
    began = time.monotonic()
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary, "tree")
        results = (given.keep or Path(temporary, "results")).resolve()
        results.mkdir(parents=True)
        subprocess.run([*git, "add", "--quiet", "--detach", str(base), given.commit], check=True)
        try:
            train_trees(base, results, options)
        finally:
            subprocess.run([*git, "remove", "--force", str(base)], check=True)
        failed = False
        for line, is_failure in report(
            results / "base", results / "new", [(each, folder_name(each)) for each in names]
        ):
            print(line)
            failed |= is_failure
    print(f"it took {time.monotonic() - began:.0f} s")
    sys.exit(int(failed))


if __name__ == "__main__":
    main(sys.argv[1:])
