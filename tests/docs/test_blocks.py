"""Every block of code of the README and of docs/ runs, in the order of its page, as a reader would run it."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from doc_blocks import ENCODER, LANGUAGES, PAGES, ROOT, Block, Reader, blocks, commands, cut

ELSEWHERE = {
    "docs/extending.md": "tests/recipes/test_extending.py",
    "docs/sources.md": "tests/docs/test_pages.py",
}
NAMES = {
    path.relative_to(ROOT).as_posix(): path for path in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "recipes/README.md")
}
BLOCKS = {name: blocks(path.read_text(encoding="utf-8")) for name, path in NAMES.items()}
# blocks that are not run, by page: outputs, other libraries' programs, and what needs a network or data
NOT_RUN = {
    "docs/choosing.md": 2,
    "docs/data.md": 1,
    "docs/from/adapters.md": 1,
    "docs/from/sentence_transformers.md": 1,
    "docs/from/setfit.md": 1,
    "docs/from/tasknet.md": 1,
    "docs/from/trainer.md": 1,
    "docs/guides/hub.md": 4,
    "docs/methods/results.md": 2,
    "docs/problem_types.md": 1,
    "docs/resuming.md": 1,
    "docs/scaling.md": 4,
    "docs/serving.md": 1,
    "docs/start/first_recipe.md": 2,
    "docs/study.md": 5,
    "recipes/README.md": 7,
}
TOGETHER = [name for name, found in BLOCKS.items() if any(block.is_run for block in found) and name not in ELSEWHERE]
LONG = [name for name in TOGETHER if any(block.is_long for block in BLOCKS[name])]
CASES = [*TOGETHER, *(pytest.param(f"{name}: long", marks=pytest.mark.soak) for name in LONG)]


@pytest.fixture(scope="session")
def runs(encoder_dir, tmp_path_factory) -> Path:
    """A folder with what pages go on from: docs/data/, recipes/, `runs/quickstart`, `runs/tickets` and its recipe."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "docs" / "data", folder / "docs" / "data")
    shutil.copytree(ROOT / "recipes" / "sample_data", folder / "recipes" / "sample_data")
    shutil.copy(ROOT / "accelerate_config.yaml", folder)
    for data in ("docs/data", "recipes/sample_data"):
        cut(folder / data)
    before = os.getcwd()
    os.chdir(folder)
    try:
        reader = Reader("runs", {ENCODER: encoder_dir}, encoder_dir)
        tickets = next(block for block in BLOCKS["docs/guides/tickets.md"] if block.file == "tickets.yaml")
        reader.run(tickets)
        lines = ["mtbert recipes quickstart > quickstart.yaml", "mtbert finetune quickstart.yaml"]
        reader.run(Block("bash", "\n".join([*lines, "mtbert finetune tickets.yaml"]), 0))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def reader(runs, encoder_dir, tmp_path, monkeypatch):
    """A function: name of a page → its reader, in a folder of its own."""
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # which a command may set
    readers = []

    def make(page: str) -> Reader:
        readers.append(Reader(page, {ENCODER: encoder_dir, "DIR_OR_HUB_NAME": encoder_dir}, encoder_dir))
        return readers[-1]

    yield make
    for each in readers:
        each.servers.close()


@pytest.mark.parametrize("case", CASES)
def test_the_blocks_of_a_page_run_in_their_order(case, reader, runs):
    name, _, long = case.partition(": ")
    if "runs/tickets" in _written(name):  # the page makes these itself
        shutil.rmtree("runs/tickets")
    if "runs/quickstart" in _written(name):
        shutil.rmtree("runs/quickstart")
    page = reader(name)
    for block in BLOCKS[name]:
        if block.is_run and (long or not block.is_long):
            page.run(block)
    page.finish()


def _written(name: str) -> set[str]:
    """The output folders of runs that a page trains under the names that other pages go on from."""
    found = set()
    for block in BLOCKS[name]:
        for folder, recipe in (("runs/tickets", "tickets.yaml"), ("runs/quickstart", "mine.yaml")):
            if block.language == "bash" and f"mtbert finetune {recipe}\n" in block.code:
                found.add(folder)
    return found


