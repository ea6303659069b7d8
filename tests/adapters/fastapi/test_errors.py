"""One shape for errors, and nothing internal in it."""

from __future__ import annotations

import http
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, field_validator, model_validator
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.base import BaseHTTPMiddleware

from resilience.breaker import CircuitOpenError
from resilience.envelope import Envelope, read_envelope
from resilience.errors import (
    AppError,
    BulkheadFullError,
    ConfigurationError,
    DeadlineExceededError,
    PoolTimeoutError,
    RateLimitedError,
)
from resilience.server import current_request
from resilience_fastapi import ResilienceMiddleware, error_responses, install

SECRET = "postgres://admin:hunter2@db"  # noqa: S105 - what must never be seen
MEMBERS = {"code", "message", "details", "request_id", "trace_id", "retry_after"}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Account(BaseModel):
    password: str
    age: int

    @field_validator("password")
    @classmethod
    def strong(cls, value: str) -> str:
        if len(value) < 20:
            raise ValueError(f"{value} is too weak")
        return value


class Transfer(BaseModel):
    accounts: list[str]
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def check(cls, data: Any) -> Any:
        raise ValueError(f"not allowed: {data['accounts'][0]}" if data["accounts"] else "no accounts")


class Deep(BaseModel):
    accounts: Any

    @field_validator("accounts")
    @classmethod
    def check(cls, value: Any) -> Any:
        raise ValueError("too deep")


def shop(**options: Any) -> FastAPI:
    app = FastAPI(**options)

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError(SECRET)

    @app.get("/raise/{name}")
    async def fail(name: str) -> None:
        raise ERRORS[name]

    @app.post("/accounts")
    def create(account: Annotated[Account, Body()]) -> str:
        return account.password

    return app


ERRORS: dict[str, Exception] = {
    "limited": RateLimitedError(SECRET, policy="x", retry_after=1.2),
    "full": BulkheadFullError(SECRET),
    "open": CircuitOpenError(SECRET, policy="x", retry_after=3),
    "late": DeadlineExceededError(SECRET),
    "pool": PoolTimeoutError(SECRET),
    "app": AppError("ORDERS_V001", "No such size.", details={"size": 7}, http_status=409, headers={"X-Hint": "8"}),
    "broken": ConfigurationError(SECRET),
    "auth": HTTPException(401, headers={"WWW-Authenticate": "Bearer"}),
    "text": HTTPException(404, "No such hat."),
    "facts": HTTPException(409, {"held_by": "ann"}),
    "list": HTTPException(400, ["a", "b"]),
    "later": HTTPException(413, headers={"Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT"}),
    "seconds": HTTPException(503, headers={"Retry-After": "7"}),
    "moved": HTTPException(307, headers={"Location": "/elsewhere"}),
    "unchanged": HTTPException(304),
    "closed": HTTPException(503, "Closed until Monday."),
    "why": HTTPException(500, {"step": "payment"}),
}


