"""The estimate of memory: against the tensors that autograd keeps, and part by part."""

import warnings

import pytest
import torch
from transformers import AutoModel, BertConfig

from mtbert import MtBertForMultiTask, Schedule, Surgery, TaskSpec
from mtbert.modeling import cpu_layers
from mtbert.modeling.packing import PackedLayout
from mtbert.training import memory
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.rdrop import RDrop
from mtbert.training.methods.simcse import SimCSE
from mtbert.training.methods.smart import Smart
from mtbert.training.optimizers import OptimizerSettings

TASK = TaskSpec("t", labels=2)


def kept_bytes(model, run) -> int:
    """Bytes of the tensors that autograd keeps for a backward pass, each storage once, the model's own left out."""
    kept, weights = {}, {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:  # of which a view, such as a transposed weight, takes nothing more
            kept[storage.data_ptr()] = storage  # alive, so that no address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = run()
    del alive
    return sum(each.nbytes() for each in kept.values())


@pytest.mark.parametrize("onednn", [False, True], ids=["plain", "onednn"])
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.1, 0.0], ids=["dropout", "still"])
def test_activations_are_what_autograd_keeps(tmp_path, monkeypatch, half, dropout, onednn):
    """Both ways to compute fp32 products, whichever this processor's is."""
    monkeypatch.setattr(cpu_layers, "ONEDNN", onednn)
    config = BertConfig(vocab_size=50, hidden_size=128, num_hidden_layers=4, num_attention_heads=4)
    config.intermediate_size, config.max_position_embeddings = 512, 64
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    AutoModel.from_config(config).save_pretrained(tmp_path)
    model = MtBertForMultiTask.from_encoder(tmp_path, [TASK]).train()
    lengths = torch.randint(8, 60, (24,))
    mask = (torch.arange(60) < lengths[:, None]).long()
    ids = torch.randint(5, 50, mask.shape)
    layout = PackedLayout.build(lengths.tolist(), [(0, 24, 1)])

    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return model(input_ids=ids, attention_mask=mask, task="t", labels=torch.zeros(24, dtype=torch.long))

    matrices = [each for name, each in model.encoder.named_parameters() if each.ndim == 2 and "embeddings" not in name]
    copies = sum(each.nbytes for each in matrices) // 2 if half else 0  # autocast keeps them, too
    expected = memory.shape_of(model, layout, half).pass_bytes()
    assert expected == pytest.approx(kept_bytes(model, run) - copies, rel=0.05)


@pytest.fixture
def make_trainer(make_trainer):
    def make(schedule=None, settings=None, **own):
        values = {"per_device_train_batch_size": 8, "num_train_epochs": 1} | (settings or {})
        return make_trainer(schedule=schedule, **values, **own)

    return make


def parts_of(trainer) -> dict[str, int]:
    return memory.estimate(trainer)[0]


def test_the_longest_step_is_the_longest_of_the_plan(make_trainer):
    trainer = make_trainer()
    most = max(batch["input_ids"].numel() for batch in trainer.get_train_dataloader())
    assert memory.estimate(trainer)[1] == most


def test_every_part_is_counted(make_trainer):
    mixed, together = Schedule("annealed", mixed=True), {"gradient_accumulation_steps": 2}
    plain = parts_of(make_trainer(mixed, together))
    encoder = sum(p.nbytes for p in make_trainer().model.encoder.parameters())
    size = sum(p.nbytes for p in make_trainer().model.parameters())
    assert plain["gradients"] == size and plain["moments"] == 2 * size and plain["weights"] >= size
    assert "copies" not in plain
    separate = parts_of(make_trainer(Schedule("round_robin"), together, optimizer=OptimizerSettings("separate")))
    assert separate["moments"] == 2 * (size + 3 * encoder)
    assert parts_of(make_trainer(mixed, {**together, "optim": "sgd"}))["moments"] == 0
    both = parts_of(make_trainer(mixed, together, averaging=Averaging(), proximal=Proximal()))
    assert both["copies"] == 2 * size
    words = make_trainer().model.get_input_embeddings().weight.nbytes
    surgery = parts_of(make_trainer(mixed, together, surgery=Surgery()))
    assert surgery["gradients"] == size + 3 * (encoder - words)
    assert surgery["activations"] < plain["activations"]  # one task at a time
    for method in (RDrop(), SimCSE(), Smart()):
        assert parts_of(make_trainer(mixed, together, methods=[method]))["activations"] > 1.5 * plain["activations"]
    checkpointed = parts_of(make_trainer(mixed, {**together, "gradient_checkpointing": True}))
    assert checkpointed["activations"] < plain["activations"]
    bigger = parts_of(make_trainer(mixed, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 16}))
    assert bigger["activations"] > 1.2 * plain["activations"]


def test_gradients_and_activations_of_a_step(make_trainer):
    assert memory.step_parts(5, 3, on_cpu=False, together=False) == {"gradients": 5}
    assert memory.step_parts(3, 5, on_cpu=False, together=False) == {"activations": 5}
    assert memory.step_parts(3, 5, on_cpu=False, together=True) == {"gradients": 3, "activations": 5}
    assert memory.step_parts(3, 10, on_cpu=True, together=False) == {"gradients": 3, "activations": 19}
    assert {"gradients", "activations"} <= parts_of(make_trainer()).keys()


def test_a_run_prints_one_line_and_warns_where_it_does_not_fit(make_trainer, monkeypatch, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        memory.print_memory(make_trainer())
    assert capsys.readouterr().out.count("Memory at the peak, about:") == 1
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.warns(
        UserWarning, match=r"0 MiB are free; try a smaller .* gradient_accumulation_steps or gradient_ch"
    ):
        make_trainer(settings={"max_steps": 1}).train()


def test_remedies_name_what_is_not_on_yet():
    parts = {"weights": 100, "process": 50, "moments": 200, "activations": 300}
    assert memory.lacking(parts, 500, False) is None
    assert "gradient_checkpointing" in memory.lacking(parts, 499, False)
    assert "gradient_checkpointing" not in memory.lacking(parts, 499, True)
    assert "training of 2 processes" in memory.lacking(parts, 500, True, processes=2)


def test_free_memory_is_within_the_limit_of_a_control_group(monkeypatch):
    values = {"memory.max": "5000\n", "memory.current": "3000\n"}
    monkeypatch.setattr(memory.Path, "read_text", lambda path: values[path.name])
    assert memory.free_memory(torch.device("cpu")) == 2000
    values["memory.max"] = "max\n"
    assert memory.free_memory(torch.device("cpu")) > 2**20
