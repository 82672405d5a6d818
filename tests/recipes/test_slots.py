"""The recipe of slots of words beside a sentence task: trained, reported, predicted, exported, calibrated, averaged."""

from __future__ import annotations

import csv
import importlib.util
import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BertConfig, BertTokenizerFast

from mtbert.cli import main as cli
from mtbert.errors import InputError, RecipeError
from mtbert.hub import saved_card
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
RECIPE, DATA = RECIPES / "configs" / "slots.yaml", RECIPES / "sample_data"


@pytest.fixture(scope="module")
def ticket_encoder(tmp_path_factory):
    """A tiny random encoder that knows the words of the sample tickets."""
    folder = tmp_path_factory.mktemp("encoder")
    rows = [json.loads(line) for line in (DATA / "tickets-train.jsonl").read_text().splitlines()]
    words = sorted({word.lower() for row in rows for word in row["words"]})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.1, **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(finetune, ticket_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "slots"
    settings = {
        "encoder": ticket_encoder,
        "data_dir": DATA,
        "training.output_dir": folder,
        "training.report_to": "none",
        "training.cpu_threads": 1,
        "training.learning_rate": 3e-3,
        "training.num_train_epochs": 30,
        "training.eval_strategy": "no",
        "training.disable_tqdm": True,
    }
    finetune.main([str(RECIPE), *(f"--{key}={value}" for key, value in settings.items())])
    return folder


def test_the_sample_data_are_what_their_script_writes(tmp_path):
    spec = importlib.util.spec_from_file_location("make_tickets", DATA / "make_tickets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__file__ = str(tmp_path / "make_tickets.py")
    module.main()
    for name in ("tickets-train.jsonl", "tickets-dev.jsonl"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()


def test_it_reaches_a_high_f1(run):
    scores = json.loads((run / "scores.json").read_text())
    assert scores["eval_slots_span_f1"] > 0.9 and scores["eval_queue_accuracy"] > 0.9
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["tasks"]["slots"]["labels"][:3] == ["O", "B-AMOUNT", "I-AMOUNT"]
    card = str(saved_card(MtBertForMultiTask.from_pretrained(run), "me/slots"))
    assert "for each word one of 10 labels" in card and "span_f1" in card and "token-classification" in card


def test_the_report_has_a_table_of_entities(run, tmp_path):
    import_module("mtbert.cli.evaluate").main(
        [str(run), "--output", str(tmp_path / "report"), "--group", "slots:queue"]
    )
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())["tasks"]["slots"]
    (table,) = numbers["tables"]
    assert {row["entity"] for row in table["rows"]} == {"AMOUNT", "DATE", "NAME", "ORDER", "PRODUCT"}
    scores = json.loads((run / "scores.json").read_text())
    assert numbers["scores"]["span_f1"] == pytest.approx(scores["eval_slots_span_f1"], abs=1e-6)
    total = {key: sum(row[key] for row in table["rows"]) for key in ("labelled", "predicted", "right")}
    assert 2 * total["right"] / (total["labelled"] + total["predicted"]) == pytest.approx(numbers["scores"]["span_f1"])
    assert {group["group"] for group in numbers["groups"]["queue"]["groups"]} == {"billing", "delivery", "technical"}
    page = next((tmp_path / "report").glob("*.html")).read_text()
    assert "Entities by type" in page


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_predict_writes_entities(run, tmp_path, suffix):
    output = tmp_path / f"out.{suffix}"
    command = [str(run), str(DATA / "tickets-dev.jsonl"), "--text", "words", "--id", "id", "--output", str(output)]
    import_module("mtbert.cli.predict").main(command)
    rows = [json.loads(line) for line in (DATA / "tickets-dev.jsonl").read_text().splitlines()]
    with output.open() as file:
        found = list(csv.DictReader(file)) if suffix == "csv" else list(map(json.loads, file))
    if suffix == "csv":
        found = [row | {key: json.loads(row[key]) for key in ("slots", "slots.labels")} for row in found]
    right = 0
    for row, given in zip(found, rows, strict=True):
        assert len(row["slots.labels"]) == len(given["words"]) and row["queue"] in ("billing", "delivery", "technical")
        text = " ".join(given["words"])
        assert all(text[entity["start"] : entity["end"]] == entity["word"] for entity in row["slots"])
        right += row["slots.labels"] == given["slots"]
    assert right > 0.7 * len(rows)


def test_what_it_does_not_go_with_is_refused_by_name(run, finetune, ticket_encoder, tmp_path):
    with pytest.raises(InputError, match="task 'slots': calibration is for labels of rows, not of words"):
        import_module("mtbert.cli.calibrate").main([str(run), "--tasks", "slots", "--output", str(tmp_path / "c")])
    given = ["--encoder", str(ticket_encoder), "--training.output_dir", str(tmp_path / "x"), "--data_dir", str(DATA)]
    given.append("--tasks.slots.labels=null")  # they are found in the data
    for key, value, match in (
        ("tasks.slots.balanced", "true", "tasks.slots.balanced is True, but the words of a row are of several"),
        ("tasks.slots.data.text", "[words, id]", "tasks.slots.problem_type is token_classification, which labels"),
        ("tasks.slots.labels", "[O, NOUN]", r"tasks.slots.labels have \['NOUN'\], but must be tags"),
        ("tasks.slots.data.label", "queue", "tasks.slots.labels are not listed, and can not be found: they have"),
        ("tasks.slots.data.train", "none.jsonl", "tasks.slots.labels are not listed, and can not be found: .*none"),
    ):
        with pytest.raises(RecipeError, match=match):
            load_recipe(RECIPE, [*given, f"--{key}={value}"])


def test_members_are_averaged(run, tmp_path):
    import_module("mtbert.cli.ensemble").main(
        [str(run), str(run), "--output", str(tmp_path / "both"), "--predict", "dev", "--data_dir", str(DATA)]
    )
    scores = json.loads((tmp_path / "both" / "scores.json").read_text())
    assert scores["ensemble"]["slots_span_f1"] == pytest.approx(scores[str(run)]["slots_span_f1"], abs=0.02)
    lines = (tmp_path / "both" / "slots-dev.csv").read_text().splitlines()
    assert lines[0] == "row,id,prediction" and " B-PRODUCT" in "\n".join(lines)


@pytest.mark.soak  # tests/unit/export/ holds int8 and its guard for labels of rows, and words in fp32
def test_int8_under_guard_loses_no_more_than_allowed(run, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export = ["export", str(run), "--to", "onnx", "--data_dir", str(DATA)]
    assert cli.main([*export, "--int8", "--max_loss", "1", "--output", str(tmp_path / "int8")]) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.strip().startswith("slots: span_f1")]
    lost = float(line.split(" int8, ")[1].split()[0])
    assert lost <= 1
    file = DATA / "tickets-dev.jsonl"
    common = [str(file), "--text", "words", "--id", "id", "--tasks", "slots"]
    predict = import_module("mtbert.cli.predict").main
    tags = {}
    for name, model in (("fp32", run), ("int8", tmp_path / "int8")):
        predict([str(model), *common, "--output", str(tmp_path / f"{name}.jsonl")])
        rows = [json.loads(row) for row in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        tags[name] = [tag for row in rows for tag in row["slots.labels"]]
    same = [one == other for one, other in zip(tags["fp32"], tags["int8"], strict=True)]
    assert sum(same) > 0.95 * len(same)
