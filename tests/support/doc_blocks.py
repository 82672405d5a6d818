"""Code blocks of the documentation's pages, and how each kind of block is run.

A block whose first line is `# not run: WHY` is not run: it is an output, or needs what no test has. One whose first
line is `# make soak runs this` takes long, and runs there only.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from served import Served, serving

from mtbert.cli.main import main as run_command
from mtbert.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = ("python", "yaml", "bash")
NOT_RUN, LONG = "# not run: ", "# make soak runs this"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<code>.*?)^ *(?P=fence) *$", re.M | re.S)
PORT = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text without indentation, and the line of its page where it begins."""

    language: str
    code: str
    line: int

    @property
    def first(self) -> str:
        return self.code.partition("\n")[0]

    @property
    def is_run(self) -> bool:
        return not self.first.startswith(NOT_RUN)

    @property
    def is_long(self) -> bool:
        return self.first.startswith(LONG)

    @property
    def file(self) -> str | None:
        """The name of the file that a block of YAML is, which its first line says: `# mine.yaml`."""
        name = re.fullmatch(r"# ([\w/.-]+\.yaml)", self.first)
        return name[1] if name and self.language == "yaml" else None


def blocks(text: str) -> list[Block]:
    """The blocks of code of a page; directives of the site, such as `{toctree}`, are none."""
    found = []
    for match in FENCE.finditer(text):
        language = match["language"].strip()
        if not language.startswith("{"):
            code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
            found.append(Block(language, code, text.count("\n", 0, match.start()) + 1))
    return found


