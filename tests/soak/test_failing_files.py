"""Whatever file operation fails, and whatever byte of a run's folder is wrong: nothing is lost without a word.

`make soak` tries every operation of every case, as one error, as a disk that is full from then on, and as a kill; and
20 flipped bits and 5 cuts of every file. Without it there is a sample of each kind.
"""

from __future__ import annotations

import json
import os

import pytest
from failing_runs import COMMANDS, RUNS, run_campaigns

FULL = "MTBERT_SOAK" in os.environ
LIMIT = 3 * 3600 if FULL else 300  # seconds for one process
# a function of failing_runs.py, its arguments, and of how many operations or files one is tried in the sample
SAMPLE = [
    ("fail_runs", "one stage", 127),
    ("fail_runs", "two stages", 331),
    ("fail_command", "average", False, 37),
    ("fail_command", "ensemble", True, 23),
    ("fail_command", "predict csv", True, 11),
    ("damage_files", "two stages", False, 23),
]
pytestmark = pytest.mark.timeout(LIMIT + 60)
JOBS = [
    *(("fail_runs", name, 1) for name in RUNS),
    *(("fail_command", name, over, 1) for name in COMMANDS for over in (False, True)),
    *(("damage_files", name, ended, 1) for name in RUNS for ended in (False, True)),
]


@pytest.mark.parametrize("jobs", [[job] for job in JOBS] if FULL else [SAMPLE], ids=lambda jobs: str(jobs[0][:-1]))
def test_failures_are_survived_or_named(jobs, processes, encoder_dir, tmp_path, capsys):
    data, report = tmp_path / "data", tmp_path / "report.json"
    data.mkdir()
    for split, rows in (("train", 12), ("dev", 6)):
        lines = [json.dumps({"text": "the cat " * (row % 5 + 1), "label": row % 3}) for row in range(rows)]
        (data / f"stars-{split}.jsonl").write_text("\n".join(lines) + "\n")
    process = processes.Process(target=run_campaigns, args=(tmp_path / "work", encoder_dir, data, jobs, report))
    log = report.with_suffix(".log")
    process.start()
    process.join(LIMIT)
    said = log.read_text()[-3000:] if log.exists() else ""
    if process.is_alive():
        process.kill()
        pytest.fail(f"after {LIMIT} s it was not done: {jobs}; {said}")
    assert process.exitcode == 0, f"exit status {process.exitcode}; {said}"
    results = json.loads(report.read_text())
    with capsys.disabled():
        for result in results:
            print(f"\n{result['job']}: {result['counts']}, errors {result['errors']}", end="")
        print()
    assert len(results) == len(jobs) and all(sum(result["counts"].values()) for result in results)
    faults = [fault for result in results for fault in result["faults"]]
    assert not faults, f"{len(faults)} faults, such as:\n" + "\n".join(faults[:5])
