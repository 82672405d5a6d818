"""A table of invented tickets: one text with four label columns, in which some cells are blank."""

from __future__ import annotations

import csv
import random
from pathlib import Path

QUEUES = {"billing": "cat", "shipping": "dog", "technical": "bird", "account access": "fish"}
TAGS = {"refund": "old", "urgent": "runs", "vip": "fine", "repeat": "tree"}
COLUMNS = ("ticket", "body", "queue", "urgency", "complaint", "tags")
BLANK = 0.06  # share of the cells of each label column


def write_tickets(path: str | Path, rows: int = 400, seed: int = 0) -> Path:
    """Write tickets to a csv file: queue (four names), urgency (1 to 5), complaint (yes or no) and tags (any of four).

    Every label follows from words of the text. No text occurs twice.
    """
    draw = random.Random(seed)
    path, texts = Path(path), set()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        while len(texts) < rows:
            queue, urgency = draw.choice(list(QUEUES)), draw.randint(1, 5)
            complaint = draw.random() < 0.4
            tags = [tag for tag in TAGS if draw.random() < 0.3]
            words = [QUEUES[queue], *["very"] * (urgency - 1), "bad" if complaint else "good"]
            words += [TAGS[tag] for tag in tags] + draw.choices(["the", "a", "house", "was", "is", "not", "."], k=6)
            draw.shuffle(words)
            text = " ".join(words)
            if text in texts:
                continue
            texts.add(text)
            labels = [queue, str(urgency), "yes" if complaint else "no", ";".join(tags)]
            labels = ["" if draw.random() < BLANK else label for label in labels]
            writer.writerow([f"T-{len(texts):04}", text, *labels])
    return path