async def test_unhandled_error_is_an_envelope(browse: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An unhandled error is a fixed message, a code and the request's ids, and nothing of the error itself (L16).

    The id that the client is given is in the log, beside the traceback that the server writes.
    """
    app = shop()
    install(app)
    async with browse(app) as client:
        answer = await client.get("/boom", headers={"X-Request-ID": "abc-1", "traceparent": TRACEPARENT})
    assert answer.status_code == 500
    assert answer.json().keys() == MEMBERS
    assert answer.json()["code"] == "INTERNAL"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "abc-1"
    assert answer.json()["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert SECRET not in answer.text
    assert [record.getMessage() for record in caplog.records] == ["request abc-1 ended by an unhandled ValueError"]


@pytest.mark.parametrize("is_cors_first", [True, False])
@pytest.mark.parametrize("path", ["/boom", "/raise/limited", "/limited"])
async def test_answers_of_ours_follow_cors(browse: Any, toolkit: Any, path: str, *, is_cors_first: bool) -> None:
    """A browser may read our errors: they carry the application's own CORS headers, whichever was added first."""
    app = shop()
    rules: dict[str, Any] = {"allow_origins": ["https://a.example"], "allow_credentials": True}
    if is_cors_first:
        app.add_middleware(CORSMiddleware, **rules)
    limits = {"server__rate_limit": "1/day", "server__rate_limit_covers": "all"} if path == "/limited" else {}
    install(app, toolkit(**limits))
    if not is_cors_first:
        app.add_middleware(CORSMiddleware, **rules)
    async with browse(app) as client:
        await client.get("/nothing")
        answer = await client.get(path, headers={"Origin": "https://a.example"})
        preflight = await client.options(
            path, headers={"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
        )
    assert answer.is_error
    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]
    assert answer.headers["Vary"] == "Accept, Origin"
    assert preflight.status_code == 200


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", [Exception, 500])
async def test_own_handler_for_500_wins(browse: Any, when: str, kind: Any) -> None:
    """The application's own answer to unhandled errors stands, is asked once, knows the request and carries its id."""
    app, seen = shop(), []

    def add() -> None:
        @app.exception_handler(kind)
        async def own(request: Request, error: Exception) -> JSONResponse:
            context = current_request()
            seen.append(context and context.request_id)
            return JSONResponse({"mine": True}, 500)

    if when == "before":
        add()
    install(app)
    if when == "after":
        add()
    async with browse(app) as client:
        answer = await client.get("/boom", headers={"X-Request-ID": "abc"})
    assert (answer.json(), answer.headers["X-Request-ID"], seen) == ({"mine": True}, "abc", ["abc"])


async def test_own_blocking_handler_for_500_wins(browse: Any) -> None:
    """A plain function as handler for 500 works as it did."""
    app = shop()
    app.add_exception_handler(Exception, lambda request, error: JSONResponse({"mine": True}, 500))
    install(app)
    async with browse(app) as client:
        answer = await client.get("/boom")
    assert answer.json() == {"mine": True}
    assert answer.headers["X-Request-ID"]


async def test_debug_pages_stay(browse: Any) -> None:
    """Who asked for debug pages gets them."""
    app = shop(debug=True)
    install(app)
    async with browse(app) as client:
        assert "ValueError" in (await client.get("/boom")).text


async def test_own_middleware_may_catch(browse: Any) -> None:
    """An application whose own middleware answers for errors keeps that answer."""
    app = shop()

    async def catch(request: Request, call_next: Any) -> Response:
        try:
            answer: Response = await call_next(request)
        except ValueError:
            return JSONResponse({"caught": True}, 418)
        return answer

    app.add_middleware(BaseHTTPMiddleware, dispatch=catch)
    install(app)
    async with browse(app) as client:
        assert (await client.get("/boom")).json() == {"caught": True}


async def test_own_middleware_may_refuse(browse: Any) -> None:
    """One of our errors that leaves the application's own middleware is answered, not logged as a fault."""
    app = shop()

    async def refuse(request: Request, call_next: Any) -> Response:
        raise ERRORS["open"]

    app.add_middleware(BaseHTTPMiddleware, dispatch=refuse)
    install(app)
    async with browse(app) as client:
        assert (await client.get("/boom")).json()["code"] == "CIRCUIT_OPEN"


@pytest.mark.parametrize(
    ("name", "status", "code", "retry_after"),
    [
        ("limited", 429, "RATE_LIMITED", "2"),
        ("full", 503, "BULKHEAD_FULL", None),
        ("open", 503, "CIRCUIT_OPEN", "3"),
        ("late", 504, "DEADLINE_EXCEEDED", None),
        ("pool", 503, "POOL_TIMEOUT", None),
        ("broken", 500, "CONFIGURATION", None),
    ],
)
async def test_toolkit_errors(browse: Any, name: str, status: int, code: str, retry_after: str | None) -> None:
    """Errors of ours raised in an endpoint are answers, with the time to wait, and without their text (L16)."""
    app = shop()
    install(app)
    async with browse(app) as client:
        answer = await client.get(f"/raise/{name}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers.get("Retry-After") == retry_after
    assert SECRET not in answer.text
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]


async def test_app_error_speaks_for_itself(browse: Any) -> None:
    """The service's own error reaches the client with message, details and headers."""
    app = shop()
    install(app)
    async with browse(app) as client:
        answer = await client.get("/raise/app")
    body = answer.json()
    assert (answer.status_code, body["code"], body["message"]) == (409, "ORDERS_V001", "No such size.")
    assert (body["details"], answer.headers["X-Hint"]) == ({"size": 7}, "8")


async def test_http_exceptions(browse: Any) -> None:
    """What is given to HTTPException is sent: text as message, facts as details, headers as they are."""
    app = shop()
    install(app)
    async with browse(app) as client:
        answers = {name: await client.get(f"/raise/{name}") for name in ERRORS}
        missing, wrong_method = await client.get("/nowhere"), await client.delete("/boom")
    assert answers["auth"].headers["WWW-Authenticate"] == "Bearer"
    assert answers["text"].json()["message"] == "No such hat."
    assert answers["facts"].json()["details"] == {"held_by": "ann"}
    assert answers["list"].json()["details"] == {"detail": ["a", "b"]}
    assert answers["closed"].json()["message"] == "Closed until Monday."
    assert answers["why"].json()["details"] == {"step": "payment"}
    assert answers["later"].headers["Retry-After"] == "Fri, 31 Dec 2027 23:59:59 GMT"
    assert answers["seconds"].headers.get_list("Retry-After") == ["7"]
    assert answers["seconds"].json()["retry_after"] == 7
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert (wrong_method.status_code, wrong_method.headers["Allow"]) == (405, "GET")
    assert all(SECRET not in answer.text for answer in answers.values())


async def test_redirects_are_no_errors(browse: Any) -> None:
    """A redirect keeps its headers and gets no error body, raised or not, and so does 304."""
    app = shop()

    @app.get("/old", response_class=RedirectResponse)
    def old() -> str:
        return "/new"

    @app.get("/folder/")
    def folder() -> str:
        return ""

    install(app)
    async with browse(app) as client:
        moved, unchanged = await client.get("/raise/moved"), await client.get("/raise/unchanged")
        assert (moved.status_code, moved.headers["Location"]) == (307, "/elsewhere")
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert (await client.get("/old")).headers["Location"] == "/new"
        assert (await client.get("/folder")).headers["Location"] == "http://shop.example/folder/"


@pytest.mark.parametrize("wait", ["1\r\nSet-Cookie: x=1", "snow \u2603"])
async def test_no_wait_starts_a_new_line(browse: Any, caplog: pytest.LogCaptureFixture, wait: str) -> None:
    """A Retry-After that is not one line of HTTP is dropped and logged, as any header is, and the error is answered."""
    app = FastAPI()

    @app.get("/busy")
    def busy() -> None:
        raise HTTPException(503, headers={"Retry-After": wait})

    install(app)
    async with browse(app) as client:
        answer = await client.get("/busy")
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert "Retry-After" not in answer.headers
    assert [record.getMessage() for record in caplog.records if "'Retry-After' was dropped" in record.getMessage()]


async def test_validators_of_models_do_not_echo(browse: Any) -> None:
    """The text of a validator that saw a whole object is withheld when a value of it is in the text (L16)."""
    app = FastAPI()

    @app.post("/transfer")
    def transfer(order: Transfer) -> None: ...

    install(app)
    async with browse(app) as client:
        echo = await client.post("/transfer", json={"accounts": [SECRET]})
        plain = await client.post("/transfer", json={"accounts": []})
    assert [field["message"] for field in echo.json()["details"]["fields"]] == ["The value is not valid."]
    assert [field["message"] for field in plain.json()["details"]["fields"]] == ["Value error, no accounts"]


async def test_deep_bodies_are_answered(browse: Any) -> None:
    """A validator that refuses a body nested deeper than Python can recurse is answered like any other."""
    app = FastAPI()

    @app.post("/deep")
    def deep(order: Deep) -> None: ...

    install(app)
    async with browse(app) as client:
        body = '{"accounts":' + "[" * 600 + "1" + "]" * 600 + "}"
        answer = await client.post("/deep", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert [field["message"] for field in answer.json()["details"]["fields"]] == ["Value error, too deep"]


@pytest.mark.parametrize(
    "body", [{"password": SECRET[:15], "age": "x" + SECRET}, {"password": {"a": SECRET}}, [SECRET], SECRET, None]
)
async def test_validation_does_not_echo(browse: Any, body: Any) -> None:
    """A 422 says which field and why, and never what was sent, not even through a validator's own text (L16)."""
    app = shop()
    install(app)
    async with browse(app) as client:
        answer = await client.post("/accounts", json=body)
        broken = await client.post("/accounts", content=b'{"' + SECRET.encode())
    assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION_FAILED")
    assert all(field["field"].startswith("body") for field in answer.json()["details"]["fields"])
    for text in (answer.text, broken.text):
        assert SECRET not in text
        assert SECRET[:15] not in text


async def test_own_handlers_stand(browse: Any) -> None:
    """Handlers the application registered itself, by class or status, before or after, win over ours."""
    app = shop()

    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return JSONResponse({"own": "http"}, error.status_code)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"own": "invalid"}, 400)

    install(app)

    @app.exception_handler(RateLimitedError)
    async def limited(request: Request, error: RateLimitedError) -> JSONResponse:
        return JSONResponse({"own": "limited"}, 429)

    async with browse(app) as client:
        assert (await client.get("/nowhere")).json() == {"own": "http"}
        assert (await client.post("/accounts")).json() == {"own": "invalid"}
        assert (await client.get("/raise/limited")).json() == {"own": "limited"}
        assert (await client.get("/raise/full")).json()["code"] == "BULKHEAD_FULL"


