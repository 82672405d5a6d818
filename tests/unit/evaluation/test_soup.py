"""The mean of checkpoints' weights, against a plain mean, and what cannot be averaged."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from mtbert.evaluation.soup import greedy_soup, mean_of


@pytest.fixture
def save(make_model, tokenizer, tasks, tmp_path):
    """A function: name, size of the noise on all weights, changes of a model → the folder of a checkpoint."""

    def make(name: str, noise: float = 0.0, specs=tasks, **how) -> str:
        model = make_model(specs, **how)
        torch.manual_seed(len(name))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=noise)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make


def weights(folder) -> dict[str, torch.Tensor]:
    from mtbert import MtBertForMultiTask

    return MtBertForMultiTask.from_pretrained(folder).state_dict()


def test_every_weight_is_the_mean_and_distances_are_shares_of_its_norm(save):
    folders = [save("a", 0.1), save("bb", 0.2), save("ccc", 0.3)]
    model, tokenizer, distances = mean_of(folders)
    members = [weights(folder) for folder in folders]
    mean = {name: torch.stack([each[name].double() for each in members]).mean(0) for name in members[0]}
    assert model.state_dict().keys() == mean.keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value.double(), mean[name], rtol=1e-5, atol=1e-6)
    norm = math.sqrt(sum(float(value.pow(2).sum()) for value in mean.values()))
    for folder, member in zip(folders, members, strict=True):
        squares = sum(float((member[name].double() - mean[name]).pow(2).sum()) for name in mean)
        assert distances[folder] == pytest.approx(math.sqrt(squares) / norm, rel=1e-3)
    assert len(tokenizer)


def test_the_mean_of_equal_members_is_a_member(save):
    folders = [save("one", 0.1), save("two", 0.1)]  # names of one length are of one seed
    model, _, distances = mean_of(folders)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights(folders[0]).items())
    assert list(distances.values()) == [0, 0]


@pytest.mark.parametrize("names", [[], ["a"], ["a", "a"], ["a", "b", "a"]])
def test_two_different_members_are_needed(names):
    with pytest.raises(ValueError, match="two checkpoints or more are averaged, each once, but there are: "):
        mean_of(names)


def test_members_of_another_kind_are_refused_with_what_differs(save, tasks, tokenizer):
    first = save("a")
    for other, told in {
        save("adapted", adapter={"type": "pal", "size": 12}): "adapter is {.*}, but None in",
        save("head", specs=(replace(tasks[0], dropout=0.3), *tasks[1:])): r"tasks.0.dropout is 0.3, but 0.1 in",
        save("fewer", specs=tasks[:2]): r"tasks is \[.*\], but \[.*\] in",
    }.items():
        with pytest.raises(ValueError, match=f"^{other}: .*{told} {first}; .* `mtbert ensemble` lets others"):
            mean_of([first, other])
    other = save("tokens")
    tokenizer = copy.deepcopy(tokenizer)  # that of other tests stays as it is
    tokenizer.add_tokens(["catcat"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ValueError, match=f"^{other}: its tokenizer is another than that of {first}"):
        mean_of([first, other])


def test_weights_that_are_not_finite_are_refused(save):
    with pytest.raises(ValueError, match="of the mean are not finite: a member's are not"):
        mean_of([save("a"), save("bb", math.inf)])


def test_a_greedy_soup_keeps_who_does_not_lower_the_score(save):
    """Biases of one head, by hand: the score of a model is how near its bias is to 1."""
    folders = []
    for name, bias in {"far": 4.0, "near": 0.5, "other": 1.75, "same": 1.125}.items():
        folders.append(save(name))
        model, tokenizer, _ = mean_of([folders[-1], save("zero")])  # for its weights, to be changed
        with torch.no_grad():
            model.heads["stars"].out_proj.bias.fill_(bias)
        model.save_pretrained(folders[-1])
    asked = []

    def score(model, tokenizer) -> float:
        asked.append(model.heads["stars"].out_proj.bias[0].item())
        assert len(tokenizer)
        return -abs(asked[-1] - 1)

    far, near, other, same = folders
    kept, tried = greedy_soup(folders, score)
    # by themselves; then 1.125 and 0.5 are .8125, worse; 1.125 and 1.75 are 1.4375, worse; and so is the last
    assert asked == [4.0, 0.5, 1.75, 1.125, 0.8125, 1.4375, 2.5625]
    assert kept == [same] and len(tried) == 7 and tried[4] == ([same, near], -0.1875)
    kept, tried = greedy_soup([near, other, far], score)
    # 0.5 and 1.75 are 1.125, better; with 4 it is 2.083, worse
    assert kept == [near, other] and tried[3] == ([near, other], -0.125)
    assert [members for members, _ in tried[3:]] == [[near, other], [near, other, far]]


def test_members_that_score_alike_are_kept(save):
    folders = [save("a", 0.1), save("bb", 0.2), save("ccc", 0.3)]
    kept, tried = greedy_soup(folders, lambda model, tokenizer: 0.5)
    assert kept == folders and len(tried) == 5


def test_an_undefined_score_is_the_worst(save):
    undefined, good = save("a", 0.1), save("bb", 0.2)
    scores = iter([math.nan, 0.5, math.nan])
    kept, tried = greedy_soup([undefined, good], lambda model, tokenizer: next(scores))
    assert kept == [good] and [members for members, _ in tried] == [[undefined], [good], [good, undefined]]


def test_what_can_not_be_averaged_is_told_before_anything_is_scored(save, tasks):
    def never(model, tokenizer) -> float:
        raise AssertionError("scored")

    with pytest.raises(ValueError, match="`mtbert ensemble` lets others"):
        greedy_soup([save("a"), save("fewer", specs=tasks[:2])], never)
