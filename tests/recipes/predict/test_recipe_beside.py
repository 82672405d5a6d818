"""`mtbert predict` reads the recipe beside a checkpoint: columns, ids, formats and splits; what it writes, and how."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from mtbert import MtBertForMultiTask
from mtbert.cli import arguments
from mtbert.runs.text_scorer import TextScorer

STARS = {"text": ["review"], "label": "stars", "id": "key", "train": "train.csv", "separator": ";"}
SAME = {"text": ["one", "two"], "label": "same", "id": None, "train": "pairs.csv"}


@pytest.fixture
def run(checkpoint, tmp_path):
    """Write a recipe.json beside the checkpoint: a function of the tasks' data; it returns the checkpoint."""

    def write(**data: dict) -> str:
        tree = {"data_dir": str(tmp_path), "tasks": {name: {"data": values} for name, values in data.items()}}
        Path(checkpoint, "recipe.json").write_text(json.dumps(tree))
        return checkpoint

    return write


def answers(checkpoint, tokenizer, task: str, *texts: list[str]) -> list[str]:
    scorer = TextScorer(MtBertForMultiTask.from_pretrained(checkpoint), tokenizer, [task])
    logits = scorer(*texts)[task]
    return [str(each) for each in (logits.argmax(1) if task == "stars" else logits[:, 0].round(4))]


