"""Cells and columns of tables over seeds; whole tables are tested with recipes/reproduce.py, which fills them."""

import json

import pytest

from mtbert.evaluation.table_files import main_metrics, spread, write


@pytest.mark.parametrize(
    ("values", "shown"), [([], ""), ([0.25], "0.250"), ([0.1, 0.3], "0.200 ± 0.141"), ([0.5] * 3, "0.500 ± 0.000")]
)
def test_a_deviation_takes_two_values(values, shown):
    assert spread(values) == shown


def test_the_main_metric_is_the_first_after_the_loss():
    scores = {"eval_a_loss": 1.0, "eval_a_f1": 0.2, "eval_a_accuracy": 0.3, "eval_a_b_pearson": 0.4}
    assert main_metrics(scores, ["a", "a_b", "none"]) == {"a": 0.2, "a_b": 0.4}


TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
COMMIT = "0123456789abcdef" * 2 + "01234567"  # which looks like a key of wandb


@pytest.mark.parametrize(
    "form",
    [
        TOKEN,
        f"https://user:{TOKEN}@host/x",
        f"--training.hub_tokn={TOKEN}",
        [TOKEN],
        {"a": {"b": TOKEN}},
        {TOKEN: 1},
        f"HF_TOKEN={TOKEN}",
        TOKEN.replace("hf_", "api_org_"),
        TOKEN.replace("hf_", "ghp_"),
        TOKEN.replace("hf_", "sk-"),
    ],
    ids=str,
)
def test_a_table_holds_no_token_and_all_commits(form, tmp_path):
    counts = {"steps": 1, "trainable": 2, "seconds": [1.0], "scores": {"a": [0.5]}, "seeds": [1], "rows": None}
    entry = {"row": "r", "what": str(form), "published": {}, "same_as": None, "doubts": [], "encoder": form, **counts}
    entry |= {"failed": [f"seed 2: ended with {form}"], "commits": [COMMIT, COMMIT[::-1]]}
    about = {"command": f"python x {form}", "commit": f"{COMMIT}, {COMMIT[::-1]}", "encoder": form}
    write([entry], about, tmp_path, "table")
    texts = {file.suffix: file.read_text("utf-8") for file in tmp_path.iterdir()}
    assert set(texts) == {".md", ".json", ".csv"}
    assert all("abcdefghijklmnopqrstuvwxyz012345" not in text and "***" in text for text in texts.values())
    assert all(COMMIT in text and COMMIT[::-1] in text for text in texts.values())
    found = json.loads(texts[".json"])
    assert found["about"]["commit"] == about["commit"] and found["rows"][0]["commits"] == entry["commits"]
