"""Further pre-training: exact resume, the same steps whatever the micro-batches, and encoders that can be used."""

from __future__ import annotations

import importlib
import json
import shutil
import socket
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from mtbert.data.mlm import mask_tokens
from mtbert.data.permutation import permute
from mtbert.training.checkpoints.sealing import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("the", "cat", "dog", "runs", "sleeps", "is", "very", "good", "bad", "old", "new")
ROWS, BATCH = 20, 8  # 20 sentences and 40 of pairs: 60 distinct texts, 8 steps an epoch, the last of 4 rows


def script(name: str):
    return importlib.import_module(f"mtbert.cli.{name}")


@pytest.fixture(scope="module")
def recipe(encoder_dir, tmp_path_factory):
    """A function: changes of `pretraining` and other keys → the path of a recipe on tiny data."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)

    def sentence(mark: str) -> str:
        return " ".join(random.choice(WORDS, size=random.integers(2, 12))) + f" {mark}"

    for split, rows in (("train", ROWS), ("dev", 8)):
        stars = [{"text": sentence("." * row), "label": row % 3} for row in range(rows)]
        close = [
            {"text": sentence("?" * row), "text_pair": sentence("? ." * row), "label": row % 6} for row in range(rows)
        ]
        for name, values in (("stars", stars), ("close", close)):
            (folder / f"{name}-{split}.jsonl").write_text("\n".join(map(json.dumps, values)) + "\n")
    process = {"report_to": "none", "disable_tqdm": True, "cpu_threads": 1, "use_cpu": True}
    pair = {"text": ["text", "text_pair"], "train": "close-train.jsonl", "dev": "close-dev.jsonl"}

    def write(output: Path, pretraining: dict | None = None, encoder: str = encoder_dir, **training) -> str:
        tree = {
            "encoder": encoder,
            "data_dir": str(folder),
            "tasks": {
                "stars": {
                    "labels": 3,
                    "pooling": "pooler",
                    "data": {"text": "text", "train": "stars-train.jsonl", "dev": "stars-dev.jsonl"},
                },
                "close": {"range": [0, 5], "data": pair},
            },
            "training": {"output_dir": str(output), "max_steps": 2, "save_strategy": "no", **process, **training},
            "pretraining": {
                "num_train_epochs": 3,
                "keep_epochs": [1],
                "per_device_train_batch_size": BATCH,
                "learning_rate": 1e-3,
                **(pretraining or {}),
            },
        }
        path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return str(path)

    return write


@pytest.fixture(scope="module")
def still_encoder(encoder_dir, tmp_path_factory) -> str:
    """A masked-language model without dropout, head included."""
    folder = str(tmp_path_factory.mktemp("still"))
    model = AutoModelForMaskedLM.from_pretrained(encoder_dir)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> Path:
    """The folder of a whole pre-training of three epochs, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    script("pretrain").main([recipe(folder, {"save_total_limit": None})])
    return folder / "pretraining"


def log(folder: Path) -> list[dict]:
    entries = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    keys = ("loss", "eval_loss", "epoch", "step", "learning_rate", "grad_norm")
    return [{key: each[key] for key in keys if key in each} for each in entries if "train_runtime" not in each]


def same(one: Path, other: Path) -> bool:
    left, right = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_log_has_train_and_dev_loss_of_every_epoch(whole):
    entries = log(whole)
    losses = {key: [(each["step"], each[key]) for each in entries if key in each] for key in ("loss", "eval_loss")}
    for values in losses.values():
        assert [step for step, _ in values] == [8, 16, 24]
        assert values[-1][1] < values[0][1]
    assert not list(whole.glob("*.part"))
    assert sorted(path.name for path in whole.glob("epoch-*")) == ["epoch-1", "epoch-3"]


def test_the_losses_are_drawn_and_written_as_numbers(whole):
    entries, saved = log(whole), json.loads((whole / "losses.json").read_text())
    for split, key in (("train", "loss"), ("dev", "eval_loss")):
        assert [(point["step"], point["value"]) for point in saved[split]] == [
            (each["step"], each[key]) for each in entries if key in each
        ]
    assert saved["best"] == min(saved["dev"], key=lambda point: point["value"])
    assert imread(whole / "losses.png").std() > 0


