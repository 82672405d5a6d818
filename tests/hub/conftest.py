"""A hub on this machine, a checkpoint to push to it, and client processes with settings of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOKEN, STRANGER = "hf_owner", "hf_stranger"
LIMIT = 300  # seconds that one job of a client may take
NOT_FOR_LOADING = ("mtbert", "datasets", "accelerate", "peft", "evaluate", "sklearn", "scipy", "pandas")


TEXTS = ["the cat sleeps .", "a dog", "is the old house not very good ?"]
PAIRS = [["the cat", "a dog"], ["a bird flies", "fish"]]


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"hub_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class ClientError(Exception):
    """What a job raised: the names of its classes, and its message."""

    def __init__(self, answer: dict):
        super().__init__(f"{answer['error'][0]}: {answer['message']}\n{answer['traceback']}")
        self.kinds, self.message = answer["error"], answer["message"]


class Client:
    """A Python process that runs code and answers with what it leaves in `result`."""

    def __init__(self, endpoint: str, home: Path, *blocked: str, **environment: str):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
        settings = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            **({} if "mtbert" in blocked else {"PYTHONPATH": str(ROOT)}),
            **environment,
        }
        self.log = (home / "log.txt").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "client.py"), *blocked],
            env={**kept, **settings},
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def run(self, code: str):
        """Run code in the process; names stay from one job to the next. Raises ClientError if the code raised."""
        self.process.stdin.write(json.dumps(textwrap.dedent(code)) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"the client ended: {self.log.read()[-4000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(answer)
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait(LIMIT)
        self.log.close()


@pytest.fixture(scope="session")
def server():
    """The module `server.py`."""
    return load("server")


@pytest.fixture(scope="session")
def hub(server):
    """A running hub with one owner, `ada`, and a stranger, `bob`."""
    with server.Hub({TOKEN: "ada", STRANGER: "bob"}).running() as running:
        yield running


@pytest.fixture
def client_error():
    """The class of what a client's job raises."""
    return ClientError


@pytest.fixture(scope="session")
def make_client(hub, tmp_path_factory):
    """A function: blocked modules, environment → a client process; all end with the session."""
    started = []

    def make(*blocked: str, home: Path | None = None, **environment: str) -> Client:
        home = home or tmp_path_factory.mktemp("home")
        started.append(Client(hub.endpoint, home, *blocked, **{"HF_TOKEN": TOKEN, **environment}))
        return started[-1]

    yield make
    for each in started:
        each.close()


@pytest.fixture(scope="session")
def owner(make_client):
    """A client with mtbert, logged in as `ada`."""
    return make_client()


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """The cache of the client without mtbert."""
    return tmp_path_factory.mktemp("visitor")


@pytest.fixture(scope="session")
def visitor(make_client, home):
    """A client with transformers and torch, but without mtbert and what else it asks for; with a cache of its own."""
    return make_client(*NOT_FOR_LOADING, home=home)


@pytest.fixture(scope="session")
def code_files() -> set[str]:
    """The files of code in a repository."""
    return {file.name for file in (ROOT / "mtbert" / "modeling").glob("[!_]*.py")}


@pytest.fixture(scope="session")
def all_files(code_files) -> set[str]:
    """Everything in a repository of a model."""
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    return {".gitattributes", "README.md", "config.json", "model.safetensors", *tokenizer, *code_files}


@pytest.fixture(scope="session")
def logits_of():
    """A function: a model's name in a client → the job that leaves its logits of all tasks in `result`."""

    def job(model: str = "model", arguments: str = "") -> str:
        rows = [f"{model}.predict({rows}, {arguments}tasks='all')" for rows in (TEXTS, PAIRS)]
        return f"found = {' | '.join(rows)}\nresult = {{name: each.logits.tolist() for name, each in found.items()}}"

    return job
