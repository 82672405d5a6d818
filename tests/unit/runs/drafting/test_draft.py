"""Recipes that are drafted for odd tables: what they say, that they pass the checks, and what is refused."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from drafts import Draft
from tickets import write_tickets

from mtbert.cli.main import main
from mtbert.errors import FileError, InputError, MissingFileError
from mtbert.recipe.yaml_layers import parse_yaml
from mtbert.runs.drafting import tables as tables_file
from mtbert.runs.drafting.facts import suggest_length
from mtbert.runs.drafting.run import draft
from mtbert.runs.drafting.wishes import parse_tasks

SHARED = Path(__file__).parents[4].parent / "shared/data"
WORDS = "a an the cat dog bird fish house tree runs sleeps eats flies is was not very good bad fine old new".split()  # noqa: SIM905


def sentences(count: int, seed: int = 0, longest: int = 9) -> list[str]:
    random = np.random.default_rng(seed)
    return [f"{' '.join(random.choice(WORDS, size=random.integers(4, longest)))} {i}" for i in range(count)]


def write(path: Path, columns: dict[str, list], separator: str = ",", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.writer(file, delimiter=separator, **options)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def switched_on(text: str, task: str) -> dict:
    """The tree of a recipe in which one task that was switched off is switched on."""
    lines, on = text.splitlines(), False
    for i, line in enumerate(lines):
        if re.match(r"\s*#[^#]", line):
            on = line.strip() == f"#{task}:" or (on and line.strip().startswith("# "))
            lines[i] = line.replace("#", "", 1) if on else line
        else:
            on = False
    return parse_yaml("\n".join(lines), "x")[0]


# ---- tickets ----


def test_tickets(drafted, tmp_path):
    made = drafted(write_tickets(tmp_path / "tickets.csv").name)
    assert made.kinds() == {
        "queue": "single_label",
        "urgency": "ordinal",
        "complaint": "binary",
        "tags": "multi_label",
    }
    assert made.tasks["queue"].labels == ("account access", "billing", "shipping", "technical")
    assert made.tasks["urgency"].labels == ("1", "2", "3", "4", "5")
    assert made.tasks["complaint"].labels == ("no", "yes")
    assert made.tasks["tags"].labels == ("refund", "repeat", "urgent", "vip")
    for task in made.tasks.values():
        assert (task.data.text, task.data.id, task.data.train) == (("body",), "ticket", "tickets.csv")
    assert all(len(splits["dev"]) > 20 and len(splits["train"]) > 200 for splits in made.splits.values())
    tree = yaml.safe_load(made.text)
    assert tree["sources"] == {"tickets": {"text": "body", "id": "ticket", "train": "tickets.csv", "dev": "10%"}}
    assert tree["tasks"]["queue"]["data"] == {"source": "tickets", "label": "queue"}
    empty = sum(not row["queue"] for row in csv.DictReader((tmp_path / "tickets.csv").open()))
    assert f"{empty} of 400 train rows have no label" in made.comments


def test_a_draft_is_the_same_each_time(drafted, tmp_path):
    write_tickets(tmp_path / "tickets.csv")
    assert drafted("tickets.csv").text == drafted("tickets.csv").text


def test_the_command(tmp_path, monkeypatch, capsys, encoder_dir):
    monkeypatch.chdir(tmp_path)
    write_tickets(tmp_path / "tickets.csv", rows=60)
    command = ["init", "tickets.csv", "--output", "new/my recipe.yaml", "--encoder", encoder_dir]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "next: mtbert finetune 'new/my recipe.yaml'" in said and "queue: classification, 4 labels" in said
    before = Path("new/my recipe.yaml").read_text()
    with pytest.raises(SystemExit, match="--overwrite to replace it"):
        main(command)
    Path("new/my recipe.yaml").write_text("mine")
    main([*command, "--overwrite"])
    assert Path("new/my recipe.yaml").read_text() == before


# ---- odd tables ----


def test_semicolons_with_a_byte_order_mark_as_excel_writes_them(drafted, tmp_path):
    labels = ["gut", "schlecht", "größer"] * 20
    columns = {"Text": sentences(60), "Bewertung": labels, "": [""] * 60}
    write(tmp_path / "umfrage.csv", columns, ";", encoding="utf-8-sig")
    made = drafted("umfrage.csv")
    (task,) = made.tasks.values()
    assert (task.data.separator, task.data.text, task.data.label) == (";", ("Text",), "Bewertung")
    assert task.labels == ("größer", "gut", "schlecht")
    assert "the column 'Unnamed: 2' is not used: it is empty" in made.comments


def test_labels_first_and_very_short_texts(drafted, tmp_path):
    write(tmp_path / "x.csv", {"label": ["a", "b"] * 15, "query": [f"word{i}" for i in range(30)]})
    made = drafted("x.csv")
    assert made.kinds() == {"x": "binary"} and made.tasks["x"].data.text == ("query",)


def test_columns_that_are_no_labels(drafted, tmp_path):
    columns = {
        "id": [f"r{i}" for i in range(60)],
        "text": sentences(60),
        "created": [f"2024-01-{i % 28 + 1:02}" for i in range(60)],
        "batch": ["same"] * 60,
        "hash": [f"{i * 7919:08x}" for i in range(60)],
        "split": ["train", "dev"] * 30,
        "year": [str(2000 + i % 20) for i in range(60)],
        "stars": [str(i % 5 + 1) for i in range(60)],
    }
    write(tmp_path / "x.csv", columns)
    made = drafted("x.csv")
    assert made.kinds() == {"stars": "ordinal"} and made.tasks["stars"].data.id == "id"
    for text in ("'created' is not used: it holds dates", "'batch' is not used: it holds 'same' in 60 rows"):
        assert text in made.comments
    assert "'split' is not used: it seems to name each row's split" in made.comments
    assert "year: regression, if this is a column of labels: its name is seldom" in made.comments
    assert set(switched_on(made.text, "year")["tasks"]) == {"stars", "year"}


def test_a_label_column_with_400_values(drafted, tmp_path):
    write(tmp_path / "x.csv", {"text": sentences(1600), "intent": [f"intent {i % 400}" for i in range(1600)]})
    made = drafted("x.csv")
    assert made.tasks["intent"].labels == tuple(f"intent {i}" for i in range(400))


def test_a_wide_table(drafted, tmp_path):
    columns = {"comment": sentences(40)} | {f"m{i}": [(j * 7 + i) % 9 / 2 for j in range(40)] for i in range(59)}
    write(tmp_path / "x.csv", columns)
    made = drafted("x.csv")
    assert list(made.tasks) == [f"m{i}" for i in range(12)] and set(made.kinds().values()) == {"regression"}
    assert "m12: regression, if this is a column of labels: 12 tasks of the table come first" in made.comments
    assert len(switched_on(made.text, "m40")["tasks"]) == 13


def test_columns_of_marks(drafted, tmp_path):
    columns = {"text": sentences(40)} | {
        f"is {name}": [(i >> k) % 2 for i in range(40)] for k, name in enumerate("abc")
    }
    write(tmp_path / "x.csv", columns)
    made = drafted("x.csv")
    assert made.kinds() == {"x": "multi_label"} and made.tasks["x"].data.label == ("is a", "is b", "is c")
    assert made.splits["x"]["train"]["label"][0] == [0, 0, 0] or made.splits["x"]["train"]["row"][0] != 1


def test_json_lines_with_nested_values(drafted, tmp_path):
    rows = [
        {
            "text": text,
            "meta": {"page": i},
            "topics": ["art", "law"][: i % 3],
            "flags": {"a": i % 2, "b": 1},
            "score": i / 8,
        }
        for i, text in enumerate(sentences(40))
    ]
    Path("x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = drafted("x.jsonl")
    assert made.kinds() == {"topics": "multi_label", "flags": "multi_label", "score": "regression"}
    assert made.tasks["score"].range == (0, 5)
    assert "'meta' is not used: it holds objects; flatten them" in made.comments


def test_parquet_with_names_of_classes(drafted, tmp_path):
    features = Features({"idx": Value("int64"), "sentence": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    values = {"idx": range(30), "sentence": sentences(30), "label": [i % 2 for i in range(30)]}
    Dataset.from_dict(values, features).to_parquet("x.parquet")
    made = drafted("x.parquet")
    assert made.kinds() == {"x": "binary"} and made.tasks["x"].data.id == "idx"


def test_pairs_in_tab_separated_course_files(drafted, tmp_path):
    lines = [f"{i}\tr{i}\t{one}\t{two}\t{i % 2}.0" for i, (one, two) in enumerate(zip(sentences(40), sentences(40, 1)))]
    for split in ("train", "dev"):
        Path(f"quora-{split}.csv").write_text("\tid\tsentence1\tsentence2\tis_duplicate\n" + "\n".join(lines) + "\n")
    made = drafted("quora-train.csv", "quora-dev.csv")
    task = made.tasks["is_duplicate"]
    assert (task.data.format, task.data.text, task.data.dev) == ("cs224n", ("sentence1", "sentence2"), "quora-dev.csv")
    assert made.kinds() == {"is_duplicate": "binary"}
    assert "40 rows have a text in quora's train split that also stands in the dev split" in made.comments
    assert "\n#leaks: drop\n" in made.text


def test_several_files_are_several_tasks(drafted, tmp_path):
    for name in ("cola", "sst"):
        for split, seed in (("train", 0), ("dev", 5)):
            write(tmp_path / f"data/{name}-{split}.csv", {"sentence": sentences(30, seed), "label": ["a", "b"] * 15})
    for split, seed in (("train", 1), ("valid", 6)):
        columns = {"q": sentences(30, seed), "coarse": ["x", "y", "z"] * 10, "fine": ["x:a", "x:b", "y:c"] * 10}
        write(tmp_path / f"data/trec_{split}.tsv", columns, "\t")
    made = drafted("data")
    assert list(made.tasks) == ["cola", "sst", "trec_coarse", "trec_fine"] and made.recipe.data_dir == "data"
    assert made.tasks["trec_fine"].data.dev == "trec_valid.tsv"
    assert "a text in cola's train split that also stands in sst's dev split" not in made.comments


def test_tables_of_one_name(drafted, tmp_path):
    for folder, seed in (("a", 0), ("b", 1)):
        write(tmp_path / folder / "tickets.csv", {"text": sentences(30, seed), "label": ["x", "y", "z"] * 10})
    made = drafted("a/tickets.csv", "b/tickets.csv")
    assert set(made.tasks) == {"a_tickets", "b_tickets"} and made.tasks["a_tickets"].data.train == "a/tickets.csv"
    assert "two tables are called tickets; this one is b_tickets" in made.comments


NAMES = ["no", "a: b", " lead", "größe", "1e3", "null", "x,y", 'q"t', "#", "loss", "keys", "\u202eabc"]


def test_odd_names_of_columns_and_labels(drafted, tmp_path):
    labels = ["yes", "on", "null", "~", "1e3", "a: b", "- c", "#d", "[e", "größe", "'f", "007"]
    columns = {"the text: of it": sentences(60)} | {name: (labels[i:] + labels[:i]) * 5 for i, name in enumerate(NAMES)}
    write(tmp_path / "x.csv", columns)
    made = drafted("x.csv")
    assert [task.data.label for task in made.tasks.values()] == NAMES
    assert {"loss_task", "keys_task", "no", "größe", "q_t"} <= set(made.tasks) and len(made.tasks) == len(NAMES)
    for task in made.tasks.values():
        assert sorted(task.labels) == sorted(labels) and task.data.text == ("the text: of it",)
    assert not re.search("\u202e", made.text)


def test_repeated_and_contradicting_texts_and_uneven_labels(drafted, tmp_path):
    texts = sentences(50)
    columns = {"text": [*texts, texts[0], texts[1], "", " "], "label": ["a"] * 50 + ["b", "a", "a", "c"]}
    write(tmp_path / "x.csv", columns)
    made = drafted("x.csv")
    assert "2 train rows have the text of an earlier one" in made.comments
    assert "1 texts of x occur with different labels" in made.comments
    assert "2 train rows have no text" in made.comments
    assert "the largest, 'a', has 96% of the labelled rows" in made.comments
    assert "#class_weights: balanced" in made.text
    assert "2 of the labels have fewer than 5 rows each: 'b', 'c'" in made.comments


def test_two_texts_that_may_be_a_pair(drafted, tmp_path):
    columns = {
        "subject": sentences(30),
        "body": [f"{text} and more" for text in sentences(30, 1)],
        "label": [1, 2, 3] * 10,
    }
    write(tmp_path / "x.csv", columns)
    made = drafted("x.csv")
    assert made.tasks["x"].data.text == ("body",)
    assert "'subject' may be a text, too" in made.comments and "#text: [subject, body]" in made.text


def test_folders_of_save_to_disk(drafted, tmp_path):
    rows = Dataset.from_dict({"text": sentences(30), "label": ["a", "b", "c"] * 10})
    other = Dataset.from_dict({"text": sentences(12, 1), "label": ["a", "b", "c"] * 4})
    DatasetDict({"train": rows, "validation": other}).save_to_disk(str(tmp_path / "saved"))
    made = drafted("saved")
    assert (made.tasks["saved"].data.train, made.tasks["saved"].data.dev) == ("train", "validation")


# ---- lengths ----


def test_a_length_that_cuts_one_in_a_hundred(tokenizer):
    texts = ["cat " * words for words in [5] * 990 + [50] * 10]
    rows = Dataset.from_dict({"text": texts})
    length = suggest_length(rows, ["text"], tokenizer, 64)
    assert (length.tokens, length.cut, length.longest, length.measured) == (16, 0.01, 52, True)
    reckoned = suggest_length(rows, ["text"], None, None)
    assert (reckoned.tokens, reckoned.longest, reckoned.measured) == (16, 67, False)
    assert suggest_length(rows.select(range(990, 1000)), ["text"], tokenizer, 40).tokens == 40


def test_without_a_tokenizer_the_recipe_says_so(drafted, tmp_path):
    write(tmp_path / "x.csv", {"text": sentences(30), "label": ["x", "y", "z"] * 10})
    made = drafted("x.csv", encoder="no/such-encoder")
    assert "no tokenizer was at hand: 1.3 tokens a word" in made.comments
    with pytest.raises(InputError, match="which can not be taken"):
        drafted("x.csv", encoder=str(tmp_path))


# ---- choices ----


def test_choices(drafted, tmp_path):
    write_tickets(tmp_path / "tickets.csv", rows=80)
    made = drafted("tickets.csv", tasks=parse_tasks("urgency=regression,queue"))
    assert made.kinds() == {"queue": "single_label", "urgency": "regression"}
    assert made.tasks["urgency"].range == (1, 5)
    made = drafted("tickets.csv", label=("queue",), text=("body",), id="ticket")
    assert list(made.tasks) == ["queue"]


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"text": ("boddy",)}, "--text names 'boddy', which no table has; did you mean 'body'"),
        ({"label": ("queu",)}, "--label names 'queu', which no table has; did you mean 'queue'"),
        ({"id": "x"}, "--id names 'x', which no table has; the columns are: 'ticket', 'body'"),
        ({"tasks": {"que": None}}, "--tasks names 'que', but did you mean 'queue'"),
        (
            {"tasks": {"queue": "regression"}},
            "reads queue as regression, but column 'queue' does not fit: a regression",
        ),
        ({"tasks": {"urgency": "binary"}}, "a binary task has two labels, but it has 5"),
    ],
)
def test_choices_that_there_are_not(drafted, tmp_path, wishes, message):
    write_tickets(tmp_path / "tickets.csv", rows=60)
    with pytest.raises(InputError, match=re.escape(message)):
        drafted("tickets.csv", **wishes)


def test_kinds_that_there_are_not():
    with pytest.raises(InputError, match="gives a the kind 'x', but must be one of: classification, binary"):
        parse_tasks("a=x")
    with pytest.raises(InputError, match="different names"):
        parse_tasks("a,a")


# ---- what is refused ----


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("empty.csv", "", InputError, "empty.csv is empty"),
        ("header.csv", "text,label\n", InputError, "header.csv has no row after the header"),
        ("one.csv", "text\na fine day it is\nno day is fine\n", InputError, "but no column is one of labels; add such"),
        (
            "plain.csv",
            "good,a fine old day it is\nbad,an old day it was\ngood,b c d e\ngood,x y z e\n",
            InputError,
            "line 1 seems to be a row",
        ),
        ("numbers.csv", "a,b\n" + "1,2\n3,4\n" * 5, InputError, "no column seems to hold texts ('a' holds numbers"),
        ("nested.jsonl", '{"doc": {"text": "a b c d"}, "y": 1}\n' * 3, InputError, "flatten the objects"),
        ("table.xlsx", "PK", InputError, "is a spreadsheet; save it as CSV in UTF-8"),
        ("table.dat", "x", InputError, "ends in none of .csv, .tsv"),
        ("quote.csv", 'text,label\n"a fine day,b\n', InputError, "a quote opens, but does not close"),
        ("latin.csv", b"text,label\ncaf\xe9 is good,a\n", InputError, "line 2 is no UTF-8 text"),
        ("all.csv", "text,label\n" + "a fine old day,x\n" * 9, InputError, "it holds 'x' in 9 rows"),
    ],
)
def test_files_that_are_refused(drafted, tmp_path, name, content, error, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=re.escape(message)):
        drafted(name)


def test_names_that_there_are_not(drafted, tmp_path, monkeypatch):
    write(tmp_path / "tickets.csv", {"text": sentences(9), "label": ["x"] * 9})
    with pytest.raises(
        MissingFileError, match=r"there is no file 'ticket.csv'; the nearest name there is 'tickets.csv'"
    ):
        drafted("ticket.csv")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "notes.md").touch()
    with pytest.raises(InputError, match="inside holds notes.md, but no file with rows"):
        drafted("inside")

    def no_network(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "get_dataset_config_names", no_network)
    with pytest.raises(FileError, match="there is no file or folder 'someone/data', and no data set of this name"):
        drafted("someone/data")


def test_a_table_on_a_hub(drafted, tmp_path, monkeypatch):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["neg", "pos"]), "idx": Value("int64")})
    splits = {}
    for split, rows in (("train", 30), ("validation", 10), ("test", 10)):
        labels = [-1] * rows if split == "test" else [i % 2 for i in range(rows)]
        values = {"sentence": sentences(rows, rows), "label": labels, "idx": list(range(rows))}
        splits[split] = Dataset.from_dict(values, features)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["cola", "sst2"])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, subset: list(splits))
    loads = lambda name, subset, split, revision: splits[split]  # noqa: E731
    monkeypatch.setattr(tables_file, "load_hub", loads)
    monkeypatch.setattr("mtbert.data.splits.load_hub", loads)
    with pytest.raises(InputError, match="several subsets; choose one with --subset: cola, sst2"):
        drafted("glue")
    made = draft(["glue"], Path("mine.yaml"), "no/encoder", subset="sst2")
    made = Draft(made.text, made.found, tmp_path / "mine.yaml")
    data = made.tasks["sst2"].data
    assert (data.hub, data.subset, data.train, data.dev, data.test, data.id) == (
        *("glue", "sst2", "train", "validation", "test", "idx"),
    )
    assert made.tasks["sst2"].labels == ("neg", "pos")


# ---- the tables of the course and of width ----


@pytest.mark.skipif(not (SHARED / "wide").is_dir(), reason="the data sets (../shared/data/wide) are not here")
def test_the_wide_files(encoder_dir):
    made = draft([str(SHARED / "wide")], Path("mine.yaml"), encoder_dir)
    tasks = parse_yaml(made.text, "x")[0]["tasks"]
    kinds = {name: task.get("problem_type", "range" if "range" in task else "labels") for name, task in tasks.items()}
    assert kinds == {
        "cola": "binary_classification",
        "emotions": "multi_label_classification",
        "mrpc": "binary_classification",
        "rte": "binary_classification",
        "sick_relatedness": "range",
        "sick_entailment": "labels",
        "sst2": "binary_classification",
        "trec_coarse": "labels",
        "trec_fine": "labels",
    }
    assert tasks["sick_relatedness"]["range"] == [1, 5] and len(tasks["trec_fine"]["labels"]) == 50
    assert len(tasks["emotions"]["labels"]) == 28 and tasks["rte"]["labels"] == ["not_entailment", "entailment"]
    assert "Leak:" not in made.text


@pytest.mark.skipif(not (SHARED / "cs224n").is_dir(), reason="the course's files (../shared/data/cs224n) are not here")
def test_the_course_files(encoder_dir, tmp_path):
    made = draft([str(SHARED / "cs224n")], Path("mine.yaml"), encoder_dir)
    made = Draft(made.text, made.found, tmp_path / "mine.yaml")
    assert made.kinds() == {
        "ids-cfimdb": "binary",
        "ids-sst": "ordinal",
        "quora": "binary",
        "sts": "regression",
    }
    assert made.tasks["sts"].range == (0, 5) and made.tasks["ids-sst"].labels == ("0", "1", "2", "3", "4")
    assert [task.data.test for task in made.tasks.values()] == [
        *("ids-cfimdb-test-student.csv", "ids-sst-test-student.csv", None, "sts-test-student.csv"),
    ]
