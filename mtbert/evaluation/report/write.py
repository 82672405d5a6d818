"""Write a report's folder: report.html, which needs no other file, report.json with its numbers, and the figures."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from ...errors import InputError
from ...files import refuse_path, write_text, writing_file, writing_folder
from ...modeling.display import display, each_text, masked
from . import figures
from .course import pretraining_losses, read_run
from .page import overview_notes, sections
from .parts import Picture, Section, shown
from .summary import Summary, summary
from .svg import inline

HTML, NUMBERS, FIGURES = "report.html", "report.json", "figures"
DPI = 110
LOOK: Any = {  # of all figures of a report
    "text.parse_math": False,  # a class may be called $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.edgecolor": "#777777",
    "grid.alpha": 0.5,
    "legend.frameon": False,
}
LONGEST_NAME = 200  # most characters of a file's name


def check_folder(folder: str | Path, overwrite: bool = False) -> None:
    """Check that a report may be written to a folder.

    The folder must be new or empty, or with `overwrite` contain an older report.

    Raises:
        ValueError: the folder contains other files, or `folder` is a file.
    """
    refuse_path(folder, "the report's folder (--output)")
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise InputError(f"{folder} has files in it; give another folder (--output), or --overwrite")
        if not (folder / NUMBERS).is_file():
            raise InputError(f"{folder} has files in it that are no report; give another folder (--output)")
    elif folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder (--output)")


def write_report(folder: str | Path, numbers: Mapping[str, Any], overwrite: bool = False) -> Path:
    """Write a report.

    Args:
        folder: the report's folder; it is created.
        numbers: as for `sections`.
        overwrite: whether to replace an older report in the folder.

    Returns:
        The path of the HTML file.

    Raises:
        ValueError: see `check_folder`.
    """
    check_folder(folder, overwrite)
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(LOOK):
        shown_numbers = each_text(display, numbers)
        page = sections(shown_numbers)
        pictures: dict[str, bytes] = {}
        drawn: dict[str, list[str]] = {}
        for section in page:
            for item in section.items:
                if isinstance(item, Picture):
                    pictures[item.name] = _png(item)
                    if item.on_page:
                        drawn[item.name] = _svg(item, f"f{len(drawn)}", section.title)
    html = render(summary(shown_numbers, overview_notes(shown_numbers)), page, drawn)  # before the first file
    with writing_folder(folder, overwrite) as part:
        (part / FIGURES).mkdir()
        for name, data in pictures.items():
            (part / FIGURES / _file(name)).write_bytes(data)
        (part / NUMBERS).write_text(_json(numbers), encoding="utf-8")
        (part / HTML).write_text(html, encoding="utf-8")
    return folder / HTML


def write_figure(
    folder: str | Path,
    name: str,
    numbers: Mapping[str, Any],
    draw: Callable[[Mapping[str, Any]], Figure],
    kind: str = "png",
) -> None:
    """Write numbers as `<name>.json`, and what `draw` makes of them as `<name>.<kind>`; existing files are replaced.

    Args:
        kind: `png`, or `svg`: then words stay words, which a reader can search and copy.
    """
    write_text(Path(folder, f"{name}.json"), _json(numbers))
    settings: Any = {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": name}
    with rc_context(settings), writing_file(Path(folder, f"{name}.{kind}"), "wb") as file:
        _save(draw(each_text(display, numbers)), file, kind)


def write_pretraining_losses(folder: str | Path) -> None:
    """Write `losses.json` and `losses.png` into the folder of a pre-training; nothing if it logged no loss."""
    losses = pretraining_losses(read_run(folder).log)
    if losses is not None:
        write_figure(folder, "losses", losses, figures.pretraining_losses)


def render(first: Summary, found: list[Section], drawn: Mapping[str, list[str]]) -> str:
    """Render the page as HTML.

    Args:
        first: the first screen.
        found: the sections below it.
        drawn: name of a picture → its panels as SVG elements.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = shown
    environment.tests["number"] = lambda value: value is None or not isinstance(value, str)
    read = resources.files(__package__).joinpath
    template = environment.from_string(read("report.html.jinja").read_text("utf-8"))
    style = Markup(read("style.css.jinja").read_text("utf-8"))  # nosec B704
    # matplotlib has escaped the texts in its figures
    panels = {name: [Markup(svg) for svg in svgs] for name, svgs in drawn.items()}  # nosec B704
    return template.render(first=first, chapters=_chapters(found), panels=panels, style=style)


def _chapters(found: list[Section]) -> list[list[Section]]:
    """Group sections of level 3 with the section of level 2 before them."""
    chapters: list[list[Section]] = []
    for section in found:
        if section.level == 2 or not chapters:
            chapters.append([])
        chapters[-1].append(section)
    return chapters


def jsonable(value: Any) -> Any:
    """Convert to plain JSON values: arrays become lists, NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(numbers: Mapping[str, Any]) -> str:
    return json.dumps(each_text(masked, jsonable(numbers)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _png(picture: Picture) -> bytes:
    stream = io.BytesIO()
    _save(picture.figure, stream)
    return stream.getvalue()


def _svg(picture: Picture, prefix: str, title: str) -> list[str]:
    return inline(picture.figure, picture.name, prefix, f"{title}: {picture.name}")


def _save(figure: Figure, file: IO[bytes], kind: str = "png") -> None:
    metadata = {"Software": None} if kind == "png" else {"Date": None}  # equal numbers give equal files
    figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)


def _file(name: str) -> str:
    file = quote(name, safe="")  # a class or a column may be called anything
    if len(file) > LONGEST_NAME:
        file = f"{file[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{file}.png"
