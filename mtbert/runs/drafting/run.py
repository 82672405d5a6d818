"""Draft a recipe for files, folders or a data set of a hub."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...data.compression import COMPRESSED
from ...data.readers import SUFFIXES
from ...errors import InputError
from ...modeling import encoder_loading
from ...modeling.task_spec import TaskSpec
from ...modeling.tokenization import length_limit
from ...recipe import Recipe
from ...recipe.yaml_layers import parse_yaml
from .files import SHEETS, find_tables
from .survey import Surveyed, find_leaks, survey
from .tables import HUB_NAME, SAMPLE, Table, read_hub, read_table
from .tasks import draft_table
from .wishes import Wishes
from .writing import Frame, recipe_text, summary


@dataclass(frozen=True)
class Drafted:
    """A drafted recipe.

    Attributes:
        text: the recipe's text.
        found: what was found, as lines for the terminal.
        command: the command that trains it.
    """

    text: str
    found: list[str]
    command: str


def draft(
    given: Sequence[str],
    output: Path,
    encoder: str,
    wishes: Wishes | None = None,
    subset: str | None = None,
    encoder_is_chosen: bool = True,
) -> Drafted:
    """Look at data and draft a recipe for it. The same data gives the same recipe.

    Args:
        given: files and folders, or the name of a data set on a hub.
        output: the file that the recipe is for; it is not written here.
        encoder: a folder or a name on a hub.
        wishes: what a person has chosen.
        subset: the subset of the data set on a hub.
        encoder_is_chosen: whether a person has named the encoder. Another one is looked for on this machine only.

    Raises:
        InputError: the data can not be read, or has no texts or no labels, or lacks what the wishes name.
        MissingFileError: a file does not exist.
        FileError: the data set of a hub can not be loaded.
    """
    wishes = wishes or Wishes()
    tables = _tables(given, subset)
    wishes.check_columns(dict.fromkeys(column.name for table in tables for column in table.columns))
    tokenizer, limit, about = _tokenizer(encoder, encoder_is_chosen)
    taken: set[str] = set()
    drafts = [draft for table in tables for draft in draft_table(table, wishes, len(tables) > 1, taken)]
    wishes.check_tasks(sorted(taken))
    surveyed = [survey(draft, tokenizer, limit) for draft in drafts if draft.tasks]
    command = f"mtbert finetune {shlex.quote(str(output))}"
    remarks = [about] if about else []
    remarks += _about_samples(surveyed)
    frame = Frame(command, encoder, str(Path("runs", output.stem)), _data_dir(tables), tuple(remarks))
    text = recipe_text(surveyed, find_leaks([table.draft for table in surveyed]), frame)
    Recipe.from_dict(parse_yaml(text, str(output))[0])
    return Drafted(text, summary(surveyed), command)


def _tables(given: Sequence[str], subset: str | None) -> list[Table]:
    """Read the given tables."""
    hub = [name for name in given if not os.path.exists(name) and _is_hub_name(name)]
    if hub:
        if len(given) > 1:
            raise InputError(f"{hub[0]!r} is no file or folder; a data set of a hub is given alone")
        return [read_hub(hub[0], subset)]
    if subset is not None:
        raise InputError(f"--subset is {subset!r}, but is for data sets of a hub")
    return [read_table(files) for files in find_tables(given)]


def _is_hub_name(name: str) -> bool:
    """Whether a name that is no file's may be a data set's: it is not in a folder, and has no suffix of a table."""
    folder, suffix = os.path.dirname(name), Path(name).suffix.lower()
    if folder and os.path.isdir(folder):
        return False
    return HUB_NAME.fullmatch(name) is not None and suffix not in (*SUFFIXES, *COMPRESSED, *SHEETS, ".txt")


def _tokenizer(encoder: str, chosen: bool) -> tuple[PreTrainedTokenizerBase | None, int | None, str]:
    """The encoder's tokenizer and its longest input; or None twice, and why there is none.

    Raises:
        InputError: the encoder is a folder without them.
    """
    where: dict[str, Any] = {} if chosen else {"local_files_only": True}
    try:
        tokenizer = encoder_loading.load_tokenizer(encoder, **where)
        config = encoder_loading.encoder_config(encoder, **where)
        return tokenizer, length_limit(TaskSpec("any", labels=2), tokenizer, config), ""
    except Exception as error:  # of many types: of a hub, of JSON, of the tokenizers library
        if os.path.isdir(encoder):
            reason = str(error).strip() or type(error).__name__
            raise InputError(f"--encoder is {encoder!r}, which can not be taken: {reason}") from error
        about = f"The tokenizer of {encoder} was not at hand; lengths were reckoned as 1.3 tokens a word."
        return None, None, about


def _about_samples(tables: Sequence[Surveyed]) -> list[str]:
    """A sentence on the tables of which a sample was looked at."""
    large = [table.draft.table.name for table in tables if len(table.draft.table.train) > SAMPLE]
    if not large:
        return []
    looked = f"{SAMPLE:,} rows at equal distances were looked at to tell columns apart and to measure lengths"
    return [f"Of {', '.join(large)}, {looked}; labels, repeated texts and leaks were counted in all rows."]


def _data_dir(tables: Sequence[Table]) -> str | None:
    """The folder that holds all files, as it was given; None if no file is read."""
    paths = [path for table in tables for sources in table.sources.values() for path in sources]
    folders = [path.parent for path in paths if isinstance(path, Path)]
    if not folders:
        return None
    if len({folder.is_absolute() for folder in folders}) > 1:
        folders = [folder.absolute() for folder in folders]
    return os.path.commonpath([str(folder) for folder in folders]) or "."