def test_the_report_of_a_run_has_its_pretraining_s_losses(recipe, whole, tmp_path):
    """From the folder in the run's own, or from the one that the recipe names."""
    own, named = tmp_path / "own", tmp_path / "named"
    shutil.copytree(whole, own / "pretraining")
    script("finetune").main([recipe(own, {"use_epoch": 1})])
    shutil.copytree(whole, named)
    script("finetune").main([recipe(tmp_path / "other", {"output_dir": str(named)})])
    losses = json.loads((whole / "losses.json").read_text())
    for folder, epoch in ((own, 1), (tmp_path / "other", None)):
        page = script("evaluate").main([str(folder)])
        saved = json.loads((page.parent / "report.json").read_text())
        assert saved["pretraining"] == {**losses, "use_epoch": epoch}
        assert (page.parent / "figures" / "pretraining.png").is_file() and "Lowest dev loss" in page.read_text()
    shutil.rmtree(named)
    page = script("evaluate").main([str(tmp_path / "other"), "--overwrite"])
    assert json.loads((page.parent / "report.json").read_text())["pretraining"] is None
    assert "The log of the pre-training is not there" in page.read_text()


def test_the_rate_is_a_slanted_triangle(recipe, tmp_path):
    """Howard and Ruder (2018, equation 3) with cut_frac 0.25 (of 24 steps: 6) and ratio → ∞."""
    run = tmp_path / "run"
    script("pretrain").main([recipe(run, {"logging_strategy": "steps", "logging_steps": 1, "warmup_steps": 0.25})])
    rates = [each["learning_rate"] for each in log(run / "pretraining") if "learning_rate" in each]
    expected = [1e-3 * (step / 6 if step < 6 else (24 - step) / 18) for step in range(24)]
    assert rates == pytest.approx(expected)


