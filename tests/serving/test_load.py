"""A real server and real clients: no answer is lost or swapped, whatever other clients do."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import time

import httpx
import pytest
from served import make_texts, same, serving

SINGLE, DOUBLE = ["stars", "mood", "topics", "length"], ["same", "close"]
REQUESTS, CLIENTS = 2000, 32


@pytest.fixture(scope="module")
def pool(expected) -> list[tuple[object, dict]]:
    """Inputs, short and long, single and pairs, with the answers of all tasks that fit."""
    texts = make_texts(120, longest=12) + make_texts(20, longest=58, seed=1)
    pairs = [[first, second] for first, second in zip(texts[:40], texts[40:80], strict=True)]
    inputs = [*texts, *pairs]
    return list(zip(inputs, expected(inputs), strict=True))


def make_request(pool, chosen: random.Random) -> tuple[dict, list[dict]]:
    """A request and its answer: mostly one input, sometimes dozens, of all tasks or of some."""
    entries = chosen.choices(pool, k=chosen.choice([1, 1, 1, 1, 1, 2, 3, 40]))
    kinds = {isinstance(value, str) for value, _ in entries}
    if chosen.random() < 0.5:
        return {"inputs": [value for value, _ in entries]}, [answer for _, answer in entries]
    tasks = [chosen.choice(SINGLE)] * (True in kinds) + [chosen.choice(DOUBLE)] * (False in kinds)
    answers = [{name: answer[name] for name in tasks if name in answer} for _, answer in entries]
    return {"inputs": [value for value, _ in entries], "tasks": tasks}, answers


async def ask_all(url: str, requests: list[tuple[dict, list[dict]]]) -> list[str]:
    """Ask all requests by `CLIENTS` clients; what was wrong with answers."""
    waiting, wrong = iter(requests), []

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=300, verify=False) as web:
            for body, answers in waiting:
                response = await web.post("/predict", json=body)
                found = response.json().get("predictions") if response.status_code == 200 else None
                if found is None or not same(found, answers):
                    wrong.append(f"{response.status_code}: {response.text[:200]}")

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return wrong


def test_two_thousand_requests_of_32_clients_get_their_own_answers(server, pool):
    chosen = random.Random(0)
    requests = [make_request(pool, chosen) for _ in range(REQUESTS)]
    before = server.metric('mtbert_requests_total{route="/predict",status="200"}')
    assert asyncio.run(ask_all(server.url, requests)) == []
    assert server.metric('mtbert_requests_total{route="/predict",status="200"}') - before == REQUESTS
    asked = sum(len(body["inputs"]) for body, _ in requests)
    rows, passes = server.metric("mtbert_batch_rows_sum"), server.metric("mtbert_batch_rows_count")
    assert rows >= asked and passes < rows / 2  # requests were gathered
    assert server.metric("mtbert_batch_tokens_sum") > rows
    lanes = re.findall(r'^mtbert_queue_tokens{lane="([^"]*)"} (\S+)', server.get("/metrics").text, re.MULTILINE)
    assert len(lanes) == 5 and all(float(waiting) == 0 for _, waiting in lanes)


def start_request(server, body: bytes, send: int | None = None) -> socket.socket:
    """A connection on which a request was sent, or so many bytes of its body."""
    connection = socket.create_connection(server.address)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body[:send])
    return connection


def test_a_client_that_stalls_holds_up_nobody_and_is_sent_away(checkpoint, pool, tmp_path):
    with serving(checkpoint, tmp_path / "log", "--body_timeout", 1) as server:
        stalled = [start_request(server, b'{"inputs": ["a cat"]}', send=9) for _ in range(20)]
        headless = socket.create_connection(server.address)
        headless.sendall(b"POST /predict HT")
        start = time.monotonic()
        value, answer = pool[0]
        assert same(server.ask(value).json()["predictions"], [answer])
        assert time.monotonic() - start < 30
        for connection in stalled:
            connection.settimeout(60)
            said = b"".join(iter(lambda c=connection: c.recv(4096), b""))  # it closes the connection, too
            assert said.startswith(b"HTTP/1.1 408") and b"the body did not arrive within 1 s" in said
        assert server.metric('mtbert_requests_total{route="/predict",status="408"}') == 20
        headless.close()


def test_clients_that_disappear_cost_nobody_an_answer(server, pool):
    body = json.dumps({"inputs": [value for value, _ in pool[:100]]}).encode()
    gone = 'mtbert_requests_total{route="/predict",status="499"}'
    before = server.metric(gone)
    for number in range(40):
        start_request(server, body, send=None if number % 2 else 20).close()
    requests = [make_request(pool, random.Random(number)) for number in range(100)]
    assert asyncio.run(ask_all(server.url, requests)) == []
    until = time.monotonic() + 30
    while server.metric(gone) - before < 20 and time.monotonic() < until:
        time.sleep(0.1)
    assert 20 <= server.metric(gone) - before <= 40  # an answer may have been ready before the client left
    assert server.metric("mtbert_requests_in_progress") == 1  # this one


def test_sigterm_under_load_answers_all_that_was_taken(checkpoint, pool, tmp_path):
    answered, refused, wrong = [], [], []

    async def load(server) -> None:
        async def client(number: int) -> None:
            chosen = random.Random(number)
            async with httpx.AsyncClient(base_url=server.url, timeout=60, verify=False) as web:
                while not refused:
                    body, answers = make_request(pool, chosen)
                    try:
                        response = await web.post("/predict", json=body)
                    except httpx.ConnectError:  # it was never taken
                        refused.append(body)
                        return
                    except httpx.HTTPError as error:
                        wrong.append(repr(error))
                        return
                    fine = response.status_code == 200 and same(response.json()["predictions"], answers)
                    (answered if fine else wrong).append(response.status_code)

        async def stop() -> None:
            while len(answered) < 100:
                await asyncio.sleep(0.01)
            server.terminate()

        await asyncio.gather(stop(), *(client(number) for number in range(16)))

    with serving(checkpoint, tmp_path / "log") as server:  # which asserts that it ends with status 0
        idle = httpx.Client(base_url=server.url)  # a connection that is open and idle when the signal comes
        assert idle.get("/ready").json() == {"status": "ok"}
        asyncio.run(load(server))
    assert wrong == [] and len(answered) >= 100 and refused
    with pytest.raises(httpx.TransportError):
        idle.get("/ready")


def test_while_it_stops_it_is_not_ready_but_answers(checkpoint, pool, tmp_path):
    value, answer = pool[0]
    with serving(checkpoint, tmp_path / "log", "--gather_ms", 1500) as server:
        web = [httpx.Client(base_url=server.url, timeout=60) for _ in range(2)]
        assert [each.get("/ready").status_code for each in web] == [200, 200]
        taken = start_request(server, json.dumps({"inputs": [value]}).encode())
        time.sleep(0.3)
        server.terminate()
        time.sleep(0.4)
        stopping = web[0].get("/ready")
        assert stopping.status_code == 503 and stopping.json() == {"error": "the server is stopping"}
        assert stopping.headers["connection"] == "close"
        late = web[1].post("/predict", json={"inputs": [value]})
        assert late.status_code == 200 and same(late.json()["predictions"], [answer])
        said = b"".join(iter(lambda: taken.recv(65536), b""))
        assert said.startswith(b"HTTP/1.1 200") and same(
            json.loads(said.partition(b"\r\n\r\n")[2])["predictions"], [answer]
        )
