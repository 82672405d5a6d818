"""Each head, score and loss against its formula written out."""

import math

import pytest
import torch
from torch import nn

from mtbert.modeling.heads import labelled, make_head, pair_features, row_losses, to_scores
from mtbert.modeling.task_spec import TaskSpec

HIDDEN, ROWS = 8, 5
ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "tanh": lambda x: 2 / (1 + torch.exp(-2 * x)) - 1,
    "identity": lambda x: x,
}
SIAMESE = {"texts": 2, "pair": "siamese", "range": (0, 5)}


def affine(layer, x):
    return torch.einsum("oi,...i->...o", layer.weight, x) + layer.bias


def linear_layers(head):
    return [layer for layer in head.layers if isinstance(layer, nn.Linear)]


class TestHeads:
    @pytest.mark.parametrize(
        ("spec", "logits"),
        [
            (TaskSpec("t", labels=3), 3),
            (TaskSpec("t", "binary_classification", labels=2), 1),
            (TaskSpec("t", "multi_label_classification", labels=4), 4),
            (TaskSpec("t"), 1),
            (TaskSpec("t", labels=3, head={"type": "mlp", "layers": 2, "hidden_size": 6}), 3),
            (TaskSpec("t", labels=3, texts=2, pair="siamese"), 3),
            (TaskSpec("t", **SIAMESE, head={"type": "cosine"}), 1),
            (TaskSpec("t", labels=3, texts=2, pair="both", head={"type": "mlp", "layers": 1}), 3),
        ],
    )
    def test_output_shape(self, spec, logits):
        pooled = torch.randn(ROWS * spec.num_sequences, HIDDEN)
        assert make_head(spec, HIDDEN)(pooled).shape == (ROWS, logits)
        assert make_head(spec, HIDDEN)(pooled[:0]).shape == (0, logits)

    def test_linear(self):
        head = make_head(TaskSpec("t", labels=3), HIDDEN).eval()
        pooled = torch.randn(ROWS, HIDDEN)
        assert len(head.layers) == 0
        torch.testing.assert_close(head(pooled), affine(head.out_proj, pooled))

    @pytest.mark.parametrize("hidden_size", [None, 6])
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_mlp(self, activation, hidden_size):
        values = {"type": "mlp", "layers": 2, "hidden_size": hidden_size, "activation": activation, "dropout": 0.4}
        head = make_head(TaskSpec("t", labels=3, head=values), HIDDEN).eval()
        first, second = linear_layers(head)
        width = hidden_size or HIDDEN
        assert (first.weight.shape, second.weight.shape) == ((width, HIDDEN), (width, width))
        pooled = torch.randn(ROWS, HIDDEN)
        states = ACTIVATIONS[activation](affine(first, pooled))
        states = ACTIVATIONS[activation](affine(second, states))
        torch.testing.assert_close(head(pooled), affine(head.out_proj, states))

    @pytest.mark.parametrize("features", ["u;v", "u;v;|u-v|", "u;v;|u-v|;u*v"])
    def test_siamese_features(self, features):
        head = make_head(TaskSpec("t", **SIAMESE, head={"features": features}), HIDDEN).eval()
        pooled = torch.randn(2 * ROWS, HIDDEN)
        expected = []
        for u, v in zip(pooled[0::2], pooled[1::2], strict=True):
            columns = [*u, *v]
            if "|u-v|" in features:
                columns += [abs(a - b) for a, b in zip(u, v, strict=True)]
            if "u*v" in features:
                columns += [a * b for a, b in zip(u, v, strict=True)]
            expected.append(torch.stack(columns))
        expected = torch.stack(expected)
        torch.testing.assert_close(pair_features(pooled[0::2], pooled[1::2], features), expected)
        assert head.out_proj.in_features == expected.shape[1]
        torch.testing.assert_close(head(pooled), affine(head.out_proj, expected))

    def test_a_pair_in_both_ways_adds_the_one_input(self):
        task = TaskSpec("t", labels=3, texts=2, pair="both", head={"features": "u;v;|u-v|"})
        head, pooled = make_head(task, HIDDEN).eval(), torch.randn(3 * ROWS, HIDDEN)
        u, v, in_one = pooled[0::3], pooled[1::3], pooled[2::3]
        expected = torch.cat([u, v, (u - v).abs(), in_one], dim=-1)
        torch.testing.assert_close(head(pooled), affine(head.out_proj, expected))

    @pytest.mark.parametrize("layers", [0, 1, 2])
    @pytest.mark.parametrize("output", ["identity", "relu"])
    def test_cosine(self, output, layers):
        values = {"type": "cosine", "output": output, "layers": layers, "activation": "tanh", "hidden_size": 6}
        head = make_head(TaskSpec("t", **SIAMESE, head=values), HIDDEN).eval()
        pooled = torch.randn(40, HIDDEN)
        u, v = pooled[0::2], pooled[1::2]
        for layer in linear_layers(head):
            u, v = torch.tanh(affine(layer, u)), torch.tanh(affine(layer, v))
        expected = (u * v).sum(1) / (u.pow(2).sum(1).sqrt() * v.pow(2).sum(1).sqrt())
        assert (expected < 0).any()
        if output == "relu":
            expected = torch.where(expected > 0, expected, 0)
        torch.testing.assert_close(head(pooled), expected[:, None])

    @pytest.mark.parametrize("heads", [1, 2, 4])
    def test_attention(self, heads):
        spec = TaskSpec("t", labels=3, head={"type": "attention", "attention_heads": heads, "layers": 1})
        head = make_head(spec, HIDDEN).eval()
        nn.init.normal_(head.attention.in_proj_bias)
        nn.init.normal_(head.attention.out_proj.bias)
        lengths = torch.tensor([6, 1, 3, 4, 2])
        mask = torch.arange(6) < lengths[:, None]
        pooled, states = torch.randn(ROWS, HIDDEN), torch.randn(ROWS, 6, HIDDEN)

        wq, wk, wv = head.attention.in_proj_weight.chunk(3)
        bq, bk, bv = head.attention.in_proj_bias.chunk(3)
        size, expected = HIDDEN // heads, []
        for row in range(ROWS):
            real = states[row, : lengths[row]]
            query, keys, values = wq @ pooled[row] + bq, real @ wk.T + bk, real @ wv.T + bv
            parts = []
            for first in range(0, HIDDEN, size):
                scores = keys[:, first : first + size] @ query[first : first + size] / math.sqrt(size)
                weights = scores.exp() / scores.exp().sum()
                parts.append(weights @ values[:, first : first + size])
            context = affine(head.attention.out_proj, torch.cat(parts))
            (layer,) = linear_layers(head.classifier)
            expected.append(affine(head.classifier.out_proj, affine(layer, context).clamp(min=0)))
        torch.testing.assert_close(head(pooled, states, mask), torch.stack(expected))

    def test_attention_does_not_see_padding(self):
        head = make_head(TaskSpec("t", labels=3, head={"type": "attention"}), HIDDEN).eval()
        mask = torch.arange(6) < torch.tensor([6, 1, 3, 4, 2])[:, None]
        pooled, states = torch.randn(ROWS, HIDDEN), torch.randn(ROWS, 6, HIDDEN)
        other = torch.where(mask[..., None], states, 1e4)
        assert torch.equal(head(pooled, states, mask), head(pooled, other, mask))

    def test_attention_heads_must_divide_the_width(self):
        spec = TaskSpec("t", labels=3, head={"type": "attention", "attention_heads": 3})
        message = (
            r"task 't': head.attention_heads is 3, which does not divide the encoder's width 8; "
            r"the nearest that do: \[2, 4\]"
        )
        with pytest.raises(ValueError, match=message):
            make_head(spec, HIDDEN)


