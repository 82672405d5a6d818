"""What has no bound is refused at once, with the limit and what raises it; and what a user may need more of, works."""

import json
import os

import pytest

from mtbert.evaluation.report.write import check_folder
from mtbert.files import path_problem
from mtbert.modeling.checkpoint_loading import check_folder as check_checkpoint
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.encoder_loading import encoder_config, load_config, load_tokenizer
from mtbert.modeling.limits import LIMITS, RESERVED, refuse_reserved
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import AdapterSpec, HeadSpec, TaskSpec
from mtbert.recipe import Recipe, RecipeError, load_recipe
from mtbert.training.arguments import TaskTraining
from tests.support.bounded import bounded

HUGE = 10**9
BERT = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def task(**values) -> dict:
    return {"name": "t", "labels": 2, **values}


def config(**values) -> MtBertConfig:
    return MtBertConfig(**({"encoder": dict(BERT), "tasks": [task()]} | values))


CONFIGS = {
    "tasks": (lambda: config(tasks=[{"name": f"t{i}", "labels": 2} for i in range(10**5)]), "there are 100,000 tasks"),
    "labels": (lambda: config(tasks=[task(labels=10**6)]), "labels is 1,000,000"),
    "labels as names": (lambda: config(tasks=[task(labels=["x"] * 10**6)]), "labels has 1,000,000 names"),
    "label": (lambda: config(tasks=[task(labels=["a", "b" * 10**6])]), "a name of 1,000,000 characters"),
    "head": (lambda: config(tasks=[task(head={"type": "mlp", "layers": HUGE})]), "head.layers is 1,000,000,000"),
    "head's width": (lambda: config(tasks=[task(head={"hidden_size": HUGE})]), "head.hidden_size is 1,000,000,000"),
    "head's heads": (lambda: config(tasks=[task(head={"attention_heads": HUGE})]), "attention_heads is"),
    "length": (lambda: config(tasks=[task(max_length=HUGE)]), "max_length is 1,000,000,000"),
    "separator": (lambda: config(tasks=[task(separator=["x"] * 10**5)]), "separator has 100,000 tokens"),
    "depth": (lambda: config(adapter={"type": "top_layers", "depth": HUGE}), "adapter.depth is 1,000,000,000"),
    "size": (lambda: config(adapter={"type": "pal", "size": HUGE, "heads": 1}), "adapter.size is 1,000,000,000"),
    "adapter's layers": (lambda: config(adapter={"layers": list(range(10**5))}), "adapter.layers has 100,000 numbers"),
    "encoder": (lambda: config(encoder=BERT | {"num_hidden_layers": HUGE}), "encoder.num_hidden_layers is"),
    "distilbert": (lambda: config(encoder={"model_type": "distilbert", "n_layers": HUGE}), "encoder.n_layers is"),
    "modernbert": (
        lambda: config(encoder={"model_type": "modernbert", "num_hidden_layers": HUGE}),
        "num_hidden_layers is",
    ),
    "encoder's labels": (lambda: config(encoder=BERT | {"num_labels": HUGE}), "encoder.num_labels is"),
    "config's labels": (lambda: config(num_labels=HUGE), "num_labels is 1,000,000,000"),
    "vocabulary": (lambda: config(encoder=BERT | {"vocab_size": 10**12}), "encoder.vocab_size is"),
    "inside": (lambda: config(encoder=BERT | {"text_config": {"num_layers": HUGE}}), "text_config.num_layers is"),
    "a number of 5,000 digits": (lambda: config(tasks=[task(labels=10**5000)]), "labels is a number above 10^18"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs(case):
    make, message = CONFIGS[case]
    with bounded(), pytest.raises(ValueError, match=r"MTBERT_MAX_\w+ raises that") as error:
        make()
    assert message in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (BERT | {"model_type": "modernbert", "num_hidden_layers": HUGE}, "num_hidden_layers is 1,000,000,000"),
        (BERT | {"num_labels": HUGE}, "num_labels is 1,000,000,000"),
        (BERT | {"x": "x" * 20_000_000}, "MTBERT_MAX_CONFIG_BYTES"),
        ("[" * 5000 + "]" * 5000, "too deep"),
    ],
)
def test_configs_of_encoders(values, message, tmp_path):
    text = json.dumps(values) if isinstance(values, dict) else f'{{"model_type": "bert", "x": {values}}}'
    write(tmp_path, text, "config.json")
    for load in (encoder_config, load_config, load_tokenizer):
        with bounded(), pytest.raises((ValueError, OSError), match=message):
            load(tmp_path)