@dataclass
class Reader:
    """Runs the blocks of one page in the current folder, as a reader would who has a clone there.

    Attributes:
        page: name of the page, for errors.
        replaced: texts of blocks that are replaced, such as the encoder's name by a folder.
        encoder: folder of the encoder that `$(mtbert encoder)` prints.
        names: the namespace of the page's Python.
        servers: servers that the page has started; a page asks the last one.
    """

    page: str
    replaced: dict[str, str]
    encoder: str
    names: dict[str, Any] = field(default_factory=dict)
    servers: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    server: Served | None = None
    written: set[str] = field(default_factory=set)
    trained: set[str] = field(default_factory=set)

    def run(self, block: Block) -> None:
        """Run a block; an error names the page and the line."""
        code = block.code
        for old, new in self.replaced.items():
            code = code.replace(old, new)
        try:
            getattr(self, f"run_{block.language}")(code, block)
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and error.code in (0, None):
                return
            raise AssertionError(f"{self.page}:{block.line}: {type(error).__name__}: {error}") from error

    def run_python(self, code: str, block: Block) -> None:
        """Execute Python in the page's namespace."""
        if self.server is not None:
            code = code.replace(PORT, self.server.url)
        exec(compile("\n" * block.line + shorter(code), self.page, "exec"), self.names)

    def run_yaml(self, code: str, block: Block) -> None:
        """Write a recipe to the file that its first line names."""
        assert block.file, "a block of YAML begins with the name of its file: # mine.yaml"
        Path(block.file).parent.mkdir(parents=True, exist_ok=True)
        Path(block.file).write_text(shorter(code), encoding="utf-8")
        self.written.add(block.file)

    def run_bash(self, code: str, block: Block) -> None:
        """Run lines of a shell, one command each."""
        for line in commands(code):
            self.command(line)

    def command(self, line: str) -> None:
        """Run one command: mtbert's and Python's in this process; targets, extras and files are looked up."""
        if self.server is not None:
            line = line.replace(PORT, self.server.url)
        line = re.sub(r"\$\((?:mtbert encoder|python recipes/get_encoder\.py)\)", self.encoder, line)
        before, pipe, after = line.partition(" | mtbert ")
        said = None
        if pipe:
            said, line = " ".join(words(before)[1:]) + "\n", f"mtbert {after}"
        program, *arguments = words(line)
        output = arguments.pop() if ">" in arguments and arguments.pop(arguments.index(">")) else None
        with contextlib.ExitStack() as stack:
            if said is not None:
                stack.enter_context(_standard_input(said))
            if output:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(output, "w"))))
            getattr(self, f"command_{program}")(arguments)
        if output and output.endswith(".yaml"):  # a recipe of the package names the encoder and data of this machine
            text = re.sub(
                r"^data_dir: .*$", "data_dir: recipes/sample_data", Path(output).read_text("utf-8"), flags=re.M
            )
            Path(output).write_text(shorter(text), encoding="utf-8")
            self.name_encoder(output)

    def command_mtbert(self, arguments: list[str]) -> None:
        if arguments[0] == "serve":
            port = arguments.index("--port") if "--port" in arguments else None
            options = arguments[1:] if port is None else arguments[1:port] + arguments[port + 2 :]
            log = Path(f"server-{id(arguments)}.log")
            self.server = self.servers.enter_context(serving(options[0], log, *options[1:]))
            return
        self.trained |= set(arguments)
        status = run_command(arguments)
        assert status == 0, f"mtbert {' '.join(arguments)} ended with status {status}"
        if arguments[0] == "init":  # the draft names a hub's encoder where none is installed
            self.name_encoder(arguments[arguments.index("--output") + 1])

    def name_encoder(self, recipe: str) -> None:
        """Let a recipe's file name the encoder of the tests."""
        text = Path(recipe).read_text(encoding="utf-8")
        Path(recipe).write_text(
            re.sub(r"^encoder: .*$", f"encoder: {self.encoder}", shorter(text), flags=re.M), encoding="utf-8"
        )

    def command_python(self, arguments: list[str]) -> None:
        if arguments[:2] == ["-m", "mtbert"]:
            return self.command_mtbert(arguments[2:])
        self.script(arguments)

    def command_accelerate(self, arguments: list[str]) -> None:
        """Check accelerate's own options with its parser, and run the script in this process."""
        from accelerate.commands.launch import launch_command_parser

        args = launch_command_parser().parse_args(arguments[1:])
        assert args.config_file is None or Path(args.config_file).is_file(), args.config_file
        if args.module:
            assert args.training_script == "mtbert.cli.finetune"
            return self.command_mtbert(["finetune", *args.training_script_args])
        self.script([args.training_script, *args.training_script_args])

    def script(self, arguments: list[str]) -> None:
        """Run a script of the repository as the main program."""
        self.trained |= set(arguments)
        before = sys.argv
        sys.argv = list(arguments)
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as end:
            assert end.code in (0, None), end.code
        finally:
            sys.argv = before

    def command_curl(self, arguments: list[str]) -> None:
        """Ask the server; an answer without success is an error."""
        options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
        if "--json" in options:
            answer = httpx.post(arguments[0], json=json.loads(options["--json"]), timeout=60)
        else:
            answer = httpx.get(arguments[0], timeout=60)
        assert answer.status_code == 200, answer.text

    def command_pip(self, arguments: list[str]) -> None:
        """Look up the extras; a test installs nothing."""
        setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
        assert arguments[0] == "install", arguments
        for extra in re.findall(r"\[(\w+)\]", " ".join(arguments)):
            assert f"\n{extra} =\n" in setup, f"setup.cfg has no extra {extra}"

    def command_make(self, arguments: list[str]) -> None:
        """Look up the targets; tests of their own run what they call."""
        file = "Makefile"
        if arguments[0] == "-f":
            file, arguments = arguments[1], arguments[2:]
        makefile = (ROOT / file).read_text(encoding="utf-8")
        for word in arguments:
            assert "=" in word or f"\n{word}:" in makefile, f"the Makefile has no target {word}"

    def command_cat(self, arguments: list[str]) -> None:
        for name in arguments:
            print(Path(name).read_text(encoding="utf-8"))

    def finish(self) -> None:
        """Check the recipes that no command of the page has used, and stop the servers."""
        for name in sorted(self.written - self.trained):
            load_recipe(name)
        self.servers.close()


def shorter(text: str) -> str:
    """A recipe or program that trains for one epoch, or two steps."""
    text = re.sub(r"(num_train_epochs\W+)\d+", r"\g<1>1", text)
    return re.sub(r"(max_steps\W+)\d+", r"\g<1>2", text)


def cut(folder: Path, rows: int = 40) -> None:
    """Leave the first rows of each csv file of a folder."""
    for file in folder.glob("*.csv"):
        file.write_text("".join(file.read_text(encoding="utf-8").splitlines(True)[: rows + 1]), encoding="utf-8")


def commands(code: str) -> Iterator[str]:
    """The commands of a block of shell, with continued lines joined; comments are left out."""
    for line in code.replace("\\\n", " ").splitlines():
        if line.strip() and not line.strip().startswith("#"):
            yield line.strip()


def words(line: str) -> list[str]:
    """The words of a command as a shell splits them; `>` is a word, and a comment ends the line."""
    return shlex.split(line, comments=True)


@contextlib.contextmanager
def _standard_input(text: str) -> Iterator[None]:
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
    try:
        yield
    finally:
        sys.stdin = before
