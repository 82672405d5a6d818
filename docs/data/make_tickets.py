"""Write the invented tickets of the guides: python docs/data/make_tickets.py docs/data"""

import csv
import random
import sys
from pathlib import Path

# topic → what customers say, with a thing in place of {}
SAYINGS = {
    "billing": [
        "I was charged twice for the {}",
        "the invoice for my {} is wrong",
        "my card was billed for a {} I never had",
    ],
    "login": ["I cannot sign in to my account", "the password reset mail never comes", "my account is locked again"],
    "delivery": [
        "the {} has not arrived yet",
        "the courier left my {} at the wrong door",
        "tracking of the {} shows nothing",
    ],
    "returns": [
        "I want to send the {} back",
        "where do I post the {} to return it",
        "the return label for my {} is missing",
    ],
    "defect": ["the {} stopped working", "my {} arrived with a broken part", "the {} makes a strange noise"],
}
THINGS = ["kettle", "lamp", "radio", "blender", "heater", "printer", "toaster", "speaker"]
TEAMS = {
    "billing": "accounts",
    "login": "accounts",
    "delivery": "logistics",
    "returns": "logistics",
    "defect": "repairs",
}
# urgency → how customers say it
URGENCY = {
    1: ["No hurry.", "Whenever you have time."],
    2: ["Please have a look this month.", "A reply this week would be nice."],
    3: ["Please help soon.", "I need this within days."],
    4: ["I need an answer today.", "This cannot wait until tomorrow."],
    5: ["This is an emergency, call me now!", "Act at once, please!"],
}
THANKS = [
    "Thanks a lot for the fast help with my {}.",
    "I just wanted to say that I like the {}.",
    "Great shop, the {} is lovely.",
]
COLUMNS = ["id", "text", "topics", "team", "urgency", "channel"]


def ticket(draw: random.Random) -> dict[str, str]:
    """Return one ticket, without its id."""
    thing, channel = draw.choice(THINGS), draw.choices(["mail", "chat", "phone"], [6, 3, 1])[0]
    if draw.random() < 0.08:
        text = draw.choice(THANKS).format(thing)
        return {"text": text, "topics": "[]", "team": "accounts", "urgency": "1", "channel": channel}
    topics = draw.sample(list(SAYINGS), draw.choices([1, 2], [7, 3])[0])
    urgency = draw.choices(list(URGENCY), [3, 4, 5, 3, 1])[0]
    sayings = [draw.choice(SAYINGS[topic]).format(thing) for topic in topics]
    text = f"{' and '.join(sayings)}. {draw.choice(URGENCY[urgency])}"
    text = text[0].upper() + text[1:]
    return {
        "text": text,
        "topics": "|".join(sorted(topics)),
        "team": TEAMS[topics[0]],
        "urgency": str(urgency),
        "channel": channel,
    }


def main(folder: Path) -> None:
    """Write `tickets-train.csv`, `tickets-dev.csv` and `tickets-new.csv`, which has texts alone."""
    draw, texts = random.Random(7), set()
    for split, count in (("train", 240), ("dev", 80), ("new", 20)):
        rows = []
        while len(rows) < count:
            row = ticket(draw)
            if row["text"] not in texts:
                texts.add(row["text"])
                rows.append({"id": f"{split}-{len(rows) + 1}"} | row)
        with open(folder / f"tickets-{split}.csv", "w", newline="", encoding="utf-8") as file:
            columns = COLUMNS[:2] if split == "new" else COLUMNS
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
