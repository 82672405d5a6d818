"""Packed layouts and packed attention against constructions that loop over sequences."""

import itertools
import math

import numpy as np
import pytest
import torch

from mtbert.modeling.packing import MAX_BUCKETS, PackedLayout, Segment, _split, packed_attention

SEEDS = range(8)


def random_lengths(seed):
    """Many or few sequences, of similar or of very different lengths."""
    random = np.random.default_rng(seed)
    return random.integers(1, random.choice([2, 5, 60]), size=random.choice([1, 2, 7, 40]))


def check_slots(layout):
    """Every sequence is one row of one bucket, at its beginning; everything else there is padding."""
    first, found = 0, []
    starts = np.cumsum([0, *layout.lengths])[:-1]
    slot_of = {}
    for bucket in layout.buckets:
        slots = layout.gather[first : first + bucket.count * bucket.length].reshape(bucket.count, bucket.length)
        mask = torch.ones_like(slots, dtype=torch.bool) if bucket.mask is None else bucket.mask[:, 0, 0, :]
        assert mask.shape == slots.shape
        assert bucket.mask is None or (bucket.mask.shape[1:3] == (1, 1) and not bucket.mask.all())
        assert mask.sum(1).max() == bucket.length  # no wider than the longest
        for i, (row, real) in enumerate(zip(slots.tolist(), mask.tolist(), strict=True)):
            length = sum(real)
            assert real == [True] * length + [False] * (bucket.length - length)
            assert row[length:] == [0] * (bucket.length - length)
            assert row[:length] == list(range(row[0], row[0] + length))
            found.append((row[0], length))
            slot_of |= {row[0] + j: first + i * bucket.length + j for j in range(length)}
        first += bucket.count * bucket.length
    assert first == len(layout.gather)
    assert sorted(found) == sorted(zip(starts.tolist(), layout.lengths, strict=True))
    assert layout.scatter.tolist() == [slot_of[token] for token in range(sum(layout.lengths))]


class TestLayout:
    @pytest.mark.parametrize("max_buckets", [1, 2, 4])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_against_a_loop(self, seed, max_buckets):
        lengths = random_lengths(seed)
        layout = PackedLayout.build(lengths, [(0, len(lengths), 1)], max_buckets)
        positions, starts, total = [], [], 0
        for length in lengths.tolist():
            starts.append(total)
            positions += range(length)
            total += length
        assert layout.lengths == tuple(lengths.tolist())
        assert layout.position_ids.tolist() == [positions]
        assert layout.starts.tolist() == starts
        assert layout.cu_seqlens.tolist() == [*starts, total]
        assert layout.cu_seqlens.dtype == torch.int32
        assert 1 <= len(layout.buckets) <= max_buckets
        assert layout.gather[layout.scatter].tolist() == list(range(total))
        assert layout.scatter.unique().numel() == total
        check_slots(layout)

    def test_a_list_and_an_array_give_the_same(self):
        one, other = (PackedLayout.build(lengths, [(0, 3, 1)]) for lengths in ([4, 2, 9], np.array([4, 2, 9])))
        assert one.lengths == other.lengths and all(type(length) is int for length in other.lengths)
        assert torch.equal(one.gather, other.gather)

    def test_segments(self):
        lengths = [3, 1, 2, 5, 4, 1, 6]
        layout = PackedLayout.build(lengths, [(2, 1, 1), (0, 2, 2), (3, 0, 1), (1, 2, 1)])
        assert layout.segments == (
            Segment(2, (0, 1), (0, 1), (0, 3)),
            Segment(0, (1, 3), (1, 5), (3, 15)),
            Segment(3, (3, 3), (5, 5), (15, 15)),
            Segment(1, (3, 5), (5, 7), (15, 22)),
        )

    @pytest.mark.parametrize("plan", [[(0, 2, 1)], [(0, 2, 2)], [(0, 1, 1), (1, 1, 1)]])
    def test_the_rows_must_have_all_sequences(self, plan):
        rows = sum(rows * each for _, rows, each in plan)
        with pytest.raises(ValueError, match=f"3 sequences were given, but the tasks' rows have {rows}"):
            PackedLayout.build([4, 4, 4], plan)

    def test_no_sequence(self):
        layout = PackedLayout.build([], [(0, 0, 1)])
        assert layout.lengths == () and layout.buckets == ()
        assert layout.position_ids.shape == (1, 0)
        assert layout.cu_seqlens.tolist() == [0]
        assert [len(each) for each in (layout.starts, layout.gather, layout.scatter)] == [0, 0, 0]
        assert layout.segments == (Segment(0, (0, 0), (0, 0), (0, 0)),)

    def test_one_token(self):
        layout = PackedLayout.build([1], [(0, 1, 1)])
        assert layout.position_ids.tolist() == [[0]]
        assert layout.gather.tolist() == layout.scatter.tolist() == [0]
        assert (layout.buckets[0].count, layout.buckets[0].length, layout.buckets[0].mask) == (1, 1, None)

    def test_equal_lengths_need_one_bucket_and_no_mask(self):
        layout = PackedLayout.build([7] * 5, [(0, 5, 1)])
        assert [(b.count, b.length, b.mask) for b in layout.buckets] == [(5, 7, None)]

    def test_part_is_the_layout_of_those_sequences_alone(self):
        lengths = [3, 1, 2, 5, 4, 1, 6]
        layout = PackedLayout.build(lengths, [(2, 1, 1), (0, 2, 2), (1, 2, 1)])
        for segment, own, plan in zip(
            layout.segments, ([3], [1, 2, 5, 4], [1, 6]), ((2, 1, 1), (0, 2, 2), (1, 2, 1)), strict=True
        ):
            part, alone = layout.part(segment), PackedLayout.build(own, [plan])
            assert (part.lengths, part.segments) == (alone.lengths, alone.segments)
            for name in ("position_ids", "starts", "cu_seqlens", "gather", "scatter"):
                assert torch.equal(getattr(part, name), getattr(alone, name))
            check_slots(part)

    def test_part_of_a_task_without_rows(self):
        layout = PackedLayout.build([3, 4], [(0, 2, 1), (1, 0, 2)])
        assert layout.part(layout.segments[1]).lengths == ()

    def test_to_moves_every_tensor(self):
        layout = PackedLayout.build([3, 1, 8, 2, 9], [(0, 5, 1)], max_buckets=2)
        assert any(bucket.mask is not None for bucket in layout.buckets)
        moved = layout.to("meta")
        tensors = [moved.position_ids, moved.starts, moved.cu_seqlens, moved.gather, moved.scatter]
        tensors += [bucket.mask for bucket in moved.buckets if bucket.mask is not None]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert (moved.lengths, moved.segments) == (layout.lengths, layout.segments)
        assert [(b.count, b.length) for b in moved.buckets] == [(b.count, b.length) for b in layout.buckets]
        assert layout.gather.device.type == "cpu"
        assert torch.equal(layout.to("cpu").gather, layout.gather)


