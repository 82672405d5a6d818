"""Texts that are cut without the tokenizer's state, against the truncation of tokenizers of many kinds."""

import copy
import json
import random
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, PreTrainedTokenizerFast

from mtbert.modeling.task_spec import TaskSpec
from mtbert.modeling.tokenization import encode_texts, longest_first

WORDS = "a an the cat dog bird house tree runs sleeps flies is was not good bad old ? .".split()  # noqa: SIM905
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
ODD = ["[SEP]", "</s>", "<mask>", "[E1]", "good bad", "é", "\u200b", "🙂", "  ", "dog cat"]


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **NAMES)


def word_pieces(tokenizer):
    return copy.deepcopy(tokenizer)


def byte_pairs(_):
    """As RoBERTa's: two separators, a mask that takes the blank before it, token types that are all 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL[:4], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return wrapped(tokenizer)


def unigram(_, single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>"):
    """As XLM-RoBERTa's, with a template."""
    pieces = [*((name, 0.0) for name in SPECIAL), *((f"▁{word}", -2.0) for word in WORDS), ("▁", -3.0), ("o", -4.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    if single is not None:
        ids = [("<s>", 0), ("</s>", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return wrapped(tokenizer)


def with_added_tokens(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["good bad", AddedToken("flies", single_word=True, lstrip=True)])
    tokenizer.add_tokens(["[E1]"], special_tokens=True)
    return tokenizer


def with_a_gap(tokenizer):
    """An added token whose id does not follow the vocabulary's."""
    tokenizer = copy.deepcopy(tokenizer)
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    values["added_tokens"].append({**values["added_tokens"][0], "id": 500, "content": "dog cat", "special": False})
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(values))
    return tokenizer


KINDS = {
    "word pieces": word_pieces,
    "byte pairs": byte_pairs,
    "unigram": unigram,
    "special tokens last": lambda _: unigram(_, "$A </s> <s>", "$A </s> $B </s> <s>"),
    "no special tokens": lambda _: unigram(_, None),
    "added tokens": with_added_tokens,
    "a gap": with_a_gap,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_equals_the_tokenizers_own_truncation(kind, side, tokenizer):
    tokenizer = KINDS[kind](tokenizer)
    tokenizer.truncation_side = side
    tokenizer.split_special_tokens = kind == "added tokens" and side == "left"
    reference = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(3)  # left by whoever used it before
    tokenizer.backend_tokenizer.enable_padding(length=20)
    state = tokenizer.backend_tokenizer.to_str()
    draw = random.Random(f"{kind} {side}")
    texts, pairs = ([" ".join(draw.choices(WORDS + ODD, k=draw.randrange(13))) for _ in range(50)] for _ in range(2))
    for second in (None, pairs):
        whole = reference(texts, second, verbose=False)["input_ids"]
        for limit in (5, 6, 9, 14):
            task = TaskSpec("t", labels=2, texts=1 if second is None else 2, max_length=limit)
            columns = encode_texts(task, tokenizer, BertConfig(), texts, second)
            expected = reference(texts, second, truncation="longest_first", max_length=limit)["input_ids"]
            assert columns["input_ids"] == expected
            assert columns["truncated"] == [len(all_) - len(kept) for all_, kept in zip(whole, expected, strict=True)]
    assert tokenizer.backend_tokenizer.to_str() == state


def test_longest_first_takes_one_token_at_a_time_from_the_longer_text():
    for first in range(9):
        for second in range(9):
            for limit in range(18):
                kept = longest_first(first, second, limit)
                assert sum(kept) == min(first + second, limit)
                shorter = min(first, second)
                assert min(kept) == min(shorter, limit // 2)
                if first != second:
                    assert (kept[0] > kept[1]) <= (first > second)


def test_a_slow_tokenizer_is_refused():
    slow = SimpleNamespace(is_fast=False, model_max_length=64)
    with pytest.raises(ValueError, match="is a slow tokenizer; give one with a fast version"):
        encode_texts(TaskSpec("t", labels=2), slow, BertConfig(), ["a"])
