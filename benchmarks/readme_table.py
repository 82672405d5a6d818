"""Print the README's table of speed: ratios of every CPU whose results are in benchmarks/results/.

python benchmarks/readme_table.py
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
INSTRUCTIONS = {"avx2": "AVX2", "avx512": "AVX-512", "amx": "AMX"}
CONTENDERS = {
    "raw_packed": "a bare loop over the same packed batches",
    "padded": "transformers' Trainer, padded to the longest of a batch",
    "grouped": "the same, grouped by length",
    "padded_128": "the same, padded to 128",
    "tasknet": "tasknet 1.60",
}


def ratios(folder: Path = RESULTS) -> dict[str, dict[str, float]]:
    """Return column → contender → ratio of mtbert's speed to the contender's; a column is a CPU and a precision."""
    columns = {}
    for name, title in INSTRUCTIONS.items():
        if (file := folder / f"{name}.json").is_file():
            values = json.loads(file.read_text(encoding="utf-8"))
            for precision in ("fp32", "bf16"):
                if precision in values:
                    training = values[precision]["training"]
                    columns[f"{title}, {precision}"] = {
                        contender: each["mtbert is × as fast"] for contender, each in training.items()
                    }
    return columns


def table(columns: dict[str, dict[str, float]]) -> str:
    """Return the table as Markdown."""
    lines = ["| mtbert against | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for contender, what in CONTENDERS.items():
        cells = [f"{each[contender]:.2f} ×" if contender in each else "–" for each in columns.values()]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(ratios()))