class TestDropout:
    """A hidden layer that sums its inputs tells the two dropouts apart."""

    @staticmethod
    def summing(dropout, inside):
        values = {"type": "mlp", "layers": 1, "activation": "identity", "dropout": inside}
        head = make_head(TaskSpec("t", labels=HIDDEN, dropout=dropout, head=values), HIDDEN)
        (layer,) = linear_layers(head)
        with torch.no_grad():
            layer.weight.fill_(1), layer.bias.zero_()
            head.out_proj.weight.copy_(torch.eye(HIDDEN)), head.out_proj.bias.zero_()
        return head.train()(torch.ones(500, HIDDEN)).detach()

    def test_none(self):
        assert torch.equal(self.summing(0.0, 0.0), torch.full((500, HIDDEN), float(HIDDEN)))

    def test_pooled(self):
        logits = self.summing(0.5, 0.0)
        assert torch.equal(logits, logits[:, :1].expand_as(logits))  # every hidden unit saw the same inputs
        assert set(logits.flatten().tolist()) <= {2.0 * k for k in range(HIDDEN + 1)}
        assert logits.unique().numel() > 3

    def test_inside_the_head(self):
        logits = self.summing(0.0, 0.5)
        assert set(logits.flatten().tolist()) == {0.0, 2.0 * HIDDEN}
        assert abs((logits == 0).float().mean() - 0.5) < 0.05

    @pytest.mark.parametrize("kind", ["linear", "mlp", "attention", "cosine"])
    def test_probabilities_are_the_specs(self, kind):
        values = {"type": kind, "dropout": 0.25, "layers": int(kind == "mlp")}
        own = {"range": (0, 1), "texts": 2, "pair": "siamese"} if kind == "cosine" else {"labels": 2}
        head = make_head(TaskSpec("t", dropout=0.75, head=values, **own), HIDDEN)
        found = [module.p for module in head.modules() if isinstance(module, nn.Dropout)]
        assert sorted(found) == [0.25, 0.75]


