"""Tables of benchmarks/inference.py, and the bars that its figures have to hold."""

from __future__ import annotations

from typing import Any

from tables import Table

LOST = 0.5  # most points that a head may lose in int8
TEN_HEADS = 1.15
AT_ONE = 2.5
AT_32 = {"avx2": 1.3}
AT_32_VNNI = 2.0


def is_ours(name: str) -> bool:
    """Return whether a contender is mtbert."""
    return name.startswith("mtbert ")


def speed_tables(values: dict[str, Any]) -> list[Table]:
    """Return a table of texts per second for each number of threads and length, of int8's losses, and of ten heads."""
    tables = []
    keys = dict.fromkeys((row["threads"], row["texts"]) for row in values["rows"])
    for threads, texts in keys:
        rows = [row for row in values["rows"] if (row["threads"], row["texts"]) == (threads, texts)]
        names = list(rows[0]["texts/s"])
        body = [[name, *(row["texts/s"][name] for row in rows)] for name in names]
        title = f"{texts.capitalize()} texts, {threads} thread{'s' if threads > 1 else ''}: texts per second"
        tables.append(Table(title, ["", *(f"batch {row['batch']}" for row in rows)], body))
    losses = [
        [name, head["task"], head["metric"], head["fp32"], head["int8"], f"{head['lost']:+.2f}"]
        for name, quantised in values["int8"].items()
        for head in quantised["heads"]
    ]
    tables.append(Table("int8 on dev rows", ["", "task", "metric", "fp32", "int8", "points lost"], losses))
    if values["ten heads"]:
        body = [[row["precision"], row["batch"], row["ratio"]] for row in values["ten heads"]]
        tables.append(Table("Ten heads: time over that of one", ["onnxruntime", "batch", "ratio"], body))
    return tables


def bars(values: dict[str, Any], instructions: str) -> list[dict[str, Any]]:
    """Return every bar with its figure and whether it holds; int8 counts only if no head loses more than half a point.

    Args:
        values: the figures, as inference.py writes them.
        instructions: those that decide the speed of int8.
    """
    within = [
        f"mtbert {name}"
        for name, quantised in values["int8"].items()
        if all(head["lost"] <= LOST for head in quantised["heads"])
    ]
    judged = []

    def add(bar: str, figure: float, least: float) -> None:
        judged.append({"bar": bar, "figure": figure, "least": least, "held": figure >= least})

    wanted = {1: AT_ONE, 32: AT_32.get(instructions, AT_32_VNNI)}
    for row in values["rows"]:
        where, rates = f"{row['texts']} texts, batch {row['batch']}, {row['threads']} thread(s)", row["texts/s"]
        best = max((rates[name] for name in within), default=0.0)
        if row["batch"] in wanted:
            add(f"int8 over torch in fp32: {where}", best / rates["mtbert torch"], wanted[row["batch"]])
        own = max(rates[name] for name in rates if is_ours(name) and ("int8" not in name or name in within))
        add(f"over the fastest peer: {where}", own / max(rates[name] for name in rates if not is_ours(name)), 1.0)
    for row in values["ten heads"]:
        where = f"{row['precision']}, batch {row['batch']}"
        ratio = row["ratio"]
        judged.append({"bar": f"ten heads: {where}", "figure": ratio, "most": TEN_HEADS, "held": ratio <= TEN_HEADS})
    return judged
