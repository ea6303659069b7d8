"""What others wrote, in logs, errors and reprs: one line, of bounded length, without a password."""

from __future__ import annotations

import ast
import functools
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import CircuitBreaker, ConfigurationError, Pipeline, Retry
from resilience.envelope import envelope_of
from resilience.errors import AppError, described, named, one_line, shown
from resilience.events import Emitter, Event
from resilience.ratelimit import RedisStore

ROOT = Path(__file__).parents[3]
PASSWORD = "hunter2"  # noqa: S105 - the one that must never show
FORGED = "x\n2026-01-01 ERROR forged\r\x1b[31m\u2028\u202eend"


@given(st.text() | st.just(FORGED))
def test_any_text_is_one_printable_line(text: str) -> None:
    """Whatever a text holds, what is logged of it is one printable line of bounded length."""
    for line in (one_line(text), one_line(text, 10), shown(text), described(ValueError(text)), named(text)):
        assert line.isprintable()
        assert len(line) <= 340
        assert line.splitlines() in ([line], [])


@pytest.mark.parametrize("longest", [1, 10, 300])
def test_a_plain_text_stays_as_it_is(longest: int) -> None:
    """Text that can do no harm is not changed, and what is too long is cut."""
    assert one_line("a" * longest, longest) == "a" * longest
    assert one_line("a" * longest + "b", longest) == f"{'a' * longest}..."
    assert one_line("grüße, 世界 @ home") == "grüße, 世界 @ home"


@pytest.mark.parametrize(
    "text",
    [
        f"cannot connect to redis://shop:{PASSWORD}@cache:6379/0",
        f"cannot connect to 'postgresql://{PASSWORD}@db/orders': refused",
        f"https://u:p@{PASSWORD}@h and amqp://u:{PASSWORD}@h",
        f"Max retries exceeded with url: /v1/charge?id=1&access_token={PASSWORD}&x=1",
        f"invalid dsn: host=db password={PASSWORD} dbname=orders",
        f"redis://cache/0?password={PASSWORD}",
    ],
)
def test_credentials_in_urls_are_hidden(text: str) -> None:
    """A password in a URL does not get into a log with the text of somebody else's error."""
    for line in (one_line(text), shown(text), described(OSError(text))):
        assert PASSWORD not in line
        assert "***" in line


def test_the_text_of_an_error_is_logged_by_way_of_one_line() -> None:
    """No line of the log of this toolkit has an error that was caught as it is: somebody else wrote its text."""
    for path in [*(ROOT / "resilience").rglob("*.py"), *(ROOT / "adapters").rglob("*.py")]:
        for handler in ast.walk(ast.parse(path.read_text())):
            if isinstance(handler, ast.ExceptHandler) and handler.name is not None:
                logged = [call for call in ast.walk(handler) if isinstance(call, ast.Call) and is_of_log(call)]
                names = [each.id for call in logged for each in call.args if isinstance(each, ast.Name)]
                assert handler.name not in names, f"{path}:{handler.lineno}"


def is_of_log(call: ast.Call) -> bool:
    function = call.func
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "_log"


def test_a_url_in_the_wrong_place_is_shown_without_its_password() -> None:
    """A bad value that is a URL is reported without its password, whatever option it was given for."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore(f"redis://u:{PASSWORD}@cache")  # type: ignore[arg-type]  # what the test is about
    assert PASSWORD not in str(caught.value)


def send(token: str, event: Event) -> None:
    raise ValueError(token is None)


def test_what_a_function_is_bound_to_is_not_shown() -> None:
    """A `partial` is called by the name of its function: its repr would show its arguments."""
    bound = functools.partial(functools.partial(send, PASSWORD), Event("retry.scheduled", "shop", "info", 0.0, 1, {}))
    assert named(bound) == named(send) == "send"
    assert named(ValueError) == "ValueError"
    assert named(object()) == "<object>"


def test_a_failing_listener_is_logged_without_facts(caplog: pytest.LogCaptureFixture) -> None:
    """A listener that fails is logged with the kind of the event; neither its arguments nor the facts are."""
    emitter = Emitter()
    emitter.subscribe(functools.partial(send, PASSWORD))
    emitter.emit("retry.scheduled", "shop", 0.0, error=ValueError(PASSWORD))
    (record,) = caplog.records
    assert record.getMessage() == "listener send failed on retry.scheduled #1 of 'shop'"


def test_an_event_is_one_line() -> None:
    """The repr of an event is one line, whatever texts its facts have."""

    class ForgingError(Exception):
        def __repr__(self) -> str:
            return FORGED

    event = Event("retry.scheduled", "shop", "info", 0.0, 1, {"error": ForgingError()})
    assert repr(event).isprintable()


def test_a_pybreaker_listener_that_fails_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A failing listener of pybreaker's kind is logged by its type, not by its repr."""

    class Listener:
        def success(self, breaker: object) -> None:
            raise ValueError

        def __repr__(self) -> str:
            return PASSWORD

        def __getattr__(self, name: str) -> object:
            return lambda *_, **__: None

    breaker = CircuitBreaker()
    breaker.add_listener(Listener())
    breaker.call(lambda: None)
    assert [PASSWORD in record.getMessage() for record in caplog.records] == [False]


def test_a_code_that_is_none_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """An error whose code is no code is logged in one line."""
    error = AppError("SHOP_001")
    error.code = FORGED * 100
    with caplog.at_level(logging.ERROR):
        envelope_of(error)
    (record,) = caplog.records
    assert record.getMessage().isprintable()


def test_a_pipeline_shows_no_bound_argument() -> None:
    """The repr and the description of a pipeline name predicates, and not what they are bound to."""
    pipeline = Pipeline("shop", Retry(on=functools.partial(lambda token, error: True, PASSWORD)), CircuitBreaker())
    assert PASSWORD not in repr(pipeline)
    assert PASSWORD not in str(pipeline.describe())
