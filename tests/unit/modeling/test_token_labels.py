"""Labels of words: tags, first tokens, the head's losses, and every way in which a model gives an answer."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from seqeval.metrics.sequence_labeling import get_entities
from tagged import SLOTS, TAGS
from transformers import BertTokenizerFast, pipeline

from mtbert.errors import InputError
from mtbert.evaluation.course_files import CourseFile
from mtbert.evaluation.ensemble import combine
from mtbert.evaluation.prediction_files import PredictionFile, prediction_columns
from mtbert.modeling.answers import Prediction
from mtbert.modeling.decoding import decisions
from mtbert.modeling.hub_upload import add_code
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.pipeline import PIPELINE_TASK
from mtbert.modeling.task_spec import TaskSpec
from mtbert.modeling.token_labels import CUT, NO_TOKEN, entity_spans
from mtbert.modeling.tokenization import encode_texts
from mtbert.modeling.words import Words
from mtbert.serving.answers import answers

TEXTS = ["the cat sleeps .", "a dog", "is the old house not very good ?", "fish"]


class TestSpec:
    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"labels": ("O", "B-X", "L-X", "U-X")}, r"labels have \['L-X', 'U-X'\], .* write E- for L-, S- for U-"),
            (
                {"labels": ("O", "NOUN")},
                r"labels have \['NOUN'\], but must be tags of the schemes IOB1, IOB2, IOE1, IOE2",
            ),
            ({"labels": ("O", "B_PER")}, r"labels have \['B_PER'\]"),
            ({"labels": ("O", "B-")}, r"labels have \['B-'\]"),
            ({"labels": ("B-X", "O")}, "labels begin with 'B-X', and have no 'O' at the beginning"),
            ({"labels": ("B-X", "I-X")}, "labels have no 'O' at the beginning"),
            ({"labels": None}, "labels are missing"),
            ({"texts": 2}, "problem_type is token_classification, which labels the words of one text"),
            ({"head": {"type": "attention"}}, "head.type is 'attention', which reads pooled outputs"),
            ({"pooling": "mean"}, "pooling is 'mean', but words are labelled by the state of their first token"),
            ({"range": (0, 1)}, "range is for regressions; a token_classification has labels"),
            ({"ordinal": True}, "ordinal is true, but problem_type is 'token_classification'"),
            ({"calibration": {"temperature": 2.0}}, "calibration is set, but calibration is for labels of rows"),
        ],
    )
    def test_what_does_not_go_with_it_is_refused_by_name(self, changes, match):
        with pytest.raises(InputError, match=match):
            TaskSpec(**{"name": "slots", "problem_type": "token_classification", "labels": TAGS} | changes)

    def test_an_adapter_of_the_first_token_alone_is_refused(self, make_model):
        with pytest.raises(InputError, match=r"adapter.input is 'cls'.*\['slots'\] read every token"):
            make_model([SLOTS], adapter={"type": "pal_top", "size": 12})
        make_model([replace(SLOTS, adapter=False)], adapter={"type": "pal_top", "size": 12})

    def test_the_course_has_no_file_for_it(self):
        with pytest.raises(InputError, match="is a token_classification, which the course has no file for"):
            CourseFile(replace(SLOTS, name="sst"))


@pytest.mark.parametrize("prefixes", ["I", "BI", "IE", "BIES"])
def test_entities_are_those_of_seqeval(prefixes):
    random = np.random.default_rng(3)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("X", "Y-Z", "O"))]
    for _ in range(500):
        drawn = random.choice(tags, size=random.integers(1, 10)).tolist()
        assert [(kind, first, last - 1) for kind, first, last in entity_spans(drawn)] == get_entities(drawn)


class TestFirstTokens:
    def found(self, tokenizer, encoder, texts, **changes):
        columns = encode_texts(replace(SLOTS, **changes), tokenizer, encoder, texts)
        return columns, [
            [tokenizer.convert_ids_to_tokens(ids[first]) if first >= 0 else first for first in firsts]
            for ids, firsts in zip(columns["input_ids"], columns["words"], strict=True)
        ]

    @pytest.fixture
    def encoder(self, make_model):
        return make_model().config.encoder

    def test_words_with_several_tokens_no_token_and_none_at_all(self, tokenizer, encoder):
        rows = [Words(["the", "cat.dog", "", "\u200b", "new tree", "."]), "a  dog\tsleeps.", Words([""])]
        columns, found = self.found(tokenizer, encoder, rows)
        assert found[0] == ["the", "cat", NO_TOKEN, NO_TOKEN, "new", "."]
        assert found[1] == ["a", "dog", "sleeps"]
        assert found[2] == [NO_TOKEN]
        assert columns["input_ids"][0] == tokenizer("the cat.dog   new tree .")["input_ids"]

    def test_words_are_tokenised_as_transformers_tokenises_lists_of_words(self, tokenizer, encoder):
        words = ["the", "cat.dog", "is?", "[MASK]", "house", "[SEP]", "."]
        encoding = tokenizer(words, is_split_into_words=True)
        columns, _ = self.found(tokenizer, encoder, [Words(words)])
        assert columns["input_ids"][0] == encoding["input_ids"]
        assert columns["words"][0] == [encoding.word_ids().index(word) for word in range(len(words))]

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_words_that_are_cut_off(self, tokenizer, encoder, side):
        tokenizer.truncation_side = side
        try:
            words = Words(["the", "\u200b", "cat.dog", "is", "old"])
            _, (found,) = self.found(tokenizer, encoder, [words], max_length=5)
        finally:
            tokenizer.truncation_side = "right"
        kept = ["the", NO_TOKEN, "cat", CUT, CUT] if side == "right" else [CUT, CUT, "dog", "is", "old"]
        assert found == kept


def padded(tokenizer, texts, labels=None):
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"), task="slots")
    return inputs if labels is None else {**inputs, "labels": labels}


class TestModel:
    @pytest.fixture
    def model(self, make_model, tasks):
        return make_model([*tasks, SLOTS]).eval()

    def test_padded_inputs_give_logits_and_loss_of_every_token(self, model, tokenizer):
        inputs = padded(tokenizer, TEXTS)
        labels = torch.randint(0, 4, inputs["input_ids"].shape)
        labels[inputs["attention_mask"] == 0] = -100
        labels[:, ::3] = -100
        with torch.no_grad():
            output = model(**inputs, labels=labels)
        assert output.logits.shape == (*labels.shape, 4)
        states = model.encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        by_hand = model.heads["slots"].out_proj(states)
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(output.logits[real], by_hand[real], rtol=1e-4, atol=1e-5)
        assert not output.logits[~real].any()
        expected = F.cross_entropy(by_hand[labels >= 0], labels[labels >= 0])
        torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(InputError, match=r"labels of task 'slots' have shape \(4,\), but must have"):
            model(**inputs, labels=torch.zeros(4, dtype=torch.long))
        with pytest.raises(InputError, match="9 in row 0, but must be whole numbers from 0 to 3"):
            model(**inputs, labels=torch.full_like(labels, 9))
        counted = model(**inputs, labels=labels, num_items_in_batch=int((labels >= 0).sum()))
        torch.testing.assert_close(counted.loss, output.loss)

    def test_a_mixed_batch_is_its_tasks_apart(self, model, tokenizer):
        inputs = padded(tokenizer, TEXTS)
        del inputs["task"]
        ids = torch.tensor([0, 0, 4, 4])
        with torch.no_grad():
            both = model(**inputs, task_ids=ids).task_logits
            alone = model(**padded(tokenizer, TEXTS)).logits[2:]
            everywhere = model(**inputs, tasks=["stars", "slots"]).task_logits
        torch.testing.assert_close(both["slots"], alone, rtol=1e-4, atol=1e-5)
        assert everywhere["slots"].shape == (4, inputs["input_ids"].shape[1], 4) and everywhere["stars"].shape == (4, 3)

    @pytest.mark.parametrize("together", [False, True])
    def test_predictions_are_those_of_first_tokens(self, model, tokenizer, together):
        rows = [{"words": ["the", "cat.dog", "", "old"]}, "a house.tree ?"]
        names = ["stars", "slots"] if together else "slots"
        found = model.predict(rows, tasks=names, tokenizer=tokenizer)
        found = found["slots"] if together else found
        with torch.no_grad():
            first = model(**padded(tokenizer, ["the cat.dog  old"])).logits[0]
            second = model(**padded(tokenizer, ["a house.tree ?"])).logits[0]
        assert found.logits.shape == (2, 4, 4)
        np.testing.assert_allclose(found.logits[0, [0, 1, 3]], first[[1, 2, 5]], atol=1e-5)  # 0 is [CLS]
        assert not found.logits[0, 2].any() and found.labels[0][2] == "O"
        np.testing.assert_allclose(found.logits[1, :3], second[[1, 2, 5]], atol=1e-5)
        assert [len(tags) for tags in found.labels] == [4, 3]
        assert np.isclose(found.scores[0, 0].sum(), 1)

    def test_cut_words_are_outside(self, make_model, tokenizer):
        model = make_model([replace(SLOTS, max_length=4)]).eval()
        with pytest.warns(UserWarning, match="1 for task 'slots'"):
            found = model.predict(["the cat sleeps .", "a dog"], tokenizer=tokenizer)
        assert found.labels[0][2:] == ["O", "O"] and not found.logits[0, 2:].any()
        assert found.truncated.tolist() == [2, 0]

    def test_entities_are_those_of_transformers_pipeline(self, model, tokenizer):
        plain = model.extract_task("slots", to="token_classification")
        assert plain.config.id2label == dict(enumerate(TAGS))
        theirs = pipeline(
            "token-classification",
            model=plain,
            tokenizer=BertTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer),
            aggregation_strategy="first",
        )
        found = pipeline(PIPELINE_TASK, model=model, tokenizer=tokenizer)(TEXTS, tasks="slots")
        expected = [
            [
                {"entity": e["entity_group"], "word": text[e["start"] : e["end"]], "start": e["start"], "end": e["end"]}
                for e in of_text
            ]
            for text, of_text in zip(TEXTS, theirs(TEXTS), strict=True)
        ]
        assert sum(map(len, expected)) > 2
        assert [[{k: v for k, v in e.items() if k != "score"} for e in row] for row in found] == expected
        scores = [e["score"] for row in found for e in row]
        assert scores == pytest.approx([float(e["score"]) for row in theirs(TEXTS) for e in row], abs=1e-5)

    def test_taking_it_out_as_another_model_is_refused(self, model):
        with pytest.raises(InputError, match="to is 'sequence_classification', but a token_classification is"):
            model.extract_task("slots", to="sequence_classification")
        with pytest.raises(InputError, match="to is 'token_classification', but a single_label_classification is"):
            model.extract_task("stars", to="token_classification")

    def test_it_is_saved_added_and_taken_out(self, model, make_model, tokenizer, tmp_path):
        model.save_pretrained(tmp_path)
        expected = model.predict(TEXTS, tasks="slots", tokenizer=tokenizer)
        for other in (MtBertForMultiTask.from_pretrained(tmp_path).eval(), model.extract_task("slots")):
            found = other.predict(TEXTS, tasks="slots", tokenizer=tokenizer)
            np.testing.assert_array_equal(found.logits, expected.logits)
            assert found.entities == expected.entities
        plain = make_model()
        plain.add_task(SLOTS)
        assert len(plain.predict(TEXTS, tasks="slots", tokenizer=tokenizer).labels[2]) == 8

    def test_server_file_and_table_have_the_same_answers(self, model, tokenizer, tmp_path):
        found = model.predict(TEXTS, tasks="slots", tokenizer=tokenizer)
        served = answers(found)
        assert [row["entities"] for row in served] == found.entities and served[1]["labels"] == found.labels[1]
        assert found.to_dict() == {"slots": found.entities, "slots.labels": found.labels}
        assert prediction_columns(SLOTS, found.logits, TEXTS)["slots"] == found.entities
        rows = {"row": [1, 2, 3, 4], "text": TEXTS}
        for suffix in ("jsonl", "csv", "parquet"):
            with PredictionFile(str(tmp_path / f"out.{suffix}"), [SLOTS]) as file:
                file.write(rows, {"slots": found.logits})
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [line["slots"] for line in lines] == found.entities and lines[0]["slots.labels"] == found.labels[0]
        frame = pd.read_csv(tmp_path / "out.csv")
        assert list(map(json.loads, frame["slots"])) == found.entities
        frame = pd.read_parquet(tmp_path / "out.parquet")
        assert list(map(json.loads, frame["slots.labels"])) == found.labels
        broken = Prediction.of(SLOTS, np.where(np.arange(4)[:, None, None] == 1, np.nan, found.logits), texts=TEXTS)
        assert answers(broken)[1] is None and answers(broken)[0]["entities"] == found.entities[0]

    def test_without_texts_there_are_tags_but_no_entities(self):
        found = Prediction.of(SLOTS, np.zeros((2, 3, 4), dtype=np.float32))
        assert found.labels == [["O"] * 3] * 2
        with pytest.raises(InputError, match="entities are parts of texts; predict texts"):
            _ = found.entities
        with pytest.raises(InputError, match="labels rows, and finds no entities"):
            _ = Prediction.of(TaskSpec("t", labels=2), np.zeros((1, 2))).entities
        with pytest.raises(InputError, match=r"logits must be \(rows, most parts, 4\), but are \(2, 4\)"):
            decisions(SLOTS, np.zeros((2, 4)))

    def test_an_ensemble_is_the_mean_of_the_probabilities_of_each_word(self):
        members = [np.random.default_rng(seed).normal(size=(3, 5, 4)) for seed in range(3)]
        for member in members:
            member[1, 3:] = 0  # no such words
        mean = np.mean([np.exp(m) / np.exp(m).sum(-1, keepdims=True) for m in members], axis=0)
        found = combine(SLOTS, members)
        np.testing.assert_allclose(Prediction.of(SLOTS, found).scores, mean)
        assert (decisions(SLOTS, found)[1, 3:] == 0).all()

    @pytest.mark.parametrize("engine", ["onnx", "openvino"])
    def test_an_exported_model_and_its_example_have_the_same_answers(
        self, make_model, tokenizer, tmp_path, engine, tasks, monkeypatch
    ):
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime" if engine == "onnx" else "openvino")
        from mtbert.export import ExportedModel
        from mtbert.export.folder import write_model

        model = make_model([tasks[0], replace(SLOTS, max_length=9)]).eval()
        (tmp_path / "out").mkdir()
        write_model(model, tokenizer, tmp_path / "out", engine, "runs/tiny")
        rows = [{"words": ["the", "cat.dog", "", "new tree"]}, *TEXTS, "a bird flies . a fish is fine ? the old tree"]
        with pytest.warns(UserWarning):
            expected = model.predict(rows, tasks="all", tokenizer=tokenizer)
            found = ExportedModel(tmp_path / "out").predict(rows, tasks="all")
        np.testing.assert_allclose(found["slots"].logits, expected["slots"].logits, atol=1e-4)
        np.testing.assert_allclose(found["stars"].logits, expected["stars"].logits, atol=1e-4)
        assert found["slots"].labels == expected["slots"].labels
        command = [sys.executable, str(tmp_path / "out" / "example.py"), '["the", "cat.dog", "", "new tree"]', TEXTS[2]]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = [json.loads(line)["slots"] for line in done.stdout.splitlines()]
        for line, number in zip(lines, (0, 3), strict=True):
            assert line["labels"] == expected["slots"].labels[number]
            of_row = expected["slots"].entities[number]
            assert [{**e, "score": None} for e in line["entities"]] == [{**e, "score": None} for e in of_row]
            assert [e["score"] for e in line["entities"]] == pytest.approx([e["score"] for e in of_row], abs=1e-4)

    def test_it_answers_by_the_code_beside_it(self, model, tokenizer, tmp_path):
        """As on a hub: without mtbert."""
        model.save_pretrained(tmp_path / "saved")
        tokenizer.save_pretrained(tmp_path / "saved")
        add_code(tmp_path / "saved")
        code = (
            "import json, sys\nsys.modules['mtbert'] = None\nfrom transformers import AutoModel\n"
            "model = AutoModel.from_pretrained('saved', trust_remote_code=True)\n"
            f"print(json.dumps(model.predict({TEXTS!r}, tasks='slots').to_dict()))"
        )
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["slots.labels"] == model.predict(TEXTS, tasks="slots", tokenizer=tokenizer).labels
