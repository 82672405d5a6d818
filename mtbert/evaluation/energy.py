"""Energy and emissions of a training run, as estimated by codecarbon."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

FILE = "emissions.csv"


def read_energy(folder: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Read the file that codecarbon writes to a run's folder (with `report_to: codecarbon`).

    Returns:
        `kwh` and `co2_kg` (CO₂ equivalent), summed over all starts of the run, and `hardware`, the names of the
        processors at the last start; empty if nothing was measured.
    """
    if folder is None:
        return {}
    path = Path(folder, FILE)
    if not path.is_file():
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
