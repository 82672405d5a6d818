"""Gradient surgery in a step: what is taken apart and put together again, what is refused, and what is logged."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attached import attached

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.sampling import Schedule, Step
from mtbert.modeling.task_spec import AdapterSpec
from mtbert.modeling.tokenization import encode_texts
from mtbert.training.methods import gramian_weights
from mtbert.training.methods.surgery import (
    _STREAM,
    GradientSurgery,
    Surgery,
    gramian,
    parts_by_task,
    same_rows,
    weighted_sum,
)
from mtbert.training.peft import wrap

SIMULTANEOUS = Schedule("simultaneous")
METHODS = (Surgery(), Surgery("cagrad", 0.5), Surgery("mgda"), Surgery("upgrad"))
every_method = pytest.mark.parametrize("settings", METHODS, ids=lambda settings: settings.method)


@pytest.fixture
def dataset(tasks, splits, tokenizer, make_model):
    """All tasks' encoded rows behind one index."""
    encoder = make_model().config.encoder

    def encode(task, split):
        return split.map(
            lambda rows: encode_texts(task, tokenizer, encoder, rows["text"], rows.get("text_pair")), batched=True
        )

    encoded = {task.name: encode(task, split) for task, split in zip(tasks, splits().values(), strict=True)}
    ids = [[[float(name in row) for name in tasks[3].labels] for row in encoded["topics"]["label"]]]
    encoded["topics"] = encoded["topics"].remove_columns("label").add_column("label", ids[0])
    return MultiTaskDataset(tasks, encoded, token_types=True)


@pytest.fixture
def batch(dataset):
    """Rows of three of the four tasks; the Siamese one among them."""
    return dataset.__getitems__(Step(((0, np.arange(4)), (2, np.array([5, 1])), (3, np.arange(3)))))


def make_surgery(model, settings=METHODS[0], seed=3):
    return attached(GradientSurgery(settings), model, seed=seed)


def accelerator(scaler=None):
    return SimpleNamespace(num_processes=1, scaler=scaler)


def collect(surgery, gradients: dict[str, list[float]], parameter) -> None:
    """As if backward passes of these tasks had left these gradients in the one shared parameter."""
    for task, values in gradients.items():
        with surgery.collecting(task):
            new = torch.tensor(values)
            parameter.grad = new if parameter.grad is None else parameter.grad + new


@pytest.fixture
def small(make_model):
    """Surgery on a model whose one shared parameter has two numbers; and that parameter."""
    model = make_model()
    model.freeze_encoder()
    model.encoder.extra = torch.nn.Parameter(torch.zeros(2))
    surgery = make_surgery(model)
    assert surgery.shared == [model.encoder.extra]
    return surgery, model.encoder.extra


# ---- a micro-batch and its parts ----


def test_parts_are_the_rows_of_each_task_alone(batch, dataset, tasks):
    alone = {
        tasks[number].name: dataset.__getitems__(Step(((number, rows),)))
        for number, rows in ((0, np.arange(4)), (2, np.array([5, 1])), (3, np.arange(3)))
    }
    parts = dict(parts_by_task(batch, tasks))
    assert list(parts) == ["stars", "close", "topics"]
    for name, part in parts.items():
        expected = alone[name]
        assert part.keys() == expected.keys()
        for key in ("input_ids", "token_type_ids", "labelled"):
            assert torch.equal(part[key], expected[key])
        for key in ("labels", "rows"):
            assert part[key].keys() == {name} and torch.equal(part[key][name], expected[key][name])
        assert part["layout"].lengths == expected["layout"].lengths
        assert part["layout"].segments == expected["layout"].segments
        assert torch.equal(part["layout"].position_ids, expected["layout"].position_ids)
    assert torch.equal(sum(part["labelled"] for part in parts.values()), batch["labelled"])


def test_a_batch_of_one_task_keeps_its_layout(dataset, tasks):
    whole = dataset.__getitems__(Step(((2, np.arange(4)),)))
    ((name, part),) = parts_by_task(whole, tasks)
    assert name == "close" and part["layout"] is whole["layout"]


