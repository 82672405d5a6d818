"""The form of each problem type's labels in the data, where it is not that of `LabelReader`."""

from __future__ import annotations

from .label_reading import LabelReader

READERS: dict[str, type[LabelReader]] = {}  # problem type → reader of its label cells
