"""Sources of a recipe: their keys, their files, what is wrong with them, and the recipe that a run leaves."""

from __future__ import annotations

import csv
import json
import re

import pytest
import yaml

from mtbert.errors import RecipeError
from mtbert.recipe import Recipe, load_data, load_recipe, load_rows

COLUMNS = ("ticket", "body", "queue", "urgency", "angry")
ROWS = [
    ["t1", "the cat runs", "billing", "1", "yes"],
    ["t2", "a dog sleeps", "", "3", "no"],
    ["t3", "the bird eats", "technical", "", ""],
    ["t4", "no label here", "", "", ""],
    ["t5", "", "billing", "2", "no"],
    ["t6", "a fish flies", "billing", "5", "yes"],
    ["t7", "the tree is old", "technical", "4", ""],
    ["t8", "a very good house", "", "", "no"],
]
TREE = {
    "encoder": "e",
    "sources": {"tickets": {"text": "body", "id": "ticket", "train": "tickets.csv"}},
    "tasks": {
        "queue": {"labels": ["billing", "technical"], "data": {"source": "tickets", "label": "queue"}},
        "urgency": {"ordinal": True, "labels": ["1", "2", "3", "4", "5"], "data": {"source": "tickets"}},
        "angry": {"problem_type": "binary_classification", "labels": ["no", "yes"], "data": {"source": "tickets"}},
    },
    "training": {"output_dir": "out", "report_to": "none"},
}
for _name in ("urgency", "angry"):
    TREE["tasks"][_name]["data"]["label"] = _name


@pytest.fixture
def recipe(tmp_path):
    """A function: changes by dotted key → the recipe of a table of tickets in a folder."""

    def make(changes=None, rows=ROWS, files=("tickets.csv",)) -> Recipe:
        for name in files:
            with (tmp_path / name).open("w", newline="") as file:
                csv.writer(file).writerows([COLUMNS, *rows])
        return load_recipe({**json.loads(json.dumps(TREE)), "data_dir": str(tmp_path)}, changes or {})

    return make


def problems(error) -> str:
    return "\n".join(error.value.problems)


