"""The report's folder: all edge cases are written, it is one file without outside references, and nothing is lost."""

import json
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats
from sklearn import metrics as sk

from mtbert.data.sampling import Plan, Schedule
from mtbert.evaluation.report import RunLog, TokenWeights, analyse_run, compare_runs, write_report
from mtbert.evaluation.report.page import Picture, Table, sections, shown
from mtbert.evaluation.report.write import jsonable
from mtbert.modeling.task_spec import TaskSpec

METRICS = {"stars": "accuracy", "same": "f1", "close": "pearson", "topics": "f1_micro"}
RUN = {"name": "runs/a", "against": None, "split": "dev", "examples": 5, "resamples": 20, "seed": 0, "notes": []}


def numbers(tasks, tmp_path, metrics=METRICS, log=(), plan=None, **run):
    run_log = RunLog(tmp_path, log, {}, {"eval_stars_accuracy": 0.5})
    metrics = {name: metrics.get(name, "accuracy") for name in tasks}
    return {**analyse_run(tasks, metrics, run_log, plan, 5), "run": {**RUN, **run}}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function: numbers → the page and the saved numbers; `drawn`: whether figures are drawn, which takes seconds."""
    monkeypatch.setattr("mtbert.evaluation.report.write.DPI", 25)

    def make(found, name="report", drawn=False, **kwargs):
        if not drawn:
            monkeypatch.setattr("mtbert.evaluation.report.write._png", lambda picture: b"png")
            monkeypatch.setattr(
                "mtbert.evaluation.report.write._svg", lambda picture, prefix, title: [f"<i>{title}</i>"]
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            page = write_report(tmp_path / name, found, **kwargs)
        html, text = page.read_text("utf-8"), (page.parent / "report.json").read_text("utf-8")
        check_html(html)
        assert "NaN" not in text
        return html, json.loads(text)

    return make


def check_html(html: str) -> None:
    """Balanced tags, nothing fetched, every link's target there, every figure described, headings in their order."""

    class Checker(HTMLParser):
        open, ids, links, levels = [], set(), set(), []

        def handle_starttag(self, tag, attrs):
            attrs = dict(attrs)
            if tag not in ("meta", "link", "img", "br"):
                self.open.append(tag)
            if "id" in attrs:
                assert attrs["id"] not in self.ids
                self.ids.add(attrs["id"])
            for key in ("href", "aria-labelledby"):
                if attrs.get(key) and not attrs[key].startswith("data:"):
                    self.links.add(attrs[key].removeprefix("#"))
            self.links |= set(re.findall(r"url\(#([^)]*)\)", " ".join(filter(None, attrs.values()))))
            if tag == "svg":
                assert attrs.get("aria-labelledby") or attrs.get("aria-label") or self.open[-3] == "p"
            if re.fullmatch("h[1-6]", tag):
                self.levels.append(int(tag[1]))
                assert self.levels[0] == 1 and self.levels[-1] <= self.levels[-2:][0] + 1
            if tag == "th":
                assert attrs["scope"] in ("row", "col")
            assert tag not in ("script", "img", "iframe")
            assert not any(key.startswith("on") for key in attrs)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    checker.open, checker.ids, checker.links, checker.levels = [], set(), set(), []
    checker.feed(html)
    assert checker.open == []
    assert checker.links <= checker.ids
    assert not re.search(r"https?://", html)


