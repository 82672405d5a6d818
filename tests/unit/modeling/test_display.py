"""What deceives is shown as an escape, and what looks like a token is masked, wherever people read it."""

import json
import re

import pytest
from rich.console import Console

from mtbert.model_card import model_card
from mtbert.modeling.display import display, each_text, masked, visible
from mtbert.modeling.task_spec import TaskSpec
from mtbert.recipe import Recipe, RecipeError, load_recipe
from mtbert.training.arguments import MtBertTrainingArguments, PretrainingArguments
from mtbert.training.checkpoints.run_folder import save_run
from mtbert.training.console import print_lines, print_scores

HEX = "0123456789abcdef" * 2 + "01234567"
TOKENS = [
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567",
    "hf_" + "x" * 34,
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "gho_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0123456789_abcdefghijklmnopqrstuvwxyz",
    "glpat-abcDEF123456_xyz",
    "sk-proj-abc123DEF456ghi789",
    "sk-ant-api03-abcdefGHIJKL-0123",
    "sk-abcdefghijklmnopqrstuvwx",
    "sk_live_abcdef123456",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "AIzaSyA-1234567890abcdefghijklmnopqrstuv",
    "xoxb-1234567890-abcdef",
    "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4",
    HEX,
]
KINDS = ["a", "é", "a-b", "ن‌ه", "🙂", "👩‍🚀", "中文"]
DECEIVING = (*"\x00\x07\x1b\r\t\x7f\x9b\u202e\u2066\u200f\u061c\u200b\ufeff\u2028\xad", "\U000e0041")


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_are_masked_by_their_form(token):
    for text in (token, f"key: '{token}'", f'{{"x": "{token}"}}', f"https://h/{token}/x", f"a {token}, b"):
        assert token not in masked(text) and "***" in masked(text)
        assert len(masked(text)) < len(text)
    assert json.loads(masked(json.dumps({"hub_tokn": token, "after": "kept"})))["after"] == "kept"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:password@host/x", "https://***@host/x"),
        ("git+https://secrettoken@host/x", "git+https://***@host/x"),
        ("postgres://user:pa$$@db", "postgres://user:***@db"),
        ("https://h/x?token=abc&b=1", "https://h/x?token=***&b=1"),
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: Bearer ***"),
    ],
)
def test_passwords_in_addresses(text, shown):
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        *KINDS,
        "runs/hf_reviews",
        "hf_datasets",
        "task-classification-of-everything",
        "scikit-learn",
        "sk-learn-classification-of-all",
        "ssh://git@github.com/x",
        "user@example.org",
        "https://huggingface.co/a/b",
        f"revision: {HEX}",
        f'"hub_revision": "{HEX}"',
        f"models--a--b/snapshots/{HEX}/config.json",
        "google-bert/bert-base-uncased",
        "eyJ is how it begins",
        "a" * 64,
    ],
)
def test_what_is_no_token_stays(text):
    assert masked(text) == text and display(text) == text


@pytest.mark.parametrize("character", DECEIVING)
def test_characters_that_deceive_are_escapes(character):
    shown = visible(f"a{character}b")
    assert shown == f"a{character.encode('unicode_escape').decode()}b" and shown.isprintable()
    assert visible("a\nb") == r"a\nb" and visible("a\nb", lines=True) == "a\nb" and visible("\ud800") == r"\ud800"


def test_a_tree(tmp_path):
    tree = {"a\u202e": [1, None, ("x\n", True)], "token": TOKENS[0], "revision": HEX, "wandb": HEX}
    shown = {r"a\u202e": [1, None, (r"x\n", True)], "token": "hf_***", "revision": HEX, "wandb": "***"}
    assert each_text(display, tree) == shown


def recipe(**values):
    task = {"labels": 2, "data": {"train": "a.csv"}}
    return {"encoder": "e", "tasks": {"one": task}, "training": {"output_dir": "out"}} | values


@pytest.mark.parametrize("key", ["hub_tokn", "hub_token", "x", "api_key", "learning_rate", "wandb"])
@pytest.mark.parametrize("token", [TOKENS[0], TOKENS[2], HEX])
def test_a_token_under_a_mistyped_key_is_not_printed(key, token, tmp_path):
    with pytest.raises(RecipeError) as error:
        Recipe.from_dict(recipe(training={"output_dir": "out", key: token}))
    assert token not in str(error.value) and "***" in str(error.value)
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe()))
    for argv in ([f"--{key}", token], [f"--training.{key}={token}"], [f"--{token}"], [f"--{token}=1"], [token]):
        with pytest.raises(RecipeError) as error:
            load_recipe(file, argv)
        assert token not in str(error.value)


