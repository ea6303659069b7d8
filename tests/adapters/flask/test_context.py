"""What a request knows about itself, where, and for how long (L19)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from flask import Flask, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience import Deadline
from resilience.errors import DeadlineExceededError
from resilience.server import current_request
from resilience.testing import ManualClock
from resilience_flask import FlaskResilience


def known() -> str:
    context = current_request()
    return "" if context is None else context.request_id


def left() -> float | None:
    deadline = Deadline.current()
    return None if deadline is None else deadline.remaining()


def test_known_everywhere(app: Flask, browse: Any) -> None:
    """The request is known in hooks, views, streams, closing functions and teardown, and nowhere after."""
    FlaskResilience(app)
    seen: dict[str, str] = {}

    def note(place: str) -> None:
        seen[place] = known()

    def pieces() -> Iterator[bytes]:
        note("first piece")
        yield b"a"
        note("second piece")
        yield b"b"

    @app.get("/")
    def root() -> Response:
        note("view")
        thread = threading.Thread(target=copy_context().run, args=(note, "thread"))
        thread.start()
        thread.join()
        answer = Response(pieces())
        answer.call_on_close(lambda: note("close"))
        return answer

    app.before_request(lambda: note("before"))
    app.teardown_request(lambda _: note("teardown"))

    @app.after_request
    def after(answer: Response) -> Response:
        note("after")
        return answer

    assert browse(app).get("/", headers={"X-Request-ID": "abc"}).text == "ab"
    places = {"before", "thread", "view", "after", "teardown", "first piece", "second piece", "close"}
    assert seen == dict.fromkeys(places, "abc")
    assert current_request() is None


def test_nothing_leaks_to_the_next_request(app: Flask, open_body: Any, toolkit: Any) -> None:
    """On a reused thread nothing of a request is left behind, whether its body was read, closed or broken."""
    FlaskResilience(app, toolkit(server__deadline="10s"))
    app.add_url_rule("/stream", "stream", lambda: Response(iter(["a", "b"])))
    app.add_url_rule("/boom", "boom", lambda: str(1 / 0))

    def serve(path: str, steps: int) -> tuple[str, float | None]:
        body, _ = open_body(app, path)
        for _ in range(steps):
            next(body)
        between = known(), left()
        body.close()
        assert (known(), left()) == ("", None)
        return between

    with ThreadPoolExecutor(1) as one_thread:
        for path, steps in (("/stream", 0), ("/stream", 1), ("/stream", 2), ("/boom", 1), ("/nowhere", 1)):
            assert one_thread.submit(serve, path, steps).result(5) == ("", None)


def test_streams_interleave(app: Flask, open_body: Any) -> None:
    """Two streams read in turn on one thread, as an event loop's greenlets do, each know their own request."""
    FlaskResilience(app)

    def pieces() -> Iterator[bytes]:
        while True:
            yield known().encode()

    app.add_url_rule("/", "root", lambda: Response(pieces()))
    bodies = [open_body(app, headers={"X-Request-ID": name})[0] for name in ("one", "two")]
    assert [next(body) for _ in range(3) for body in bodies] == [b"one", b"two"] * 3
    for body in bodies:
        body.close()


def test_stream_read_in_other_threads(app: Flask, open_body: Any) -> None:
    """A server may ask for each piece in another thread: the request is known in all of them."""
    FlaskResilience(app)
    app.add_url_rule("/", "root", lambda: Response(known().encode() for _ in range(3)))
    body, _ = open_body(app, headers={"X-Request-ID": "abc"})
    for _ in range(3):
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(next, body).result(5) == b"abc"
    body.close()


def test_async_views(app: Flask, browse: Any, toolkit: Any) -> None:
    """An async view, which Flask runs in a loop of its own, knows its request and its deadline."""
    FlaskResilience(app, toolkit(server__deadline="10s"))

    @app.get("/")
    async def root() -> str:
        remaining = left()
        return f"{known()} {remaining is not None and 5 < remaining <= 10}"

    client = browse(app)
    assert [client.get("/", headers={"X-Request-ID": name}).text for name in ("a", "b")] == ["a True", "b True"]


def test_callers_shorten_the_deadline(app: Flask, browse: Any, toolkit: Any) -> None:
    """A caller can ask for an answer sooner than the server's deadline, never later."""
    FlaskResilience(app, toolkit(server__deadline="5s"))
    app.add_url_rule("/", "root", lambda: str(left()))
    client = browse(app)
    remaining = [float(client.get("/", headers={"X-Request-Timeout": text}).text) for text in ("2s", "60s", "x")]
    assert 0 < remaining[0] <= 2
    assert all(2 < seconds <= 5 for seconds in remaining[1:])


