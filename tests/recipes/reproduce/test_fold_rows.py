"""Which rows are held out: of sources, and of training rows that dev and test splits are cut from."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from fold_runs import words_of, write

from mtbert import TaskSpec
from mtbert.cli.arguments import reproduce as arguments_of
from mtbert.cli.reproduce import fold_table, main
from mtbert.errors import InputError
from mtbert.recipe import load_recipe, load_rows

SPECS = [TaskSpec("mood", labels=2), TaskSpec("close", range=(0, 4), texts=2)]


def test_rows_that_are_cut_off_for_dev_take_no_part_in_the_choice(folder, command, runs):
    tree = yaml.safe_load((folder / "recipe.yaml").read_text())
    tree["tasks"]["mood"]["data"] = {"train": "mood.json", "dev": "20%", "test": "20%"}
    tree["tasks"]["close"]["data"] |= {"dev": None, "dev_share": 0.25}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    write(folder, candidates={"plain": {}, "fast": {"training.learning_rate": 0.01}})
    of_choice = load_rows(
        load_recipe(folder / "recipe.yaml", {"training.output_dir": "o", "encoder": "e", "data_dir": str(folder)}),
        SPECS,
    )
    assert main(command()) == 0
    aside = set(of_choice["mood"].splits["dev"]["text"]) | set(of_choice["mood"].splits["test"]["text"])
    seen = {text for given in runs for split in ("train", "dev") for (text,) in given[split]["mood"]}
    assert aside and seen and not aside & seen
    held = [len(given["dev"]["close"]) for given in runs if given["recipe"].training_value("learning_rate") == 0.01]
    assert sum(held) == len(of_choice["close"].splits["train"]) // 2 == 45  # `symmetric` has each of them twice
    write(folder, candidates={"a": {}, "b": {"tasks.mood.data.sample_seed": 1, "tasks.mood.data.sample": 30}})
    with pytest.raises(InputError, match="tasks.mood.data.sample is 30, but None in the baseline"):
        fold_table(arguments_of(command()))


@pytest.fixture
def of_source(folder):
    """A recipe whose tasks `mood` and `sure` read one source, in which both have blanks, and candidates for it."""
    moods = [json.loads(line) for line in (folder / "mood.json").read_text().splitlines()]
    rows = [
        {"text": row["text"], "mood": None if i % 5 == 0 else row["label"], "sure": None if i % 3 == 0 else i % 4 % 3}
        for i, row in enumerate(moods)
    ]
    (folder / "both.json").write_text("\n".join(map(json.dumps, rows)))
    tree = yaml.safe_load((folder / "recipe.yaml").read_text())
    tree["sources"] = {"both": {"train": "both.json", "dev": "dev.json", "test": "dev.json"}}
    tree["tasks"]["mood"]["data"] = {"source": "both", "label": "mood"}
    tree["tasks"]["sure"] = {"labels": 3, "data": {"source": "both", "label": "sure"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    write(folder, candidates={"plain": {}, "fast": {"training.learning_rate": 0.01}})
    return rows


def test_folds_of_a_source(folder, command, runs, of_source):
    """Each text is held out once for all of its tasks, and scored for those that it has a label of."""
    assert main(command()) == 0
    assert json.loads((folder / "results" / "few.json").read_text())["about"]["runs"] == "4 of 4"
    texts = []
    for given in runs:
        held = words_of(row for rows in given["dev"].values() for row in rows)
        assert held and not held & words_of(row for rows in given["train"].values() for row in rows)
        assert given["dev"]["mood"] == given["dev"]["sure"]
        texts += given["dev"]["mood"]
    labelled = [row["text"] for row in of_source if (row["mood"], row["sure"]) != (None, None)]
    assert sorted(texts) == sorted(2 * [(text,) for text in labelled])
    table = fold_table(arguments_of(command()))
    counts = {name: sum(len(rows[name].labelled) for rows in table.rows.values()) for name in ("mood", "sure")}
    assert counts == {name: sum(row[name] is not None for row in of_source) for name in counts}

    (by_cell,) = [table.predictions("plain", None)]
    model = table.result("plain", None, (0, 1))
    own = table.rows[0]["mood"]
    assert model.scores["eval_mood_accuracy"] == pytest.approx((by_cell[0, 1]["mood"] == own.held.labels).mean())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule.draw": "task"}, "schedule.draw is 'task', but 'source' in the baseline"),
        ({"sources.both.sample": 9}, "candidate 'b': sources.both.sample is 9, but None in the baseline"),
        (
            {"tasks.more": {"labels": 2, "data": {"source": "both", "label": "mood"}}},
            "candidate 'b': the source 'both' has the tasks mood, sure, more, others than in the baseline",
        ),
        ({"tasks.mood.data.label": "sure"}, "candidate 'b': tasks.mood.data.label is 'sure', but 'mood' in the base"),
    ],
)
def test_candidates_of_a_source_have_the_same_rows(folder, command, of_source, changes, message):
    write(folder, candidates={"a": {}, "b": changes})
    with pytest.raises(InputError, match=re.escape(message)):
        fold_table(arguments_of(command()))