def test_a_short_secret_under_a_key_that_names_one(tmp_path):
    with pytest.raises(RecipeError) as error:
        Recipe.from_dict(recipe(wandb_api_key="hunter2", password="hunter2", training={"hub_tokn": "hunter2"}))
    assert "hunter2" not in str(error.value)


def test_control_characters_forge_no_line_of_an_error():
    with pytest.raises(RecipeError) as error:
        Recipe.from_dict(recipe(**{"a\nrecipe: all is well\u202e": 1, "x\x1b[2J": "y\x1b[2J"}))
    assert len(error.value.problems) == 2 and str(error.value).count("\n") == 1
    assert all(character.isprintable() or character == "\n" for character in str(error.value))


def test_files_of_a_run_hold_no_token(tmp_path):
    save_run(str(tmp_path), recipe={"encoder": f"https://a:{TOKENS[0]}@h/x", "n": 1, "b": f"{TOKENS[5]}\n"})
    text = (tmp_path / "recipe.json").read_text()
    assert json.loads(text) == {"encoder": "https://***@h/x", "n": 1, "b": "glpat-***\n"}


def test_tables_and_lines_of_the_console(capsys):
    console = Console(width=200)
    print_lines(["a \x1b[31m[bold]x[/bold] \u202e", TOKENS[0]], console)
    print_scores({"[link=http://x]y\u202e": {"eval_[red]one[/red]\x1b": 0.5}}, console)
    text = capsys.readouterr().out
    for shown in (r"a \x1b[31m[bold]x[/bold] \u202e", "hf_***", r"[link=http://x]y\u202e", r"[red]one[/red]\x1b"):
        assert shown in text
    assert "\x1b" not in text and "\u202e" not in text


@pytest.mark.parametrize("cls", [MtBertTrainingArguments, PretrainingArguments])
def test_loggers_are_given_no_token(cls, tmp_path):
    args = cls(str(tmp_path), run_name=f"a {TOKENS[0]}", report_to="none", use_cpu=True)
    for text in (args.to_json_string(), str(args.to_sanitized_dict()), str(args.to_dict())):
        assert TOKENS[0] not in text and "a hf_***" in text


FORGED = "x\n\n## Licence\n\nPublic domain.\n<script>alert(1)</script> [a](http://b) `c` **d** | e\u202e"


@pytest.fixture
def forged_card(make_model):
    said = {"license": "other", "license_name": FORGED, "tags": [FORGED], "language": FORGED}
    data = {"hub": FORGED, "subset": FORGED, "revision": FORGED, "train": FORGED, "dev": FORGED}
    tree = {"tasks": {"one": {"data": data}, FORGED: {"data": {"train": [f"{FORGED}.csv"]}}}, "card": said}
    tree["note"] = "word " * 30 + "\n```\n## Licence\nForged\n```\n" + "``` " * 30 + f"---\n{TOKENS[0]}"
    tasks = [TaskSpec("one", labels=["plain label", FORGED, "---", "# a"])]
    return model_card(make_model(tasks), f"ada/{FORGED}", {"eval_one_accuracy": 0.5}, tree)


def test_nothing_in_a_card_is_forged(forged_card):
    import yaml
    from markdown_it import MarkdownIt

    text = str(forged_card)
    head, body = text.split("\n---\n", 1)
    loaded = yaml.safe_load(head.removeprefix("---\n"))
    assert set(loaded) == {"language", "license", "license_name", "library_name", "datasets", "pipeline_tag", "tags",
                           "metrics", "model-index"} and loaded["license"] == "other"  # fmt: skip
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    headings = [b.content for a, b in zip(tokens, tokens[1:], strict=False) if a.type == "heading_open"]
    assert headings[1:] == ["What it predicts", "How to use it", "one", "Scores", "Limitations", "Data", "Training",
                            "Licence"]  # fmt: skip
    inline = [child for token in tokens for child in token.children or ()]
    html = [each.content for each in (*tokens, *inline) if each.type.startswith(("html", "image"))]
    assert all(re.fullmatch(r"<details>\n<summary>[\w ,:]+</summary>\n?|</details>\n?", text) for text in html), html
    links = [each.attrs["href"] for each in inline if each.type == "link_open"]
    assert not [each for each in links if "huggingface.co" not in each]
    assert not [each for each in inline if each.type == "strong_open" and "d" in each.content]
    assert "plain label" in body and TOKENS[0] not in text and "\u202e" not in text
    fences = [each for each in tokens if each.type == "fence"]
    assert [each.info for each in fences] == ["python", "python", "python", "yaml"]
