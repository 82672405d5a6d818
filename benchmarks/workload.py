"""The workload of all contenders: one encoder, and one list of encoded sentence pairs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

from mtbert.data.spec import DataSpec
from mtbert.data.splits import load_task
from mtbert.modeling.task_spec import TaskSpec
from mtbert.modeling.tokenization import encode_texts

ROOT = Path(__file__).resolve().parents[1]
COURSE_DATA = ROOT.parent / "shared" / "data" / "cs224n"
WARM_UP = 2  # optimizer steps before the clock starts
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}

# Quantiles 0, 1/40, …, 1 of the tokens of a pair in quora-train.csv, special tokens included (mean 30.5), encoded by
# BERT's uncased tokenizer; the first question has half of them, give or take a tenth.
PAIR_LENGTHS = [
    *(11, 16, 17, 18, 19, 19, 20, 21, 21, 22, 22, 23, 23, 24, 24, 25, 25, 26, 26, 27),
    *(27, 28, 28, 29, 30, 31, 31, 32, 33, 34, 36, 37, 38, 40, 42, 44, 47, 50, 55, 63, 160),
]


def packaged_encoder() -> str | None:
    """Return the folder of the quickstart's encoder, or None if its package is not installed."""
    from mtbert.cli.encoder import find_encoder

    try:
        return str(find_encoder())
    except FileNotFoundError:
        return None


def made_up_tokenizer(size: int = 30522) -> PreTrainedTokenizerFast:
    """A tokenizer in BERT's format whose words are `w5`, `w6`, …"""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(len(special), size))])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # nosec B106: a word, no password
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def random_encoder(folder: str | Path, config: PretrainedConfig) -> str:
    """Write an encoder with random weights, and the packaged or a made-up tokenizer, to `folder`, and return it."""
    packaged = packaged_encoder()
    tokenizer = AutoTokenizer.from_pretrained(packaged) if packaged else made_up_tokenizer()
    config.vocab_size = len(tokenizer)
    set_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def find_encoder(given: str | None, folder: str | Path) -> str:
    """Return the given encoder, the packaged one, or one of its size with random weights, written to `folder`."""
    return given or packaged_encoder() or random_encoder(folder, BertConfig(**MINILM))


def make_pairs(tokenizer: PreTrainedTokenizerFast, rows: int, seed: int = 0) -> Dataset:
    """Make pairs of random words of the vocabulary, whose lengths follow `PAIR_LENGTHS`."""
    random = np.random.default_rng(seed)
    words = np.array(sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalnum()))
    quantiles = np.linspace(0, 1, len(PAIR_LENGTHS))
    total = np.interp(random.random(rows), quantiles, PAIR_LENGTHS).round().astype(int) - 3
    first = np.clip((total * random.normal(0.5, 0.1, rows)).round().astype(int), 1, total - 1)
    text = [" ".join(random.choice(words, size)) for size in first]
    pair = [" ".join(random.choice(words, size)) for size in total - first]
    return Dataset.from_dict({"text": text, "text_pair": pair, "label": random.integers(0, 2, rows)})


def read_pairs(data_dir: str | Path | None, tokenizer: PreTrainedTokenizerFast, rows: int) -> tuple[Dataset, str]:
    """Return `rows` pairs with `text`, `text_pair` and `label`, and their source: the course's Quora file, or made up.

    The rows of the file come in a random order, and repeat if there are too few.
    """
    file = Path(data_dir or COURSE_DATA) / "quora-train.csv"
    if not file.is_file():
        if data_dir:
            raise FileNotFoundError(f"--data_dir: {file} is not there")
        return make_pairs(tokenizer, rows), "made-up pairs with the lengths of Quora question pairs"
    task = TaskSpec("pairs", "binary_classification", labels=2, texts=2)
    data = DataSpec(("sentence1", "sentence2"), "is_duplicate", train=file.name, format="cs224n")
    split = load_task(task, data, file.parent).splits["train"].select_columns(["text", "text_pair", "label"])
    order = np.random.default_rng(0).permutation(len(split))
    return split.select(list(islice(cycle(order), rows))).flatten_indices(), "Quora question pairs"


@dataclass(frozen=True)
class Workload:
    """One training job, the same for all contenders.

    Attributes:
        encoder: folder of the encoder and its tokenizer.
        pairs: `text`, `text_pair` and `label` of (WARM_UP + steps) · batch rows; the first ones are the warm-up's.
        batch: rows of an optimizer step.
        steps: optimizer steps that are timed.
        output_dir: an empty folder that trainers may want; nothing is saved.
        precision: `fp32`, or `bf16` for autocast.
        device: `cpu` or `cuda`.
        workers: processes that load data; 0: the training process loads it.
        max_length: longest pair in tokens; longer ones are cut.
    """

    encoder: str
    pairs: Dataset
    batch: int
    steps: int
    output_dir: str
    precision: str = "fp32"
    device: str = "cpu"
    workers: int = 0
    max_length: int = 128
    learning_rate: float = 2e-5
    weight_decay: float = 0.01

    def __post_init__(self):
        if len(self.pairs) != (WARM_UP + self.steps) * self.batch:
            raise ValueError(
                f"pairs has {len(self.pairs)} rows, but {WARM_UP + self.steps} steps need {self.batch} each"
            )

    @cached_property
    def tokenizer(self):
        return AutoTokenizer.from_pretrained(self.encoder)

    @cached_property
    def config(self):
        return AutoConfig.from_pretrained(self.encoder)

    @cached_property
    def limit(self) -> int:
        """Longest pair in tokens; longer ones are truncated."""
        return min(self.max_length, self.config.max_position_embeddings)

    @cached_property
    def task(self) -> TaskSpec:
        """The task in mtbert: two classes, one logit, and the encoder's pooler, as in the other contenders' models."""
        return TaskSpec(
            "pairs", "binary_classification", labels=2, texts=2, pooling="pooler", dropout=0.1, max_length=self.limit
        )

    def encode(self, pairs: Dataset) -> dict[str, list]:
        """Return `input_ids` and `token_type_ids` of each row."""
        columns = encode_texts(self.task, self.tokenizer, self.config, pairs["text"][:], pairs["text_pair"][:])
        return {name: columns[name] for name in ("input_ids", "token_type_ids") if name in columns}

    @cached_property
    def encoded(self) -> dict[str, list]:
        """The encoded `pairs`."""
        return self.encode(self.pairs)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, `(rows,)`."""
        return np.array([len(ids) for ids in self.encoded["input_ids"]])

    @property
    def timed_lengths(self) -> np.ndarray:
        """Tokens of each row that is timed."""
        return self.lengths[WARM_UP * self.batch :]

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def quiet() -> None:
    """Switch off progress bars, the network and warnings of forked tokenizers; called before contenders are made."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
