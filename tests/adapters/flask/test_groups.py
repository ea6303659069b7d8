"""Exception groups, as a view's `TaskGroup` raises them, are answered as the worst error in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Blueprint, Flask, Response
from werkzeug.exceptions import NotFound

from resilience import AppError, CircuitOpenError, RateLimitedError
from resilience_flask import FlaskResilience


class ShopError(Exception):
    """The application's own, with a handler of its own."""


LIMITED = RateLimitedError("secret", retry_after=7.0)
OPEN = CircuitOpenError("secret", retry_after=2.0)
CASES: list[tuple[tuple[Exception, ...], int, str, str | None]] = [
    ((LIMITED,), 429, "RATE_LIMITED", "7"),
    ((LIMITED, OPEN), 503, "CIRCUIT_OPEN", "7"),
    ((AppError("SHOP_C001", "Sold out.", http_status=409), LIMITED), 409, "SHOP_C001", None),
    ((NotFound(),), 404, "NOT_FOUND", None),
    ((NotFound(), OPEN), 503, "CIRCUIT_OPEN", "2"),
    ((ValueError("secret"), LIMITED), 500, "INTERNAL", None),
]


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("secret", [*errors[:-1], ExceptionGroup("secret", errors[-1:])])


@pytest.mark.parametrize(("errors", "status", "code", "wait"), CASES)
def test_a_group_is_answered_as_its_worst_error(
    app: Flask, browse: Any, errors: tuple[Exception, ...], status: int, code: str, wait: str | None
) -> None:
    """Status, code and `Retry-After` are those of the worst error in the group, the wait the longest of all."""

    @app.get("/")
    def page() -> str:
        raise group(*errors)

    FlaskResilience(app)
    answer = browse(app).get("/")
    assert (answer.status_code, answer.json["code"], answer.headers.get("Retry-After")) == (status, code, wait)
    assert answer.json["request_id"] == answer.headers["X-Request-ID"]
    assert "secret" not in answer.text


def test_handlers_of_the_application_come_first(app: Flask, browse: Any) -> None:
    """A handler for the group's class gets the group; one for the worst error's class gets that error."""
    FlaskResilience(app)
    seen = list[BaseException]()
    shop = Blueprint("shop", __name__, url_prefix="/shop")

    class PageError(ExceptionGroup[Exception]):
        pass

    def handle(error: Exception) -> tuple[str, int]:
        seen.append(error)
        return "mine", 418

    app.register_error_handler(PageError, handle)
    app.register_error_handler(ShopError, handle)
    shop.register_error_handler(RateLimitedError, handle)

    @shop.get("/limited")
    def limited() -> str:
        raise group(LIMITED)

    @shop.get("/own")
    def own() -> str:
        raise group(LIMITED, ShopError())

    @app.get("/page")
    def page() -> str:
        raise PageError("page", [LIMITED])

    app.register_blueprint(shop)
    client = browse(app)
    assert [client.get(path).status_code for path in ("/shop/limited", "/shop/own", "/page")] == [418, 418, 418]
    assert [type(error) for error in seen] == [RateLimitedError, ShopError, PageError]


def test_a_catch_all_gets_an_unhandled_group(app: Flask, browse: Any) -> None:
    """The application's handler for all errors gets the group as it is, as it does without us; refusals are ours."""
    FlaskResilience(app)
    seen = list[BaseException]()

    @app.errorhandler(Exception)
    def handle(error: Exception) -> tuple[str, int]:
        seen.append(error)
        return "mine", 500

    @app.get("/crash")
    def crash() -> str:
        raise group(LIMITED, ValueError())

    @app.get("/limited")
    def limited() -> str:
        raise group(LIMITED)

    client = browse(app)
    assert [client.get(path).status_code for path in ("/crash", "/limited")] == [500, 429]
    assert [type(error) for error in seen] == [ExceptionGroup]


def refused() -> list[bytes]:
    raise group(LIMITED, OPEN)


def test_a_stream_that_fails_with_a_group_before_its_first_byte(app: Flask, browse: Any) -> None:
    """A body that raises a group before anything was sent is answered as its worst error."""

    @app.get("/")
    def page() -> Response:
        def body() -> Iterator[bytes]:
            yield from refused()

        return Response(body())

    FlaskResilience(app)
    answer = browse(app).get("/")
    assert (answer.status_code, answer.json["code"]) == (503, "CIRCUIT_OPEN")
