"""The benchmark for GPUs: its parts run on a CPU, its bars judge, and what was measured is never lost."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mtbert.modeling import packing

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def gpu(monkeypatch):
    """The module `gpu` of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(FOLDER)
    import gpu

    threads = torch.get_num_threads()
    yield gpu
    torch.set_num_threads(threads)
    del sys.modules["gpu"]


@pytest.fixture
def parts(gpu):
    """The modules of the parts."""
    from gpu_parts import numerics, quality, results, setting

    return SimpleNamespace(numerics=numerics, quality=quality, results=results, setting=setting)


@pytest.fixture
def make_setting(parts, tmp_path):
    """A function: part, seconds that are left → the setting of a rehearsal."""

    def make(part: str, left: float = 100):
        args = SimpleNamespace(recipe=None, encoder=None, data_dir=None)
        results = parts.results.Results(tmp_path, {"commit": "a", "device": "cpu"})
        return parts.setting.Setting(part, args, "cpu", "fp32", time.time() + left, results, str(tmp_path))

    return make


def stored(folder: Path) -> dict:
    return json.loads((folder / "gpu.json").read_text())


@pytest.mark.parametrize("part", ["speed", "inference"])
def test_a_part_runs(gpu, part, tmp_path):
    gpu.main(["--cpu_smoke", "--part", part, "--results", str(tmp_path), "--commit", "abc"])
    found = stored(tmp_path)
    assert found["environment"]["commit"] == "abc"
    assert found["parts"][part]["stopped"] == ""
    assert found["parts"][part]["tables"]
    if part == "speed":
        bars = {bar["what"]: bar["value"] for bar in found["parts"][part]["bars"]}
        assert bars["batch 4: mtbert × the Trainer with dynamic padding"] > 0
        assert found["parts"][part]["values"]["batch 8"].keys() >= {"mtbert", "mtbert_dropout", "raw_packed", "grouped"}


def test_a_step_on_the_device_is_compared_with_that_of_the_cpu(parts, make_setting):
    for method in ("pcgrad", "smart"):
        bars = parts.numerics.as_on_the_cpu(make_setting("numerics"), method)
        assert [bar.value for bar in bars] == [0, 0]  # both are the CPU here


def test_packed_is_padded(parts, make_setting):
    assert all(bar.passed for bar in parts.numerics.packed_is_padded(make_setting("numerics"), "bert"))


def test_wrong_attention_does_not_pass(parts, make_setting, monkeypatch):
    attend = packing._attend
    monkeypatch.setattr(packing, "_attend", lambda q, k, v, mask, *more: attend(q, k, v, None, *more))
    bars = {bar.what: bar for bar in parts.numerics.packed_is_padded(make_setting("numerics"), "bert")}
    assert not bars["bert, fp32: largest relative difference of a loss"].passed
    assert not bars["bert, fp32: of a parameter's gradient"].passed


def test_tensors_are_compared_by_their_norms(parts):
    distance = parts.numerics.distance
    big, zero = torch.full((4,), 10.0), torch.full((4,), 1e-9)
    assert distance({"a": big, "b": -zero}, {"a": big, "b": zero}) < 1e-6  # rounding of a gradient that is 0
    assert distance({"a": 1.1 * big}, {"a": big}) == pytest.approx(0.1)
    assert distance({"a": big}, {"a": big, "b": big}) == float("inf")


def test_a_bar_is_passed_within_its_bounds(parts):
    bar = parts.results.Bar
    assert bar("speed", 2.2, least=2.2).passed and not bar("speed", 2.19, least=2.2).passed
    assert bar("error", 1e-5, most=1e-5).passed and not bar("error", 2e-5, most=1e-5).passed
    assert not bar("error", float("nan")).passed
    assert bar("share", 0.3, least=0.35, aim=True).row() == ["share", 0.3, "≥ 0.35 (aim)", "FAIL"]


def test_parts_of_the_same_commit_stand_in_one_file(parts, tmp_path):
    def put(commit, part):
        results = parts.results.Results(tmp_path, {"commit": commit, "device": "H200"})
        results.put(part, {"value": 1}, bars=[parts.results.Bar("speed", 2.0, least=1)])

    put("a", "numerics")
    put("a", "speed")
    assert stored(tmp_path)["parts"].keys() == {"numerics", "speed"}
    assert (tmp_path / "gpu.md").read_text().count("| speed | 2.00 | ≥ 1 | pass |") == 2
    put("b", "speed")
    assert stored(tmp_path)["parts"].keys() == {"speed"}


def test_a_part_that_is_cut_short_keeps_what_it_measured(gpu, parts, tmp_path, monkeypatch):
    def cut_short(argv, part, limit):
        results = parts.results.Results(tmp_path, {"commit": "a", "device": "H200"})
        results.put(part, {"speed": 2.0}, stopped="batch 256 was the last")
        return "it was stopped after 240 s" if part == "speed" else ""

    monkeypatch.setattr(gpu, "run_process", cut_short)
    args = gpu.parse(["--parts", "speed", "inference", "--results", str(tmp_path)])
    assert not gpu.run_parts(args, [])
    assert stored(tmp_path)["parts"]["speed"] == {
        **{"stopped": "it was stopped after 240 s", "values": {"speed": 2.0}},
        **{"bars": [], "tables": []},
    }
    assert "- speed has not ended: it was stopped after 240 s" in (tmp_path / "gpu.md").read_text()
    assert "inference" in stored(tmp_path)["parts"]


def test_a_part_for_which_no_time_is_left_is_said_to_be_missing(gpu, tmp_path):
    args = gpu.parse(["--parts", "quality", "--minutes", "0", "--results", str(tmp_path)])
    assert not gpu.run_parts(args, [])
    assert stored(tmp_path)["parts"]["quality"]["stopped"] == "no time was left"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(gpu, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        gpu.main(["--part", "numerics", "--results", str(tmp_path)])
    assert end.value.code == gpu.NO_GPU
    assert "torch sees no GPU" in capsys.readouterr().out


def test_the_quality_stops_in_time_and_keeps_its_scores(parts, make_setting, tmp_path):
    scores = parts.quality.Scores(make_setting("quality", left=5), {"recipe": "r.yaml", "encoder": "e"})
    state = SimpleNamespace(global_step=450, max_steps=2700)
    scores.on_evaluate(None, state, None, {"eval_overall": 0.7, "eval_loss": 1.0, "eval_runtime": 2.0})
    assert stored(tmp_path)["parts"]["quality"]["values"]["scores"]["450"]["eval_overall"] == 0.7
    assert "| step | seconds | overall |" in (tmp_path / "gpu.md").read_text()
    control = SimpleNamespace(should_training_stop=False)
    scores.on_step_end(None, state, control)
    assert control.should_training_stop
    assert scores.stopped == "stopped for want of time at step 450 of 2,700"


def test_the_quality_is_left_out_without_an_encoder(parts, make_setting, tmp_path):
    parts.quality.run(replace(make_setting("quality"), device="cuda"))
    assert "no encoder was given" in stored(tmp_path)["parts"]["quality"]["stopped"]
