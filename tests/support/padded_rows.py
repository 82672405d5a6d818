"""Encoded rows as padded inputs, and the mean of their losses by a formula."""

import torch


def padded(task, rows):
    """Encoded rows → padded inputs of the model, with a loop."""
    sequences, types = [], []
    for row in rows:
        ids, own = row["input_ids"], row.get("token_type_ids", [0] * len(row["input_ids"]))
        cuts = [0, row["first_length"], len(ids)] if task.siamese else [0, len(ids)]
        for first, last in zip(cuts, cuts[1:]):
            sequences.append(torch.tensor(ids[first:last]))
            types.append(torch.tensor(own[first:last]))
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(sequences, batch_first=True),
        "token_type_ids": pad(types, batch_first=True),
        "attention_mask": pad([torch.ones(len(each), dtype=torch.long) for each in sequences], batch_first=True),
    }


def mean_loss(model, task, rows):
    """mean_t, from the model's logits by a formula."""
    with torch.no_grad():
        logits = model(**padded(task, rows), task=task.name).logits.double()
    labels = torch.tensor([row["label"] for row in rows])
    if task.problem_type == "regression":
        return float(((logits[:, 0] - labels) ** 2).mean())
    if task.problem_type == "single_label_classification":
        return float(torch.stack([-z.log_softmax(0)[y] for z, y in zip(logits, labels, strict=True)]).mean())
    p = logits.sigmoid().reshape(labels.shape)
    return float(-torch.where(labels == 1, p, 1 - p).log().mean())
