"""The form of each problem type's labels in the data, where it is not that of `LabelReader`."""

from __future__ import annotations

from .label_reading import LabelReader
from .word_labels import TagReader

READERS: dict[str, type[LabelReader]] = {"token_classification": TagReader}  # problem type → reader of its label cells
