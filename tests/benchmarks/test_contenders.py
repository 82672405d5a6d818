"""The benchmarks' contenders do the same work, and the operations that they are held against are counted right."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")
NAMES = ("mtbert", "raw_packed", "padded", "grouped", "padded_128", "tasknet", "bucketed")
BATCH, STEPS = 4, 3


@pytest.fixture(scope="module")
def modules():
    """The benchmarks' modules `contenders`, `measure`, `workload` and `timed_steps`, which are no package."""
    sys.path.insert(0, FOLDER)
    try:
        import contenders
        import measure
        import timed_steps
        import workload

        yield contenders, measure, workload, timed_steps
    finally:
        sys.path.remove(FOLDER)


@pytest.fixture
def make_work(modules, encoder_dir, tokenizer, tmp_path):
    """A function: precision → the workload."""
    workload = modules[2]
    pairs = workload.make_pairs(tokenizer, (workload.WARM_UP + STEPS) * BATCH)
    return lambda precision="fp32": workload.Workload(encoder_dir, pairs, BATCH, STEPS, str(tmp_path), precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_contender_trains_the_same_rows_each_round(modules, make_work, name, precision):
    contenders, work = modules[0], make_work(precision)
    ready, skipped = contenders.prepare([name], work)
    if skipped:
        pytest.skip(skipped[name])
    dtypes = set()
    linear = next(each for each in ready[name].model.modules() if isinstance(each, torch.nn.Linear))
    linear.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    for timing in contenders.take_turns(ready, rounds=2)[name]:
        assert timing.seconds > 0
        assert timing.examples == STEPS * BATCH
        assert timing.real_tokens == work.timed_lengths.sum()
    assert dtypes == {modules[1].DTYPES[precision]}


def test_they_see_the_same_batches_in_the_same_order(modules, make_work):
    work = make_work()
    ready, _ = modules[0].prepare([name for name in NAMES if name != "grouped"], work)
    modules[0].take_turns(ready, rounds=1)
    expected = work.lengths.reshape(-1, BATCH).sum(1).tolist()
    for name, contender in ready.items():
        assert [int(tokens.sum()) for _, tokens in contender.seen] == expected, name


def test_ratios_are_taken_within_a_round(modules):
    contenders, timed_steps = modules[0], modules[3]
    ours = [timed_steps.Timing(seconds, 100, 1000) for seconds in (1.0, 10.0, 1.0)]
    peer = [timed_steps.Timing(seconds, 100, 1000) for seconds in (2.0, 20.0, 3.0)]
    _, values = contenders.compare("title", {"mtbert": ours, "padded": peer}, {})
    assert values["padded"]["ratios"] == pytest.approx([2.0, 2.0, 3.0])
    assert values["padded"]["mtbert is × as fast"] == pytest.approx(2.0)


def test_counted_operations_are_those_that_torch_sees(modules, encoder_dir):
    model = AutoModelForSequenceClassification.from_pretrained(encoder_dir, num_labels=2, attn_implementation="eager")
    rows, length = 5, 11  # of one length, so that there is no padding
    with FlopCounterMode(display=False) as counter:
        model(
            input_ids=torch.ones(rows, length, dtype=torch.long), labels=torch.ones(rows, dtype=torch.long)
        ).loss.backward()
    assert modules[1].training_flops(model.config, [length] * rows, num_labels=2) == counter.get_total_flops()


def test_without_data_the_pairs_are_made_up_with_quora_like_lengths(modules):
    workload = modules[2]
    tokenizer = workload.made_up_tokenizer()
    pairs = workload.make_pairs(tokenizer, 2000)
    lengths = [len(ids) for ids in tokenizer(pairs["text"][:], pairs["text_pair"][:])["input_ids"]]
    assert sum(lengths) / len(lengths) == pytest.approx(30.5, rel=0.05)
    assert min(lengths) >= 11 and max(lengths) <= 160


def test_the_results_are_written_as_text_and_as_json(modules, tmp_path):
    import tables

    table = tables.Table("Speeds", ["name", "speed"], [["mtbert", 123.4], ["none", None]])
    tables.report("cpu", "Results", {"environment": {"threads": 2}, "speeds": [123.4]}, [table], tmp_path)
    assert "| mtbert | 123 |\n| none | – |" in (tmp_path / "cpu.md").read_text()
    assert '"threads": 2' in (tmp_path / "cpu.json").read_text()