def test_deadline_that_has_passed(app: Flask, browse: Any, toolkit: Any) -> None:
    """A call that finds no time left, and a request that never had any, are answered with 504."""
    FlaskResilience(app, toolkit(server__deadline="5s"))

    @app.get("/")
    def root() -> str:
        raise DeadlineExceededError("secret")

    client = browse(app)
    answer = client.get("/")
    assert (answer.status_code, answer.json["code"]) == (504, "DEADLINE_EXCEEDED")
    assert "secret" not in answer.text
    for none_left in ("1ns", "0", "0ms"):
        assert client.get("/", headers={"X-Request-Timeout": none_left}).status_code == 504


@pytest.fixture
def slow(app: Flask) -> None:
    """Give the application views that take their time, told by a clock of our own."""
    clock = ManualClock()

    def pieces() -> Iterator[bytes]:
        for piece in (b"a", b"b", b"c"):
            yield piece
            clock.advance(0.4)

    @app.get("/")
    def root() -> Response:
        context = current_request()
        assert context is not None
        context.deadline = Deadline(clock() + 0.5, clock=clock)
        return Response(pieces())

    @app.get("/late")
    def late() -> str:
        context = current_request()
        assert context is not None
        context.deadline = Deadline(clock() - 1.0, clock=clock)
        return "late"


@pytest.mark.usefixtures("slow")
def test_deadline_that_is_replaced(app: Flask, browse: Any, toolkit: Any) -> None:
    """A view may give its request another deadline; neither is left behind on the thread."""
    FlaskResilience(app, toolkit(server__deadline="5s"))
    browse(app).get("/late")
    assert Deadline.current() is None


@pytest.mark.usefixtures("slow")
def test_deadline_breaks_off_a_stream(app: Flask, open_body: Any, toolkit: Any) -> None:
    """A stream whose deadline passes is broken off between two pieces; its place is free when it is closed."""
    resilience = toolkit()
    FlaskResilience(app, resilience)
    body, _ = open_body(app)
    assert [next(body), next(body)] == [b"a", b"b"]
    with pytest.raises(DeadlineExceededError):
        next(body)
    body.close()
    assert resilience.lifecycle.in_flight == 0


@pytest.mark.usefixtures("slow")
def test_late_answer_is_an_answer(app: Flask, browse: Any) -> None:
    """A view cannot be stopped; what it says in the end is sent, late as it is."""
    FlaskResilience(app)
    assert browse(app).get("/late").text == "late"


def test_no_deadline_after_the_answer(app: Flask, open_body: Any, toolkit: Any) -> None:
    """What runs at closing, after the last byte, may take its time."""
    FlaskResilience(app, toolkit(server__deadline="5s"))
    seen: list[float | None] = []

    @app.get("/")
    def root() -> Response:
        seen.append(left())
        answer = Response("x")
        answer.call_on_close(lambda: seen.append(left()))
        return answer

    body, _ = open_body(app)
    list(body)
    body.close()
    assert seen[0] is not None
    assert seen[0] < 6
    assert seen[1] == float("inf")


HEADERS = ["X_REQUEST_ID", "TRACEPARENT", "TRACESTATE", "BAGGAGE", "X_REQUEST_TIMEOUT", "REQUEST_TIMEOUT"]
HEADERS += ["X_FORWARDED_FOR", "ACCEPT", "ACCEPT_LANGUAGE"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(HEADERS),
        st.binary(max_size=300).map(lambda value: value.decode("latin-1"))
        | st.sampled_from(["nan", "-1", "1e999", "abc\r\nSet-Cookie: a=b", "a" * 128, "a" * 129, "a_b.c-1", "abc\n"]),
    )
)
def test_no_header_causes_an_error(open_body: Any, toolkit: Any, headers: dict[str, str]) -> None:
    """Whatever stands in the headers we read, the answer is what it would be without; a sound request id is kept."""
    app = Flask("shop", static_folder=None)
    FlaskResilience(app, toolkit(server__deadline="5s", server__trusted_proxies="0.0.0.0/0"))
    environ = {f"HTTP_{name}": value for name, value in headers.items()}
    body, answers = open_body(app, "/", environ_overrides={**environ, "REMOTE_ADDR": "203.0.113.9"})
    list(body)
    body.close()
    ((status, sent),) = answers
    assert status[:3] in {"404", "504"}
    ids = [value for name, value in sent if name == "X-Request-ID"]
    assert len(ids) == 1
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", ids[0])
    asked = headers.get("X_REQUEST_ID", "")
    assert (ids[0] == asked) == bool(re.fullmatch(r"[A-Za-z0-9._-]{1,128}", asked))
    assert not [value for _, value in sent if "\r" in value or "\n" in value]