class TestScores:
    def test_sigmoid_is_scaled_to_the_range(self):
        logits = torch.randn(ROWS, 1)
        spec = TaskSpec("t", range=(-2, 5), head={"output": "sigmoid"})
        torch.testing.assert_close(to_scores(spec, logits), -2 + 7 / (1 + torch.exp(-logits)))

    def test_cosine_is_scaled_to_the_range(self):
        logits = torch.tensor([[-1.0], [0.0], [0.25], [1.0]])
        spec = TaskSpec("t", range=(1, 5), texts=2, pair="siamese", head={"type": "cosine", "output": "relu"})
        assert to_scores(spec, logits.relu()).tolist() == [[1.0], [1.0], [2.0], [5.0]]

    @pytest.mark.parametrize(
        "spec",
        [
            TaskSpec("t", labels=3),
            TaskSpec("t", "binary_classification", labels=2),
            TaskSpec("t", "multi_label_classification", labels=3),
            TaskSpec("t"),
            TaskSpec("t", range=(0, 5)),
        ],
    )
    def test_others_stay_as_they_are(self, spec):
        logits = torch.randn(ROWS, spec.num_labels)
        assert to_scores(spec, logits) is logits


SINGLE = TaskSpec("t", labels=3)
BINARY = TaskSpec("t", "binary_classification", labels=2)
MULTI = TaskSpec("t", "multi_label_classification", labels=3)
SCORE = TaskSpec("t")
NAN = float("nan")


def log_sigmoid(x):
    return -torch.log1p(torch.exp(-x))


class TestLosses:
    """Row 1 and row 3 have no label; of a multi-label task, row 3 lacks one of its labels."""

    def check(self, spec, labels, expected):
        self.mask = torch.tensor([True, False, True, spec is MULTI, True])
        logits = torch.randn(ROWS, spec.num_labels, requires_grad=True)
        losses, mask = row_losses(spec, logits, labels)
        assert torch.equal(mask, self.mask)
        assert torch.equal(labelled(spec, labels), self.mask)
        assert losses.dtype == torch.float32 and losses.shape == (ROWS,)
        wanted = torch.stack([expected(z, y) if m else torch.zeros(()) for z, y, m in zip(logits, labels, mask)])
        torch.testing.assert_close(losses, wanted)
        assert (losses[~mask] == 0).all()
        (gradient,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
        (by_hand,) = torch.autograd.grad(wanted.sum(), logits)
        torch.testing.assert_close(gradient, by_hand)
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask].abs().sum(1) > 0).all()

    @pytest.mark.parametrize("labels", [[0, -100, 2, -100, 1], [0.0, -100.0, 2.0, NAN, 1.0]])
    def test_cross_entropy(self, labels):
        self.check(SINGLE, torch.tensor(labels), lambda z, y: z.exp().sum().log() - z[int(y)])

    @pytest.mark.parametrize("labels", [[0, -100, 1, -100, 1], [0.0, -100.0, 1.0, NAN, 1.0]])
    def test_binary_cross_entropy(self, labels):
        self.check(BINARY, torch.tensor(labels), lambda z, y: -(y * log_sigmoid(z[0]) + (1 - y) * log_sigmoid(-z[0])))

    def test_squared_error(self):
        self.check(SCORE, torch.tensor([0.5, NAN, 3.0, NAN, -1.0]), lambda z, y: (z[0] - y) ** 2)

    def test_minus_100_is_a_score(self):
        losses, mask = row_losses(SCORE, torch.zeros(1, 1), torch.tensor([-100.0]))
        assert mask.tolist() == [True] and losses.tolist() == [1e4]

    @pytest.mark.parametrize("missing", [NAN, -100.0])
    def test_mean_binary_cross_entropy_over_labels(self, missing):
        labels = torch.tensor([[1.0, 0, 0], [missing] * 3, [1.0, 1, 0], [0, missing, 1.0], [0.0, 0, 0]])
        self.check(MULTI, labels, self.mean_over_known)

    def test_multi_label_ids_may_be_integers(self):
        labels = torch.tensor([[1, 0, 0], [-100] * 3, [1, 1, 0], [0, -100, 1], [0, 0, 0]])
        self.check(MULTI, labels, self.mean_over_known)

    @staticmethod
    def mean_over_known(z, y):
        known = ~y.isnan() & (y != -100)
        z, y = z[known], y[known]
        return -(y * log_sigmoid(z) + (1 - y) * log_sigmoid(-z)).mean()

    @pytest.mark.parametrize("spec", [SINGLE, BINARY, MULTI, SCORE])
    def test_all_missing(self, spec):
        shape = (ROWS, 3) if spec is MULTI else (ROWS,)
        logits = torch.randn(ROWS, spec.num_labels, requires_grad=True)
        losses, mask = row_losses(spec, logits, torch.full(shape, NAN))
        losses.sum().backward()
        assert not mask.any() and not losses.any() and not logits.grad.any()

    @pytest.mark.parametrize("spec", [SINGLE, BINARY, MULTI, SCORE])
    def test_losses_are_fp32(self, spec):
        labels = torch.ones((ROWS, 3) if spec is MULTI else (ROWS,))
        logits = torch.randn(ROWS, spec.num_labels).bfloat16()
        losses, _ = row_losses(spec, logits, labels)
        assert losses.dtype == torch.float32
        assert torch.equal(losses, row_losses(spec, logits.float(), labels)[0])