class TestColumns:
    def test_the_training_table_s_names_need_no_flags(self, predict, run, tokenizer, tmp_path, capsys):
        checkpoint = run(stars=STARS, same=SAME)
        (tmp_path / "new.csv").write_text("key;review;stars\nk1;the cat;2\nk2;a dog, asleep;\n")
        predict.main([checkpoint, str(tmp_path / "new.csv"), "--output", str(tmp_path / "out.csv"), "--device", "cpu"])
        found = pd.read_csv(tmp_path / "out.csv", dtype=str)
        assert list(found) == ["key", "stars", "stars:0", "stars:1", "stars:2"] and list(found["key"]) == ["k1", "k2"]
        assert list(found["stars"]) == answers(checkpoint, tokenizer, "stars", ["the cat", "a dog, asleep"])
        assert "note: left out, since their columns are not there: topics, same" in capsys.readouterr().err

    def test_tasks_of_different_columns_in_one_pass(self, predict, run, tokenizer, tmp_path):
        checkpoint = run(stars={**STARS, "separator": None}, same=SAME)
        rows = pd.DataFrame(
            {"review": ["the cat", "a dog"], "one": ["a", "b"], "two": ["a bird", "fish"], "key": ["x", "y"]}
        )
        rows.to_json(tmp_path / "new.jsonl", orient="records", lines=True)
        words = [
            checkpoint,
            str(tmp_path / "new.jsonl"),
            "--tasks",
            "same,stars",
            "--output",
            str(tmp_path / "out.jsonl"),
        ]
        predict.main([*words, "--device", "cpu"])
        found = pd.read_json(tmp_path / "out.jsonl", lines=True, dtype=str)
        assert list(found)[:2] == ["key", "same"]
        assert found["stars"].astype(str).tolist() == answers(checkpoint, tokenizer, "stars", rows["review"].tolist())
        scorer = TextScorer(MtBertForMultiTask.from_pretrained(checkpoint), tokenizer, ["same"])
        expected = scorer(rows["one"].tolist(), rows["two"].tolist())["same"][:, 0] > 0
        assert found["same"].tolist() == ["yes" if each else "no" for each in expected]

    def test_a_task_that_was_named_needs_its_columns(self, predict, run, tmp_path):
        checkpoint = run(stars=STARS, same=SAME)
        (tmp_path / "new.csv").write_text("key,revue\nk1,the cat\n")
        words = [checkpoint, str(tmp_path / "new.csv"), "--output", str(tmp_path / "out.csv")]
        with pytest.raises(
            ValueError,
            match=r"new\.csv: there is no column 'review', which task 'stars' reads; did you mean 'revue'\? name its .*"
            r"--text, or .*\['key', 'revue'\]",
        ):
            predict.main([*words, "--tasks", "stars"])
        with pytest.raises(ValueError, match="there is no column"):
            predict.main(words)
        predict.main([*words, "--tasks", "stars", "--text", "revue"])
        assert list(pd.read_csv(tmp_path / "out.csv"))[0] == "key"

    def test_the_columns_of_files_without_a_recipe_still_work(
        self, predict, run, tokenizer, tmp_path, monkeypatch, capsys
    ):
        checkpoint = run(stars=STARS)
        (tmp_path / "new.csv").write_text("text,n\nthe cat,1\n")
        words = [checkpoint, str(tmp_path / "new.csv"), "--tasks", "stars", "--overwrite"]
        predict.main([*words, "--output", str(tmp_path / "out.csv")])
        assert "task stars reads text, since there is no review" in capsys.readouterr().err
        first = (tmp_path / "out.csv").read_bytes()
        predict.main([*words, "--output", str(tmp_path / "out.csv"), "--no_recipe"])
        assert (tmp_path / "out.csv").read_bytes() == first and first.startswith(b"row,")
        for lines in (b"the cat\n", b'{"review": "the cat", "key": 7}\n', b'{"text": "the cat"}\n'):
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
            predict.main([checkpoint, "--tasks", "stars", "--output", "-", "--format", "jsonl"])
            (row,) = map(json.loads, capsys.readouterr().out.splitlines())
            assert row["stars"] == answers(checkpoint, tokenizer, "stars", ["the cat"])[0]
            assert row.get("key", "7") == "7" and ("key" in row) == (b"key" in lines)

    def test_the_course_s_format_is_that_of_the_recipe(self, predict, run, course_dir, tmp_path):
        data = {
            "text": ["sentence1", "sentence2"],
            "label": "is_duplicate",
            "id": "id",
            "format": "cs224n",
            "train": "a.csv",
        }
        words = [run(same=data), str(course_dir / "sts-test-student.csv"), "--tasks", "same"]
        predict.main([*words, "--format", "cs224n", "--output", str(tmp_path / "out.csv")])
        assert (tmp_path / "out.csv").read_text().startswith("id \t Predicted_Is_Paraphrase \n")

    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            ("{", "recipe.json"),
            (
                {"tasks": {"stars": {"data": {"text": 3}}}},
                "recipe.json: .*stars.*; repair or remove it, or .*--no_recipe",
            ),
        ],
    )
    def test_a_recipe_that_can_not_be_read(self, predict, checkpoint, tmp_path, tree, message):
        Path(checkpoint, "recipe.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
        (tmp_path / "in.csv").write_text("text\na\n")
        words = [checkpoint, str(tmp_path / "in.csv"), "--tasks", "stars", "--output", str(tmp_path / "out.csv")]
        with pytest.raises(ValueError, match=message):
            predict.main(words)
        predict.main([*words, "--no_recipe"])

    def test_columns_of_a_source(self, predict, checkpoint, tmp_path):
        tree = {"sources": {"s": {"text": ["body"], "id": "n", "train": "a.csv"}}}
        tree["tasks"] = {"stars": {"data": {"source": "s", "label": "stars", "text": None}}}
        Path(checkpoint, "recipe.json").write_text(json.dumps(tree))
        (tmp_path / "in.csv").write_text("n,body\n4,a cat\n")
        predict.main([checkpoint, str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")])
        assert pd.read_csv(tmp_path / "out.csv")["n"].tolist() == [4]


class TestKeptColumns:
    csv = 'key,text,stars,row\nk1,the cat,2,x\nk2,"a, dog",,"y\nz"\n'

    @pytest.mark.parametrize("target", ["out.csv", "out.tsv", "out.jsonl", "out.parquet", "out.csv.gz"])
    def test_they_stand_between_id_and_answers(self, predict, checkpoint, tmp_path, target, capsys):
        (tmp_path / "in.csv").write_text(self.csv)
        words = [checkpoint, str(tmp_path / "in.csv"), "--tasks", "stars", "--keep_columns", "--id", "key"]
        predict.main([*words, "--output", str(tmp_path / target), "--chunk_size", "1"])
        reader = {
            "tsv": lambda p: pd.read_csv(p, sep="\t", dtype=str, keep_default_na=False),
            "jsonl": lambda p: pd.read_json(p, lines=True, dtype=str),
            "parquet": pd.read_parquet,
        }
        read = reader.get(target.split(".")[1], lambda p: pd.read_csv(p, dtype=str, keep_default_na=False))
        found = read(tmp_path / target)
        assert list(found) == ["key", "text", "input.stars", "row", "stars", "stars:0", "stars:1", "stars:2"]
        assert found["text"].tolist() == ["the cat", "a, dog"] and found["row"].tolist() == ["x", "y\nz"]
        assert found["input.stars"].tolist() == ["2", ""]
        assert (
            "note: columns of the input that have names of answers: 'stars' is 'input.stars'" in capsys.readouterr().err
        )

    def test_json_and_parquet_values_keep_their_types(self, predict, checkpoint, tmp_path):
        lines = [
            '{"text": "a", "n": 1.50, "tags": ["x", {"y": null}], "on": true}',
            '{"text": "b", "n": null, "tags": []}',
        ]
        (tmp_path / "in.jsonl").write_text("\n".join(lines))
        words = ["--tasks", "stars", "--keep_columns", "--output"]
        predict.main([checkpoint, str(tmp_path / "in.jsonl"), *words, str(tmp_path / "out.jsonl")])
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [{key: row[key] for key in ("row", "text", "n", "tags", "on")} for row in rows] == [
            {"row": 1, "text": "a", "n": 1.5, "tags": ["x", {"y": None}], "on": True},
            {"row": 2, "text": "b", "n": None, "tags": [], "on": None},
        ]
        predict.main([checkpoint, str(tmp_path / "in.jsonl"), *words, str(tmp_path / "out.csv")])
        found = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
        assert found["n"].tolist() == ["1.50", ""] and found["tags"].tolist() == ['["x", {"y": null}]', "[]"]
        table = pa.table(
            {"text": ["a", "b"], "n": pa.array([1, None], pa.int16()), "day": pa.array([0, 1], pa.date32())}
        )
        pq.write_table(table, tmp_path / "in.parquet")
        predict.main([checkpoint, str(tmp_path / "in.parquet"), *words, str(tmp_path / "out.parquet")])
        assert pq.read_table(tmp_path / "out.parquet").select(["text", "n", "day"]).equals(table)

    def test_a_later_row_with_a_new_key(self, predict, checkpoint, tmp_path):
        (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b", "new": 1}\n')
        words = [checkpoint, str(tmp_path / "in.jsonl"), "--tasks", "stars", "--keep_columns", "--chunk_size", "1"]
        with pytest.raises(ValueError, match=r"in\.jsonl: line 2 has 'new', which the first rows lack"):
            predict.main([*words, "--output", str(tmp_path / "out.csv")])
        assert not list(tmp_path.glob("out*"))


class TestSplits:
    @pytest.fixture
    def table(self, tmp_path):
        rows = [f"t{i};{'' if i % 5 == 0 else i % 3};word {i}" for i in range(40)]
        (tmp_path / "train.csv").write_text("key;stars;review\n" + "\n".join(rows) + "\n")
        (tmp_path / "test.csv").write_text("key;review\nq1;the cat\nq2;\n")
        return tmp_path

    def test_a_file_of_the_recipe(self, predict, run, table):
        checkpoint = run(stars={**STARS, "test": "test.csv"})
        predict.main([checkpoint, "--split", "test", "--output", str(table / "out.csv")])
        assert pd.read_csv(table / "out.csv")["key"].tolist() == ["q1", "q2"]
        predict.main([checkpoint, "--split", "train", "--id", "", "--output", str(table / "train-out.csv")])
        assert pd.read_csv(table / "train-out.csv")["row"].tolist() == list(range(1, 41))

    @pytest.mark.parametrize("cut", [{"dev": "25%", "test": "25%"}, {"dev_share": 0.25}])
    def test_splits_that_were_cut_off(self, predict, run, table, cut):
        checkpoint, found = run(stars={**STARS, **cut}), {}
        for split in ("train", "dev", *(["test"] if "test" in cut else [])):
            predict.main([checkpoint, "--split", split, "--keep_columns", "--output", str(table / f"{split}.jsonl")])
            found[split] = pd.read_json(table / f"{split}.jsonl", lines=True, dtype=str)
            assert found[split]["review"].tolist() == [key.replace("t", "word ") for key in found[split]["key"]]
        keys = [key for rows in found.values() for key in rows["key"]]
        assert len(set(keys)) == len(keys) == 32 and len(found["dev"]) == (8 if "dev_share" in cut else 9)

    def test_a_folder_of_a_data_set(self, predict, run, table):
        rows = Dataset.from_dict({"review": ["a", "b"], "key": ["x", "y"]})
        rows.save_to_disk(table / "saved")
        (table / "hub").mkdir()
        rows.to_json(table / "hub" / "test.jsonl")
        for name, data in (
            ("one", {"test": "saved/", "separator": None}),
            ("two", {"hub": str(table / "hub"), "train": "test", "test": "test", "separator": None}),
        ):
            predict.main([run(stars={**STARS, **data}), "--split", "test", "--output", str(table / f"{name}.csv")])
            assert pd.read_csv(table / f"{name}.csv")["key"].tolist() == ["x", "y"]

    def test_what_is_refused(self, predict, run, checkpoint, table, capsys):
        words = ["--split", "test", "--output", str(table / "out.csv")]
        with pytest.raises(ValueError, match="--split needs the recipe.json of a run beside"):
            predict.main([checkpoint, *words])
        run(
            stars=STARS,
            same={**SAME, "test": "pairs.csv"},
            alike={**SAME, "test": "pairs.csv"},
            near={**SAME, "test": "other.csv"},
        )
        with pytest.raises(ValueError, match="names no test split of task 'stars'; give a file in place of --split"):
            predict.main([checkpoint, *words, "--tasks", "stars"])
        with pytest.raises(
            ValueError, match="are different rows; choose tasks of the same: --tasks same,alike; or --tasks near"
        ):
            predict.main([checkpoint, *words])
        for more in (["in.csv"], ["--text", "a"], ["--no_recipe"]):
            with pytest.raises(SystemExit):
                arguments.predict([checkpoint, *more, *words])
            assert "--split reads the rows that the recipe names; drop it, or" in capsys.readouterr().err


class TestFiles:
    @pytest.fixture
    def written(self, predict, checkpoint, rows, tmp_path):
        """A function that predicts the rows into a file and returns its path."""
        rows.to_csv(tmp_path / "in.csv", index=False)

        def write(name: str, *more: str) -> Path:
            words = [checkpoint, str(tmp_path / "in.csv"), "--tasks", "stars", "--id", "key", "--overwrite"]
            predict.main([*words, "--output", str(tmp_path / name), *more])
            return tmp_path / name

        return write

    def test_compressed_files_hold_the_plain_ones(self, written):
        for suffix in ("csv", "tsv", "jsonl"):
            plain = written(f"out.{suffix}").read_bytes()
            assert gzip.decompress(written(f"out.{suffix}.gz").read_bytes()) == plain
            packed = written(f"out.{suffix}.zst").read_bytes()
            assert pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read() == plain
            with zipfile.ZipFile(written(f"out.{suffix}.zip")) as archive:
                assert archive.namelist() == [f"out.{suffix}"] and archive.read(f"out.{suffix}") == plain
        assert pd.read_csv(written("out.csv.xz")).equals(pd.read_csv(written("out.csv.bz2")))
        first = written("out.csv.zip").read_bytes()
        assert written("out.csv.zip").read_bytes() == first

    def test_what_is_refused(self, written):
        with pytest.raises(
            ValueError, match=r"out\.parquet\.gz: parquet files are compressed inside; drop the last suffix"
        ):
            written("out.parquet.gz")
        with pytest.raises(
            ValueError, match="--defuse_formulas is for csv and tsv, which spreadsheets open, not for jsonl"
        ):
            written("out.jsonl", "--defuse_formulas")
        with pytest.raises(ValueError, match=r"the suffix of .*out\.gz says no format"):
            written("out.gz")

    def test_a_failure_leaves_no_compressed_file(self, predict, checkpoint, tmp_path):
        (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{}\n')
        for name in ("out.csv.gz", "out.csv.zip", "out.jsonl.zst", "out.parquet"):
            words = [checkpoint, str(tmp_path / "in.jsonl"), "--tasks", "stars", "--chunk_size", "1"]
            with pytest.raises(ValueError, match="line 3 has no 'text'"):
                predict.main([*words, "--output", str(tmp_path / name)])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "in.jsonl"]

    def test_formulas_are_defused(self, predict, checkpoint, tmp_path):
        cells = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\ttab", "-5", "+1e3", ".5", "a=b", "", "－1", "-"]
        rows = pd.DataFrame({"text": "a", "=cell": cells, "n": range(len(cells))})
        rows.to_csv(tmp_path / "in.csv", index=False)
        words = [checkpoint, str(tmp_path / "in.csv"), "--tasks", "stars", "--keep_columns", "--defuse_formulas"]
        predict.main([*words, "--output", str(tmp_path / "out.csv")])
        found = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
        defused = {"=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\ttab", "－1", "-"}
        assert found["'=cell"].tolist() == [f"'{cell}" if cell in defused else cell for cell in cells]
        assert found["n"].tolist() == [str(i) for i in range(len(cells))]
        np.testing.assert_allclose(found[["stars:0", "stars:1", "stars:2"]].astype(float).sum(axis=1), 1, atol=1e-5)

    def test_cut_texts_are_warned_of_by_task(self, predict, checkpoint, rows, tmp_path, capsys):
        rows.to_csv(tmp_path / "in.csv", index=False)
        predict.main(
            [checkpoint, str(tmp_path / "in.csv"), "--tasks", "stars,plain,close", "--output", str(tmp_path / "o.csv")]
        )
        warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert warned and all("of 41 rows were cut at" in line for line in warned)
        assert any("max_length, 9 tokens (task plain)" in line for line in warned)
