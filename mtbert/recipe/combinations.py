"""What combines with what, as the tables that the documentation shows: `python -m mtbert.recipe.combinations`."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.arguments import REFUSED_TRAINING
from ..training.distributed.process_group import REMEDY, SWITCHES
from ..training.methods.rules import Rule, all_rules

UNTRAINED = "the random layers would not be trained; drop one of them"
# Of files and of stages, which recipes alone have.
RULES: tuple[Rule, ...] = (
    Rule(
        "tasks: none with data.dev",
        "training.eval_strategy: steps or epoch",
        lambda run: (
            run.value("training.eval_strategy") != "no" and not any(task.data.has_dev for task in run.tasks.values())
        ),
        "there is nothing to evaluate; give a task data.dev, or set eval_strategy: no",
    ),
    Rule(
        "tasks.*.data.unlabelled: texts",
        "tasks.*.balanced: true",
        lambda run: run.value("tasks.*.balanced") and run.value("tasks.*.data.unlabelled"),
        "a text without a label belongs to no class; take one of them",
    ),
    Rule(
        "model.freeze_encoder: true",
        "model.reinitialized_layers: 1 or more",
        lambda run: run.value("model.freeze_encoder") and run.value("model.reinitialized_layers"),
        UNTRAINED,
    ),
    Rule(
        "peft: any",
        "model.reinitialized_layers: 1 or more",
        lambda run: run.value("peft") and run.value("model.reinitialized_layers"),
        UNTRAINED,
    ),
    Rule(
        "stages: one or more",
        "training.resume_from_checkpoint: a folder",
        lambda run: (
            run.value("stages")
            and run.value("training.resume_from_checkpoint") not in (None, "true", "True", "latest", "auto")
        ),
        "what comes after that checkpoint belongs to the same run; write true, which takes the last one of all stages",
    ),
)
COMBINATIONS: tuple[Rule, ...] = (*all_rules(), *RULES)


def combination_tables() -> str:
    """Markdown tables of the rules: ways to launch, training arguments, and pairs of settings that are refused."""
    launches = [(f"`{switch}` ({name})", REMEDY) for switch, name in SWITCHES.items()]
    arguments = [(f"`training.{key}`", reason) for key, reason in REFUSED_TRAINING.items()]
    pairs = [(f"`{rule.when}`", f"`{rule.conflict}`", rule.reason) for rule in COMBINATIONS]
    return "\n\n".join(
        [
            _table(("refused way to launch", "why, and what instead"), launches),
            _table(("refused argument", "why"), arguments),
            _table(("with", "refused", "why, and what instead"), pairs),
        ]
    )


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    print(combination_tables())
