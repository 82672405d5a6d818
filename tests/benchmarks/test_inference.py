"""benchmarks/inference.py: texts, contenders, and bars. Speeds are measured by hand, on idle cores."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def inference(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import inference

    return inference


def figures(ours=10.0, torch=4.0, peer=9.0, lost=0.2, ratio=1.1):
    rates = {"mtbert torch": torch, "mtbert onnx-int8": ours, "st-onnx-int8": peer}
    rows = [{"threads": 1, "texts": "short", "batch": batch, "texts/s": rates} for batch in (1, 32)]
    head = {"task": "a", "metric": "accuracy", "fp32": 0.9, "int8": 0.9, "lost": lost}
    heads = [{"precision": "int8", "batch": 1, "ratio": ratio}]
    return {"rows": rows, "int8": {"onnx-int8": {"heads": [head]}}, "ten heads": heads}


@pytest.mark.parametrize(
    ("changes", "instructions", "missed"),
    [
        ({}, "avx2", []),
        ({"torch": 5.0}, "avx2", ["int8 over torch in fp32: short texts, batch 1, 1 thread(s)"]),
        ({"torch": 5.5}, "amx", [f"int8 over torch in fp32: short texts, batch {b}, 1 thread(s)" for b in (1, 32)]),
        ({"peer": 11.0}, "avx2", [f"over the fastest peer: short texts, batch {b}, 1 thread(s)" for b in (1, 32)]),
        ({"ratio": 1.2}, "avx2", ["ten heads: int8, batch 1"]),
    ],
)
def test_bars_say_which_are_missed(inference, changes, instructions, missed):
    values = {"torch": 4.0} | changes
    judged = inference.bars(figures(**values), instructions)
    assert sorted(bar["bar"] for bar in judged if not bar["held"]) == sorted(missed)


def test_int8_that_loses_more_than_half_a_point_does_not_count(inference):
    judged = inference.bars(figures(lost=0.6), "avx2")
    assert {bar["figure"] for bar in judged if bar["bar"].startswith("int8 over torch")} == {0.0}
    assert not any(bar["held"] for bar in judged if bar["bar"].startswith("over the fastest"))


def test_tables_have_every_contender(inference):
    text = "\n".join(table.markdown() for table in inference.speed_tables(figures()))
    assert all(name in text for name in ("mtbert torch", "mtbert onnx-int8", "st-onnx-int8", "batch 32", "Ten heads"))


def test_texts_are_short_and_long_and_all_different(inference):
    texts = inference.make_texts(smoke=False)
    for kind, (least, most) in inference.WORDS.items():
        assert len(set(texts[kind])) == max(inference.BATCHES[kind])
        assert all(least <= len(text.split()) <= most for text in texts[kind])


def test_a_peer_that_does_not_run_is_an_error(inference, tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such package')"]
    with pytest.raises(SystemExit, match=r"peer does not run.*\n.*no such package"):
        inference.Contender("peer", command, tmp_path / "log")


def test_a_contender_answers_over_its_pipes(inference, tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(BENCHMARKS / "peers")!r})
import worker
answers = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
print("what libraries print")
worker.serve(lambda texts: print(len(texts)), answers, {{"torch": "1"}})
"""
    contender = inference.Contender("ours", [sys.executable, "-c", code], tmp_path / "log")
    assert contender.versions == {"torch": "1"}
    assert contender.seconds(["a"] * 5, 2) >= 0
    contender.close()
    assert (tmp_path / "log").read_text().split() == ["what", "libraries", "print", "2", "2", "1"]


def test_an_environment_is_built_once_for_the_same_pins(inference, tmp_path, monkeypatch):
    environments = inference.environments
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        (tmp_path / "onnx").mkdir(exist_ok=True)
        (tmp_path / "other" / "openvino").mkdir(exist_ok=True, parents=True)
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(environments.subprocess, "run", run)
    for _ in range(2):
        assert environments.build("onnx", tmp_path) == tmp_path / "onnx" / "bin" / "python"
    assert len(calls) == 2  # one environment, one installation
    for name in ("onnx", "openvino"):
        lines = environments.lines_of(BENCHMARKS / "peers" / f"{name}.txt")
        assert all("==" in line or line.startswith("#") for line in lines)
    environments.build("openvino", tmp_path / "other")
    assert calls[-1][-1] == "torchvision" and "uninstall" in calls[-1]


def test_workers_of_peers_import_nothing_of_ours():
    source = (BENCHMARKS / "peers" / "worker.py").read_text()
    assert "import mtbert" not in source and "from mtbert" not in source
