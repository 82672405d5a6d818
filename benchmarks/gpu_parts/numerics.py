"""What a GPU computes: packed = padded, a resumed run = an uninterrupted one, PCGrad and SMART = those of the CPU.

All models have random weights. TF32 is off.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from datasets import Dataset
from tables import Table
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PrinterCallback, set_seed
from workload import PAIR_LENGTHS, make_pairs, random_encoder

from mtbert import (
    MtBertConfig,
    MtBertForMultiTask,
    MtBertTrainer,
    MtBertTrainingArguments,
    MultiTaskSettings,
    Schedule,
    Smart,
    Surgery,
    TaskSpec,
)

from .results import Bar
from .setting import TINY, Setting

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "modernbert": {"num_hidden_layers": 4, "local_attention": 32},  # two of them have a window
    "mpnet": {"num_hidden_layers": 4},
}
VOCABULARY = 1000
TASKS = ("one", "two", "three")
STEPS, SAVED = 6, 3  # of the run that is resumed
LOGGED = ("loss_", "smart_", "cos_")


def run(setting: Setting) -> None:
    """Run all checks, and write after each; one that fails with an error fails its bar."""
    torch.set_float32_matmul_precision("highest")
    dropouts = (0.1,) if setting.rehearsal else (0.0, 0.1)
    checks: dict[str, Callable[[Setting], list[Bar]]] = {
        **{f"{family}: packed = padded": lambda s, f=family: packed_is_padded(s, f) for family in FAMILIES},
        **{f"resume, attention dropout {p}": lambda s, p=p: resume(s, p) for p in dropouts},
        "pcgrad": lambda s: as_on_the_cpu(s, "pcgrad"),
        "smart": lambda s: as_on_the_cpu(s, "smart"),
    }
    bars: list[Bar] = []
    errors: dict[str, str] = {}
    for name, check in checks.items():
        try:
            bars += check(setting)
        except Exception:  # so that the other checks are still made
            errors[name] = traceback.format_exc()
            print(errors[name], flush=True)
            bars.append(Bar(f"{name}: it ended with an error", float("nan")))
        table = Table("Numerics", ["what", "value", "wanted", "result"], [bar.row() for bar in bars])
        setting.put({"errors": errors}, [table], bars, "" if name == [*checks][-1] else f"{name} was the last check")


# ---- packed = padded ----


def packed_is_padded(setting: Setting, family: str) -> list[Bar]:
    """Compare losses and gradients of packed training with those of padded training, in fp32 and in bf16.

    In bf16, two ways of computing the same differ by its rounding. Both are compared with padded training in fp32: the
    packed one must not be much further from it.
    """
    config = family_config(family, setting.rehearsal)
    batch = make_batch(setting)

    def passes(packed: bool, half: bool, device: str = setting.device) -> tuple[Tensor, dict[str, Tensor]]:
        return losses_and_gradients(config, batch, packed, half, device)

    exact, packed = passes(False, False), passes(True, False)
    half_padded, half_packed = passes(False, True), passes(True, True)
    on_cpu = passes(True, False, "cpu")
    errors = [distance(half[1], exact[1], floor=0.1) for half in (half_packed, half_padded)]
    ratio = errors[0] / max(errors[1], 1e-6)
    return [
        Bar(f"{family}, fp32: largest relative difference of a loss", difference(packed[0], exact[0]), most=1e-5),
        Bar(f"{family}, fp32: of a parameter's gradient", distance(packed[1], exact[1]), most=1e-4),
        Bar(f"{family}, fp32: of a parameter's gradient from the CPU's", distance(packed[1], on_cpu[1]), most=1e-3),
        Bar(f"{family}, bf16: of a loss, from padded fp32", difference(half_packed[0], exact[0]), most=0.05),
        Bar(f"{family}, bf16: of a gradient, from padded fp32", errors[0], most=0.15),
        Bar(f"{family}, bf16: the same, as a multiple of padded bf16's", ratio, most=2),
    ]


def family_config(family: str, tiny: bool) -> PreTrainedConfig:
    """The config of an encoder whose random weights are large enough for every part to matter."""
    shape = dict(TINY) if tiny else {}
    own = {key: value for key, value in FAMILIES[family].items() if not (tiny and key == "num_hidden_layers")}
    width = shape.get("hidden_size", 768)
    config = AutoConfig.for_model(family, **shape, **own, vocab_size=VOCABULARY, initializer_range=1.1 / width**0.5)
    config.pad_token_id = min(config.pad_token_id, 1)  # ModernBERT's is outside the small vocabulary
    return config


def make_batch(setting: Setting) -> dict[str, Any]:
    """Make padded rows of three tasks with the lengths of Quora pairs; the last one has two sequences a row."""
    count = 4 if setting.rehearsal else 16
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([PAIR_LENGTHS[i % len(PAIR_LENGTHS)] for i in range(7, 7 + 9 * 4 * count, 9)])
    shape = (len(lengths), int(lengths.max()))
    return {
        "input_ids": torch.randint(5, VOCABULARY, shape, generator=generator),
        "attention_mask": (torch.arange(shape[1]) < lengths[:, None]).long(),
        "task_ids": torch.repeat_interleave(torch.arange(3), torch.full((3,), count)),
        "labels": {
            "one": torch.randint(3, (count,), generator=generator),
            "two": 5 * torch.rand(count, generator=generator),
            "three": torch.randint(2, (count,), generator=generator),
        },
    }


def losses_and_gradients(
    config: PreTrainedConfig, batch: dict[str, Any], packed: bool, half: bool, device: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the losses of all rows `(rows,)` and each parameter's gradient, on the CPU."""
    tasks = [
        TaskSpec("one", labels=3),
        TaskSpec("two", range=(0, 5), texts=2, pooling="mean"),
        TaskSpec("three", "binary_classification", labels=2, texts=2, pair="siamese"),
    ]
    set_seed(0)
    with warnings.catch_warnings():  # some families are computed with padding
        warnings.simplefilter("ignore")
        model = MtBertForMultiTask(MtBertConfig(encoder=config, tasks=tasks, packed=packed)).to(device).eval()
    inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
    labels = {key: value.to(device) for key, value in batch["labels"].items()}
    with torch.autocast(device, torch.bfloat16, enabled=half):
        output = model(**inputs, labels=labels)
    sum(losses.sum() for losses in output.row_losses.values()).backward()
    losses = torch.cat([losses.detach().float().cpu() for losses in output.row_losses.values()])
    named = model.named_parameters()
    return losses, {name: p.grad.float().cpu() for name, p in named if p.grad is not None}


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, as a share of the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def distance(one: dict[str, Tensor], other: dict[str, Tensor], floor: float = 1e-3) -> float:
    """Return the largest relative difference ‖a − b‖ / ‖b‖ of two tensors of the same name.

    A norm below `floor` times the largest one counts as that: the gradient of a key's bias is 0 but for rounding.
    """
    if one.keys() != other.keys():
        return float("inf")
    least = floor * max(float(tensor.norm()) for tensor in other.values())
    return max(float((one[name] - tensor).norm()) / max(float(tensor.norm()), least) for name, tensor in other.items())


