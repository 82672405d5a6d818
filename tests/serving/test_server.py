"""A real server: its answers, limits, keys, logs, metrics and description."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from hypothesis import given, strategies as st
from malformed import tries
from served import same, serving

from mtbert import MtBertForMultiTask

TEXT, PAIR = "the cat sleeps", ["a dog runs", "a dog eats"]
SECRET = "quokka wombat numbat"  # a text that no log and no metric may hold


def error(response: httpx.Response) -> str:
    """The message of an answer that says what is wrong."""
    body = response.json()
    assert list(body) == ["error"] and response.headers["content-type"] == "application/json"
    return body["error"]


def post(server, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/predict", content=body, headers=headers, timeout=60)


def test_texts_and_pairs_are_answered_by_all_heads_that_fit(server, expected):
    response = server.ask(TEXT, PAIR, "")
    assert response.status_code == 200
    found = response.json()["predictions"]
    assert [list(each) for each in found] == [
        ["stars", "mood", "topics", "length"],
        ["same", "close"],
        ["stars", "mood", "topics", "length"],
    ]
    assert same(found, expected([TEXT, PAIR, ""]))
    assert {"set", "abstained"} < found[0]["stars"].keys() and "interval" in found[0]["length"]
    assert found[0]["stars"].keys() - {"set", "abstained"} == {"label", "confidence", "probabilities"}


def test_tasks_choose_the_heads_and_each_input_gets_those_that_fit(server, expected):
    (single, double) = expected([TEXT, PAIR])
    found = server.ask(TEXT, PAIR, tasks=["same", "mood"]).json()["predictions"]
    assert same(found, [{"mood": single["mood"]}, {"same": double["same"]}])
    assert server.ask().json() == {"predictions": []}
    long = server.ask("cat " * 200, tasks=["length", "mood"]).json()["predictions"][0]
    assert long["mood"]["truncated"] == 200 - 62 and long["length"]["truncated"] == 200 - 6


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not an object in JSON with inputs: Invalid JSON: EOF"),
        (b"{", "the body is not an object in JSON"),
        (b"[]", "the body is not an object in JSON"),
        (b"{}", 'the body has no inputs; give {"inputs": [a text, or a list of two texts, '),
        (b'{"inputs": "a cat"}', "inputs is not a list; give one, even of one text"),
        (b'{"inputs": [1]}', r"inputs[0] is not a text, or a list of two texts"),
        (b'{"inputs": ["a", ["a"]]}', r"inputs[1] is not a text, or a list of two texts"),
        (b'{"inputs": ["a", ["a", "b", "c"]]}', r"inputs[1] is not"),
        (b'{"inputs": [["a", null]]}', r"inputs[0] is not"),
        (b'{"inputs": [{"text": "a"}]}', r"inputs[0] is not"),
        (b'{"inputs": ["a"], "task": "mood"}', "the body has a key other than inputs and tasks"),
        (b'{"inputs": ["a"], "tasks": "mood"}', "tasks is not a list of names"),
        (b'{"inputs": ["a"], "tasks": []}', "tasks is empty; leave it out"),
        (b'{"inputs": ["a"], "tasks": ["mod"]}', "there is no task 'mod'; the tasks are: stars, mood, topics, length"),
        (b'{"inputs": ["a"], "tasks": ["mood", "mood"]}', "tasks names a task twice"),
        (b'{"inputs": ["a"], "tasks": ["same"]}', "inputs[0] is a text, but none of the given tasks takes one"),
        (b'{"inputs": [["a", "b"]], "tasks": ["mood"]}', "task 'mood' takes a text, but no input is one"),
        (b'{"inputs": ["a"], "tasks": ["mood", "same"]}', "task 'same' takes a pair of texts, but no input is one"),
        (b'{"inputs": ["\\ud800"]}', "the body is not an object in JSON"),
        (b'{"inputs": ["\xff"]}', "the body is not an object in JSON"),
        ('{"inputs": ["a"]}'.encode("utf-16"), "the body is not an object in JSON"),
        (b'{"inputs": [NaN]}', r"inputs[0] is not"),
        (b"[" * 100_000, "the body is not an object in JSON"),
        (b'{"inputs": [' + b"1," * 200_000 + b"1]}", r"inputs[0] is not"),
    ],
)
def test_a_body_that_is_wrong_is_422_with_the_reason(server, body, message):
    response = post(server, body)
    assert response.status_code == 422 and message in error(response)
    assert len(error(response)) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.text(max_size=12) | st.sampled_from(["a cat", "\0", "x " * 2000, "", "[SEP]", "é\u0301", "\U0010ffff"])
INPUTS = st.lists(TEXTS | st.lists(TEXTS, min_size=2, max_size=2) | JSON, max_size=4)
NAMES = st.sampled_from(["stars", "same", "close", "topics", "all"]) | TEXTS
BODIES = st.fixed_dictionaries(
    {"inputs": INPUTS | JSON}, optional={"tasks": st.lists(NAMES, max_size=3) | JSON, "text": JSON}
)
WRITTEN = st.one_of(BODIES, JSON).map(json.dumps).map(str.encode)


@st.composite
def damaged(draw) -> bytes:
    """A body in JSON of which some bytes were changed, or the end was lost."""
    body = bytearray(draw(WRITTEN))
    for _ in range(draw(st.integers(0, 3))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body[: draw(st.integers(0, len(body)))])


@tries(150, shrink=False)
@given(body=st.one_of(WRITTEN, damaged(), st.binary(max_size=200)))
def test_no_body_makes_the_server_fail(client, body):
    response = client.post("/predict", content=body)
    assert response.status_code in (200, 422), response.text
    if response.status_code == 200:
        assert len(response.json()["predictions"]) == len(json.loads(body)["inputs"])
    else:
        assert error(response)


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as web:
        yield web


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("PUT", "/predict", 405), ("POST", "/health", 405), ("GET", "/nothing", 404)],
)
def test_other_routes_and_methods_are_errors_of_the_same_form(server, method, path, status):
    response = httpx.request(method, server.url + path, timeout=60)
    assert response.status_code == status and error(response)


def test_answers_to_other_sites_and_other_hosts_are_refused(server):
    body = json.dumps({"inputs": [TEXT]}).encode()
    assert post(server, body, **{"sec-fetch-site": "same-origin"}).status_code == 200
    other_site = post(server, body, **{"sec-fetch-site": "cross-site"})
    assert other_site.status_code == 403 and error(other_site) == "a page of another site may not ask this server"
    other_host = post(server, body, host="rebound.example")
    assert other_host.status_code == 400 and "--allowed_hosts" in error(other_host)
    assert post(server, body, host="localhost:1").status_code == 200


def test_every_answer_has_the_headers_of_a_strict_page(server):
    for path in ("/", "/page.js", "/page.css", "/openapi.json", "/nothing"):
        headers = server.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"] and "access-control" not in str(headers)
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers


def test_health_and_description(server):
    assert server.get("/health").json() == server.get("/ready").json() == {"status": "ok"}
    described = server.get("/openapi.json").json()
    assert described["openapi"] == "3.1.0" and "securitySchemes" not in described["components"]
    responses = described["paths"]["/predict"]["post"]["responses"]
    assert {"200", "413", "422", "429", "503"} < responses.keys() and "401" not in responses
    request = described["components"]["schemas"]["PredictRequest"]
    assert request["properties"]["inputs"]["maxItems"] == 256 and request["required"] == ["inputs"]


def test_no_log_and_no_metric_holds_a_text(server):
    server.ask(SECRET, [SECRET, SECRET])
    server.ask(SECRET, tasks=[SECRET])
    post(server, json.dumps({"inputs": [[SECRET]]}).encode())
    post(server, SECRET.encode())
    server.get(f"/predict?text={SECRET}")
    server.get(f"/{SECRET}")
    with socket.create_connection(server.address) as raw:
        raw.sendall(SECRET.encode() + b"\r\n\r\n")
        raw.recv(1000)
    shown = server.log.read_text() + server.get("/metrics").text
    for word in (*SECRET.split(), SECRET.replace(" ", "%20")):
        assert word not in shown
    assert server.metric('mtbert_requests_total{route="other",status="404"}') > 0
    assert server.metric('mtbert_answers_total{task="mood"}') > 0


@pytest.fixture(scope="module")
def small(checkpoint, tmp_path_factory):
    """A server with small limits, with keys, which gathers for a second."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "keys").write_text("first-key-of-two-0001\n\nsecond-key-of-two-0002\n")
    limits = ["--max_body", 4000, "--max_texts", 10, "--max_tokens", 200, "--max_queue_tokens", 60]
    waits = ["--gather_ms", 1500, "--timeout", 1, "--max_connections", 30]
    options = [*limits, *waits, "--api_key_file", folder / "keys", "--tasks", "mood,same"]
    with serving(checkpoint, folder / "log", *options) as running:
        yield running


