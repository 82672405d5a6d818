"""What `mtbert finetune` refuses: in one error, before a weight is read, a row is encoded or a file is written."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModel, MegatronBertConfig

from mtbert.modeling.task_spec import TaskSpec
from mtbert.runs import finetuning

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path, monkeypatch, encoder_dir) -> Path:
    """A recipe of two tasks in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text,label\n" + "the cat runs,0\na dog eats,1\n" * 4)
    data = {"train": "rows.csv", "dev": "rows.csv"}
    tree = {
        "encoder": encoder_dir,
        "tasks": {"one": {"labels": 2, "data": data}, "two": {"labels": 2, "data": data}},
        "training": {"output_dir": "out", "max_steps": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return Path("recipe.yaml")


@pytest.fixture
def other_encoder(tmp_path_factory, tokenizer) -> str:
    """An encoder of a family that adapters do not fit."""
    folder = str(tmp_path_factory.mktemp("megatron"))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    AutoModel.from_config(MegatronBertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CASES = {
    "no teacher": (
        ["--distillation.teachers=[gone]"],
        r"^distillation.teachers: gone: no checkpoint can be read there: there is no such folder; .*give a folder that",
    ),
    "an encoder as teacher": (
        ["--distillation.teachers=[ENCODER]"],
        r"^distillation.teachers: .*: is a checkpoint of 'bert', but must be one of mtbert",
    ),
    "a teacher in a stage": (
        ["--stages=[{}, {distillation: {teachers: [gone]}}]"],
        r"^distillation.teachers: gone: no checkpoint can be read there",
    ),
    "texts that nobody teaches": (
        ["--distillation.teachers=[TEACHER]", "--tasks.two.data.unlabelled=rows.csv"],
        r"^tasks.two.data.unlabelled is 'rows.csv', but none of distillation.teachers has that task; give a teacher of",
    ),
    "a length": (
        ["--tasks.one.max_length=1000"],
        r"^task 'one': max_length is 1000, but the encoder has positions for 64 tokens; give that or less$",
    ),
    "a length, before pre-training": (
        ["--tasks.one.max_length=1000", "--pretraining.num_train_epochs=1"],
        r"^task 'one': max_length is 1000",
    ),
    "a separator": (
        ["--tasks.one.separator=[zork]", "--tasks.two.max_length=65"],
        r"^task 'one': separator has tokens \['zork'\].*drop the key\ntask 'two': max_length is 65",
    ),
    "layers": (
        ["--model.adapter={type: pal, layers: [0, 7]}"],
        r"^adapter.layers has \[7\], but the encoder's layers are 0 to 1; name those$",
    ),
    "a family": (
        ["--encoder=OTHER", "--model.adapter={}"],
        r"^adapter: megatron-bert encoders work without adapt",
    ),
    "peft's type": (["--peft.type=zork"], r"^peft.type is 'zork', but must be one of: .*lora"),
    "peft's modules": (
        ["--peft.target_modules=[zork]"],
        r"^peft is \{'target_modules': \['zork'\]\}, which peft does not take: Target modules .*zork.* not found",
    ),
    "peft's values": (
        ["--peft={r: many, target_modules: [query]}"],
        r"^peft is \{'r': 'many', .*\}, which peft does not take: .*; see its manual$",
    ),
    "a logger": (["--training.report_to=paper"], r"^training.report_to is \['paper'\], which are not installed; these"),
    "an optimizer": (["--training.optim=lomo"], r"^training.optim is 'lomo', which is not installed: "),
    "an optimizer of a stage": (
        ["--stages=[{}, {training: {optim: lomo}}]"],
        r"^training.optim is 'lomo', which is not installed: ",
    ),
    "the rate's schedule": (
        ["--training.lr_scheduler_kwargs.power=2"],
        r"^training.lr_scheduler_kwargs is \{'power': 2\}, which lr_scheduler_type: linear does not take: ",
    ),
    "an argument of pre-training": (
        ["--pretraining.optim=lomo"],
        r"^pretraining.optim is 'lomo', which is not installed: ",
    ),
    "a range": (["--training.seed=-1"], r"^command line: training.seed is -1, but must be in 0 … 4294967295$"),
    "a file as folder": (
        ["--training.output_dir=rows.csv"],
        r"^output_dir rows.csv is a file; give a folder, which is",
    ),
    "a checkpoint": (
        ["--training.resume_from_checkpoint=gone"],
        r"^resume_from_checkpoint: there is no folder gone; give a checkpoint's, or true$",
    ),
}


@pytest.mark.parametrize(("more", "message"), CASES.values(), ids=CASES)
def test_what_can_not_work_is_refused_before_any_work(
    finetune, recipe, more, message, encoder_dir, other_encoder, make_model, tokenizer, tmp_path, monkeypatch
):
    teacher = str(tmp_path / "teacher")
    if any("TEACHER" in each for each in more):
        make_model([TaskSpec("one", labels=2)]).save_pretrained(teacher)
        tokenizer.save_pretrained(teacher)
    for name, folder in (("ENCODER", encoder_dir), ("OTHER", other_encoder), ("TEACHER", teacher)):
        more = [each.replace(name, folder) for each in more]
    before = sorted(tmp_path.rglob("*"))

    def work(*args, **kwargs):
        raise AssertionError("work has begun")

    for name in ("load_data", "pretrain", "encode_tasks"):
        monkeypatch.setattr(finetuning, name, work)
    monkeypatch.setattr(AutoModel, "from_pretrained", work)
    with pytest.raises(ValueError, match=message):
        finetune.main([str(recipe), *more])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("script", ["finetune", "pretrain"])
def test_a_user_sees_the_message_alone(script, recipe, monkeypatch):
    Path("out/pretraining").mkdir(parents=True)
    for file in ("out/old.txt", "out/pretraining/old.txt"):
        Path(file).write_text("")
    monkeypatch.setattr(sys, "argv", [script, str(recipe)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "recipes" / f"{script}.py"), run_name="__main__")
    wanted = {"finetune": "output_dir out has files in it,", "pretrain": "pretraining.output_dir out/pretraining has f"}
    assert left.value.code.startswith(wanted[script])


def test_a_run_says_what_it_goes_on_from_and_where_its_model_is(finetune, recipe, capsys):
    finetune.main([str(recipe), "--training.save_strategy=steps", "--training.save_steps=1"])
    said = capsys.readouterr().out
    assert "Training in 1 process on cpu" in said and "Going on" not in said
    assert "The model is in out\nnext: mtbert evaluate out\n      mtbert predict out FILE --output" in said
    finetune.main([str(recipe), "--training.max_steps=3", "--training.resume_from_checkpoint=auto"])
    assert "Going on from out/checkpoint-2" in capsys.readouterr().out