def test_the_first_step_is_that_of_a_plain_loop(still_encoder, recipe, tmp_path):
    """The loss of the first step and its gradient's norm, with masks, rows and a mean written out again."""
    path = recipe(
        tmp_path / "run",
        {"logging_strategy": "steps", "logging_steps": 1, "num_train_epochs": 1},
        encoder=still_encoder,
    )
    tree = yaml.safe_load(Path(path).read_text())
    tokenizer = AutoTokenizer.from_pretrained(still_encoder)
    script("pretrain").main([path])
    first = log(tmp_path / "run" / "pretraining")[0]

    texts: dict[str, None] = {}
    for name, columns in (("close", ("text", "text_pair")), ("stars", ("text",))):  # the order of the file
        lines = Path(tree["data_dir"], f"{name}-train.jsonl").read_text().splitlines()
        for column in columns:
            texts |= dict.fromkeys(json.loads(line)[column] for line in lines)
    texts = list(texts)
    assert len(texts) == 3 * ROWS
    total, count = 0, 0
    model = AutoModelForMaskedLM.from_pretrained(still_encoder)
    for row in permute(np.arange(BATCH), len(texts), (42, 0, 0)):
        ids = np.array(tokenizer(texts[row])["input_ids"])
        special = tokenizer.all_special_ids
        inputs, labels = mask_tokens(ids, (42, 0, 0, row), 0.15, tokenizer.mask_token_id, len(tokenizer), special)
        logits = model(torch.tensor(inputs)[None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
        count += int((labels != -100).sum())
    (total / count).backward()
    assert first["loss"] == pytest.approx((total / count).item(), rel=1e-4)
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert first["grad_norm"] == pytest.approx(float(norm), rel=1e-3)


@pytest.mark.parametrize("step", [8, 16])
def test_a_resumed_run_is_the_uninterrupted_one(step, whole, recipe, tmp_path):
    folder = tmp_path / "run" / "pretraining"
    shutil.copytree(whole, folder)
    for path in (*folder.glob("epoch-*"), *folder.glob("checkpoint-*")):
        if path.name.startswith("epoch") or int(path.name.rpartition("-")[2]) > step:
            shutil.rmtree(path)
    script("pretrain").main([recipe(tmp_path / "run", {"save_total_limit": None})])
    assert same(whole / "epoch-3", folder / "epoch-3")
    assert same(whole / "checkpoint-24", folder / "checkpoint-24")
    assert log(whole) == log(folder)


def test_another_run_is_refused_and_other_dev_texts_are_warned_of(whole, recipe, encoder_dir, tmp_path):
    """The settings that pretraining.json has not: the encoder in its folder, its tokenizer, and dev texts."""
    encoder = tmp_path / "encoder"
    shutil.copytree(encoder_dir, encoder)
    folder = tmp_path / "run" / "pretraining"
    saves = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 6, "save_total_limit": None}
    path = recipe(tmp_path / "run", saves, str(encoder))
    script("pretrain").main([path])
    shutil.rmtree(folder / "checkpoint-8")
    shutil.rmtree(folder / "epoch-1")

    config, tokens = encoder / "config.json", encoder / "tokenizer.json"
    texts = {file: file.read_text() for file in (config, tokens)}
    tree = json.loads(texts[tokens])
    tree["model"]["vocab"]["cat"], tree["model"]["vocab"]["dog"] = (tree["model"]["vocab"][w] for w in ("dog", "cat"))
    for file, text, name in (
        (
            config,
            texts[config].replace('"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.2'),
            "encoder.hidden_drop",
        ),
        (tokens, json.dumps(tree), "data.train.texts.content_hash"),
    ):
        assert text != texts[file]
        file.write_text(text)
        with pytest.raises(CheckpointError, match=rf"checkpoint-6 is of another run than this one:\n{name}"):
            script("pretrain").main([path])
        file.write_text(texts[file])

    data = tmp_path / "data"
    shutil.copytree(yaml.safe_load(Path(path).read_text())["data_dir"], data)
    dev = data / "stars-dev.jsonl"
    dev.write_text("\n".join(dev.read_text().splitlines()[1:]) + "\n")
    with pytest.warns(
        UserWarning, match="checkpoint-6: the dev data has changed, .* data.dev.texts.rows was 24 and is 23"
    ):
        script("pretrain").main([path, "--data_dir", str(data)])


def test_a_run_without_duplicates_goes_on_without_them_only(recipe, tmp_path):
    """As a run of a version that always removed them: its pretraining.json does not name the key."""
    path = Path(recipe(tmp_path / "run", {"num_train_epochs": 2, "keep_epochs": [], "save_total_limit": None}))
    tree, data = yaml.safe_load(path.read_text()), tmp_path / "data"
    shutil.copytree(tree["data_dir"], data)
    with (data / "stars-train.jsonl").open("a") as file:
        file.writelines(json.dumps({"text": "the cat !", "label": 1}) + "\n" for _ in range(2))
    path.write_text(yaml.safe_dump({**tree, "data_dir": str(data)}))
    remove = ["--pretraining.remove_duplicates", "true"]
    script("pretrain").main([str(path), *remove])
    folder = tmp_path / "run" / "pretraining"
    settings = json.loads((folder / "pretraining.json").read_text())
    assert settings["texts"] == 61 and "remove_duplicates" not in settings
    refusal = r"texts was 61 and is 62; .* those settings \(with pretraining.remove_duplicates: true, a text"
    with pytest.raises(ValueError, match=refusal):
        script("pretrain").main([str(path)])
    (folder / "epoch-2").rename(tmp_path / "uninterrupted")
    shutil.rmtree(folder / "checkpoint-16")
    with pytest.raises(ValueError, match=refusal):
        script("pretrain").main([str(path)])
    script("pretrain").main([str(path), *remove])
    assert same(tmp_path / "uninterrupted", folder / "epoch-2")


def test_a_run_resumes_in_the_middle_of_an_epoch(whole, recipe, tmp_path):
    steps = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None}
    script("pretrain").main([recipe(tmp_path / "run", steps)])
    folder = tmp_path / "run" / "pretraining"
    assert same(whole / "epoch-3", folder / "epoch-3")
    for path in (*folder.glob("epoch-*"), *(folder / f"checkpoint-{n}" for n in (6, 9, 12, 15, 18, 21, 24))):
        shutil.rmtree(path)
    script("pretrain").main([recipe(tmp_path / "run", steps)])
    for epoch in (1, 3):
        assert same(whole / f"epoch-{epoch}", folder / f"epoch-{epoch}")


