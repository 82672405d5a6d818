"""Rows, and the logits that a model has for them; it imports torch alone, so that a process without mtbert runs it."""

from __future__ import annotations

import torch

TEXTS = ["the cat runs .", "a very fine old house", "is the dog not good ?"]
PAIRS = [["the cat runs .", "a cat runs"], ["the fish eats", "a bird flies ."], ["a house", "the house was new"]]


def logits_of(model, tokenizer) -> dict[str, list]:
    """Task → logits of `TEXTS` or `PAIRS`, through `forward` with padding."""
    model.eval()
    found = {}
    for task in model.config.tasks:
        rows = PAIRS if task["texts"] == 2 else TEXTS
        if task["texts"] == 2 and task["pair"] == "siamese":
            batch = tokenizer(
                [text for row in rows for text in row], padding=True, return_token_type_ids=True, return_tensors="pt"
            )
        elif task["texts"] == 2:
            batch = tokenizer(*map(list, zip(*rows)), padding=True, return_token_type_ids=True, return_tensors="pt")
        else:
            batch = tokenizer(rows, padding=True, return_token_type_ids=True, return_tensors="pt")
        with torch.no_grad():
            found[task["name"]] = model(**batch, task=task["name"]).logits.tolist()
    return found