def test_a_name_of_a_million_letters():
    with bounded(), pytest.raises(ValueError, match="the name's length is 1,000,000") as error:
        TaskSpec("a" * 10**6, labels=2)
    assert len(str(error.value)) < 1000


def test_an_encoder_of_mtbert_inside_an_encoder():
    inner = dict(BERT)
    for _ in range(300):
        inner = {"model_type": "mtbert", "encoder": inner, "tasks": [task()]}
    with bounded(), pytest.raises(ValueError, match="levels deep|does not know"):
        config(encoder=inner)
    with pytest.raises(ValueError, match="encoder.model_type is 'mtbert', which"):
        config(encoder={"model_type": "mtbert", "encoder": BERT, "tasks": [task()]})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_names_that_logs_use(name):
    """A new task cannot have them; a checkpoint of an earlier version that has goes on loading."""
    with pytest.raises(ValueError, match=f"task '{name}': logs and scores use this name themselves; add a letter"):
        refuse_reserved([name, "mine"])
    refuse_reserved([f"{name}s"])
    assert config(encoder=BERT, tasks=[task(name=name)]).task_specs[0].name == name


def test_no_new_task_has_such_a_name(encoder_dir, make_model):
    with pytest.raises(ValueError, match="task 'loss': logs and scores use this name"):
        MtBertForMultiTask.from_encoder(encoder_dir, [TaskSpec("loss", labels=2)])
    with pytest.raises(ValueError, match="task 'step': logs and scores use this name"):
        make_model().add_task(TaskSpec("step", labels=2))


@pytest.mark.parametrize(
    ("name", "fits"), [("a" * 100, True), ("a" * 101, False), ("é" * 100, True), ("漢" * 70, False)]
)
def test_the_length_of_a_name(name, fits):
    """File names are made of it, which have 255 bytes."""
    if fits:
        assert TaskSpec(name, labels=2).name == name
    else:
        with pytest.raises(ValueError, match="the name's length is 10., but must be at most 100; MTBERT_MAX_TASK_NAME"):
            TaskSpec(name, labels=2)


def test_the_environment_raises_a_limit(monkeypatch):
    monkeypatch.setenv("MTBERT_MAX_HEAD_LAYERS", "200")
    assert HeadSpec("mlp", 200).problems() == []
    assert HeadSpec("mlp", 201).problems()
    monkeypatch.setenv("MTBERT_MAX_HEAD_LAYERS", "many")
    with pytest.raises(ValueError, match="MTBERT_MAX_HEAD_LAYERS is 'many', but must be a whole number"):
        HeadSpec("mlp", 1).problems()


def test_what_is_at_the_limit_works():
    assert len(TaskSpec("t", labels=LIMITS["labels"]).labels) == LIMITS["labels"]
    assert HeadSpec("mlp", LIMITS["head_layers"]).problems() == []
    assert AdapterSpec("top_layers", depth=LIMITS["adapter_depth"]).depth == LIMITS["adapter_depth"]


def write(folder, text: str, name: str = "recipe.yaml"):
    (folder / name).write_text(text)
    return folder / name


