"""Texts without labels: sentences once each, and pairs that are new."""

from mtbert.data.unlabelled import near_pairs, sentences


def test_sentences_are_split_at_their_ends_and_kept_once():
    texts = ["A film of 3.5 stars at best . It is far too long! Why?", "It is far too long!\nI slept for most of it."]
    assert sentences(texts) == ["A film of 3.5 stars at best .", "I slept for most of it.", "It is far too long!"]
    assert sentences(texts, 1, 1) == ["Why?"]
    assert sentences([]) == sentences([""]) == []


PAIRS = [
    ("a dog runs in the park", "a dog is running in a park"),
    ("a dog runs on the beach", "two cats sleep"),
    ("the cat sleeps on a chair", "two cats sleep on chairs"),
    ("a man plays the guitar", "a woman plays the guitar"),
]


def test_pairs_are_new_similar_and_different():
    found = near_pairs(PAIRS, 100, nearest=2, seed=1)
    texts = {text for pair in PAIRS for text in pair}
    assert 0 < len(found) <= len(texts) and {text for pair in found for text in pair} <= texts
    as_sets = [frozenset(pair) for pair in found]
    assert len(set(as_sets)) == len(found) and all(len(pair) == 2 for pair in as_sets)
    assert not set(as_sets) & {frozenset(pair) for pair in PAIRS}
    shared = [len(set(one.split()) & set(other.split())) for one, other in found]
    assert sum(shared) / len(shared) > 1


def test_pairs_depend_on_the_seed_alone_and_some_can_be_left_out():
    found = near_pairs(PAIRS, 3, nearest=3, seed=1)
    assert len(found) == 3 and found == near_pairs(PAIRS, 3, nearest=3, seed=1)
    assert any(near_pairs(PAIRS, 3, nearest=3, seed=seed) != found for seed in range(5))
    one = found[0]
    rest = near_pairs(PAIRS, 100, nearest=3, seed=1, without=[one[::-1]])
    assert frozenset(one) not in {frozenset(pair) for pair in rest}


def test_too_few_texts_make_no_pairs():
    assert near_pairs([], 5) == near_pairs([("one", "two")], 5) == []
    assert near_pairs([("?", "!"), ("…", "-")], 5, nearest=1) != [("?", "!")]
