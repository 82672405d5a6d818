"""Take the pictures of the documentation, in Chromium:

    python tests/support/take_pictures.py RUN docs/images [--only report]

RUN is the folder of a run that has a report. If `make docs` has built the site, its first page is taken, too.
`--only report` takes the pictures of the report alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from browser import Page, browsing
from PIL import Image
from served import serving

SITE = Path(__file__).resolve().parents[2] / "build" / "docs" / "index.html"
TEXT = "The staff went out of their way to help us, and the soup was wonderful."
# name of a picture → width, light or dark
REPORTS = {"report": (1280, "light"), "report-dark": (1280, "dark"), "report-400": (400, "light")}


def take(page: Page, file: Path) -> None:
    """Write a picture of the window with 64 colours, which is a small file."""
    page.picture(file)
    Image.open(file).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size:,} bytes")


def take_report(page: Page, run: Path, folder: Path) -> None:
    """Take the first screen of a run's report."""
    for name, (width, scheme) in REPORTS.items():
        page.look(width, scheme)
        page.call("Emulation.setScrollbarsHidden", hidden=True)
        page.open((run / "report" / "report.html").resolve().as_uri())
        take(page, folder / f"{name}.png")


def take_answer(page: Page, url: str, folder: Path) -> None:
    """Take the page of a server with an answer."""
    page.look(1000, "light")
    page.open(url)
    page.value("document.getElementById('first').focus()")
    page.type(TEXT)
    page.press("Enter", 13, control=True)
    page.wait("document.querySelectorAll('article').length > 0")
    take(page, folder / "serve.png")


def main(run: Path, folder: Path, only_report: bool) -> None:
    """Take all pictures, or those of the report."""
    with tempfile.TemporaryDirectory() as temporary, browsing(Path(temporary) / "profile") as page:
        take_report(page, run, folder)
        if only_report:
            return
        with serving(run, Path(temporary) / "log") as server:
            take_answer(page, server.url, folder)
        if SITE.is_file():
            page.look(1200, "light")
            page.open(SITE.as_uri())
            take(page, folder / "site.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with a report")
    parser.add_argument("folder", type=Path, help="folder of the pictures")
    parser.add_argument("--only", choices=("report",), help="take these pictures only")
    arguments = parser.parse_args()
    main(arguments.run, arguments.folder, arguments.only == "report")