@pytest.mark.parametrize("colour", ["async", "sync"])
async def test_own_handler_answers_for_the_gate(browse: Any, toolkit: Any, colour: str) -> None:
    """A handler the application registered for one of our errors is asked when our gate refuses, too."""
    app = shop()

    async def limited(request: Request, error: RateLimitedError) -> JSONResponse:
        return JSONResponse({"own": error.code}, 429)

    def blocking(request: Request, error: RateLimitedError) -> JSONResponse:
        return JSONResponse({"own": error.code}, 429)

    own: Any = limited if colour == "async" else blocking
    app.add_exception_handler(RateLimitedError, own)
    install(app, toolkit(server__rate_limit="1/day", server__rate_limit_covers="all"))
    async with browse(app) as client:
        await client.get("/nowhere")
        answer = await client.get("/nowhere")
    assert answer.json() == {"own": "RATE_LIMITED"}
    assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize("path", ["/boom", "/nowhere", "/raise/open", "/accounts"])
async def test_problem_on_request(browse: Any, path: str) -> None:
    """A client that prefers problem+json gets it, from every kind of error, and caches are told it was a choice."""
    app = shop()
    install(app)
    async with browse(app) as client:
        method = "POST" if path == "/accounts" else "GET"
        problem = await client.request(method, path, headers={"Accept": "application/problem+json"})
        plain = await client.request(method, path)
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert problem.json()["status"] == problem.status_code == plain.status_code
    assert plain.headers["Content-Type"] == "application/json"
    assert problem.headers["Vary"] == plain.headers["Vary"] == "Accept"


