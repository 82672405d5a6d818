"""Energy and emissions of a training run, as codecarbon has estimated them."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

FILE = "emissions.csv"


def read_energy(folder: str | os.PathLike | None) -> dict[str, Any]:
    """What codecarbon has left in a run's folder, where it was asked to (`report_to: codecarbon`).

    Returns:
        `kwh` and `co2_kg` (CO₂ equivalent), summed over every start of the run, and `hardware`, the processors' names
        as the last start had them; empty if nothing was measured.
    """
    if folder is None or not (path := Path(folder, FILE)).is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        starts = list(csv.DictReader(file))
    if not starts:
        return {}
    processors = [starts[-1].get(key) for key in ("gpu_model", "cpu_model")]
    return {
        "kwh": sum(float(line["energy_consumed"]) for line in starts),
        "co2_kg": sum(float(line["emissions"]) for line in starts),
        "hardware": ", ".join(filter(None, processors)),
    }
