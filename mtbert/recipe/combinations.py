"""What combines with what, as the tables that the documentation shows: `python -m mtbert.recipe.combinations`."""

from __future__ import annotations

from ..training.distributed.process_group import REMEDY, SWITCHES
from .rules import COMBINATIONS, REFUSED_TRAINING


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


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    print(combination_tables())
