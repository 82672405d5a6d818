"""Every recipe file loads, and trains two steps (of each stage, after an epoch of pre-training if it has some)."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from mtbert import MtBertForMultiTask
from mtbert.recipe import load_recipe

CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.name != "base.yaml")
# they differ in numbers, data or encoder alone from one that trains with `make test`; `make soak` trains them, too
REPEATS = {
    *(f"cs224n/{name}.yaml" for name in ("A4", "A5", "A6", "A8", "A9", "A11", "A12", "B2", "B3", "C1", "E1-full")),
    *(f"cs224n/{name}.yaml" for name in ("E2-full", "E2-last", "E3", "E4", "E6", "E8", "E9", "best_base_both")),
    *(f"wide/{name}.yaml" for name in ("annealed", "low_rank", "sentences", "pairs")),
}


def names(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", RECIPES, ids=names)
def test_recipe_opens_with_its_launch_command(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# accelerate launch --config_file accelerate_config.yaml recipes/")
    assert names(path) in path.read_text(encoding="utf-8").split("\n\n")[0]


def with_marks(path: Path):
    return pytest.param(path, id=names(path), marks=pytest.mark.soak if names(path) in REPEATS else ())


def test_every_recipe_that_is_left_out_is_there():
    assert {names(path) for path in RECIPES} >= REPEATS


@pytest.mark.parametrize("path", map(with_marks, RECIPES))
def test_recipe_trains_two_steps(path, finetune, encoder_dir, course_dir, wide_dir, tmp_path, monkeypatch):
    folder, wide = tmp_path / "run", path.parent.name == "wide"
    data_dir = CONFIGS.parent / "sample_data" if path.parent == CONFIGS else course_dir
    data_dir = wide_dir if wide else data_dir
    overrides = {
        "encoder": encoder_dir,
        "data_dir": data_dir,
        "schedule.steps_per_epoch": 2,
        "training.max_steps": 2,
        "training.per_device_train_batch_size": 4,
        "training.output_dir": folder,
        "training.report_to": "none",
        "training.cpu_threads": 1,
    }
    recipe = load_recipe(path, ["--encoder", encoder_dir, "--data_dir", str(data_dir), "--training.output_dir", "x"])
    for name, task in recipe.tasks.items():
        if task.data.sample is not None:
            overrides[f"tasks.{name}.data.sample"] = 20  # of the 30 or 60 rows of course_dir
    if recipe.pretraining is not None:
        overrides |= {"pretraining.num_train_epochs": 1, "pretraining.use_epoch": 1}
        overrides |= {"pretraining.learning_rate": 0.0}  # what moves is then moved by fine-tuning
    if "distillation" in recipe.methods:  # by what the recipe that it inherits from trains
        monkeypatch.setattr("mtbert.training.methods.teacher_cache.memory_folder", lambda: tmp_path / "memories")
        teacher = {**overrides, "training.output_dir": tmp_path / "teacher"}
        teaching = path.parent / ("all.yaml" if wide else "best.yaml")
        finetune.main([str(teaching), *(f"--{key}={value}" for key, value in teacher.items())])
        overrides |= {"distillation.teachers": [str(tmp_path / "teacher")]}
        overrides |= {} if wide else {"tasks.sst.data.unlabelled": "ids-sst-test-student.csv"}
    finetune.main([str(path), *(f"--{key}={value}" for key, value in overrides.items())])
    before = load_file(f"{encoder_dir}/model.safetensors")
    if recipe.peft is not None:
        specs = [task.spec(name) for name, task in recipe.tasks.items()]
        model = MtBertForMultiTask.from_encoder(encoder_dir, specs, recipe.model.adapter)
        wrapped = PeftModel.from_pretrained(model, folder)
        assert any(value.any() for name, value in wrapped.named_parameters() if "lora_B" in name)  # they begin at 0
        return
    after = load_file(folder / "model.safetensors")
    moved = {
        name
        for name in before
        if f"encoder.{name}" in after and not torch.equal(before[name], after[f"encoder.{name}"])
    }
    frozen = all(stage.model.freeze_encoder for stage in recipe.in_stages())
    assert bool(moved) != frozen
    assert (folder / "pretraining" / "epoch-1").is_dir() == (recipe.pretraining is not None)
    assert len(list(folder.glob("stage-*"))) == len(recipe.stages)
    model = MtBertForMultiTask.from_pretrained(folder)
    assert set(model.heads) == {task.name for task in model.tasks}