KEY = {"authorization": "Bearer second-key-of-two-0002"}


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer first-key-of-two-000", "first-key-of-two-0001", "Bearer \xff"]
)
def test_without_its_key_nothing_is_answered(small, value):
    headers = {} if value is None else {"authorization": value.encode("latin-1")}
    for response in (small.ask(TEXT, headers=headers), small.get("/metrics", headers=headers)):
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert error(response) == "send a key: Authorization: Bearer KEY"
    assert [small.get(path).status_code for path in ("/", "/health", "/ready", "/openapi.json")] == [200] * 4
    assert "401" in small.get("/openapi.json").json()["paths"]["/predict"]["post"]["responses"]


def test_either_key_opens(small):
    for key in ("first-key-of-two-0001", "second-key-of-two-0002"):
        headers = {"authorization": f"bearer {key}"}
        assert small.ask(headers=headers).status_code == 200
        assert "mtbert_requests_total" in small.get("/metrics", headers=headers).text


def test_each_limit_is_refused_with_its_status_and_number(small):
    large = post(small, b'{"inputs": ["' + b"a" * 5000 + b'"]}', **KEY)
    assert large.status_code == 413 and error(large) == "the body has more than 4,000 bytes; send several requests"
    chunks = (b'{"inputs": ["', *(b"a" * 1000 for _ in range(5)), b'"]}')
    streamed = httpx.post(f"{small.url}/predict", content=iter(chunks), headers=KEY, timeout=60)
    assert streamed.status_code == 413 and "4,000 bytes" in error(streamed)
    many = small.ask(*["a"] * 11, headers=KEY)
    assert many.status_code == 422 and error(many) == "inputs has 11 texts, but may have 10; send several requests"
    long = small.ask("cat " * 199, headers=KEY)
    assert long.status_code == 422 and error(long).startswith("inputs has 201 tokens, but may have 200;")


