"""What every part is given: the options, the device, the time that is left, and the place of the results."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tables import Table
from transformers import BertConfig

from .results import Bar, Results

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@dataclass(frozen=True)
class Setting:
    """The setting of one part.

    Attributes:
        part: name of the part.
        args: the command line.
        device: `cuda`, or `cpu` for a rehearsal with tiny models.
        precision: `bf16`, or `fp32` on a CPU without instructions for bf16.
        until: the time (`time.time()`) at which the part should end.
        results: where the results go.
        folder: a folder for encoders and runs.
    """

    part: str
    args: argparse.Namespace
    device: str
    precision: str
    until: float
    results: Results
    folder: str

    @property
    def rehearsal(self) -> bool:
        return self.device == "cpu"

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.until - time.time()

    def bert(self, **more: Any) -> BertConfig:
        """Return the config of BERT-base, or of a tiny BERT in a rehearsal."""
        return BertConfig(**(TINY if self.rehearsal else {}), **more)

    def put(self, values: dict[str, Any], tables: Sequence[Table], bars: Sequence[Bar] = (), stopped: str = "") -> None:
        """Write the part's results so far."""
        self.results.put(self.part, values, tables, bars, stopped)