def test_the_gradients_of_the_parts_add_up_to_that_of_the_batch(batch, tasks, make_model):
    model = make_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).eval()

    def gradients(*inputs):
        model.zero_grad()
        for each in inputs:
            output = model(**{key: value for key, value in each.items() if key not in ("labelled", "rows")})
            sum(losses.sum() for losses in output.row_losses.values()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    whole = gradients(batch)
    parts = gradients(*(part for _, part in parts_by_task(batch, tasks)))
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


# ---- inner products and sums ----


def test_the_gramian_is_that_of_whole_vectors_and_none_is_zero(monkeypatch):
    monkeypatch.setattr("mtbert.training.methods.gradient_sums.BLOCK", 7)
    shapes = ((3, 5), (11,), (), (2, 2))
    full = [[torch.randn(shape) for shape in shapes] for _ in range(3)]
    full[0][1] = full[2][0] = full[2][1] = None
    zeros = [
        torch.cat([torch.zeros(s).flatten() if g is None else g.flatten() for g, s in zip(row, shapes, strict=True)])
        for row in full
    ]
    matrix = torch.stack(zeros).double()
    found = gramian(full)
    assert found.dtype is torch.float64
    torch.testing.assert_close(found, matrix @ matrix.T)


def test_half_precision_gradients_have_a_float64_gramian():
    gradients = [[torch.full((300,), 300.0, dtype=torch.float16)], [torch.full((300,), -300.0, dtype=torch.float16)]]
    torch.testing.assert_close(gramian(gradients), 300.0**3 * torch.tensor([[1, -1], [-1, 1]], dtype=torch.float64))


def test_sparse_gradients_are_brought_to_the_rows_that_any_of_them_has():
    one = torch.sparse_coo_tensor([[4, 1, 4]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], (9, 2), check_invariants=True)
    other = torch.sparse_coo_tensor([[1, 7]], [[7.0, 8.0], [9.0, 0.0]], (9, 2), check_invariants=True)
    rows, (first, none, second) = same_rows([one, None, other])
    assert rows.tolist() == [1, 4, 7] and none is None
    for given, found in ((one, first), (other, second)):
        torch.testing.assert_close(torch.zeros(9, 2).index_copy_(0, rows, found), given.to_dense())


def test_the_word_embeddings_gradient_is_sparse_only_while_it_is_collected(make_model, batch, tasks):
    model = make_model()
    surgery, words = make_surgery(model), model.get_input_embeddings()
    for _ in range(2):  # two micro-batches add up
        for task, part in parts_by_task(batch, tasks):
            with surgery.collecting(task):
                output = model(**{key: value for key, value in part.items() if key not in ("labelled", "rows")})
                output.row_losses[task].sum().backward()
    held = [each[0] for each in surgery._gradients.values()]
    assert surgery.shared[0] is words.weight and len(held) == 3 and all(each.is_sparse for each in held)
    expected = sum(each.to_dense() for each in held)
    surgery.settings = Surgery("cagrad", c=0.0)  # the sum
    surgery.combine(accelerator(), 0)
    torch.testing.assert_close(words.weight.grad, expected)
    assert not words.sparse


def test_on_a_gpu_it_is_dense_and_combines_to_the_same(make_model, batch, tasks):
    combined = []
    for dense in (False, True):
        model = make_model().eval()
        surgery = attached(GradientSurgery(METHODS[0]), model, seed=3, device=torch.device("cuda" if dense else "cpu"))
        for task, part in parts_by_task(batch, tasks):
            with surgery.collecting(task):
                output = model(**{key: value for key, value in part.items() if key not in ("labelled", "rows")})
                output.row_losses[task].sum().backward()
        assert all(each[0].is_sparse is not dense for each in surgery._gradients.values())
        surgery.combine(accelerator(), 0)
        combined.append([parameter.grad for parameter in surgery.shared])
    for sparse, dense in zip(*combined, strict=True):
        torch.testing.assert_close(dense, sparse, rtol=1e-5, atol=1e-7)


def test_a_weighted_sum_leaves_out_what_is_none():
    weights = torch.tensor([2.0, 3.0, 0.5], dtype=torch.float64)
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    assert weighted_sum([None, one, other], weights).tolist() == [8.0, 16.0]
    assert weighted_sum([None, None, None], weights) is None


# ---- whose gradients ----


@pytest.mark.parametrize("adapter", [None, AdapterSpec("pal", size=12, heads=3)], ids=["plain", "adapters"])
def test_shared_are_the_trained_parameters_of_no_task(make_model, adapter):
    model = make_model(adapter=adapter)
    surgery = make_surgery(model)
    assert list(map(id, surgery.shared)) == [id(p) for p in model.encoder.parameters()]
    assert len(surgery.own) == len(list(model.parameters())) - len(surgery.shared)
    model.freeze_encoder(layer_norms=False)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("LayerNorm" in names[id(p)] for p in make_surgery(model).shared)


def test_with_peft_shared_is_what_it_trains_in_the_encoder(make_model):
    model = wrap(make_model(adapter=AdapterSpec("pal", size=12, heads=3)), {"r": 4, "target_modules": ["query"]})
    surgery = make_surgery(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(surgery.shared) == 4 and all("lora" in names[id(p)] for p in surgery.shared)
    assert surgery.own and all("modules_to_save" in names[id(p)] for p in surgery.own)


def test_each_task_collects_its_own_gradient_without_copies(small):
    surgery, parameter = small
    given = torch.tensor([1.0, 0.0])
    with surgery.collecting("stars"):
        parameter.grad = given
    assert parameter.grad is None
    collect(surgery, {"same": [0.0, 5.0], "stars": [2.0, 0.0]}, parameter)
    surgery.combine(accelerator(), 0)
    assert parameter.grad.tolist() == [3.0, 5.0]


def test_one_task_alone_keeps_its_gradient(small):
    for settings in METHODS:
        surgery, parameter = small
        surgery.settings = settings
        collect(surgery, {"close": [-3.0, 4.0]}, parameter)
        surgery.combine(accelerator(), 0)
        assert parameter.grad.tolist() == [-3.0, 4.0]


def test_opposed_gradients_lose_what_conflicts(small):
    """(1, 0) and (-1, 1): each is projected onto the normal plane of the other."""
    surgery, parameter = small
    collect(surgery, {"stars": [1.0, 0.0], "same": [-1.0, 1.0]}, parameter)
    surgery.combine(accelerator(), 0)
    np.testing.assert_allclose(parameter.grad.numpy(), [0.5, 1.5], rtol=1e-6)


def test_the_mean_is_the_sum_over_the_number_of_tasks(small):
    """As in Pytorch-PCGrad, whose default averages the projected gradients; a task alone keeps its gradient."""
    surgery, parameter = small
    surgery.settings = Surgery(reduction="mean")
    collect(surgery, {"stars": [1.0, 0.0], "same": [-1.0, 1.0]}, parameter)
    surgery.combine(accelerator(), 0)
    np.testing.assert_allclose(parameter.grad.numpy(), [0.25, 0.75], rtol=1e-6)
    collect(surgery, {"close": [-3.0, 4.0]}, parameter)
    surgery.combine(accelerator(), 1)
    assert parameter.grad.tolist() == [-3.0, 4.0]


def test_the_order_is_named_by_seed_and_step():
    products = torch.tensor([[1.0, -0.5, -0.4], [-0.5, 1.0, 0.3], [-0.4, 0.3, 1.0]], dtype=torch.float64)
    found = {(seed, step): Surgery().weights(products, (seed, step)) for seed in range(4) for step in range(4)}
    for key, weights in found.items():
        assert torch.equal(weights, Surgery().weights(products, key))
    assert len({tuple(weights.tolist()) for weights in found.values()}) > 1


@every_method
def test_methods_take_the_gramian_in_any_scale(settings):
    products = torch.tensor([[4.0, -1.0, 0.5], [-1.0, 1.0, 0.1], [0.5, 0.1, 2.0]], dtype=torch.float64)
    weights = settings.weights(products, (0, 0))
    for factor in (1e-12, 1e12):
        torch.testing.assert_close(settings.weights(factor * products, (0, 0)), weights)
    assert settings.weights(torch.zeros_like(products), (0, 0)).tolist() == [1, 1, 1]


# ---- numbers that are not finite, and scaled losses ----


@every_method
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_ends_in_the_combined_one(small, settings, bad):
    surgery, parameter = small
    surgery.settings = settings
    collect(surgery, {"stars": [1.0, -2.0], "same": [bad, 0.0]}, parameter)
    surgery.combine(accelerator(), 0)
    assert not parameter.grad.isfinite().all()
    assert surgery.logs(None, {}) == {}


@every_method
def test_a_loss_scale_changes_nothing_but_the_scale(small, settings):
    surgery, parameter = small
    surgery.settings = settings
    gradients = {"stars": [1.0, 0.25], "same": [-1.0, 1.0]}
    found = []
    for scale, scaler in ((1.0, None), (2.0**16, torch.amp.GradScaler("cpu", init_scale=2.0**16))):
        collect(surgery, {task: [scale * value for value in values] for task, values in gradients.items()}, parameter)
        surgery.combine(accelerator(scaler), 0)
        found.append((parameter.grad / scale, surgery.logs(None, {})))
    torch.testing.assert_close(*(gradient for gradient, _ in found))
    assert found[0][1] == pytest.approx(found[1][1])


def test_an_overflowing_step_is_skipped_by_the_scaler(small):
    surgery, parameter = small
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD([parameter], lr=0.1)
    for values, moved in (([float("inf"), 1.0], False), ([-1.0, 1.0], True)):
        scaler.scale(torch.ones(()))  # makes its factor
        collect(surgery, {"stars": [1.0, 0.0], "same": values}, parameter)
        surgery.combine(accelerator(scaler), 0)
        scaler.step(optimizer)
        scaler.update()
        assert bool(parameter.any()) is moved
    assert scaler.get_scale() == 2.0**15


# ---- logs ----


def test_logs_are_means_since_the_last_ones(small):
    surgery, parameter = small
    steps = (
        {"stars": [3.0, 4.0], "same": [4.0, 3.0]},
        {"stars": [1.0, 0.0], "same": [-2.0, 0.0]},
        {"same": [6.0, 8.0], "topics": [0.0, 0.0]},
    )
    for step, gradients in enumerate(steps):
        collect(surgery, gradients, parameter)
        surgery.combine(accelerator(), step)
    expected = {
        "cos_stars_same": (24 / 25 - 1) / 2,
        "cos_same_topics": 0.0,
        "gradient_norm_stars": (5 + 1) / 2,
        "gradient_norm_same": (5 + 2 + 10) / 3,
        "gradient_norm_topics": 0.0,
        "conflicts": 1 / 3,
    }
    assert surgery.logs(None, {}) == pytest.approx(expected)
    assert surgery.logs(None, {}) == {}


def test_the_memory_of_the_gradients_is_told(make_model):
    surgery = make_surgery(make_model())
    count = sum(p.numel() for p in surgery.shared)
    memory = f"{4 * 4 * count / 2**20:,.1f} MiB of gradients"
    assert surgery.describe() == f"Gradient surgery: pcgrad, 4 tasks × {count:,} shared parameters: at most {memory}"


# ---- refusals ----


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Surgery("pgrad"), "surgery.method is 'pgrad', but must be one of: pcgrad, cagrad, mgda, upgrad"),
        (Surgery("cagrad"), "surgery.c is None, but must be in [0, 1) for the method 'cagrad'"),
        (Surgery("cagrad", 1.0), "surgery.c is 1.0, but must be in [0, 1) for the method 'cagrad'"),
        (Surgery("mgda", 0.5), "surgery.c is 0.5, but must be null for other methods than 'cagrad'; drop it"),
        (Surgery(reduction="average"), "surgery.reduction is 'average', but must be one of: sum, mean"),
    ],
)
def test_wrong_settings_are_refused(settings, expected):
    assert [str(each.under("surgery")) for each in settings.problems()] == [expected]


