"""A small model hub on 127.0.0.1, for the real clients of huggingface_hub, transformers and peft.

It answers what they ask when they create a repository, push to it and load from it: regular files inside a commit,
large files (Git LFS) through a storage on another port, private repositories, tokens, revisions, and the validation of
a model card's metadata. Everything is kept in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from model_cards import card_problems

LARGE = (".safetensors", ".pt", ".pth", ".bin", ".onnx", ".parquet")


def git_sha1(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """A repository: files by commit, commits by branch.

    Attributes:
        private: whether only its owner sees it.
        commits: commit → path → content, and for large files also (path → sha256) in `large`.
        branches: name → commit.
        messages: those of the commits, in order.
    """

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, dict[str, str]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], large: dict[str, str], message: str) -> str:
        """Put a new state of all files onto a branch."""
        oid = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[oid], self.large[oid], self.branches[branch] = files, large, oid
        self.messages.append(message)
        return oid

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or a commit's name stands for."""
        return self.branches.get(revision, revision if revision in self.commits else None)


class Hub:
    """The server's state and its two ports.

    Attributes:
        tokens: token → user.
        repos: `user/name` → Repo.
        blobs: sha256 → content of large files.
        requests: (method, path) of all requests so far.
        gone_at: a part of `METHOD /path`; the request that has it, and all later ones, get no answer.
        answers: a part of `METHOD /path` → the status that requests which have it are refused with.
    """

    def __init__(self, tokens: dict[str, str]):
        self.tokens = tokens
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.gone_at: str | None = None
        self.gone = False
        self.answers: dict[str, int] = {}
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler(kind)) for kind in (_Api, _Storage)]
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def _handler(self, kind: type) -> type:
        return type(kind.__name__, (kind,), {"hub": self})

    @contextmanager
    def running(self) -> Iterator[Hub]:
        """Answer requests until the block ends."""
        threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in self._servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            for server in self._servers:
                server.shutdown()
                server.server_close()

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Path → content of a repository."""
        found = self.repos[repo]
        return found.commits[found.resolve(revision)]


class _Handler(BaseHTTPRequestHandler):
    """What both ports share."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, self.path))
        request = f"{self.command} {self.path}"
        if self.hub.gone_at is not None and self.hub.gone_at in request:
            self.hub.gone = True
        if self.hub.gone:
            self.close_connection = True
            self.connection.close()
            return
        for part, status in self.hub.answers.items():
            if part in request:
                return self.fail(status, "", f"{status} as asked for")
        self.route()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def send(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value, code: int = 200, **headers: str) -> None:
        self.send(code, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def fail(self, code: int, error: str, message: str) -> None:
        self.json({"error": message}, code, X_Error_Code=error, X_Error_Message=message)

    def content(self, content: bytes, **headers: str) -> None:
        """A file, or the part of it that is asked for."""
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            where = f"bytes {first}-{last}/{len(content)}"
            self.send(206, content[first : last + 1], Content_Range=where, **headers)
        else:
            self.send(200, content, Accept_Ranges="bytes", **headers)


class _Storage(_Handler):
    """Large files, by their sha256; without authentication, like signed links."""

    def route(self) -> None:
        name = urlsplit(self.path).path.lstrip("/")
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != name:
                return self.send(400)
            self.hub.blobs[name] = self.body
            return self.send(200)
        if name not in self.hub.blobs:
            return self.send(404)
        return self.content(self.hub.blobs[name], ETag=f'"{name}"')


class _Api(_Handler):
    """Repositories, their files, and the validation of cards."""

    ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)", "branch"),
        ("GET", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree"),
        ("GET", r"/api/models/(?P<repo_id>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "info"),
        ("POST", r"/(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("POST", r"/(?P<repo_id>[^/]+/[^/]+)\.git/verify", "verify"),
        ("GET", r"/(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )
    WRITING = ("preupload", "commit", "branch", "batch", "verify")

    def route(self) -> None:
        path, method = urlsplit(self.path).path, "GET" if self.command == "HEAD" else self.command
        for expected, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == expected:
                values = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                return self.checked(name, values)
        return self.fail(404, "NotFound", f"no such route: {self.command} {path}")

    def checked(self, name: str, values: dict[str, str]) -> None:
        """Who asks, whether they may, and whether the repository and its revision are there."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        user = self.hub.tokens.get(token)
        if token and user is None:
            return self.fail(401, "", "Invalid credentials in Authorization header")
        if "repo_id" not in values:
            return getattr(self, name)(user)
        owner = values["repo_id"].partition("/")[0]
        repo = self.hub.repos.get(values["repo_id"])
        if repo is None or (repo.private and user != owner):
            return self.fail(401 if user is None else 404, "RepoNotFound", "Repository not found")
        if name in self.WRITING and user is None:
            return self.fail(401, "", "Invalid username or password.")
        if name in self.WRITING and user != owner:
            return self.fail(403, "", f"You don't have the rights to write to {values['repo_id']}")
        if name in ("tree", "info", "resolve"):
            values["revision"] = repo.resolve(values.get("revision", "main"))
            if values["revision"] is None and repo.commits:
                return self.fail(404, "RevisionNotFound", "Invalid rev id")
        return getattr(self, name)(repo, **values)

    # ---- without a repository ----

    def whoami(self, user: str | None) -> None:
        if user is None:
            return self.fail(401, "", "Invalid username or password.")
        return self.json({"name": user, "type": "user", "orgs": []})

    def create(self, user: str | None) -> None:
        asked = json.loads(self.body)
        owner = asked.get("organization") or user
        if user is None:
            return self.fail(401, "", "Invalid username or password.")
        if owner != user:
            return self.fail(403, "", f'You don\'t have the rights to create a model under the namespace "{owner}"')
        name = f"{owner}/{asked['name']}"
        url = {"url": f"{self.hub.endpoint}/{name}"}
        if name in self.hub.repos:
            return self.json({"error": "You already created this model repo", **url}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repos[name] = repo = Repo(private=private)
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, {}, "initial commit")
        return self.json(url)

    def validate(self, user: str | None) -> None:
        found = card_problems(json.loads(self.body)["content"])
        errors = [{"message": each} for each in found]
        return self.json({"errors": errors, "warnings": []}, 400 if found else 200)

    # ---- reading ----

    def info(self, repo: Repo, *, revision: str | None = None, **values) -> None:
        files = repo.commits.get(revision, {})
        siblings = [{"rfilename": path} for path in files]
        answer = {
            "id": values["repo_id"],
            "modelId": values["repo_id"],
            "sha": revision,
            "siblings": siblings,
            "tags": [],
        }
        return self.json({**answer, "private": repo.private, "author": values["repo_id"].partition("/")[0]})

    def tree(self, repo: Repo, *, revision: str | None = None, path: str = "", **values) -> None:
        if values.get("expand"):
            return self.fail(400, "", "expand is not implemented")
        below = f"{path}/" if path else ""
        found = []
        for name, content in repo.commits.get(revision, {}).items():
            if not name.startswith(below):
                continue
            entry = {"type": "file", "path": name, "size": len(content), "oid": git_sha1(content)}
            if name in repo.large[revision]:
                sha = repo.large[revision][name]
                entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
            found.append(entry)
        if path and not found:
            return self.fail(404, "EntryNotFound", "Entry not found")
        return self.json(found)

    def resolve(self, repo: Repo, *, revision: str | None = None, path: str = "", **values) -> None:
        files = repo.commits.get(revision, {})
        if path not in files:
            return self.fail(404, "EntryNotFound", "Entry not found")
        if path in repo.large[revision]:
            sha = repo.large[revision][path]
            link = {"X_Linked_Etag": f'"{sha}"', "X_Linked_Size": str(len(files[path])), "X_Repo_Commit": revision}
            return self.send(302, Location=f"{self.hub.storage}/{sha}", **link)
        return self.content(files[path], ETag=f'"{git_sha1(files[path])}"', X_Repo_Commit=revision)

    # ---- writing ----

    def branch(self, repo: Repo, *, revision: str, **values) -> None:
        if revision in repo.branches:
            return self.json({"error": "Reference already exists"}, 409)
        repo.branches[revision] = repo.branches["main"]
        return self.json({})

    def preupload(self, repo: Repo, *, revision: str, **values) -> None:
        commit = repo.resolve(revision)
        if commit is None:
            return self.fail(404, "RevisionNotFound", "Invalid rev id")
        answer = []
        for each in json.loads(self.body)["files"]:
            path = each["path"]
            mode = "lfs" if path.endswith(LARGE) else "regular"
            there = repo.commits[commit].get(path)
            oid = None if there is None else repo.large[commit].get(path, git_sha1(there))
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self.json({"files": answer})

    def batch(self, repo: Repo, **values) -> None:
        answer = []
        for each in json.loads(self.body)["objects"]:
            sha = each["oid"]
            if sha not in self.hub.blobs:
                verify = {"href": f"{self.hub.endpoint}/{values['repo_id']}.git/verify"}
                each["actions"] = {"upload": {"href": f"{self.hub.storage}/{sha}"}, "verify": verify}
            answer.append(each)
        return self.json({"transfer": "basic", "objects": answer})

    def verify(self, repo: Repo, **values) -> None:
        asked = json.loads(self.body)
        if len(self.hub.blobs.get(asked["oid"], b"")) != asked["size"]:
            return self.fail(404, "", "The object was not uploaded")
        return self.json({"message": "ok"})

    def commit(self, repo: Repo, *, revision: str, **values) -> None:
        parent = repo.resolve(revision)
        if parent is None:
            return self.fail(404, "RevisionNotFound", "Invalid rev id")
        files, large, message = dict(repo.commits[parent]), dict(repo.large[parent]), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
                continue
            path = value["path"]
            if entry["key"] == "file":
                files[path] = base64.b64decode(value["content"])
                large.pop(path, None)
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self.fail(400, "", f"{path}: the object was not uploaded")
                files[path], large[path] = self.hub.blobs[value["oid"]], value["oid"]
            else:
                for name in [each for each in files if each == path or each.startswith(f"{path.rstrip('/')}/")]:
                    del files[name]
                    large.pop(name, None)
        oid = repo.commit(revision, files, large, message)
        return self.json({"commitUrl": f"{self.hub.endpoint}/{values['repo_id']}/commit/{oid}", "commitOid": oid})
