"""The losses of some ways in their first steps, stored in `stored.json` for `make test`.

    python tests/golden/ways_stored.py      # writes the file anew

There is no dropout, and initial weights depend on nothing but their names, so that other processors and versions of
torch compute nearly the same losses.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from ways import folder_name, make_start, run_way
from ways_table import STORED

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("stored.json")
STEPS = 3
DROPOUT = 0.0


def losses(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Train in the ways of `STORED`: name → the losses that each step logs, by key.

    Args:
        folder: an empty one, for what the runs write.

    Raises:
        RuntimeError: if a way does not end.
    """
    start, out = folder / "start", folder / "out"
    out.mkdir()
    make_start(start, STORED, DROPOUT)
    found = {}
    for name in STORED:
        run_way(ROOT, start, out, name, DROPOUT, STEPS)
        error = json.loads((out / f"{folder_name(name)}.json").read_text(encoding="utf-8"))["error"]
        if error:
            raise RuntimeError(f"{name}: {error}")
        state = json.loads((out / folder_name(name) / "trainer_state.json").read_text(encoding="utf-8"))
        steps = [{key: value for key, value in entry.items() if "loss" in key} for entry in state["log_history"]]
        found[name] = [step for step in steps if step]
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as temporary:
        FILE.write_text(json.dumps(losses(Path(temporary)), indent=1) + "\n", encoding="utf-8")
    print(f"{FILE}: losses of {len(STORED)} ways")