def test_a_report_of_every_kind_of_task(make_rows, write, tmp_path):
    groups = {"sex": ["f", "m"] * 30, "a/b & <c>": ["x"] * 60}
    tasks = {name: make_rows(name, groups=groups) for name in METRICS}
    log = [
        {"step": 1, "epoch": 0.5, "examples_stars": 8, "loss_stars": 1.0, "cos_stars_same": -0.1, "conflicts": 1},
        {"step": 2, "epoch": 1.0, "eval_stars_accuracy": 0.4, "eval_overall": 0.4},
    ]
    plan = Plan(Schedule("uniform", steps_per_epoch=2), tuple(tasks), (9, 9, 9, 9), 8, 1)
    found = numbers(tasks, tmp_path, log=log, plan=plan)
    found["comparison"] = compare_runs(tasks, tasks, METRICS, 0, 20)
    found["run"]["against"] = "runs/b"
    html, saved = write(found, drawn=True)
    for path in (tmp_path / "report" / "figures").iterdir():
        assert len(np.unique(imread(path))) > 3
    names = [item.name for each in sections(found) for item in each.items if isinstance(item, Picture)]
    assert len(set(names)) == len(names)
    assert {path.name for path in (tmp_path / "report" / "figures").iterdir()} >= {
        "stars.confusion.png",
        "topics.dog.confusion.png",
        "close.scatter.png",
        "close.signed_error.png",
        "same.by.a%2Fb%20%26%20%3Cc%3E.png",
        "sampling.png",
        "gradients_cosines.png",
        "differences.png",
    }
    assert len(list((tmp_path / "report" / "figures").iterdir())) == len(names)
    on_page = [item for each in sections(found) for item in each.items if isinstance(item, Picture) and item.on_page]
    assert len(re.findall("<figure>", html)) == len(on_page) < html.count('<svg class="plot"')
    assert len(html.encode()) < 1_000_000 and "#0072" not in html.lower()
    assert "a/b &amp; &lt;c&gt;" in html
    assert saved == jsonable(found)
    score = saved["tasks"]["stars"]["scores"]["accuracy"]
    assert score == np.mean(tasks["stars"].right)
    assert f">{score:.3f}<" in html


def test_texts_are_escaped_and_long_ones_cut_on_the_page_only(make_rows, write, tmp_path):
    rows = make_rows("stars", 3, labels=[0, 1, 2], logits=np.eye(3)[[1, 2, 0]])
    object.__setattr__(rows, "texts", (("<script>alert(1)</script>",), ("word " * 200,), ("{{ 1 + 1 }}",)))
    html, saved = write(numbers({"stars": rows}, tmp_path))
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "{{ 1 + 1 }}" in html
    assert "word " * 200 not in html
    assert "word " * 200 in [each["text"] for each in saved["tasks"]["stars"]["worst"]]


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("name", METRICS)
def test_hardly_any_rows(name, count, make_rows, write, tmp_path):
    tasks = {name: make_rows(name, count, groups={"sex": ["f"] * count})}
    found = numbers(tasks, tmp_path)
    if count:
        found["comparison"] = compare_runs(tasks, tasks, METRICS, 0, 5)
        found["run"]["against"] = "b"
    html, saved = write(found, drawn=count == 1)
    assert saved["tasks"][name]["rows"] == count
    assert ("no labelled row" in html) == (count == 0)
    assert bool(saved["averages"]) == (count > 0)


def test_constant_predictions_count_as_zero_and_are_flagged(make_rows, write, tmp_path):
    tasks = {"close": make_rows("close", 9, logits=np.full((9, 1), 2.5))}
    html, saved = write(numbers(tasks, tmp_path))
    assert saved["tasks"]["close"]["scores"]["pearson"] == 0
    assert saved["averages"]["overall"] == 0.5
    assert "close: pearson is undefined and counts as 0" in html


def test_a_class_without_rows_and_one_never_predicted(make_rows, write, tmp_path):
    rows = make_rows("stars", 4, labels=[0, 0, 1, 1], logits=np.eye(3)[[0, 0, 0, 2]])
    _, saved = write(numbers({"stars": rows}, tmp_path))
    empty = saved["tasks"]["stars"]["classes"]["per_class"][2]
    assert empty["recall"] is None
    assert saved["tasks"]["stars"]["classes"]["rates"][2] == [None] * 3


def test_scores_of_minus_one_or_less_have_no_logarithmic_error(make_rows, write, tmp_path):
    html, saved = write(numbers({"close": make_rows("close", 3, logits=[[-2], [0], [1]])}, tmp_path))
    assert saved["tasks"]["close"]["scores"]["msle"] is None
    assert "msle is undefined, since a score is −1 or less" in html


