"""A table of tickets goes from `mtbert init` to predictions in four commands, without an edit to the recipe."""

import csv
import json
from pathlib import Path

from tickets import write_tickets

from mtbert.cli.main import main

LABELS = {"queue": 4, "urgency": 5, "complaint": 2, "tags": 4}


def test_four_commands(encoder_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tickets("tickets.csv")

    assert main(["init", "tickets.csv", "--output", "mine.yaml", "--encoder", encoder_dir]) == 0
    assert main(["finetune", "mine.yaml", "--training.cpu_threads", "1"]) == 0  # threads of a busy machine wait
    assert main(["evaluate", "runs/mine"]) == 0
    assert main(["predict", "runs/mine", "tickets.csv", "--output", "answers.csv"]) == 0

    scores = json.loads(Path("runs/mine/scores.json").read_text())
    assert {"eval_queue_accuracy", "eval_urgency_qwk", "eval_complaint_accuracy", "eval_tags_f1_micro"} <= scores.keys()
    assert Path("runs/mine/report/report.html").is_file()
    with open("answers.csv", encoding="utf-8", newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 400 and answers[7]["ticket"] == "T-0008"
    for task, count in LABELS.items():
        assert sum(column.startswith(f"{task}:") for column in answers[0]) == count
