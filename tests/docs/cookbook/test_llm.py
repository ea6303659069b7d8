"""docs/cookbook/llm.md: the real SDK, against a provider on loopback that answers 429."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
from cookbook import Recipe
from http_upstreams import serving

openai = pytest.importorskip("openai", minversion="3", reason="openai is in the group `cookbook`")
pytestmark = pytest.mark.once

PAGE = Recipe("llm")
CHUNK = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "yes "}}]}
STREAM = (f"data: {json.dumps({'id': 'c', 'created': 1, 'model': 'small', **CHUNK})}\n\n" * 2).encode()
ERROR = b'{"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}'


class Provider:
    """Answers with the waits of `script`, as 429; then with streams, each of them held while `go_on` is not set."""

    def __init__(self) -> None:
        self.script: list[int] = []
        self.keys: list[tuple[bytes, float]] = []
        self.go_on = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.keys.append((dict(scope["headers"]).get(b"idempotency-key", b""), time.monotonic()))
        wait = self.script.pop(0) if self.script else None
        kind, body = (b"text/event-stream", STREAM) if wait is None else (b"application/json", ERROR)
        headers = [(b"content-type", kind), *([] if wait is None else [(b"retry-after", str(wait).encode())])]
        await send({"type": "http.response.start", "status": 200 if wait is None else 429, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        while not self.go_on:
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if wait is None else b""})


@pytest.fixture
def provider() -> Iterator[tuple[Provider, str]]:
    provider = Provider()
    with serving(provider) as url:
        yield provider, url


class Customers:
    """Customers of the page's application, which runs in this process."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, url: str, **changed: str) -> None:
        for name, value in {**PAGE.environment, "OPENAI_BASE_URL": f"{url}/v1", **changed}.items():
            monkeypatch.setenv(name, value)
        self.names = PAGE.load("answers.py", directory)
        transport = httpx2.ASGITransport(self.names["app"], raise_app_exceptions=False)
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://answers")

    async def ask(self, customer: str = "ada") -> httpx2.Response:
        return await self.client.get("/answers", params={"question": "why?"}, headers={"X-Api-Key": customer})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.names["model"].close()


async def test_a_short_wait_of_the_provider_is_kept(
    provider: tuple[Provider, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 429 with `Retry-After: 1` is repeated after a second, once, with the same key."""
    told, url = provider
    async with Customers(tmp_path, monkeypatch, url) as customers:
        told.script = [1]
        answer = await customers.ask()
        assert (answer.status_code, answer.text) == (200, "yes yes ")
    (first, began), (second, again) = told.keys
    assert first == second
    assert again - began >= 1


async def test_an_outage_is_as_the_page_shows_it(
    provider: tuple[Provider, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A long wait is passed on at once; the circuit then opens for that time; the log is that of the page."""
    told, url = provider
    caplog.set_level(logging.INFO, "resilience")
    async with Customers(tmp_path, monkeypatch, url) as customers:
        told.script = [60] * 40
        began = time.monotonic()
        answers = [await customers.ask(f"customer-{number}") for number in range(21)]
        assert time.monotonic() - began < 20
        busy, refused = answers[0], answers[-1]
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "60")
        PAGE.shows("503, the provider asks for a minute", busy.text)
        assert refused.status_code == 503
        assert 60 <= refused.json()["retry_after"] <= 66
        PAGE.shows("503, while the circuit is open", refused.text)
        assert len(told.keys) == 20
    log = "\n".join(f"{each.levelname} {each.name} {each.getMessage()}" for each in caplog.records)
    PAGE.shows("the log", log.replace(url.removeprefix("http://"), "api.openai.com"))


async def test_a_busy_customer_takes_nothing_from_the_others(
    provider: tuple[Provider, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twenty-first question of a minute gets 429, reaches no provider, and other customers are answered."""
    told, url = provider
    async with Customers(tmp_path, monkeypatch, url) as customers:
        answers = [await customers.ask() for _ in range(21)]
        assert [answer.status_code for answer in answers] == [200] * 20 + [429]
        PAGE.shows("429, one customer", answers[-1].text)
        assert (await customers.ask("bob")).status_code == 200
    assert len(told.keys) == 21


async def test_a_stream_holds_its_place_until_it_ends(
    provider: tuple[Provider, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one stream is open, a bulkhead of one refuses another question, and admits one after it."""
    told, url = provider
    changed = {"RESILIENCE_PIPELINE__LLM__BULKHEAD__MAX_CONCURRENT_CALLS": "1"}
    async with Customers(tmp_path, monkeypatch, url, **changed) as customers:
        told.go_on = False
        first = asyncio.create_task(customers.ask())
        while not told.keys:
            await asyncio.sleep(0.01)
        refused = await customers.ask()
        assert (refused.status_code, refused.json()["code"]) == (503, "BULKHEAD_FULL")
        told.go_on = True
        assert (await first).text == "yes yes "
        assert (await customers.ask()).status_code == 200


async def test_a_customer_who_leaves_frees_the_place(
    provider: tuple[Provider, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the customer disconnects in the midst of an answer, the stream to the provider is closed."""
    told, url = provider
    async with Customers(tmp_path, monkeypatch, url) as customers:
        told.go_on = False
        leaves = asyncio.Event()
        messages: Any = iter([{"type": "http.request"}])

        async def receive() -> Any:
            if (message := next(messages, None)) is None:
                await leaves.wait()
                message = {"type": "http.disconnect"}
            return message

        async def send(message: Any) -> None:
            if message.get("body"):
                leaves.set()

        request = {"type": "http", "method": "GET", "path": "/answers", "query_string": b"question=why", "headers": []}
        scope = {**request, "client": ("127.0.0.1", 1), "asgi": {"spec_version": "2.3"}}
        try:
            await customers.names["app"](scope, receive, send)
            (figures,) = customers.names["toolkit"].pipeline("llm").snapshot()["clients"][-1]["each"].values()
            assert (len(told.keys), figures["concurrent"]) == (1, 0)
        finally:
            told.go_on = True


async def test_the_retries_of_the_sdk_multiply(
    provider: tuple[Provider, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one retry of the SDK, three attempts of ours become six; without a key there is one attempt."""
    told, url = provider
    quick = {"RESILIENCE_PIPELINE__LLM__RETRY__WAIT_INITIAL": "1ms", "RESILIENCE_PIPELINE__LLM__RETRY__BUDGET": ""}
    async with Customers(tmp_path, monkeypatch, url, **quick) as customers:
        ask = {"model": "small", "messages": [{"role": "user", "content": "why?"}]}
        for options, attempts in (({}, 3), ({"max_retries": 1}, 6)):
            told.script, told.keys = [0] * 10, []
            with pytest.raises(openai.RateLimitError):
                await customers.names["model"].with_options(**options).chat.completions.create(**ask)
            assert len(told.keys) == attempts
        customers.names["http"].event_hooks = {}
        told.script, told.keys = [0] * 10, []
        with pytest.raises(openai.RateLimitError):
            await customers.names["model"].chat.completions.create(**ask)
        assert [key for key, _ in told.keys] == [b""]
