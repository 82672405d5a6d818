"""A tokenizer of a few words, for tiny encoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = "a an the cat dog bird fish house tree runs sleeps eats flies is was not very good bad fine old new ? .".split()  # noqa: SIM905


def make_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of a few words, in BERT's format."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused36]", *WORDS]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **special)


def padded_batch(lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    """Random inputs of these lengths; the padding holds real tokens, which must not matter."""
    shape = (len(lengths), max(lengths))
    return {
        "input_ids": torch.randint(5, 100, shape),
        "token_type_ids": torch.randint(2, shape),
        "attention_mask": (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long(),
    }
