"""Shared-out layers: half of them on each of two processes, and the checkpoints of a run without shares."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import load_from_disk
from forked import start, wait
from safetensors.torch import load_file
from torch import nn

from mtbert.data.sampling import Schedule
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments, PretrainingArguments
from mtbert.training.distributed.encoder_sharding import clip, encoder_layers
from mtbert.training.trainer import MtBertTrainer

SCRIPT = Path(__file__).with_name("sharded.py")


@pytest.fixture(scope="module")
def done() -> dict:
    return {}


@pytest.fixture
def runs(done, write_data, tmp_path_factory):
    """A function: run, rank → its folder, final weights and log; one launch for all."""
    if not done:
        folder = tmp_path_factory.mktemp("sharded")
        write_data(folder / "data")
        (folder / "results").mkdir()
        results, log = folder / "results", folder / "log.txt"
        code = wait(start(SCRIPT, folder / "data", results, log=log, OMP_NUM_THREADS="1"), 300)
        done.update(folder=results, code=code, log=log.read_text())
    assert done["code"] == 0, done["log"][-6000:]

    def read(name: str, rank: int = 0):
        path = done["folder"] / f"{name}-{rank}.safetensors"
        return done["folder"] / name, load_file(path), json.loads(path.with_suffix(".json").read_text())

    return read


def losses(log: list[dict]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.mark.parametrize("rank", range(2))
def test_a_process_holds_its_half_of_weights_and_moments(runs, rank):
    _, _, about = runs("whole", rank)
    assert len(about["shares"]) == 6
    assert all(share == pytest.approx([0.5, 0.5]) for share in about["shares"])
    assert all(share == [1.0, 1.0] for share in runs("plain", rank)[2]["shares"])


def test_shared_and_whole_layers_train_alike(runs):
    (_, shared, log), (_, plain, other) = runs("whole"), runs("plain")
    assert losses(log["log"]) == pytest.approx(losses(other["log"]), rel=1e-4)
    for name in plain:
        torch.testing.assert_close(shared[name], plain[name], rtol=1e-5, atol=1e-5)
    assert all(torch.equal(weight, runs("whole", 1)[1][name]) for name, weight in shared.items())


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(runs):
    (_, whole, log), (_, resumed, other) = runs("whole"), runs("resumed")
    assert losses(log["log"]) == losses(other["log"])
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


@pytest.mark.parametrize(("resumed", "origin"), [("resumed without shares", "whole"), ("resumed with shares", "plain")])
def test_checkpoints_are_the_same_with_shares_and_without(runs, resumed, origin):
    (_, one, log), (_, other, whole) = runs(resumed), runs(origin)
    assert losses(log["log"]) == pytest.approx(losses(whole["log"]), rel=1e-4)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-5)


def test_all_processes_refuse_what_differs_on_one(runs):
    folder = runs("plain")[0].parent
    one, other = ((folder / f"refused-{rank}.txt").read_text() for rank in range(2))
    assert one == other and "\ndata.train.stars.rows was 20 and is 19\n" in one


def test_one_process_goes_on_with_the_run_of_two(runs, tmp_path):
    folder, _, _ = runs("plain")
    data = {each.name: load_from_disk(str(each)) for each in (folder.parents[1] / "data" / "train").iterdir()}
    settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "max_steps": 6, "save_strategy": "no"}
    settings |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "seed": 3}
    settings |= {"learning_rate": 0.01, "optim": "adamw_torch", "adam_epsilon": 0.1}
    model = MtBertForMultiTask.from_pretrained(folder.parents[1] / "data" / "model")
    args = MtBertTrainingArguments(str(tmp_path), **settings)
    trainer = MtBertTrainer(model, args, data, schedule=Schedule("annealed", steps_per_epoch=4))
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    trained = load_file(folder / "checkpoint-6" / "model.safetensors")
    for name, weight in trainer.model.state_dict().items():
        torch.testing.assert_close(weight, trained[name], rtol=1e-5, atol=1e-5)


def test_what_is_saved_is_a_whole_model_and_whole_moments(runs):
    folders = {name: runs(name)[0] for name in ("whole", "plain")}
    for part in ("", "checkpoint-3", "checkpoint-6"):
        shared, plain = (load_file(folder / part / "model.safetensors") for folder in folders.values())
        assert {k: v.shape for k, v in shared.items()} == {k: v.shape for k, v in plain.items()}
        MtBertForMultiTask.from_pretrained(folders["whole"] / part)
    moments = [
        torch.load(folder / "checkpoint-3" / "optimizer.pt", weights_only=True)["state"] for folder in folders.values()
    ]
    sizes = [sorted(values["exp_avg"].numel() for values in each.values()) for each in moments]
    assert sizes[0] == sizes[1]


def test_the_best_checkpoint_is_loaded_into_a_whole_model(runs):
    folder, weights, about = runs("whole")
    best = load_file(Path(about["best"]) / "model.safetensors")
    assert Path(about["best"]).parent == folder and all(torch.equal(best[name], weights[name]) for name in best)


def test_what_fsdp_2_asks_of_accelerate_is_taken_over(tmp_path, monkeypatch):
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MTBERT_SHARD_ENCODER", "")
    settings = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True}
    PretrainingArguments(**settings)
    assert MtBertTrainingArguments(**settings).shard_encoder and MtBertTrainingArguments(**settings).shard_encoder
    assert os.environ["ACCELERATE_USE_FSDP"] == "false"
    monkeypatch.setenv("MTBERT_SHARD_ENCODER", "")
    assert not MtBertTrainingArguments(**settings).shard_encoder
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match="ACCELERATE_USE_FSDP is true: FSDP 1 is refused"):
        MtBertTrainingArguments(**settings)


def test_gradients_are_clipped_as_pytorch_clips_them():
    torch.manual_seed(1)
    one, other = (nn.ParameterList([torch.zeros(3, 4), torch.zeros(5)]) for _ in range(2))
    for left, right in zip(one, other, strict=True):
        left.grad = torch.randn_like(left)
        right.grad = left.grad.clone()
    torch.testing.assert_close(clip(one, 0.5), nn.utils.clip_grad_norm_(other.parameters(), 0.5))
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left.grad, right.grad)


def test_an_encoder_without_a_list_of_layers_is_named():
    encoder = nn.Linear(2, 2)
    encoder.config = SimpleNamespace(model_type="odd")
    with pytest.raises(ValueError, match="training.shard_encoder: odd encoders have no list of layers; drop it"):
        encoder_layers(encoder)
