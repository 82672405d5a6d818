"""What a config says of a task: its head, its adapter, its labels, and how its texts are encoded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sized
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import nn

from .calibration import Calibration
from .config_checks import make_plain, type_problems
from .display import brief, brief_names
from .errors import InputError, Problem, refuse
from .limits import limit_problems, name_problems
from .ordinal import in_order
from .own_parts import ADAPTERS as own_adapters, HEADS as own_heads
from .problem_types import ORDINAL, PROBLEM_TYPES, ProblemType

POOLINGS = ("cls", "pooler", "mean", "max")
PAIRS = ("cross", "siamese", "both")
HEADS = ("linear", "mlp", "attention", "cosine")
ACTIVATIONS = ("relu", "gelu", "tanh", "identity")
SHOWN = 100  # a message shows at most so many labels, and characters of a name
PAIR_FEATURES = ("u;v", "u;v;|u-v|", "u;v;|u-v|;u*v")


def _known(problems: list[Problem], key: str, value: Any, known: tuple[str, ...], more: str = "") -> None:
    if value not in known:
        problems.append(Problem((key,), f"is {value!r}, but must be one of: {', '.join(known)}{more}"))


def _count(value: Any) -> int:
    """The number of values in a list or an array; 0 for a text or a single value."""
    return len(value) if isinstance(value, Sized) and not isinstance(value, str) else 0


def _build(cls: type, where: str, values: Any) -> Any:
    """Make the dataclass `cls` from a mapping; raise InputError for unknown keys."""
    if isinstance(values, cls):
        return values
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a mapping or a {cls.__name__}, but is {brief(values)}")
    field_names = [f.name for f in fields(cls)]
    if cls is TaskSpec and "name" not in values:
        raise InputError(f"{where} has no name, only the keys {brief_names(values)}; give it one")
    if unknown := [key for key in values if key not in field_names]:
        raise InputError(f"{where} has unknown keys {brief_names(unknown)}; known ones: {', '.join(field_names)}")
    return cls(**values)


@dataclass(frozen=True)
class HeadSpec:
    """The head of a task, which computes logits from pooled encoder outputs.

    Attributes:
        type: `linear` (one matrix), `mlp` (`layers` hidden layers, then one matrix), `attention` (the pooled output
            attends over the example's own hidden states, then as `mlp`), or `cosine` (Siamese pairs only: `layers`
            linear layers on each side, then their cosine).
        layers: number of hidden layers, 0 or more. `linear` has none, `mlp` at least one.
        hidden_size: width of a hidden layer; None: the encoder's width.
        activation: after each hidden layer: `relu`, `gelu`, `tanh` or `identity`.
        dropout: dropout probability before the last matrix of the head, in [0, 1). (`TaskSpec.dropout` is that of the
            pooled output.)
        attention_heads: number of heads of an `attention` head; it must divide the encoder's width.
        features: how the pooled outputs u and v of two texts that are encoded apart are joined: `u;v`, `u;v;|u-v|` or
            `u;v;|u-v|;u*v`; `pair: both` adds the pooled output of both texts in one input.
        output: function of the one logit of a regression: `identity`, `sigmoid` (sigmoid, then scaled to the task's
            range) or, for `cosine` heads, `relu` (negative cosines count as the lowest score).
    """

    type: str = "linear"
    layers: int = 0
    hidden_size: int | None = None
    activation: str = "relu"
    dropout: float = 0.0
    attention_heads: int = 1
    features: str = "u;v;|u-v|"
    output: str = "identity"

    def __post_init__(self) -> None:
        make_plain(self)

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = type_problems(self)
        if problems:
            return problems
        _known(problems, "type", self.type, (*HEADS, *own_heads), "; register one of your own first (register_head)")
        _known(problems, "activation", self.activation, ACTIVATIONS)
        _known(problems, "features", self.features, PAIR_FEATURES)
        _known(problems, "output", self.output, ("identity", "sigmoid", "relu"))
        if self.layers < 0:
            problems.append(Problem(("layers",), f"is {self.layers}, but must be 0 or more"))
        problems += limit_problems(("layers",), "head_layers", self.layers)
        problems += limit_problems(("hidden_size",), "width", self.hidden_size or 0)
        problems += limit_problems(("attention_heads",), "attention_heads", self.attention_heads)
        if self.type == "linear" and self.layers:
            problems.append(Problem(("layers",), f"is {self.layers}, but a linear head has none; use type: mlp"))
        if self.type == "mlp" and self.layers == 0:
            problems.append(Problem(("layers",), "is 0, but an mlp head needs at least 1; or use type: linear"))
        if self.hidden_size is not None and self.hidden_size < 1:
            problems.append(Problem(("hidden_size",), f"is {self.hidden_size}, but must be positive"))
        if self.attention_heads < 1:
            problems.append(Problem(("attention_heads",), f"is {self.attention_heads}, but must be 1 or more"))
        if not 0 <= self.dropout < 1:
            problems.append(Problem(("dropout",), f"is {self.dropout}, but must be in [0, 1)"))
        if self.output == "relu" and self.type != "cosine":
            problems.append(Problem(("output",), "is 'relu', which is for cosine heads; use identity or sigmoid"))
        if self.output == "sigmoid" and self.type == "cosine":
            problems.append(Problem(("output",), "is 'sigmoid', but a cosine is bounded already; use identity or relu"))
        return problems


# Sizes and numbers of heads of the published systems, for an encoder of width 768.
_ADAPTERS = {
    "pal": (204, 6),
    "pal_top": (204, 6),
    "low_rank": (100, None),
    "houlsby": (50, None),
    "top_layers": (204, 12),
}
ADAPTERS = tuple(_ADAPTERS)
TOP_ADAPTERS = ("pal_top", "top_layers")


@dataclass(frozen=True)
class AdapterSpec:
    """The adapter that each task adds to the shared encoder.

    Attributes:
        type: `pal` (projected attention beside every layer), `pal_top` (projected attention on top of the last layer),
            `low_rank` (a bottleneck beside every layer), `houlsby` (two bottlenecks in every layer) or `top_layers`
            (attention layers on top of the last layer).
        size: d_s, the width inside the adapter; None: the published one (204, 204, 100, 50, 204).
        heads: attention heads, which must divide the size; None: 6, as in the authors' code (the paper says 12), or
            12 for `top_layers`.
        activation: `gelu` (the authors' code) or `identity` (the paper's formula) after V_D, for `pal` and `pal_top`.
        layers: numbers of the layers that have the adapter, from 0; None: all. Not for `pal_top` and `top_layers`.
        depth: number of attention layers of `top_layers`.
        input: input of `pal_top`: `cls` (the first token only) or `all` positions.
        init: `zero` (V_D is 0, so that the adapter changes nothing at first) or `published` (all weights normal); None:
            `zero`, or `published` for `pal_top` and `top_layers`, which replace the hidden states.
    """

    type: str = "pal"
    size: int | None = None
    heads: int | None = None
    activation: str = "gelu"
    layers: tuple[int, ...] | None = None
    depth: int = 6
    input: str = "cls"
    init: str | None = None

    def __post_init__(self) -> None:
        refuse(limit_problems(("layers",), "encoder_layers", _count(self.layers), "has", " numbers"), "adapter.")
        make_plain(self)
        size, heads = _ADAPTERS.get(self.type, (1, None)) if isinstance(self.type, str) else (1, None)
        published = "published" if isinstance(self.type, str) and self.type in TOP_ADAPTERS else "zero"
        for key, default in (("size", size), ("heads", heads), ("init", published)):
            if getattr(self, key) is None:
                object.__setattr__(self, key, default)
        if isinstance(self.layers, list):
            object.__setattr__(self, "layers", tuple(self.layers))
        refuse(self.problems(), "adapter.")

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = type_problems(self)
        if problems:
            return problems
        size = self.shape[0]
        _known(problems, "type", self.type, (*ADAPTERS, *own_adapters), "; register your own first (register_adapter)")
        _known(problems, "activation", self.activation, ("gelu", "identity"))
        _known(problems, "input", self.input, ("cls", "all"))
        _known(problems, "init", self.init, ("zero", "published"))
        for key, name in (("size", "width"), ("depth", "adapter_depth")):
            if getattr(self, key) < 1:
                problems.append(Problem((key,), f"is {getattr(self, key)}, but must be 1 or more"))
            problems += limit_problems((key,), name, getattr(self, key))
        problems += limit_problems(("heads",), "attention_heads", self.heads or 0)
        if self.heads is not None and self.type in ("low_rank", "houlsby"):
            problems.append(Problem(("heads",), f"is {self.heads}, but {self.type} has no attention; drop it"))
        elif self.heads is not None and self.heads < 1:
            problems.append(Problem(("heads",), f"is {self.heads}, but must be 1 or more"))
        elif self.heads is not None and size >= 1 and size % self.heads:
            below = size - size % self.heads
            fitting = [str(size) for size in (below, below + self.heads) if size]
            near = f"the nearest sizes that fit: {' and '.join(fitting)}"
            problems.append(Problem(("size",), f"is {self.size}, which {self.heads} heads do not divide; {near}"))
        if self.layers is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            problems.append(Problem(("layers",), f"is {list(self.layers)}, but must name one layer or more, each once"))
        if self.type in TOP_ADAPTERS and self.layers is not None:
            problems.append(
                Problem(("layers",), f"is {list(self.layers)}, but {self.type} stands on top of the last layer")
            )
        if self.type in TOP_ADAPTERS and self.init == "zero":
            problems.append(
                Problem(("init",), f"is 'zero', but {self.type} replaces the hidden states, which would be 0")
            )
        if self.type not in ("pal", "pal_top") and self.activation != "gelu":
            problems.append(Problem(("activation",), f"is {self.activation!r}, which is for pal and pal_top only"))
        if self.type != "pal_top" and self.input != "cls":
            problems.append(Problem(("input",), f"is {self.input!r}, which is for pal_top only"))
        if self.type != "top_layers" and self.depth != 6:
            problems.append(Problem(("depth",), f"is {self.depth}, which is for top_layers only"))
        return problems

    @property
    def shape(self) -> tuple[int, int]:
        """d_s and the number of attention heads, 0 for types without attention."""
        return self.size or 0, self.heads or 0

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class TaskSpec:
    """The part of a sentence task that the model needs.

    Attributes:
        name: name of the task; letters, digits, `_` and `-`.
        problem_type: one of transformers' names, `binary_classification` (one logit) or `ordinal_classification` (see
            `ordinal`). None: a single-label classification if there are `labels`, else a regression.
        ordinal: whether the labels have an order, such as 1 to 5: CORN (Shi, Cao and Raschka, 2021) with a logit less
            than labels, whose answer is the median; the same as `problem_type: ordinal_classification`.
        labels: class names in id order, or their number; two for `binary_classification`, whose logit is that of the
            second class; from lowest to highest for an ordinal task; None for a regression.
        range: (lowest, highest) score of a regression.
        texts: 1 for sentences, 2 for pairs.
        pair: how two texts are encoded: `cross` (one input), `siamese` (each on its own, by the same encoder) or `both`
            (three inputs in one pass, whose outputs the head joins; about twice the tokens).
        pooling: pooled output of an input: the state of the first token (`cls`), the encoder's own pooler (`pooler`),
            or the `mean` or `max` over its tokens.
        dropout: dropout probability of the pooled output, in [0, 1).
        separator: tokens between two texts in one input; None: the tokenizer's.
        token_types: whether the second of two texts in one input has token type 1 (if the encoder has token types).
        max_length: longest input in tokens, special ones included; longer inputs are cut. None: the encoder's limit.
        adapter: whether this task uses the model's adapter, if there is one; false: the shared encoder only.
        head: the head (a HeadSpec or its fields as a mapping).
        calibration: what `mtbert calibrate` fitted (a Calibration or its fields); None: nothing.
    """

    name: str
    problem_type: str | None = None
    labels: tuple[str, ...] | int | None = None
    range: tuple[float, float] | None = None
    texts: int = 1
    pair: str = "cross"
    pooling: str = "cls"
    dropout: float = 0.1
    separator: tuple[str, ...] | None = None
    token_types: bool = True
    max_length: int | None = None
    adapter: bool = True
    head: HeadSpec = field(default_factory=HeadSpec)
    calibration: Calibration | None = None
    ordinal: bool = False

    def __post_init__(self) -> None:
        too_long = limit_problems(("labels",), "labels", _count(self.labels), "has", " names")
        too_long += limit_problems(("separator",), "width", _count(self.separator), "has", " tokens")
        refuse(too_long, f"task {brief(self.name)}: ")
        make_plain(self)
        long = isinstance(self.name, str) and len(self.name) > SHOWN
        where = f"task {self.name[:SHOWN]!r}…" if long else f"task {brief(self.name)}"
        set_field = lambda key, value: object.__setattr__(self, key, value)  # noqa: E731 (a frozen dataclass)
        set_field("head", _build(HeadSpec, f"{where}: head", self.head))
        if self.calibration is not None:
            set_field("calibration", _build(Calibration, f"{where}: calibration", self.calibration))
        if isinstance(self.labels, (str, bool)):
            raise InputError(f"{where}: labels is {self.labels!r}, but must be a list of names, or their number")
        if isinstance(self.labels, int):
            refuse(limit_problems(("labels",), "labels", self.labels), f"{where}: ")
            set_field("labels", tuple(str(i) for i in range(self.labels)))
        elif isinstance(self.labels, Iterable):
            labels = tuple(self.labels)
            if any(isinstance(label, Mapping | list | tuple) for label in labels):
                kind = brief(self.labels)
                raise InputError(f"{where}: labels is {kind}, but must be a list of names, or their number")
            set_field("labels", tuple(map(str, labels)))
        for key in ("range", "separator"):
            if isinstance(getattr(self, key), Iterable) and not isinstance(getattr(self, key), str):
                set_field(key, tuple(getattr(self, key)))
        if self.problem_type is None:
            default = "regression" if self.labels is None else "single_label_classification"
            set_field("problem_type", ORDINAL.name if self.ordinal else default)
        if self.ordinal is False and PROBLEM_TYPES.get(str(self.problem_type)) is ORDINAL:
            set_field("ordinal", True)
        refuse(self.problems(), f"{where}: ")

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = type_problems(self)
        if problems:
            return problems
        if not re.fullmatch(r"[\w-]+", self.name):
            problems.append(Problem((), ": the name must be made of letters, digits, '_' and '-'"))
        elif hasattr(nn.ModuleDict, self.name) or self.name == "training":
            problems.append(Problem((), ": a module cannot have this name, which PyTorch uses itself; add a letter"))
        problems += [Problem((), f": {problem}") for problem in name_problems(self.name)]
        longest = max(map(len, self.classes), default=0)
        problems += limit_problems(("labels",), "label_length", longest, "has a name of", " characters")
        problems += limit_problems(("max_length",), "tokens", self.max_length or 0)
        _known(problems, "problem_type", self.problem_type, tuple(PROBLEM_TYPES))
        _known(problems, "pair", self.pair, PAIRS)
        _known(problems, "pooling", self.pooling, POOLINGS)
        problems += [problem.under("head") for problem in self.head.problems()]
        if self.texts not in (1, 2):
            problems.append(Problem(("texts",), f"is {self.texts}, but must be 1 or 2"))
        if not 0 <= self.dropout < 1:
            problems.append(Problem(("dropout",), f"is {self.dropout}, but must be in [0, 1)"))
        if self.max_length is not None and self.max_length < 3:
            problems.append(Problem(("max_length",), f"is {self.max_length}, but must be 3 or more"))
        if self.problem_type not in PROBLEM_TYPES:
            return problems
        regression = self.kind.numeric
        if self.ordinal and not self.kind.ordered:
            problems.append(Problem(("ordinal",), f"is true, but problem_type is {self.problem_type!r}; drop either"))
        if self.kind.ordered and not in_order(self.classes):
            problems.append(Problem(("labels",), f"{brief_names(self.classes)} are numbers that are not in order"))
        if regression and self.labels is not None:
            problems.append(Problem(("labels",), "are for classifications; a regression has a range"))
        if not regression and self.range is not None:
            problems.append(Problem(("range",), f"is for regressions; {self.kind.with_article} has labels"))
        if not regression and not self.labels:
            problems.append(Problem(("labels",), "are missing; give the class names in id order, or their number"))
        if len(set(self.classes)) != len(self.classes):
            problems.append(Problem(("labels",), f"{brief_names(self.classes)} repeat a name"))
        if self.kind.binary and self.classes and len(self.classes) != 2:
            problems.append(Problem(("labels",), f"has {len(self.classes)} names, but a binary classification has 2"))
        if self.kind.exclusive and self.classes and len(self.classes) < 2:
            problems.append(
                Problem(("labels",), f"has {len(self.classes)} name, but a classification needs at least 2")
            )
        if self.range is not None and not (len(self.range) == 2 and self.range[0] < self.range[1]):
            problems.append(Problem(("range",), f"is {brief(self.range)}, but must be (lowest, highest)"))
        if self.head.output == "sigmoid" and (not regression or self.range is None):
            problems.append(Problem(("head", "output"), "'sigmoid' needs a regression with a range to scale to"))
        if self.head.type == "cosine" and not (regression and self.siamese and self.range is not None):
            problems.append(Problem((), ": a cosine head needs a regression with a range, texts: 2 and pair: siamese"))
        if self.head.type == "attention" and self.apart:
            problems.append(
                Problem((), ": an attention head reads one input; use pair: cross, or a linear or mlp head")
            )
        if self.separator is not None and self.siamese:
            problems.append(Problem(("separator",), "stands between two texts of one input; use pair: cross"))
        if self.calibration is not None:
            fields_of = self.calibration.problems(self.kind, len(self.classes))
            problems += [problem.under("calibration") for problem in fields_of]
        return problems + self.kind.problems(self)

    @property
    def kind(self) -> ProblemType:
        """The entry of this task in the table of problem types."""
        return PROBLEM_TYPES[str(self.problem_type)]

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels' names in id order; none for a regression."""
        return self.labels if isinstance(self.labels, tuple) else ()

    @property
    def siamese(self) -> bool:
        """Whether a row is two encoder inputs, one for each text."""
        return self.texts == 2 and self.pair == "siamese"

    @property
    def apart(self) -> bool:
        """Whether each of a row's two texts is an encoder input by itself (`siamese` or `both`)."""
        return self.texts == 2 and self.pair != "cross"

    @property
    def num_sequences(self) -> int:
        """Number of encoder inputs per row: 2 for `pair: siamese`, 3 for `pair: both`, else 1."""
        return {"siamese": 2, "both": 3}[self.pair] if self.apart else 1

    @property
    def num_labels(self) -> int:
        """Number of logits: classes, one less for ordinal tasks, 1 for `binary_classification` and `regression`."""
        return self.kind.logits(len(self.classes))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        values = asdict(self) | {"calibration": self.calibration and self.calibration.to_dict()}
        if self.calibration is None:
            del values["calibration"]  # as written by versions that had none
        del values["ordinal"]  # problem_type says it
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | TaskSpec) -> TaskSpec:
        """The inverse of `to_dict`; raise InputError for unknown keys."""
        return _build(cls, "task", values)
