"""Load the checkpoint of the quickstart and predict a few sentences and pairs.

python recipes/quickstart_predict.py runs/quickstart
"""

import sys

import torch
from transformers.utils import logging

from mtbert import MtBertForMultiTask

logging.disable_progress_bar()
folder = sys.argv[1]
model = MtBertForMultiTask.from_pretrained(folder).eval()
tokenizer = model.tokenizer

SENTENCES = [
    "The staff went out of their way to help us, and the soup was wonderful.",
    "The meeting has been moved to room twelve.",
    "I waited an hour and the parcel arrived broken.",
]
PAIRS = [
    ("How can I fall asleep faster?", "What helps you get to sleep quickly?"),
    ("How can I fall asleep faster?", "How much sleep does a newborn need?"),
]


@torch.no_grad()
def logits(task: str, *texts: list[str]) -> torch.Tensor:
    batch = tokenizer(*texts, padding=True, return_tensors="pt")
    return model(**batch, task=task).logits


classes = model.tasks[model.task_id("sentiment")].labels
for sentence, row in zip(SENTENCES, logits("sentiment", SENTENCES).softmax(-1)):
    print(f"{classes[row.argmax()]:>9} ({row.max():.2f})  {sentence}")
firsts, seconds = map(list, zip(*PAIRS))
probabilities = logits("paraphrase", firsts, seconds).sigmoid().squeeze(-1)
scores = logits("similarity", firsts, seconds).squeeze(-1)
for (first, second), probability, score in zip(PAIRS, probabilities, scores):
    print(f"paraphrase {probability:.2f}, similarity {score:.1f} of 5  {first} | {second}")