class TestFiles:
    def test_all_tasks_have_the_rows_of_the_source(self, recipe):
        loaded = load_data(recipe())
        assert list(loaded) == ["queue", "urgency", "angry"]
        for each in loaded.values():
            assert each.splits["train"]["row"][:] == [1, 2, 3, 6, 7, 8]
            assert each.splits["train"]["id"][:] == ["t1", "t2", "t3", "t6", "t7", "t8"]
        assert loaded["queue"].splits["train"]["label"][:] == [0, -100, 1, 0, 1, -100]
        assert loaded["urgency"].splits["train"]["label"][:] == [0, 2, -100, 4, 3, -100]

    def test_the_report_names_rows_without_a_label_of_a_task_and_of_any(self, recipe):
        (report,) = load_data(recipe())["queue"].reports
        assert (report.read, report.kept) == (8, 6) and report.blank == (2, 8)
        assert report.left_out == {"no label of any task": (4,), "empty text in body": (5,)}
        (line,) = report.lines()
        assert line == (
            "queue train: 8 rows read from tickets.csv, 6 kept; 1 left out: no label of any task (row 4); "
            "1 left out: empty text in body (row 5); 2 of these have no label of this task (rows 2, 8)"
        )

    def test_drawn_by_task_each_has_its_labelled_rows(self, recipe):
        loaded = load_data(recipe({"schedule.draw": "task"}))
        assert loaded["queue"].splits["train"]["row"][:] == [1, 3, 6, 7]
        assert loaded["angry"].splits["train"]["row"][:] == [1, 2, 6, 8]

    def test_other_commands_read_the_labelled_rows_of_the_same_splits(self, recipe):
        chosen = recipe({"sources.tickets.dev_share": 0.5})
        masked = load_data(chosen)["angry"].splits
        alone = load_rows(chosen, [chosen.tasks["angry"].spec("angry")])["angry"].splits
        for split in ("train", "dev"):
            labels = zip(masked[split]["row"][:], masked[split]["label"][:], strict=True)
            assert alone[split]["row"][:] == [row for row, label in labels if label != -100]

    @pytest.mark.parametrize("key", [{"sources.tickets.dev_share": 0.5}, {"sources.tickets.sample": 4}])
    def test_shares_and_samples_are_of_texts(self, recipe, key):
        loaded = load_data(recipe(key))
        rows = [{split: each.splits[split]["row"][:] for split in each.splits} for each in loaded.values()]
        assert rows[0] == rows[1] == rows[2]
        assert sum(map(len, rows[0].values())) == (4 if "sample" in str(key) else 6)

    def test_a_test_split_keeps_every_row_and_needs_no_labels(self, recipe, tmp_path):
        (tmp_path / "test.csv").write_text("ticket,body,angry\na,the cat,yes\nb,,\nc,a dog,\n")
        loaded = load_data(recipe({"sources.tickets.test": "test.csv"}))
        for each in loaded.values():
            assert each.splits["test"]["row"][:] == [1, 2, 3]
        assert "label" not in loaded["queue"].splits["test"].column_names
        assert loaded["angry"].splits["test"]["label"][:] == [1, -100, -100]

    def test_leaks_are_found_once_and_dropped_for_all(self, recipe, tmp_path):
        chosen = recipe({"sources.tickets.dev": "dev.csv"}, files=("tickets.csv", "dev.csv"))
        (tmp_path / "dev.csv").write_text("ticket,body,queue,urgency,angry\nd,The cat runs!,billing,1,no\n")
        loaded = load_data(load_recipe(chosen, {"leaks": "drop"}))
        assert all(each.splits["train"]["row"][:] == [2, 3, 6, 7, 8] for each in loaded.values())
        lines = [line for each in loaded.values() for report in each.reports for line in report.lines()]
        assert sum("give away a row of tickets dev" in line for line in lines) == 1

    def test_a_missing_file_is_named_once_with_the_source(self, recipe):
        with pytest.raises(RecipeError) as error:
            load_data(recipe({"sources.tickets.train": "tikets.csv"}))
        assert len(error.value.problems) == 1
        assert "sources.tickets.train" in problems(error) and "nearest name" in problems(error)

    def test_wrong_labels_of_all_tasks_are_told_at_once(self, recipe):
        rows = [*ROWS, ["t9", "a fine bird", "bilingual", "9", "yes"]]
        with pytest.raises(RecipeError) as error:
            load_data(recipe(rows=rows))
        assert "task 'queue'" in problems(error) and "row 9: 'bilingual'" in problems(error)
        assert "task 'urgency'" in problems(error) and "row 9: '9'" in problems(error)

    def test_a_column_without_any_label_is_refused(self, recipe):
        rows = [[*row[:2], "", *row[3:]] for row in ROWS]
        with pytest.raises(RecipeError, match="column 'queue' has no label in 7 usable rows"):
            load_data(recipe(rows=rows))


