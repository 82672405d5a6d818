"""The course's submission files: chosen by task, and with the numbers of the course's own files."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pandas as pd
import pytest

from mtbert import TaskSpec
from mtbert.evaluation.course_files import CourseFile, saved_label_columns
from mtbert.evaluation.prediction_files import PredictionFile

SINGLE, BINARY = "single_label_classification", "binary_classification"
SENTIMENT, PARAPHRASE, SIMILARITY = "Predicted_Sentiment", "Predicted_Is_Paraphrase", "Predicted_Similiary"


def class_logits(task: TaskSpec) -> np.ndarray:
    """Logits of one row for each class, in order."""
    return np.array([[-1.0], [1.0]]) if task.kind.binary else np.eye(len(task.classes))


@pytest.mark.parametrize(
    ("name", "column", "problem_type", "labels", "heading", "values"),
    [
        # the course's own recipes
        ("sst", "sentiment", SINGLE, 5, SENTIMENT, "0 1 2 3 4"),
        ("cfimdb", "sentiment", SINGLE, 2, SENTIMENT, "0 1"),
        ("para", "is_duplicate", BINARY, ["no", "yes"], PARAPHRASE, "0.0 1.0"),
        ("para", "is_duplicate", SINGLE, ["no", "yes"], PARAPHRASE, "0.0 1.0"),
        # other labels: the number is the one that is read as this class
        ("para", "is_duplicate", SINGLE, ["0", "1"], PARAPHRASE, "0.0 1.0"),
        ("para", "is_duplicate", SINGLE, ["1.0", "0.0"], PARAPHRASE, "1.0 0.0"),
        ("para", "is_duplicate", SINGLE, ["yes", "no"], PARAPHRASE, "1.0 0.0"),
        ("para", "is_duplicate", BINARY, ["yes", "no"], PARAPHRASE, "1.0 0.0"),
        ("para", "is_duplicate", SINGLE, ["different", "same"], PARAPHRASE, "0.0 1.0"),
        ("sst", "sentiment", SINGLE, ["4", "3", "2", "1", "0"], SENTIMENT, "4 3 2 1 0"),
        ("sst", "sentiment", SINGLE, ["1", "2", "3", "4", "5"], SENTIMENT, "0 1 2 3 4"),
        ("cfimdb", "sentiment", BINARY, ["negative", "positive"], SENTIMENT, "0 1"),
        ("sts", "similarity", SINGLE, 6, SIMILARITY, "0.0 1.0 2.0 3.0 4.0 5.0"),
        ("sts", "similarity", SINGLE, ["5", "2.5", "0"], SIMILARITY, "5.0 2.5 0.0"),
        # renamed tasks and other columns: the column, then the name, then the problem type
        ("quora", "is_duplicate", SINGLE, ["no", "yes"], PARAPHRASE, "0.0 1.0"),
        ("sst", "is_duplicate", SINGLE, ["no", "yes"], PARAPHRASE, "0.0 1.0"),
        ("para", "label", SINGLE, ["no", "yes"], PARAPHRASE, "0.0 1.0"),
        ("cfimdb", None, BINARY, 2, SENTIMENT, "0 1"),
        ("movies", "Sentiment", BINARY, 2, SENTIMENT, "0 1"),
        ("quora", None, BINARY, ["no", "yes"], PARAPHRASE, "0.0 1.0"),
        ("quora", "label", SINGLE, ["no", "yes"], SENTIMENT, "0 1"),
    ],
)
def test_heading_and_values_of_each_class(name, column, problem_type, labels, heading, values):
    task = TaskSpec(name, problem_type, labels=labels)
    file = CourseFile(task, column)
    assert file.heading == heading
    assert file.values(class_logits(task)) == values.split()


@pytest.mark.parametrize(
    ("name", "column"), [("sts", "similarity"), ("close", "similarity"), ("sts", None), ("x", "y")]
)
def test_scores_are_fp32_numbers(name, column):
    file = CourseFile(TaskSpec(name, range=(0, 5), texts=2), column)
    logits = np.array([[3.2], [5.0]], dtype=np.float32)
    assert (file.heading, file.values(logits)) == (SIMILARITY, [str(float(np.float32(3.2))), "5.0"])


@pytest.mark.parametrize(
    ("settings", "column", "message"),
    [
        ({"labels": 3}, "is_duplicate", "task 'a' has 3 labels, but Predicted_Is_Paraphrase takes two; write a csv"),
        ({"range": (0, 1)}, "is_duplicate", "is a regression, but Predicted_Is_Paraphrase takes classes"),
        ({"range": (0, 4)}, "sentiment", "is a regression, but Predicted_Sentiment takes classes"),
        ({"labels": ["far", "near"]}, "similarity", "has the labels far, near, but Predicted_Similiary takes scores"),
        *(
            ({"problem_type": "multi_label_classification", "labels": 2}, column, "'a' is a multi_label_classification")
            for column in (None, "sentiment", "is_duplicate", "similarity")
        ),
    ],
)
def test_tasks_without_a_course_file(settings, column, message):
    with pytest.raises(ValueError, match=message):
        CourseFile(TaskSpec("a", **settings), column)
    with pytest.raises(ValueError, match=message):
        PredictionFile("out.csv", [TaskSpec("a", **settings)], "cs224n", "id", label_columns={"a": column})


def test_label_columns_of_a_run_and_of_its_checkpoints(tmp_path):
    (tmp_path / "checkpoint-9").mkdir()
    assert saved_label_columns(tmp_path) == saved_label_columns("user/model") == {}
    recipe = {"tasks": {"quora": {"data": {"label": "is_duplicate"}}, "bare": {}, "odd": {"data": {"label": 3}}}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert saved_label_columns(tmp_path) == saved_label_columns(tmp_path / "checkpoint-9") == {"quora": "is_duplicate"}
    (tmp_path / "recipe.json").write_text("{}")
    assert saved_label_columns(tmp_path) == {}
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match="recipe.json can not be read as JSON"):
        saved_label_columns(tmp_path)


def test_the_command_reads_the_run_s_recipe(make_model, tokenizer, tmp_path, capsys):
    task = TaskSpec("quora", labels=["no", "yes"], texts=2)
    make_model([task]).save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    pairs = "\tid\tsentence1\tsentence2\n0\tA1 \tthe cat\ta dog\n1\tb2\ta fish\tthe bird\n"
    (tmp_path / "in.csv").write_text(pairs)
    columns = ["--text", "sentence1", "--text_pair", "sentence2", "--id", "id"]
    command = [str(tmp_path / "run"), str(tmp_path / "in.csv"), "--input_format", "cs224n", *columns, "--overwrite"]
    command += ["--device", "cpu", "--output", str(tmp_path / "out.csv")]
    main = importlib.import_module("mtbert.cli.predict").main
    main([*command, "--format", "csv"])
    answers = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)["quora"]
    main([*command, "--format", "cs224n"])
    assert capsys.readouterr().err.splitlines()[-1] == "2 rows; quora: Predicted_Sentiment"
    (tmp_path / "run" / "recipe.json").write_text('{"tasks": {"quora": {"data": {"label": "is_duplicate"}}}}')
    main([*command, "--format", "cs224n"])
    assert capsys.readouterr().err.splitlines()[-1] == "2 rows; quora: Predicted_Is_Paraphrase"
    values = ["1.0" if answer == "yes" else "0.0" for answer in answers]
    lines = ["id \t Predicted_Is_Paraphrase ", f"a1 , {values[0]} ", f"b2 , {values[1]} ", ""]
    assert (tmp_path / "out.csv").read_text() == "\n".join(lines)
    (tmp_path / "in.csv").write_text(pairs.replace("b2", " "))
    with pytest.raises(ValueError, match="row 2 has no id in column 'id', but the course's files need one"):
        main([*command, "--format", "cs224n"])