def cost(lengths, runs):
    return sum(len(lengths[run]) * int(max(lengths[run])) ** 2 for run in runs)


class TestSplit:
    @pytest.mark.parametrize("max_buckets", [1, 2, 3, 4, 9])
    @pytest.mark.parametrize("seed", range(12))
    def test_is_the_best_of_all_splits(self, seed, max_buckets):
        random = np.random.default_rng(seed)
        lengths = np.sort(random.integers(1, random.choice([4, 30, 500]), size=random.integers(1, 9)))
        runs = _split(lengths, max_buckets)
        assert len(runs) <= max_buckets
        assert [run.start for run in runs] == [0, *(run.stop for run in runs[:-1])]
        assert runs[-1].stop == len(lengths)
        assert all(run.start < run.stop for run in runs)
        best = math.inf
        for pieces in range(1, max_buckets + 1):
            for cuts in itertools.combinations(range(1, len(lengths)), pieces - 1):
                edges = [0, *cuts, len(lengths)]
                best = min(best, cost(lengths, [slice(a, b) for a, b in itertools.pairwise(edges)]))
        assert cost(lengths, runs) == best

    def test_many_different_lengths(self):
        lengths = np.sort(np.random.default_rng(0).integers(1, 512, size=400))
        runs = _split(lengths, MAX_BUCKETS)
        assert [run.start for run in runs] == [0, *(run.stop for run in runs[:-1])]
        assert len(runs) == MAX_BUCKETS and runs[-1].stop == 400
        quarters = [slice(i, i + 100) for i in range(0, 400, 100)]
        assert cost(lengths, runs) <= 1.02 * cost(lengths, quarters)
        assert cost(lengths, runs) < 0.5 * cost(lengths, [slice(0, 400)])


def naive_attention(query, key, value, lengths, scaling=None, window=None):
    """(tokens, heads, size) → the same, one sequence and head after the other."""
    output, first = torch.zeros_like(query), 0
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    for length in lengths:
        for head in range(query.shape[1]):
            q, k, v = (states[first : first + length, head] for states in (query, key, value))
            for i in range(length):
                near = [j for j in range(length) if window is None or abs(i - j) <= window]
                weights = torch.exp(torch.stack([scaling * (q[i] @ k[j]) for j in near]))
                output[first + i, head] = (weights / weights.sum()) @ v[near]
        first += length
    return output