async def test_problem_by_setting(browse: Any, toolkit: Any) -> None:
    """A service may prefer problem+json, with its own base of types."""
    app = shop()
    install(app, toolkit(server__errors="problem", server__problem_type_base="https://e.example/"))
    async with browse(app) as client:
        problem = await client.get("/nowhere")
        plain = await client.get("/nowhere", headers={"Accept": "application/json"})
    assert problem.json()["type"] == "https://e.example/NOT_FOUND"
    assert plain.json().keys() == MEMBERS


async def test_mounted_application(browse: Any) -> None:
    """A mounted application is left alone unless it is installed on, too; then its errors are enveloped as well."""
    app, plain, guarded = shop(), shop(), shop()
    install(guarded)
    app.mount("/plain", plain)
    app.mount("/guarded", guarded)
    install(app)
    async with browse(app) as client:
        left_alone = await client.get("/plain/boom")
        enveloped = await client.get("/guarded/boom", headers={"X-Request-ID": "abc"})
        refused = await client.get("/guarded/raise/limited")
        fine = await client.get("/guarded/openapi.json")
    assert (left_alone.text, bool(left_alone.headers["X-Request-ID"])) == ("Internal Server Error", True)
    assert enveloped.json()["request_id"] == "abc"
    assert enveloped.headers.get_list("X-Request-ID") == ["abc"]
    assert (refused.status_code, fine.status_code) == (429, 200)


async def test_mounted_application_answers_for_its_middleware(browse: Any) -> None:
    """What middleware of a mounted, installed application raises is answered by that one's handler and CORS rules."""
    app, sub = FastAPI(), FastAPI()

    class Refusing:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            raise AppError("USER_001", http_status=409)

    @sub.exception_handler(AppError)
    async def own(request: Request, error: AppError) -> JSONResponse:
        return JSONResponse({"mine": error.code}, 409)

    sub.add_middleware(Refusing)
    sub.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])
    install(sub)
    app.mount("/sub", sub)
    install(app)
    async with browse(app) as client:
        answer = await client.get("/sub/", headers={"Origin": "https://shop.example"})
    assert (answer.status_code, answer.json()) == (409, {"mine": "USER_001"})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"


async def test_wrapping_from_outside(browse: Any) -> None:
    """The middleware may also wrap a whole application: ids are added, and errors are the application's own."""
    app = ResilienceMiddleware(shop())
    async with browse(app) as client:
        answer = await client.get("/boom")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert answer.headers["X-Request-ID"]