# ---- runs of a trainer ----


def make_trainer(
    setting: Setting, encoder: str, folder: str, methods: Sequence[Any] = (), dropout: float = 0.1, **arguments: Any
) -> MtBertTrainer:
    """Make a trainer of three tasks of sentence pairs; all calls give the same weights."""
    rows = 24 if setting.rehearsal else 288
    pairs: Dataset = make_pairs(AutoTokenizer.from_pretrained(encoder), rows)
    set_seed(0)
    specs = [TaskSpec(name, "binary_classification", labels=2, texts=2, dropout=dropout) for name in TASKS]
    quiet = {"logging_steps": 1, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}
    trainer = MtBertTrainer(
        MtBertForMultiTask.from_encoder(encoder, specs),
        MtBertTrainingArguments(folder, **{**quiet, "use_cpu": setting.rehearsal, **arguments}),
        train_dataset={name: pairs.shard(len(TASKS), number) for number, name in enumerate(TASKS)},
        processing_class=AutoTokenizer.from_pretrained(encoder),
        settings=MultiTaskSettings(schedule=Schedule("simultaneous")),
        methods=methods,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def weights(trainer: MtBertTrainer) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in trainer.model.named_parameters()}


def unequal(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the number of tensors that differ in a bit."""
    return float(sum(not torch.equal(one[name], other[name]) for name in one))


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Within, PyTorch uses deterministic kernels, and warns where it has none."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def resume(setting: Setting, dropout: float) -> list[Bar]:
    """Compare the weights of a run that was resumed with those of one that was not, and of a repetition.

    Args:
        setting: the setting.
        dropout: of the attention, whose kernels depend on it.
    """
    layers = {} if setting.rehearsal else {"num_hidden_layers": 4}
    config = setting.bert(attention_probs_dropout_prob=dropout, **layers)
    encoder, folder = random_encoder(f"{setting.folder}/resumed", config), f"{setting.folder}/run"

    def train(resumed: bool = False) -> dict[str, Tensor]:
        every = {"save_strategy": "steps", "save_steps": SAVED, "bf16": setting.precision == "bf16"}
        trainer = make_trainer(setting, encoder, folder, max_steps=STEPS, per_device_train_batch_size=8, **every)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-{SAVED}" if resumed else None)
        return weights(trainer)

    with deterministic():
        exact = unequal(train(), train(resumed=True))
    whole = train()
    resumed = unequal(whole, train(resumed=True))
    shutil.rmtree(folder)
    repeated = unequal(whole, train())
    where = f"attention dropout {dropout:g}: tensors that differ"
    return [
        Bar(f"resume, {where}, deterministic kernels", exact, most=0),
        Bar(f"resume, {where}, default kernels", resumed, most=0, aim=True),
        Bar(f"repetition, {where}, default kernels", repeated, most=0, aim=True),
    ]


def as_on_the_cpu(setting: Setting, method: str) -> list[Bar]:
    """Compare one step of SGD with PCGrad or SMART, in fp32 and without dropout, with the same step on the CPU."""
    # SMART's defaults perturb by 1e-5, where its penalty is smaller than what fp32 rounds
    methods = {"pcgrad": Surgery("pcgrad"), "smart": Smart(weight=10.0, step_size=0.05, noise=0.01, radius=0.1)}
    encoder = random_encoder(f"{setting.folder}/{method}", setting.bert(**NO_DROPOUT))
    arguments = {"max_steps": 1, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 1.0}
    steps, logged = [], []
    for use_cpu in (True, setting.rehearsal):
        folder, more = f"{setting.folder}/step", {**arguments, "use_cpu": use_cpu, "lr_scheduler_type": "constant"}
        trainer = make_trainer(setting, encoder, folder, [methods[method]], 0.0, **more)
        before = weights(trainer)
        with noise_of_the_cpu(), contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        steps.append({name: after - before[name] for name, after in weights(trainer).items()})
        entries = sorted(trainer.state.log_history[0].items())
        logged.append(np.array([value for key, value in entries if key.startswith(LOGGED)]))
    apart = float(np.abs(logged[1] - logged[0]).max() / np.abs(logged[0]).max())
    return [
        Bar(f"{method}, fp32: largest difference of a parameter's step from the CPU's", distance(*steps), most=1e-3),
        Bar(f"{method}, fp32: of a logged loss, penalty or cosine", apart, most=1e-3),
    ]


@contextlib.contextmanager
def noise_of_the_cpu() -> Iterator[None]:
    """Within, `torch.randn` draws the same numbers on every device."""
    draw = torch.randn

    def drawn(*shape: Any, device: Any = None, **kwargs: Any) -> Tensor:
        return draw(*shape, generator=torch.Generator().manual_seed(5), **kwargs).to(device)

    with patch.object(torch, "randn", drawn):
        yield