class TestKeys:
    def test_a_task_has_the_keys_of_its_source(self, recipe):
        chosen = recipe()
        data = chosen.tasks["urgency"].data
        assert (data.text, data.id, data.train, data.label) == (("body",), "ticket", "tickets.csv", "urgency")
        assert chosen.drawn_sources == {"tickets": ("queue", "urgency", "angry")}
        assert recipe({"schedule.draw": "task"}).drawn_sources == {}

    def test_a_run_leaves_a_recipe_that_loads_again(self, recipe):
        chosen = recipe({"tasks.queue.weight": 2.0})
        tree = json.loads(json.dumps(chosen.to_dict()))
        assert tree["tasks"]["queue"]["data"] == {
            "source": "tickets",
            "label": "queue",
            "label_separator": None,
            "empty": None,
        }
        assert Recipe.from_dict(tree) == chosen
        changed = load_recipe(tree, {"sources.tickets.train": "other.csv"})
        assert {task.data.train for task in changed.tasks.values()} == {"other.csv"}

    def test_a_file_on_disk_and_its_base(self, recipe, tmp_path):
        recipe()
        (tmp_path / "base.yaml").write_text(yaml.safe_dump({**TREE, "data_dir": str(tmp_path)}))
        (tmp_path / "mine.yaml").write_text("base: base.yaml\nsources: {tickets: {sample: 3}}\ntasks: {angry: null}\n")
        chosen = load_recipe(tmp_path / "mine.yaml")
        assert chosen.tasks["queue"].data.sample == 3 and chosen.drawn_sources == {"tickets": ("queue", "urgency")}

    def test_a_source_replaces_the_files_that_a_base_gives_a_task(self, recipe, tmp_path):
        recipe()
        tree = json.loads(json.dumps(TREE)) | {"data_dir": str(tmp_path)}
        del tree["sources"]
        for name, task in tree["tasks"].items():
            task["data"] = {"text": "body", "train": "tickets.csv", "label": name, "empty": "unlabelled"}
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        (tmp_path / "mine.yaml").write_text(
            "base: base.yaml\nsources: {t: {text: body, id: ticket, train: tickets.csv}}\n"
            "tasks: {queue: {data: {source: t}}, urgency: {data: {source: t, label: angry}}}\n"
        )
        chosen = load_recipe(tmp_path / "mine.yaml", {"tasks.urgency.labels": ["no", "yes"]})
        assert chosen.drawn_sources == {"t": ("queue", "urgency")} and chosen.tasks["queue"].data.id == "ticket"
        assert {name: task.data.label for name, task in chosen.tasks.items()} == {
            "queue": "queue",
            "urgency": "angry",
            "angry": "angry",
        }
        assert chosen.tasks["queue"].data.empty == "unlabelled" and chosen.tasks["angry"].data.train == "tickets.csv"
        back = load_recipe(tmp_path / "base.yaml", {"tasks.queue.data.source": "t", "sources.t.train": "tickets.csv"})
        assert back.tasks["queue"].data.text == ("text",)  # the source's own default, not the base's
        with pytest.raises(RecipeError, match=r"tasks.queue.data.train.*write it in sources.t.train"):
            load_recipe(tmp_path / "mine.yaml", {"tasks.queue.data.train": "tickets.csv"})

    def test_all_tasks_may_name_the_source(self, recipe):
        tree = json.loads(json.dumps(TREE))
        for task in tree["tasks"].values():
            del task["data"]["source"]
        chosen = load_recipe({**tree, "all_tasks": {"data": {"source": "tickets"}}})
        assert chosen.drawn_sources == {"tickets": ("queue", "urgency", "angry")}

    def test_an_unused_source_is_no_problem(self, recipe):
        assert recipe({"sources.more": {"text": "body", "train": "tickets.csv"}}).drawn_sources.keys() == {"tickets"}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"tasks.queue.data.source": "tikets"},
                "tasks.queue.data.source is text 'tikets', but did you mean tickets",
            ),
            ({"tasks.queue.data.train": "a.csv"}, "tasks.queue.data.train.*write it in sources.tickets.train"),
            ({"tasks.queue.data.dev": None}, "tasks.queue.data.dev.*write it in sources.tickets.dev"),
            ({"sources.tickets.label": "queue"}, "sources.tickets.label.*tasks.NAME.data.label"),
            ({"sources.tickets.source": "x"}, "sources.tickets.source.*but a source has none"),
            ({"sources.tickets.txt": "body"}, "sources.tickets.txt.*there is no such key; did you mean text"),
            ({"sources.tickets.train": None}, "sources.tickets.train.*is missing"),
            ({"sources.tickets.dev_share": 2.0}, "sources.tickets.dev_share"),
            ({"sources": {"queue": {"text": "body", "train": "tickets.csv"}}}, "sources.queue.*name of a task"),
            ({"sources": "tickets.csv"}, "sources.*must map names to the keys of data"),
            ({"tasks.queue.data.label": "body"}, "tasks.queue.data.label.*and text both name column 'body'"),
            ({"schedule.draw": "both"}, "schedule.draw.*must be source or task"),
            ({"stages": [{"schedule": {"draw": "task"}}]}, "schedule.draw.*which a stage may not set"),
            ({"stages": [{"sources": {"tickets": {"train": "b.csv"}}}]}, "sources.*which a stage may not set"),
            ({"tasks.queue.balanced": True}, "tasks.queue.balanced.*sources: drawn together.*schedule.draw: task"),
            ({"tasks.queue.batch_size": 3}, "tasks.queue.batch_size.*sources: drawn together"),
            ({"optimizer.per_task": "rates"}, "optimizer.per_task.*sources: drawn together"),
        ],
    )
    def test_what_is_wrong_is_named_with_the_remedy(self, changes, message, recipe):
        with pytest.raises(RecipeError) as error:
            recipe(changes)
        assert re.search(message, problems(error)), problems(error)
        assert len(error.value.problems) <= 2, problems(error)

    def test_surgery_of_a_source_needs_no_mixed_steps(self, recipe):
        recipe({"surgery.method": "pcgrad", "schedule.name": "proportional"})
        with pytest.raises(RecipeError, match=r"schedule\.mixed"):
            recipe({"surgery.method": "pcgrad", "schedule.name": "proportional", "schedule.draw": "task"})
