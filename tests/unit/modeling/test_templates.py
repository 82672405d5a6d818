"""The special tokens that tokenizers put around one text and two, whatever words they know."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from mtbert.modeling.task_spec import TaskSpec
from mtbert.modeling.tokenization import _template, encode_texts

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
ONE = TaskSpec("one", labels=2)
TWO = TaskSpec("two", labels=2, texts=2)
OWN = TaskSpec("own", labels=2, texts=2, separator=["</s>"])
ENCODER = BertConfig(max_position_embeddings=64)


def wordpiece(words, normalizer=None):
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate([*SPECIAL, *words])}, unk_token="<unk>"))
    tokenizer.normalizer = normalizer or normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def bare_words(words):
    """Words outside the vocabulary are dropped: there is no unknown token."""
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate([*SPECIAL, *words])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def byte_level():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate([*SPECIAL, *alphabet])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return tokenizer


def unigram():
    pieces = [(piece, 0.0) for piece in SPECIAL] + [("▁", -2.0), ("▁cat", -1.0), ("\u200b", -5.0), ("▁dog", -1.5)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\u200b", "")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


# the middle of each vocabulary is nothing after its normalisation, or no token
TOKENIZERS = {
    "control characters": lambda: wordpiece(["cat", "\x00", "\x01", "\x02", "dog"]),
    "accents alone": lambda: wordpiece(["cat", "\u0301", "\u0302", "\u0303", "dog"]),
    "capitals": lambda: wordpiece(["CAT", "DOG", "BIRD", "cat", "dog"]),
    "nothing but what normalises to nothing": lambda: wordpiece(["\u0301", "\u0302"]),
    "no unknown token": lambda: bare_words(["猫", "犬", "cat"]),
    "digits removed": lambda: wordpiece(["cat", "1", "2", "3", "dog"], normalizers.Replace("1", "")),
    "everything ordinary removed": lambda: wordpiece(
        ["cat", "dog"], normalizers.Sequence([normalizers.Replace(c, "") for c in "a1."])
    ),
    "byte-level BPE": byte_level,
    "unigram": unigram,
}
# post-processor → special tokens before, between and after a pair
TEMPLATES = {
    "none": (None, (0, 0, 0)),
    "BERT": (processors.BertProcessing(("</s>", 3), ("<s>", 2)), (1, 1, 1)),
    "RoBERTa": (processors.RobertaProcessing(("</s>", 3), ("<s>", 2)), (1, 2, 1)),
    "last alone": (("$A </s>", "$A </s> $B </s>"), (0, 1, 1)),
    "many": (("<s> <s> $A </s> </s>", "<s> <s> $A </s> </s> </s> $B </s> </s>"), (2, 3, 2)),
}


def make(kind, template):
    backend, processor = TOKENIZERS[kind](), TEMPLATES[template][0]
    if isinstance(processor, tuple):
        ids = [(token, i) for i, token in enumerate(SPECIAL)]
        processor = processors.TemplateProcessing(single=processor[0], pair=processor[1], special_tokens=ids)
    if processor is not None:
        backend.post_processor = processor
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_template_and_what_texts_become(kind, template):
    tokenizer = make(kind, template)
    before, between, after = TEMPLATES[template][1]
    assert _template(tokenizer, pair=True) == (before, between, after)
    assert _template(tokenizer, pair=False) == (before, 0, after)
    texts, pairs = ["cat dog", "", "\u0301", "dog 7 !"], ["dog", "cat", "", "\x00"]
    assert encode_texts(ONE, tokenizer, ENCODER, texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert encode_texts(TWO, tokenizer, ENCODER, texts, pairs)["input_ids"] == tokenizer(texts, pairs)["input_ids"]
    for ids, whole in zip(
        encode_texts(OWN, tokenizer, ENCODER, texts, pairs)["input_ids"],
        tokenizer(texts, pairs)["input_ids"],
        strict=True,
    ):
        assert len(ids) == len(whole) - between + 1


def test_a_tokenizer_that_makes_no_token_of_anything():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"猫": 0}, [])))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("猫", "")
    with pytest.raises(
        ValueError, match="the tokenizer makes no token of any word in its vocabulary; give the encoder's"
    ):
        encode_texts(ONE, tokenizer, ENCODER, ["a cat"])
