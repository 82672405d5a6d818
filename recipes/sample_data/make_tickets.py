"""Write tickets-train.jsonl and tickets-dev.jsonl: invented tickets with a queue and the slots of their words.

python recipes/sample_data/make_tickets.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SEED = 7
ROWS = {"train": 160, "dev": 48}
FILLERS = {
    "PRODUCT": [
        *("desk lamp", "blue kettle", "bike pump", "garden chair", "coffee grinder", "rain jacket", "wall clock"),
        *("tent", "toaster", "backpack", "printer", "headset", "keyboard", "sleeping bag", "water filter"),
    ],
    "ORDER": [f"{letter}-{number}" for letter in "AKTX" for number in (1042, 2387, 5519, 7760, 8431)],
    "DATE": [
        *("Monday", "last Friday", "12 May", "3 June", "yesterday", "next Tuesday", "28 February", "Saturday morning"),
        *("the first of July", "Christmas"),
    ],
    "NAME": [
        *("Ada Quill", "Ben Marsh", "Carla Voss", "Dmitri", "Elif Tan", "Farid Noor", "Greta Holm", "Hugo"),
        *("Ines Prado", "Jonas Weld"),
    ],
    "AMOUNT": ["12.50 euros", "40 dollars", "7.99", "119 euros", "85 pounds", "3 dollars"],
}
# queue → texts; a slot stands in braces, and punctuation is a word of its own
TEXTS = {
    "billing": [
        "I was charged {AMOUNT} twice for order {ORDER} .",
        "Please refund {AMOUNT} for the {PRODUCT} that I returned on {DATE} .",
        "The invoice of {DATE} says {AMOUNT} , but the {PRODUCT} was cheaper .",
        "Why does {ORDER} cost {AMOUNT} more than the shop said ?",
        "{NAME} told me that {AMOUNT} would be paid back by {DATE} .",
    ],
    "delivery": [
        "My {PRODUCT} should have arrived on {DATE} , where is it ?",
        "Order {ORDER} was left at the wrong door on {DATE} .",
        "Can {ORDER} be sent to {NAME} instead of me ?",
        "The courier did not ring , although {NAME} was at home on {DATE} .",
        "Please hold the {PRODUCT} of order {ORDER} until {DATE} .",
    ],
    "technical": [
        "The {PRODUCT} stopped working on {DATE} and smells of smoke .",
        "How do I switch the {PRODUCT} off ?",
        "{NAME} says that the {PRODUCT} needs another cable , is that so ?",
        "The {PRODUCT} from {ORDER} makes a loud noise .",
        "After the update of {DATE} my {PRODUCT} does not turn on .",
    ],
}


def ticket(queue: str, draw: random.Random) -> tuple[list[str], list[str]]:
    """Words and tags (IOB2) of an invented ticket."""
    words: list[str] = []
    tags: list[str] = []
    for part in draw.choice(TEXTS[queue]).split():
        slot = part.strip("{}")
        chosen = draw.choice(FILLERS[slot]).split() if slot in FILLERS else [part]
        words += chosen
        tags += [f"{'I' if place else 'B'}-{slot}" if slot in FILLERS else "O" for place in range(len(chosen))]
    return words, tags


def main() -> None:
    """Write both files; no text stands in both, or twice in one."""
    draw = random.Random(SEED)
    seen: set[tuple[str, ...]] = set()
    for split, count in ROWS.items():
        lines: list[str] = []
        while len(lines) < count:
            queue = list(TEXTS)[len(lines) % len(TEXTS)]
            words, tags = ticket(queue, draw)
            if tuple(words) not in seen:
                seen.add(tuple(words))
                row = {"id": f"{split}-{len(lines) + 1:03}", "words": words, "slots": tags, "queue": queue}
                lines.append(json.dumps(row, ensure_ascii=False))
        Path(__file__).with_name(f"tickets-{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