def test_a_kept_encoder_has_the_pooler_it_began_with_and_no_head(whole, encoder_dir):
    start, kept = (load_file(Path(folder, "model.safetensors")) for folder in (encoder_dir, whole / "epoch-3"))
    assert start.keys() == kept.keys()
    for name in start:
        assert torch.equal(start[name], kept[name]) == name.startswith("pooler."), name
    _, loading = AutoModel.from_pretrained(whole / "epoch-3", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(whole / "epoch-3").mask_token == "[MASK]"
    assert str(encoder_dir) not in (whole / "epoch-3" / "config.json").read_text()


def test_finetune_pretrains_as_far_as_it_needs_and_another_goes_on(whole, recipe, tmp_path, caplog, recwarn):
    finetune, shared = script("finetune"), str(tmp_path / "mlm")
    with pytest.warns(UserWarning, match=r"has no weights for \['cls.predictions.bias', .*, which begin at random"):
        finetune.main([recipe(tmp_path / "one", {"use_epoch": 1, "output_dir": shared})])
    assert "LOAD REPORT" not in caplog.text
    assert [path.name for path in Path(shared).glob("epoch-*")] == ["epoch-1"]
    assert same(Path(shared, "epoch-1"), whole / "epoch-1")
    finetune.main([recipe(tmp_path / "found", {"use_epoch": 1, "output_dir": shared})])
    assert not [each for each in recwarn if "which begin at random" in str(each.message)]
    assert same(tmp_path / "one", tmp_path / "found")
    finetune.main([recipe(tmp_path / "three", {"output_dir": shared})])
    assert same(Path(shared, "epoch-3"), whole / "epoch-3")
    by_hand = recipe(tmp_path / "by-hand")
    tree = yaml.safe_load(Path(by_hand).read_text()) | {"encoder": str(whole / "epoch-3"), "pretraining": None}
    Path(by_hand).write_text(yaml.safe_dump(tree))
    finetune.main([by_hand])
    assert same(tmp_path / "three", tmp_path / "by-hand")


def test_a_folder_with_another_run_is_refused(whole, recipe, tmp_path):
    pretrain = script("pretrain")
    with pytest.raises(ValueError, match="holds a run with other settings: learning_rate was 0.001 and is 0.002; give"):
        pretrain.main([recipe(tmp_path / "run", {"output_dir": str(whole), "learning_rate": 2e-3})])
    with pytest.raises(ValueError, match="has passed epoch 2 without keeping its encoder"):
        script("finetune").main([recipe(tmp_path / "run", {"output_dir": str(whole), "use_epoch": 2})])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="has files in it, but no pretraining.json; give another folder"):
        pretrain.main([recipe(tmp_path / "run", {"output_dir": str(tmp_path / "mine")})])


def test_micro_batches_make_no_difference(recipe, still_encoder, tmp_path):
    """One batch of 8 is two of 4, up to rounding: the mean is over a whole step's chosen tokens."""
    logs = []
    for size, accumulation in ((8, 1), (4, 2)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        settings |= {"logging_strategy": "steps", "logging_steps": 1, "num_train_epochs": 1, "optim": "sgd"}
        script("pretrain").main([recipe(tmp_path / str(size), settings, encoder=still_encoder)])
        logs.append(log(tmp_path / str(size) / "pretraining"))
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_two_processes_train_to_the_weights_of_one(recipe, still_encoder, tmp_path):
    common = {
        "logging_strategy": "steps",
        "logging_steps": 1,
        "num_train_epochs": 1,
        "optim": "sgd",
        "learning_rate": 0.1,
    }
    one = recipe(tmp_path / "one", {**common, "per_device_train_batch_size": 8}, encoder=still_encoder)
    two = recipe(tmp_path / "two", {**common, "per_device_train_batch_size": 4}, still_encoder, ddp_backend="gloo")
    script("pretrain").main([one])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank in "01":
        environment = {**common, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        log_file = tmp_path / f"log-{rank}.txt"
        processes.append(forked.start(ROOT / "recipes" / "pretrain.py", two, log=log_file, **environment))
    codes = [forked.wait(process, 240) for process in processes]
    assert codes == [0, 0], (tmp_path / "log-0.txt").read_text()[-4000:]
    folders = [tmp_path / name / "pretraining" for name in ("one", "two")]
    for one, two in zip(*map(log, folders), strict=True):
        assert one == pytest.approx(two, rel=1e-3)
    left, right = (load_file(folder / "epoch-1" / "model.safetensors") for folder in folders)
    start = load_file(Path(still_encoder, "model.safetensors"))
    assert max(float((left[name] - start[f"bert.{name}"]).abs().max()) for name in left if "pooler" not in name) > 1e-3
    for name in left:
        if "pooler" not in name:
            torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-5)


def test_a_checkpoint_has_its_arguments_as_json_and_no_pickle_of_them(whole):
    for step in (8, 16, 24):  # the runs above were resumed from such checkpoints
        assert not (whole / f"checkpoint-{step}" / "training_args.bin").exists()
        values = json.loads((whole / f"checkpoint-{step}" / "training_args.json").read_text())
        assert values["learning_rate"] == 1e-3 and values["keep_epochs"] == [1]