def test_every_block_is_of_a_language_that_runs_or_says_why_it_does_not():
    for name, found in BLOCKS.items():
        for block in found:
            where = f"{name}:{block.line}"
            assert block.language in LANGUAGES or not block.is_run, f"{where}: begin it with `# not run: WHY`"
            assert block.is_run or len(block.first) > 15, f"{where}: say why it is not run"


def test_no_code_is_written_in_a_way_that_this_test_does_not_see():
    for name, path in NAMES.items():
        text = path.read_text(encoding="utf-8")
        for form in (r"^ *~~~", r"^ *```+\{(code|code-block|sourcecode|literalinclude)\b", r"^> *```", r"<pre>"):
            assert not re.search(form, text, re.MULTILINE), f"{name}: write the block as ```python, ```yaml or ```bash"
        assert len(re.findall(r"^ *```", text, re.MULTILINE)) % 2 == 0, f"{name}: a block has no end"


def test_blocks_that_are_not_run_are_counted():
    """A page with another number of them is entered in `NOT_RUN`, so that none is left out by mistake."""
    counts = Counter(name for name, found in BLOCKS.items() for block in found if not block.is_run)
    assert dict(counts) == NOT_RUN


def test_pages_that_run_elsewhere_are_there():
    for name, test in ELSEWHERE.items():
        assert name in BLOCKS and (ROOT / test).is_file()


class TestReader:
    """How blocks are found and run."""

    PAGE = "a\n```python\nx = 1\n```\n1. b\n   ```bash\n   # not run: a reason\n   ls\n   ```\n```{toctree}\na\n```\n"

    def test_blocks_are_found_with_their_lines_and_without_directives(self):
        python, bash = blocks(self.PAGE)
        assert (python.language, python.code, python.line, python.is_run) == ("python", "x = 1\n", 2, True)
        assert (bash.code, bash.line, bash.is_run) == ("# not run: a reason\nls\n", 6, False)
        assert [block.language for block in blocks("````text\n```python\n```\n````\n")] == ["text"]

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("# a\nmtbert a \\\n  b # c\n\nmake x", ["mtbert a    b # c", "make x"]),
            ("echo 'a # b' | mtbert predict", ["echo 'a # b' | mtbert predict"]),
        ],
    )
    def test_commands_of_a_shell(self, code, expected):
        assert list(commands(code)) == expected

    @pytest.mark.parametrize(
        ("language", "code", "message"),
        [
            ("python", "x = 1\n1 / 0\n", "page.md:3: ZeroDivisionError"),
            ("bash", "mtbert finetune nowhere.yaml\n", "page.md:3: SystemExit: 2"),
            ("bash", "mtbert finetun x.yaml\n", "page.md:3: SystemExit"),
            ("bash", "make nothing\n", "the Makefile has no target nothing"),
            ("bash", "pip install 'mtbert[nothing]'\n", "setup.cfg has no extra nothing"),
            ("bash", "python recipes/nothing.py\n", "FileNotFoundError"),
            ("bash", "accelerate launch --no_such_option recipes/finetune.py\n", "page.md:3"),
            ("bash", "frobnicate\n", "command_frobnicate"),
            ("yaml", "encoder: x\n", "begins with the name of its file"),
        ],
    )
    def test_a_block_that_fails_names_its_page_and_line(self, tmp_path, monkeypatch, capsys, language, code, message):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(AssertionError, match=message):
            Reader("page.md", {}, "encoder").run(Block(language, code, 3))

    def test_a_recipe_that_no_command_uses_is_checked(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        page = Reader("page.md", {}, "encoder")
        page.run(Block("yaml", "# a.yaml\nencoder: x\nno_such_key: 1\n", 1))
        with pytest.raises(ValueError, match="no_such_key"):
            page.finish()