RECIPES = {
    "10 MB": ("a: " + "x" * 10_000_000, "2,097,153 bytes, but must be at most 2,097,152; MTBERT_MAX_RECIPE_BYTES"),
    "a million items": ("a: [" + "1," * 1_000_000 + "]", "1,000,000 lines and commas, but must be at most 100,000"),
    "200,000 lines": ("a:\n" + "- 1\n" * 200_000, "200,001 lines and commas"),
    "nested lists": ("a: " + "[" * 50_000, "too deep"),
    "nested mappings": ("".join(f"{' ' * i}a:\n" for i in range(1500)), "too deep"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_recipes(case, tmp_path):
    text, message = RECIPES[case]
    file = write(tmp_path, text)
    with bounded(), pytest.raises(RecipeError) as error:
        load_recipe(file)
    assert message in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_an_endless_recipe(device):
    with bounded(), pytest.raises(RecipeError, match="at least 2,097,153 bytes"):
        load_recipe(device)


def tree(**values) -> dict:
    task = {"labels": 2, "data": {"train": "a.csv"}}
    return {"encoder": "e", "tasks": {"one": task}, "training": {"output_dir": "out"}} | values


TREES = {
    "tasks": (tree(tasks={f"t{i}": {} for i in range(10**5)}), "tasks has 100,000 tasks"),
    "stages": (tree(stages=[{}] * 10**4), "stages has 10,000 stages"),
    "unknown keys": (tree(**{f"k{i}": 1 for i in range(10**4)}), "more problems; mend these first"),
    "a long key": (tree(**{"k" * 10**6: 1}), "there is no such key"),
    "a long value": (tree(tasks="x" * 10**6), "tasks is text 'xxx"),
    "workers": (tree(training={"output_dir": "o", "dataloader_num_workers": 10**6}), "MTBERT_MAX_PROCESSES"),
    "threads": (tree(training={"output_dir": "o", "cpu_threads": HUGE}), "MTBERT_MAX_THREADS"),
    "batch": (tree(training={"output_dir": "o", "per_device_train_batch_size": HUGE}), "MTBERT_MAX_BATCH_ROWS"),
    "accumulation": (tree(training={"output_dir": "o", "gradient_accumulation_steps": HUGE}), "MTBERT_MAX_BATCH_ROWS"),
    "epochs": (tree(training={"output_dir": "o", "num_train_epochs": 1e300}), "MTBERT_MAX_STEPS"),
}


@pytest.mark.parametrize("case", TREES)
def test_trees(case):
    values, message = TREES[case]
    Recipe.from_dict(tree())  # what is imported at the first one
    with bounded(), pytest.raises(RecipeError) as error:
        Recipe.from_dict(values)
    assert message in str(error.value) and len(str(error.value)) < 100_000


def test_rows_of_a_task():
    assert "MTBERT_MAX_EPOCH_ROWS" in TaskTraining(examples_per_epoch=10**12).problems()[0].message
    assert "MTBERT_MAX_BATCH_ROWS" in TaskTraining(batch_size=10**12).problems()[0].message


def test_a_chain_of_bases(tmp_path):
    write(tmp_path, "encoder: e\n", "0.yaml")
    for i in range(1, 100):
        write(tmp_path, f"base: {i - 1}.yaml\n", f"{i}.yaml")
    with bounded(), pytest.raises(RecipeError, match="the chain of bases has 21 files above it, but .* at most 20"):
        load_recipe(tmp_path / "99.yaml")


@pytest.mark.parametrize("name", ["a" * 300, "é" * 200, "loop/out", "file/out", "a\0b", "/".join(["d" * 200] * 30)])
def test_folders_that_can_not_be(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    write(tmp_path, "", "file")
    message = "bytes, but the file system|circle of symbolic links|below a file|zero byte|bytes long in full"
    with bounded(), pytest.raises(RecipeError, match=rf"training.output_dir is text '.*, which .*({message})"):
        Recipe.from_dict(tree(training={"output_dir": name}))
    with pytest.raises(ValueError, match=message):
        check_folder(name)
    assert path_problem("loop") and path_problem("fine/folder") is None and path_problem(tmp_path) is None


def test_files_of_a_checkpoint(tmp_path):
    for text in ('{"model_type": "mtbert", "x": "' + "x" * 20_000_000 + '"}', '{"x": ' + "[" * 5000 + "]" * 5000 + "}"):
        write(tmp_path, text, "config.json")
        with bounded(), pytest.raises(ValueError, match=r"config.json .*(MTBERT_MAX_CONFIG_BYTES|recursion)"):
            check_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mtbert"}))
    with pytest.raises(ValueError, match="no model.safetensors"):
        check_checkpoint(tmp_path)


@pytest.mark.parametrize("key", ["type_vocab_size", "vocab_size", "max_position_embeddings"])
def test_a_config_that_asks_for_more_than_the_weights_hold(key, encoder_dir, tmp_path):
    MtBertForMultiTask.from_encoder(encoder_dir, [TaskSpec("t", labels=2)]).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written["encoder"][key] = 10_000_000
    (tmp_path / "config.json").write_text(json.dumps(written))
    with bounded(calls=10_000_000), pytest.raises(ValueError, match="but config.json asks for .10000000, "):
        MtBertForMultiTask.from_pretrained(tmp_path)
