"""Figures as SVG inside the page: words stay words, and the page's style decides on the colours."""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from .figures import COLOURS

# Colour of a figure → value of the page's style, which differs in light and dark.
VARIABLES = {colour.lower(): f"var(--c{number})" for number, colour in enumerate(COLOURS[:-1], start=1)}
VARIABLES |= {"#000000": "currentColor", "#ffffff": "var(--ground)"}
VARIABLES |= dict.fromkeys(("#b0b0b0", "#cccccc", "#777777"), "var(--line)")
PIXELS = 1.2  # CSS pixels of a point: text of 10 points is as large as the page's small text
MARGIN = 0.06  # inches around a panel
MOST_MARKS = 400  # a figure with more points in one cloud embeds a picture of them


def inline(figure: Figure, name: str, prefix: str, title: str) -> list[str]:
    """Return the panels of a figure as SVG elements for an HTML page.

    Panels beside each other become elements of their own, so that a narrow page can show one below the other.

    Args:
        figure: the figure.
        name: its name, the salt of the hashes in it, so that equal figures give equal texts.
        prefix: of all ids; the page's prefixes differ.
        title: what the figure shows, for readers who do not see it.
    """
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the reader's browser draws the words
        for axes in figure.axes:
            for line in axes.lines:
                if np.size(line.get_xdata()) > MOST_MARKS and line.get_linestyle() == "None":
                    line.set_rasterized(True)
        boxes = _panels(figure)
        texts = []
        for number, (visible, box) in enumerate(boxes):
            for axes in figure.axes:
                axes.set_visible(axes in visible)
            stream = io.BytesIO()
            figure.savefig(stream, format="svg", transparent=True, bbox_inches=box, metadata={"Date": None})
            more = visible[0].get_title() if len(boxes) > 1 else ""
            label = f"{title}: {more}" if more else title
            texts.append(for_page(stream.getvalue().decode("utf-8"), f"{prefix}-{number}-", label))
        for axes in figure.axes:
            axes.set_visible(True)
    return texts


def _panels(figure: Figure) -> list[tuple[list[Any], Bbox | None]]:
    """Return the axes and the box, in inches, of each panel that can stand alone; the whole figure if none can."""
    figure.draw_without_rendering()  # places the axes
    axes = list(figure.axes)
    beside = len(axes) == 2 and axes[0].get_position().x1 < axes[1].get_position().x0
    if not beside or figure.legends:
        return [(axes, None)]
    figure.set_layout_engine("none")
    inches = figure.dpi_scale_trans.inverted()
    panels: list[tuple[list[Any], Bbox | None]] = []
    for each in axes:
        box = each.get_tightbbox()
        panels.append(([each], None if box is None else box.transformed(inches).padded(MARGIN)))
    return panels


def for_page(svg: str, prefix: str, title: str) -> str:
    """Turn a file of matplotlib into an element of an HTML page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], prefix), svg)  # words are not changed
    svg = re.sub(r">\s*\n\s*<", "><", svg)
    view = re.search(r'viewBox="([^"]*)"', svg[: svg.index(">")])
    box = view[1] if view else "0 0 1 1"
    width = float(box.split()[2]) * PIXELS
    head = f'<svg class="plot" viewBox="{box}" style="width: {width:.0f}px" role="img" aria-labelledby="{prefix}t">'
    return f'{head}<title id="{prefix}t">{escape(title)}</title>{svg[svg.index(">") + 1 :].strip()}'


def _tag(tag: str, prefix: str) -> str:
    """Change the attributes of one tag."""
    if tag.startswith("<g "):
        tag = re.sub(r' id="[^"]*"', "", tag)
    tag = tag.replace("xlink:href", "href").replace(' id="', f' id="{prefix}')
    tag = tag.replace('href="#', f'href="#{prefix}').replace("url(#", f"url(#{prefix}")
    tag = re.sub(r'style="([^"]*)"', lambda match: f'style="{_style(match[1])}"', tag)
    return re.sub(r'(?<= d=")[^"]*|(?<= transform=")[^"]*|(?<= [xy]=")[^"]*', lambda match: _rounded(match[0]), tag)


def _rounded(numbers: str) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"\s+", " ", numbers).strip())


def _style(style: str) -> str:
    """Replace colours by the page's variables, and fonts by the page's font."""
    style = re.sub(r"#[0-9a-f]{6}", lambda match: VARIABLES.get(match[0], match[0]), style)
    style = re.sub(r"font: ([^;]*?)([\d.]+px)[^;]*", _font, style)
    return style.strip()


def _font(match: re.Match[str]) -> str:
    words = match[1].split()
    kept = "".join(f"font-{key}: {word}; " for key, word in (("style", "italic"), ("weight", "bold")) if word in words)
    return f"{kept}font-size: {match[2]}"