async def test_wrapping_any_asgi_application(browse: Any) -> None:
    """Around an application that answers for nothing, the middleware does."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError(SECRET)

    async with browse(ResilienceMiddleware(app)) as client:
        assert (await client.get("/")).json()["code"] == "INTERNAL"


async def test_openapi_describes_the_envelope(browse: Any) -> None:
    """`error_responses()` puts the envelope into the OpenAPI document and FastAPI's own 422 out of it."""
    app = FastAPI(responses=error_responses())

    @app.get("/items/{item}")
    def read(item: int) -> int:
        return item

    install(app)
    async with browse(app) as client:
        document = (await client.get("/openapi.json")).json()
    answers = document["paths"]["/items/{item}"]["get"]["responses"]
    assert set(answers) == {"200", "400", "422", "429", "500", "503", "504"}
    assert set(answers["422"]["content"]["application/json"]["schema"]["properties"]) == MEMBERS
    assert answers["503"]["description"] == http.HTTPStatus(503).phrase
    assert "HTTPValidationError" not in document.get("components", {}).get("schemas", {})
    assert "/livez" not in document["paths"]
    assert set(error_responses(404)) == {404}


def test_any_error_can_be_described() -> None:
    """A status that HTTP has no word for is described as the envelope calls it; one that is no error is refused."""
    described = error_responses(418, 499, 520)
    phrases = {418: "I'm a Teapot", 499: "Client Closed Request", 520: "Server Error"}
    assert {status: answer["description"] for status, answer in described.items()} == phrases
    with pytest.raises(ConfigurationError, match="from 400 to 599"):
        error_responses(200)


async def test_a_body_that_is_no_text_is_described(browse: Any) -> None:
    """The 400 that FastAPI gives to a body it cannot decode is one of those described without naming any."""
    app = FastAPI(responses=error_responses())

    @app.post("/items")
    def write(item: dict[str, int]) -> int:
        return len(item)

    install(app)
    async with browse(app) as client:
        answer = await client.post("/items", content=b"\xff", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")
    assert str(answer.status_code) in app.openapi()["paths"]["/items"]["post"]["responses"]


class TestLanguages:
    @pytest.fixture
    def app(self, toolkit: Any) -> FastAPI:
        app, resilience = FastAPI(), toolkit(server__rate_limit="2/minute", server__rate_limit_covers="all")
        catalog = install(app, resilience).catalog
        catalog.define("ORDERS_V001", "No such article.", http_status=422, translations={"de": "Unbekannter Artikel."})
        catalog.translate("de", {"NOT_FOUND": "Hier ist nichts.", "RATE_LIMITED": "Zu viele Anfragen."})

        @app.get("/order")
        async def order() -> None:
            raise catalog.error("ORDERS_V001")

        return app

    async def test_follow_the_client(self, app: FastAPI, browse: Any) -> None:
        """Errors of the service, the framework and the toolkit are answered in the client's language, and say so."""
        async with browse(app) as client:
            paths = ["/order", "/nowhere", "/order"]
            answers = [await client.get(path, headers={"Accept-Language": "de-CH, en;q=0.8"}) for path in paths]
        assert [answer.json()["message"] for answer in answers] == [
            "Unbekannter Artikel.",
            "Hier ist nichts.",
            "Zu viele Anfragen.",
        ]
        assert {answer.headers["Content-Language"] for answer in answers} == {"de"}
        assert {answer.headers["Vary"] for answer in answers} == {"Accept-Language, Accept"}

    async def test_default_to_english(self, app: FastAPI, browse: Any) -> None:
        """A client that wants no language there is gets the catalogue's own."""
        async with browse(app) as client:
            answer = await client.get("/order", headers={"Accept-Language": "fr"})
        assert (answer.json()["message"], answer.headers["Content-Language"]) == ("No such article.", "en")


async def test_an_error_nobody_can_send_is_a_fault(browse: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An AppError with a code or a status that cannot be sent is a 500, and the log says why."""
    app = FastAPI()
    install(app)

    @app.get("/code")
    async def code() -> None:
        raise AppError("not a code", "hunter2", http_status=404)

    @app.get("/status")
    async def status() -> None:
        raise AppError("ORDERS_V001", "No.", http_status=200)

    async with browse(app) as client:
        answers = [await client.get(path) for path in ("/code", "/status")]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (500, "INTERNAL"),
        (500, "ORDERS_V001"),
    ]
    assert "hunter2" not in answers[0].text
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 2


@pytest.mark.parametrize(("settings", "wait"), [({}, "300"), ({"server__retry_after_max": "10m"}, "600")])
async def test_the_wait_of_another_service_is_handed_on_with_a_bound(
    toolkit: Any, browse: Any, settings: dict[str, str], wait: str
) -> None:
    """An error that another service sent says at most `retry_after_max` to our own client."""
    app = FastAPI()
    install(app, toolkit(**settings))

    @app.get("/")
    async def page() -> None:
        said, _ = Envelope(code="THEIR_001", message="later", retry_after=31_536_000.0).render()
        raise read_envelope(503, said, {}) or AssertionError(said)

    async with browse(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.headers["Retry-After"], answer.json()["retry_after"]) == (503, wait, float(wait))