def test_a_regression_has_the_metrics_that_report_c_prints(make_rows, write, tmp_path):
    """Of scikit-learn and scipy: Pearson, MSE, RMSE, MSLE, median and mean absolute error, explained variance, R²."""
    rows = make_rows("close", logits=np.random.default_rng(0).uniform(0, 5, (60, 1)))
    html, saved = write(numbers({"close": rows}, tmp_path))
    labels, scores = rows.labels.astype(float), rows.logits[:, 0].astype(float)
    expected = {
        "pearson": stats.pearsonr(labels, scores).statistic,
        "mse": sk.mean_squared_error(labels, scores),
        "rmse": sk.root_mean_squared_error(labels, scores),
        "msle": sk.mean_squared_log_error(labels, scores),
        "medae": sk.median_absolute_error(labels, scores),
        "mae": sk.mean_absolute_error(labels, scores),
        "explained_variance": sk.explained_variance_score(labels, scores),
        "r2": sk.r2_score(labels, scores),
    }
    found = saved["tasks"]["close"]["scores"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    table = html[html.index("Scores by every metric") :]
    assert all(f">{name}<" in table[: table.index("</table>")] for name in expected)


def test_what_is_near_the_label_stands_in_the_page_and_in_the_numbers(make_rows, write, tmp_path):
    tasks = {"five": make_rows(TaskSpec("five", labels=5)), "close": make_rows("close", 2100)}
    html, saved = write(numbers(tasks, tmp_path, {"five": "accuracy", "close": "pearson"}))
    shares = saved["tasks"]["five"]["within_one"]
    assert list(shares) == ["exactly_right", "one_class_away", "further_away", "within_one_class"]
    for name in ("one class away", "within one class", "|predicted − true| ≤ 1"):
        assert f'<th scope="row">{name}</th>' in html
    assert f">{saved['tasks']['close']['within_one']['within_one_point']:.3f}<" in html
    assert "The points are 2,000 rows, evenly chosen; 100 are left out." in html


def test_what_the_attention_reads_stands_in_the_page_and_in_the_numbers(make_rows, write, tmp_path):
    ids = [np.arange(5) for _ in range(60)]
    tokens = TokenWeights(
        ids, [np.array([0.125, 0.25, 0.375, 0.25, 0])] * 60, (4,), lambda row: ["$", "\u202e", "<b>", "x", "y"]
    )
    rows = replace(make_rows("stars"), attention=tokens)
    html, saved = write(numbers({"stars": rows}, tmp_path), drawn=True)
    found = saved["tasks"]["stars"]["attention"]
    assert (found["first"], found["separators"], found["rest"]) == (0.125, 0, 0.875)
    assert len(found["examples"]) == 8 and found["examples"][0]["tokens"][1] == "\u202e"
    assert "What the head reads" in html and "\u202e" not in html
    assert (tmp_path / "report" / "figures" / "stars.attention.png").is_file()
    html, saved = write(numbers({"stars": replace(rows, show_texts=False)}, tmp_path), "hidden")
    assert saved["tasks"]["stars"]["attention"]["examples"] == [] and "What the head reads" in html
    assert not (tmp_path / "hidden" / "figures" / "stars.attention.png").exists()


def test_labels_may_be_called_anything(make_rows, write, tmp_path):
    task = TaskSpec("langs", "multi_label_classification", labels=["c++", "../x", "$\\frac"])
    write(
        numbers({"langs": make_rows(task, groups={"_$^$": ["$_$^{"] * 60})}, tmp_path, {"langs": "f1_micro"}),
        drawn=True,
    )
    assert len(list((tmp_path / "report" / "figures").glob("langs.*.confusion.png"))) == 3


def test_examples_are_the_surest_of_each_side(make_rows, tmp_path):
    rows = make_rows("same")
    found = numbers({"same": rows}, tmp_path)["tasks"]["same"]["classes"]
    wrong = [i for i in range(60) if rows.predicted[i] == 1 and rows.labels[i] == 0]
    wrong.sort(key=lambda i: -rows.logits[i, 0])
    assert [each["row"] for each in found["false_positives"]["yes"]] == [str(i + 1) for i in wrong[:5]]
    missed = [i for i in range(60) if rows.predicted[i] == 0 and rows.labels[i] == 1]
    missed.sort(key=lambda i: rows.logits[i, 0])
    assert [each["row"] for each in found["false_negatives"]["yes"]] == [str(i + 1) for i in missed[:5]]
    assert list(found["false_positives"]) == ["yes"]


def test_the_worst_errors_are_those_with_the_largest_loss(make_rows, tmp_path):
    for name in METRICS:
        rows = make_rows(name)
        worst = numbers({name: rows}, tmp_path)["tasks"][name]["worst"]
        wrong = [i for i in np.argsort(-rows.losses) if rows.errors[i] > 0]
        assert [each["row"] for each in worst] == [str(i + 1) for i in wrong[:5]]


def test_a_trained_split_is_said_to_be_one(make_rows, write, tmp_path):
    html, _ = write(numbers({"stars": make_rows("stars")}, tmp_path, split="train"))
    assert "The model was trained on these rows" in html


def test_a_folder_is_overwritten_only_where_it_is_a_report(make_rows, write, tmp_path):
    found = numbers({"stars": make_rows("stars")}, tmp_path)
    write(found)
    with pytest.raises(ValueError, match="has files in it; give another folder .--output., or --overwrite"):
        write(found)
    (tmp_path / "report" / "figures" / "old.png").write_bytes(b"")
    write(found, overwrite=True)
    assert not (tmp_path / "report" / "figures" / "old.png").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(ValueError, match="that are no report"):
        write(found, "mine", overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        write_report(tmp_path / "mine" / "thesis.txt", found, overwrite=True)


def test_cells():
    assert [shown(each) for each in (None, float("nan"), 1234, 0.12345, 0.0, 1e-5, True, "x", np.int64(3))] == [
        "–", "–", "1,234", "0.123", "0.000", "1.0e-05", "True", "x", "3",
    ]  # fmt: skip


def test_headings_stand_above_their_numbers():
    rows = ((1, "", "x", None), (2.5, 3, "1", np.float64(2)))
    assert Table("t", ("a", "b", "c", "d"), rows).numeric == (True, True, False, True)
    assert Table("t", (), ()).numeric == ()


def test_the_two_runs_are_called_by_the_letters_of_the_notes(make_rows, write, tmp_path):
    pair = [{"same": make_rows("same", seed=seed, labels=[0, 1] * 30)} for seed in (0, 1)]
    for rows in pair:
        object.__setattr__(rows["same"], "texts", pair[0]["same"].texts)
    found = numbers(pair[0], tmp_path)
    found["comparison"] = compare_runs(*pair, METRICS, 0, 5)
    found["run"]["against"] = "runs/b"
    html, saved = write(found)
    tables = {item.caption: item for each in sections(found) for item in each.items if isinstance(item, Table)}
    flips = next(table for caption, table in tables.items() if caption.startswith("Rows that differ"))
    assert [flips.columns[-3:], tables["Differences"].columns[3:5]] == [("A", "B", "better"), ("A", "B")]
    assert {row[-1] for row in flips.rows} == {"A", "B"}
    assert '<th scope="col" class="number">difference</th>' in html


def test_json_has_null_for_what_is_undefined():
    given = {"a": np.array([1.0, np.nan]), 2: (np.int64(3), np.bool_(True), float("inf"))}
    assert jsonable(given) == {"a": [1.0, None], "2": [3, True, None]}


def test_characters_that_deceive_and_tokens(make_rows, write, tmp_path):
    """In labels, texts, groups, notes and the run's name; the saved numbers keep all but the tokens."""
    token = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
    harm = "a\u202eb\x1b[31m<script>\n$"
    task = TaskSpec("stars", labels=["good", harm, f"{token}"])
    rows = make_rows(task, groups={harm: [harm, "x"] * 30})
    html, saved = write(numbers({"stars": rows}, tmp_path, name=f"runs/{harm}", notes=[f"{harm} {token}"]), drawn=True)
    assert not re.search("[\u202e\x1b]", html) and token not in html and token not in json.dumps(saved)
    assert "a\\u202eb\\x1b[31m&lt;script&gt;\\n$" in html and "hf_***" in html
    assert saved["run"]["name"] == f"runs/{harm}"


def test_a_figure_of_a_label_that_is_longer_than_a_name_of_a_file(make_rows, write, tmp_path):
    task = TaskSpec("topics", "multi_label_classification", labels=["漢" * 300, "漢" * 301])
    write(numbers({"topics": make_rows(task)}, tmp_path))
    names = [file.name for file in (tmp_path / "report" / "figures").iterdir()]
    assert all(len(name) < 255 for name in names) and len([name for name in names if "%E6" in name]) == 2


@pytest.mark.parametrize("over", [False, True])
def test_a_failure_in_the_middle_leaves_no_half_report(make_rows, write, tmp_path, monkeypatch, over):
    found = numbers({"stars": make_rows("stars")}, tmp_path)
    if over:
        write(found)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(values):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("mtbert.evaluation.report.write.jsonable", fail)
        write(found, overwrite=over)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == (["report"] if over else [])


def test_a_task_with_a_name_longer_than_names_of_files(make_rows, write, tmp_path):
    html, _ = write(numbers({"s" * 260: make_rows("stars")}, tmp_path))
    assert "s" * 90 in html and [path.name for path in tmp_path.iterdir()] == ["report"]
