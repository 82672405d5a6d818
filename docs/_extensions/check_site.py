"""Check a built site: every link within it leads to a page and an anchor, and no page needs a network.

python docs/_extensions/check_site.py build/docs
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# element → attribute with an address that a browser loads by itself
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}


@dataclass
class Page(HTMLParser):
    """The anchors, links and loaded files of a page, and its pictures without a text in their place."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given and (name == "id" or tag == "a")}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and LOADED[tag] in given:
            self.loaded.append(given[LOADED[tag]])
        if tag == "img" and not given.get("alt"):
            self.silent.append(given.get("src", ""))
        if tag == "link" and not {"canonical", "search", "next", "prev", "index"} & set(given.get("rel", "").split()):
            self.loaded.append(given.get("href", ""))


def read(file: Path) -> Page:
    """Read a page."""
    page = Page()
    page.feed(file.read_text(encoding="utf-8"))
    return page


def problems(folder: Path) -> Iterator[str]:
    """Yield a line for each link that leads nowhere, and each address outside the site that a browser would load."""
    pages = {file: read(file) for file in sorted(folder.rglob("*.html"))}
    for file, page in pages.items():
        where = file.relative_to(folder).as_posix()
        yield from (f"{where}: the picture {picture} has no text in its place (alt)" for picture in page.silent)
        for address in (*page.links, *page.loaded):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loaded and parts.scheme != "data":
                    yield f"{where}: loads {address} from elsewhere"
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or not target.is_relative_to(folder):
                yield f"{where}: {address} leads to no file"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{where}: {address} leads to no anchor"
    for file in sorted(folder.rglob("*.css")):
        for address in re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", file.read_text("utf-8")):
            yield f"{file.relative_to(folder).as_posix()}: loads {address} from elsewhere"


def main(folder: Path) -> int:
    """Print what is wrong with a site; return 1 if anything is."""
    lines = list(problems(folder.resolve()))
    print("\n".join(lines) or f"{len(list(folder.rglob('*.html')))} pages: all links lead somewhere")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
