"""The application's own handlers win whenever they match, in the order of Flask, whatever ours are registered for."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Blueprint, Flask, request
from werkzeug.exceptions import HTTPException, ServiceUnavailable
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from resilience import AppError, CircuitOpenError, DeadlineExceededError
from resilience.errors import RateLimitedError, RejectedError, ResilienceError
from resilience_flask import FlaskResilience, rate_limit


class HTTPLibraryError(Exception):
    """The base class of another library, as `requests.RequestException`."""


class TransportError(HTTPLibraryError):
    """A class below it."""


class OpenOnTheWireError(CircuitOpenError, TransportError):
    """An error that is ours and the library's, as our clients raise them."""


class LateOnTheWireError(DeadlineExceededError, TransportError):
    """The same for a deadline."""


class PagesError(ExceptionGroup[Exception], HTTPLibraryError):
    """A group that is the library's too."""


class BusyError(ServiceUnavailable, HTTPLibraryError):
    """An HTTP error of the framework that is the library's too."""


def by(name: str) -> Any:
    return lambda error: ({"by": name, "error": type(error).__name__}, 418)


def fails(app: Flask | Blueprint, error: Exception) -> None:
    def view() -> str:
        raise error

    app.add_url_rule("/", "root", view)


@pytest.mark.parametrize("mode", ["json", "native"])
@pytest.mark.parametrize("is_early", [True, False])
@pytest.mark.parametrize(
    ("error", "kinds", "winner"),
    [
        (OpenOnTheWireError("open"), [HTTPLibraryError], "HTTPLibraryError"),
        (OpenOnTheWireError("open"), [TransportError, HTTPLibraryError], "TransportError"),
        (OpenOnTheWireError("open"), [HTTPLibraryError, OpenOnTheWireError], "OpenOnTheWireError"),
        (OpenOnTheWireError("open"), [ResilienceError], "ResilienceError"),
        (OpenOnTheWireError("open"), [RejectedError, TransportError], "RejectedError"),
        (LateOnTheWireError("late"), [HTTPLibraryError], "HTTPLibraryError"),
        (PagesError("pages", [CircuitOpenError("open")]), [HTTPLibraryError], "HTTPLibraryError"),
        (ExceptionGroup("g", [OpenOnTheWireError("open")]), [HTTPLibraryError], "HTTPLibraryError"),
        (RateLimitedError("no"), [ResilienceError], "ResilienceError"),
        (AppError("USER_001"), [ResilienceError], "ResilienceError"),
        (BusyError("closed"), [HTTPLibraryError], "HTTPLibraryError"),
        (BusyError("closed"), [503, HTTPLibraryError], "503"),
    ],
    ids=str,
)
def test_nearest_class_of_theirs_wins(
    app: Flask, browse: Any, toolkit: Any, error: Exception, kinds: Any, winner: str, mode: str, *, is_early: bool
) -> None:
    """Whatever classes ours are registered for, the application's handler for the nearest class answers."""
    fails(app, error)

    def add() -> None:
        for kind in kinds:
            app.register_error_handler(kind, by(getattr(kind, "__name__", str(kind))))

    if is_early:
        add()
    FlaskResilience(app, toolkit(server__errors=mode))
    if not is_early:
        add()
    answer = browse(app).get("/")
    assert (answer.status_code, answer.json["by"]) == (418, winner)
    assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize("kind", [KeyError, LookupError])
def test_errors_of_werkzeug_that_are_builtins_too(app: Flask, browse: Any, kind: type[Exception]) -> None:
    """A form without a field raises an error that is a `KeyError` too, and goes to a handler for that."""
    app.add_url_rule("/", "root", lambda: request.form["missing"])
    app.register_error_handler(kind, by("own"))
    FlaskResilience(app)
    assert browse(app).get("/").json == {"by": "own", "error": "BadRequestKeyError"}


def test_catch_all_gets_errors_with_a_body_of_their_own(app: Flask, browse: Any) -> None:
    """A handler for `Exception` gets every HTTP error, as without us."""
    fails(app, type("SeeOther", (HTTPException,), {"code": 303})("elsewhere"))
    app.register_error_handler(Exception, by("own"))
    FlaskResilience(app)
    assert browse(app).get("/").json == {"by": "own", "error": "SeeOther"}


@pytest.mark.parametrize("is_refused", [True, False])
@pytest.mark.parametrize("where", ["blueprint", "parent", "application"])
def test_blueprints(app: Flask, browse: Any, toolkit: Any, where: str, *, is_refused: bool) -> None:
    """A handler of the blueprint, of the blueprint around it, or of the application answers, also for the gate."""
    parent, child = Blueprint("parent", __name__), Blueprint("child", __name__)
    fails(child, OpenOnTheWireError("open"))
    kind = RejectedError if is_refused else HTTPLibraryError
    {"blueprint": child, "parent": parent, "application": app}[where].register_error_handler(kind, by(where))
    parent.register_blueprint(child)
    app.register_blueprint(parent)
    FlaskResilience(app, toolkit(server__rate_limit="1/day"))
    client = browse(app)
    first = client.get("/")
    assert (client.get("/") if is_refused else first).json["by"] == where


def test_blueprint_before_application(app: Flask, browse: Any) -> None:
    """Flask asks all handlers of a blueprint first, also for a farther class than the application's."""
    blueprint = Blueprint("b", __name__)
    fails(blueprint, OpenOnTheWireError("open"))
    blueprint.register_error_handler(HTTPLibraryError, by("blueprint"))
    app.register_error_handler(OpenOnTheWireError, by("application"))
    app.register_blueprint(blueprint)
    FlaskResilience(app)
    assert browse(app).get("/").json["by"] == "blueprint"


def test_limits_of_routes(app: Flask, browse: Any) -> None:
    """The application's handler answers for the refusal of a route's limit."""
    app.add_url_rule("/", "root", rate_limit("1/day", cost=lambda: 2)(lambda: "ok"))
    app.register_error_handler(ResilienceError, by("own"))
    FlaskResilience(app)
    assert browse(app).get("/").json == {"by": "own", "error": "RateLimitedError"}


@pytest.mark.parametrize("is_guarded", [True, False])
def test_mounted_applications_have_their_own(app: Flask, browse: Any, *, is_guarded: bool) -> None:
    """A mounted application's handlers answer for its views, and the outer application's do not."""
    inner = Flask("inner")
    fails(inner, OpenOnTheWireError("open"))
    inner.register_error_handler(HTTPLibraryError, by("inner"))
    app.register_error_handler(TransportError, by("outer"))
    if is_guarded:
        FlaskResilience(inner)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/inner": inner})  # type: ignore[method-assign]  # as in Flask's docs
    FlaskResilience(app)
    assert browse(app).get("/inner/").json["by"] == "inner"


def test_last_resort_gets_no_refusals(app: Flask, browse: Any) -> None:
    """A handler for `Exception` is for unhandled errors: it would turn each refusal into a fault."""
    fails(app, OpenOnTheWireError("open"))
    app.register_error_handler(Exception, by("own"))
    FlaskResilience(app)
    answer = browse(app).get("/")
    assert (answer.status_code, answer.json["code"]) == (503, "CIRCUIT_OPEN")