def random_states(tokens, heads=2, size=3, **kwargs):
    return [torch.randn(tokens, heads, size, dtype=torch.float64, **kwargs) for _ in range(3)]


class TestAttention:
    @pytest.mark.parametrize("window", [None, 0, 1, 3, 100])
    @pytest.mark.parametrize("lengths", [[1], [4], [3, 3, 3], [1, 9, 2, 5, 5, 1], [2, 12, 11, 1, 7, 3, 6, 4]])
    def test_against_a_loop_over_sequences(self, lengths, window):
        layout = PackedLayout.build(lengths, [(0, len(lengths), 1)])
        states = random_states(sum(lengths))
        found = packed_attention(*states, layout, window=window)
        assert found.shape == states[0].shape
        torch.testing.assert_close(found, naive_attention(*states, lengths, window=window))

    @pytest.mark.parametrize("max_buckets", [1, 2, 4])
    def test_the_number_of_buckets_does_not_matter(self, max_buckets):
        lengths = [2, 12, 11, 1, 7, 3, 6, 4]
        layout = PackedLayout.build(lengths, [(0, 8, 1)], max_buckets)
        states = random_states(sum(lengths))
        torch.testing.assert_close(packed_attention(*states, layout), naive_attention(*states, lengths))

    def test_scaling(self):
        lengths = [3, 1, 5]
        layout = PackedLayout.build(lengths, [(0, 3, 1)])
        states = random_states(9)
        found = packed_attention(*states, layout, scaling=0.3)
        torch.testing.assert_close(found, naive_attention(*states, lengths, scaling=0.3))

    def test_sequences_do_not_see_each_other(self):
        lengths = [3, 1, 5]
        layout = PackedLayout.build(lengths, [(0, 3, 1)])
        states = random_states(9)
        before = packed_attention(*states, layout)
        for each in states:
            each[3:4] = 1e3
        after = packed_attention(*states, layout)
        assert torch.equal(before[:3], after[:3]) and torch.equal(before[4:], after[4:])
        assert not torch.equal(before[3], after[3])

    @pytest.mark.parametrize("window", [None, 1])
    def test_gradients_by_differences(self, window):
        lengths = [1, 3, 2]
        layout = PackedLayout.build(lengths, [(0, 3, 1)], max_buckets=1)
        assert any(bucket.mask is not None for bucket in layout.buckets)
        states = random_states(6, heads=1, size=2, requires_grad=True)
        assert torch.autograd.gradcheck(lambda q, k, v: packed_attention(q, k, v, layout, window=window), states)

    @pytest.mark.parametrize("window", [None, 1])
    def test_gradients_equal_those_of_the_loop(self, window):
        lengths = [2, 7, 1, 5, 6]
        layout = PackedLayout.build(lengths, [(0, 5, 1)], max_buckets=2)
        states = random_states(21, requires_grad=True)
        wanted = torch.randn(21, 2, 3, dtype=torch.float64)
        found = torch.autograd.grad((packed_attention(*states, layout, window=window) * wanted).sum(), states)
        expected = torch.autograd.grad((naive_attention(*states, lengths, window=window) * wanted).sum(), states)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_no_token(self):
        layout = PackedLayout.build([], [(0, 0, 1)])
        assert packed_attention(*random_states(0), layout).shape == (0, 2, 3)

    def test_dropout_keeps_the_mean(self):
        lengths = [4, 2]
        layout = PackedLayout.build(lengths, [(0, 2, 1)])
        states = random_states(6)
        drawn = torch.stack([packed_attention(*states, layout, dropout=0.5) for _ in range(1000)])
        assert (drawn.std(0) > 0).all()
        error = (drawn.mean(0) - packed_attention(*states, layout)).abs()
        assert (error < 5 * drawn.std(0) / 1000**0.5).all()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_dropout_is_on_the_attention_weights(self, dtype):
        layout = PackedLayout.build([3, 3, 2], [(0, 3, 1)], max_buckets=1)
        query, key, _ = (states.to(dtype) for states in random_states(8))
        # where the values are unit vectors, the output is the weights themselves
        value = torch.eye(3, dtype=dtype)[layout.position_ids[0]].unsqueeze(1).expand(-1, 2, -1)
        weights = packed_attention(query, key, value, layout)
        drawn = torch.stack([packed_attention(query, key, value, layout, dropout=0.25) for _ in range(2000)])
        kept = drawn != 0
        torch.testing.assert_close(drawn, torch.where(kept, weights / 0.75, 0), rtol=2e-2, atol=1e-3)
        real = weights[0] > 0  # all three of the first sequence
        share = kept[:, 0][:, real].double().mean()
        assert abs(share - 0.75) < 5 * (0.75 * 0.25 / (2000 * real.sum())) ** 0.5