def test_a_full_queue_is_429_and_a_late_answer_503(small):
    text = "the cat " * 8  # 18 tokens: three fit
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: small.ask(text, headers=KEY), range(6)))
    refused = [each for each in found if each.status_code == 429]
    late = [each for each in found if each.status_code == 503]
    assert (len(refused), len(late)) == (3, 3)
    assert "too many tokens wait for the model" in error(refused[0]) and refused[0].headers["retry-after"] == "1"
    assert "no answer within 1 s" in error(late[0]) and late[0].headers["retry-after"] == "5"


def test_too_many_connections_are_503(small):
    open_ones = [socket.create_connection(small.address) for _ in range(30)]
    response = small.get("/health")
    assert response.status_code == 503
    for connection in open_ones:
        connection.close()


def test_what_is_not_finite_is_500_and_not_a_number(model, tokenizer, tmp_path):
    broken = MtBertForMultiTask.from_pretrained(save(model, tokenizer, tmp_path / "model"))
    with torch.no_grad():
        broken.heads["mood"].get_parameter(next(iter(dict(broken.heads["mood"].named_parameters())))).fill_(
            float("nan")
        )
    with serving(save(broken, tokenizer, tmp_path / "broken"), tmp_path / "log") as server:
        response = server.ask(SECRET)
        assert response.status_code == 500
        assert error(response).startswith("task 'mood': the model's output for an input is not finite")
        assert server.ask(SECRET, tasks=["stars"]).status_code == 200
        assert "'mood'" in server.log.read_text() and SECRET not in server.log.read_text()


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_command_runs_as_a_program_and_names_what_is_wrong(tmp_path, server):
    port = server.address[1]
    command = [sys.executable, "-m", "mtbert", "serve", str(tmp_path), "--port", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"--host 127.0.0.1 --port {port} cannot be used" in done.stderr