@every_method
def test_good_settings_have_no_problems(settings):
    assert settings.problems() == []


# ---- a step of the trainer ----


def test_a_step_of_the_trainer_is_the_textbook_on_each_tasks_gradient(make_model, make_trainer):
    """Heads keep their own gradients; the encoder gets the loop of Algorithm 1 on full vectors."""
    model = make_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for module in model.heads.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    settings = {"per_device_train_batch_size": 4, "max_steps": 1}
    trainer = make_trainer(model, schedule=SIMULTANEOUS, surgery=Surgery(), **settings)
    batch = next(iter(trainer.get_train_dataloader()))
    vectors, own = [], {}
    for name, part in parts_by_task(batch, model.tasks):
        model.zero_grad()
        losses, _ = trainer.losses(model, part, batch["labelled"])
        losses[name].backward()
        vectors.append(torch.cat([p.grad.flatten() for p in model.encoder.parameters()]))
        own[name] = [p.grad.clone() for p in model.heads[name].parameters()]
    order = gramian_weights.draw_order(4, np.random.default_rng([trainer.args.seed, 0, _STREAM]))
    expected = 0
    for gradient, others in zip(vectors, order, strict=True):
        gradient = gradient.double()
        for j in others:
            product = gradient @ vectors[j].double()
            if product < 0:
                gradient = gradient - product / vectors[j].double().square().sum() * vectors[j].double()
        expected = expected + gradient
    model.zero_grad()
    loss = trainer.training_step(model, batch, batch["labelled"])
    found = torch.cat([p.grad.flatten() for p in model.encoder.parameters()])
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6 * scale)
    assert float((found - sum(vectors)).abs().max()) > 1e-3 * scale
    for name, gradients in own.items():
        for parameter, gradient in zip(model.heads[name].parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
    with torch.no_grad():
        assert float(loss) == pytest.approx(float(trainer.compute_loss(model, batch)), rel=1e-5)
