"""`RESILIENCE_SERVER__ERRORS=native`: bodies as without us, and refusals in the shape of FastAPI's own errors."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse

from resilience import AppError, CircuitOpenError, DeadlineExceededError, Resilience
from resilience.errors import BulkheadFullError, DrainingError, PoolTimeoutError, RateLimitedError
from resilience_fastapi import ResilienceMiddleware, error_responses, install, rate_limit

REFUSALS: dict[str, tuple[Exception, int, str, str | None]] = {
    "limited": (RateLimitedError("secret", retry_after=1.2), 429, "Too many requests.", "2"),
    "open": (CircuitOpenError("secret", policy="x", retry_after=3), 503, CircuitOpenError.public_message, "3"),
    "full": (BulkheadFullError("secret"), 503, BulkheadFullError.public_message, None),
    "late": (DeadlineExceededError("secret"), 504, DeadlineExceededError.public_message, None),
    "pool": (PoolTimeoutError("secret"), 503, PoolTimeoutError.public_message, None),
    "group": (ExceptionGroup("g", [RateLimitedError("secret", retry_after=7)]), 429, "Too many requests.", "7"),
}
PLAIN = ["/items/x", "/missing", "/boom", "/busy", "/facts", "/old"]


def shop(**options: Any) -> FastAPI:
    app = FastAPI(**options)

    @app.get("/items/{item}")
    def read(item: int) -> int:
        return item

    @app.get("/boom")
    def boom() -> None:
        raise ValueError("secret")

    @app.get("/busy")
    def busy() -> None:
        raise HTTPException(503, "closed until Monday", headers={"Retry-After": "60"})

    @app.get("/facts")
    def facts() -> None:
        raise HTTPException(409, {"held_by": "ann"})

    @app.get("/old")
    def old() -> None:
        raise HTTPException(307, headers={"Location": "/new"})

    @app.get("/refused/{name}")
    async def refused(name: str) -> None:
        raise REFUSALS[name][0]

    @app.get("/own")
    def own() -> None:
        raise AppError("ORDERS_V001", "No such size.", details={"size": 7}, http_status=409)

    return app


@pytest.fixture
def native(toolkit: Any) -> Any:
    def build(app: FastAPI, **settings: str) -> FastAPI:
        install(app, toolkit(server__errors="native", **settings))
        return app

    return build


def said(answer: httpx2.Response) -> tuple[int, bytes, dict[str, str]]:
    headers = {name: text for name, text in answer.headers.items() if name not in {"x-request-id", "connection"}}
    return answer.status_code, answer.content, headers


@pytest.mark.parametrize("path", PLAIN)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_bodies_stay(browse: Any, native: Any, path: str, method: str) -> None:
    """Every error of the framework and the application has the status, headers and body that it has without us."""
    answers = []
    for app in (shop(), native(shop())):
        async with browse(app) as client:
            answers.append(await client.request(method, path, headers={"Accept": "application/problem+json"}))
    without, guarded = answers
    assert said(guarded) == said(without)
    assert guarded.headers["X-Request-ID"]


async def test_openapi_stays(browse: Any, native: Any) -> None:
    """The OpenAPI document is the same with and without us."""
    documents = []
    for app in (shop(), native(shop())):
        async with browse(app) as client:
            documents.append((await client.get("/openapi.json")).json())
    assert documents[0] == documents[1]


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("accept", ["*/*", "application/problem+json"])
async def test_refusals_look_like_errors_of_fastapi(browse: Any, native: Any, name: str, accept: str) -> None:
    """A refusal has the body of an `HTTPException`, our fixed sentence, the wait and the id of the request."""
    _, status, message, wait = REFUSALS[name]
    async with browse(native(shop())) as client:
        answer = await client.get(f"/refused/{name}", headers={"Accept": accept, "X-Request-ID": "r-1"})
    assert (answer.status_code, answer.json()) == (status, {"detail": message})
    assert (answer.headers.get("Retry-After"), answer.headers["X-Request-ID"]) == (wait, "r-1")
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("setting", "value", "status"),
    [("rate_limit", "1/day", 429), ("deadline", "1ms", 504), ("max_concurrent_requests", "1", 503)],
)
async def test_refusals_of_the_gate(browse: Any, native: Any, setting: str, value: str, status: int) -> None:
    """The gate's own refusals have this shape too, with the headers of the quota and of the application's CORS."""
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"])
    native(app, **{f"server__{setting}": value, "server__rate_limit_headers": "true"})

    @app.get("/")
    async def root() -> Any:
        await asyncio.sleep(0.05)  # longer than the deadline
        async with browse(app) as inner:  # while this request is in flight
            answer = await inner.get("/", headers={"Origin": "https://a.example"})
        return JSONResponse(answer.json(), answer.status_code, dict(answer.headers))

    async with browse(app) as client:
        answer = await client.get("/", headers={"Origin": "https://a.example"})
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert answer.headers["X-Request-ID"]
    if setting == "rate_limit":
        assert int(answer.headers["Retry-After"]) > 0
        assert "default" in answer.headers["RateLimit"]


async def test_refusal_while_draining(browse: Any, native: Any, toolkit: Any) -> None:
    """A `DrainingError` that leaves an endpoint has the shape of FastAPI's own errors."""
    app = FastAPI()
    resilience: Resilience = toolkit(server__errors="native")
    install(app, resilience)

    @app.get("/")
    def root() -> None:
        raise DrainingError("secret")

    async with browse(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, list(answer.json())) == (503, ["detail"])


@pytest.mark.parametrize("is_early", [True, False])
@pytest.mark.parametrize("kind", [429, HTTPException])
async def test_own_handlers_for_http_errors_answer_refusals(
    browse: Any, toolkit: Any, kind: Any, *, is_early: bool
) -> None:
    """A refusal is an `HTTPException`, so the application's handler for its status or class answers it."""
    app = shop()

    def own(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    if is_early:
        app.add_exception_handler(kind, own)  # type: ignore[arg-type]  # Starlette's type takes a handler of any exception
    install(app, toolkit(server__errors="native", server__rate_limit="1/day"))
    if not is_early:
        app.add_exception_handler(kind, own)  # type: ignore[arg-type]  # as above
    async with browse(app) as client:
        in_endpoint, at_the_gate = await client.get("/refused/limited"), await client.get("/items/1")
    assert [answer.json() for answer in (in_endpoint, at_the_gate)] == [{"error": "Too many requests."}] * 2
    assert in_endpoint.headers["Retry-After"] == "2"


async def test_own_validation_handler_stays(browse: Any, native: Any) -> None:
    """The application's own answer to invalid requests stands."""
    app = shop()
    app.add_exception_handler(RequestValidationError, lambda _, error: PlainTextResponse("no", 400))
    async with browse(native(app)) as client:
        assert (await client.get("/items/x")).text == "no"


async def test_app_errors_keep_their_envelope(browse: Any, native: Any) -> None:
    """An `AppError` is answered with its code and details: the application has chosen them for its client."""
    async with browse(native(shop())) as client:
        answer = await client.get("/own")
    assert (answer.status_code, answer.json()["code"], answer.json()["details"]) == (409, "ORDERS_V001", {"size": 7})


async def test_refusals_in_the_language_of_the_client(browse: Any, toolkit: Any) -> None:
    """The sentence of a refusal is translated, and the answer names its language."""
    app, resilience = shop(), toolkit(server__errors="native")
    resilience.catalog.translate("de", {"RATE_LIMITED": "Zu viele Anfragen."})
    install(app, resilience)
    async with browse(app) as client:
        answer = await client.get("/refused/limited", headers={"Accept-Language": "de"})
    assert answer.json() == {"detail": "Zu viele Anfragen."}
    assert (answer.headers["Content-Language"], answer.headers["Vary"]) == ("de", "Accept-Language")


async def test_route_limit(browse: Any, native: Any) -> None:
    """A limit of a route refuses in the same shape."""
    app = native(FastAPI())
    app.get("/", dependencies=[rate_limit("1/day")])(lambda: "ok")
    async with browse(app) as client:
        await client.get("/")
        answer = await client.get("/")
    assert (answer.status_code, answer.json()) == (429, {"detail": "Too many requests."})


async def test_layer_alone(browse: Any, toolkit: Any) -> None:
    """The middleware without `install` answers in the same shape, around any application."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise REFUSALS["open"][0] if scope["path"] == "/open" else ValueError("secret")

    async with browse(ResilienceMiddleware(app, toolkit(server__errors="native"))) as client:
        refused, failed = await client.get("/open"), await client.get("/fault")
    assert (refused.status_code, refused.json()) == (503, {"detail": CircuitOpenError.public_message})
    assert (failed.status_code, failed.text) == (500, "Internal Server Error")


async def test_each_application_has_its_own_shape(browse: Any, toolkit: Any) -> None:
    """A mounted application with a toolkit of its own answers in the shape of that toolkit."""
    outer, inner = shop(), shop()
    install(inner, toolkit(server__errors="native"))
    outer.mount("/inner", inner)
    install(outer, toolkit())
    async with browse(outer) as client:
        assert (await client.get("/inner/refused/open")).json() == {"detail": CircuitOpenError.public_message}
        assert (await client.get("/inner/missing")).json() == {"detail": "Not Found"}
        assert (await client.get("/refused/open")).json()["code"] == "CIRCUIT_OPEN"
        assert (await client.get("/missing")).json()["code"] == "NOT_FOUND"


async def test_websockets(native: Any) -> None:
    """A websocket handshake is denied with a body of the same shape."""
    app: FastAPI = native(FastAPI())

    @app.websocket("/")
    async def refuse(websocket: WebSocket) -> None:
        raise REFUSALS["limited"][0]

    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
    scope["extensions"] = {"websocket.http.response": {}}
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert (sent[0]["status"], sent[1]["body"]) == (429, b'{"detail":"Too many requests."}')


class TestDocument:
    def test_refusals(self, toolkit: Any) -> None:
        """`error_responses` describes the refusals as FastAPI's own errors, and leaves 422 to FastAPI."""
        found = error_responses(resilience=toolkit(server__errors="native"))
        assert list(found) == [429, 503, 504]
        schema = found[429]["content"]["application/json"]["schema"]
        assert (schema["required"], list(found[429]["content"])) == (["detail"], ["application/json"])

    def test_chosen_statuses(self, toolkit: Any) -> None:
        """Statuses that you choose are described as FastAPI answers them."""
        found = error_responses(404, 422, 500, resilience=toolkit(server__errors="native"))
        assert {status: list(answer["content"]) for status, answer in found.items()} == {
            404: ["application/json"],
            500: ["text/plain"],
        }

    @pytest.mark.parametrize(("mode", "members"), [("native", ["detail"]), ("problem", None), ("json", None)])
    def test_by_environment(self, monkeypatch: pytest.MonkeyPatch, mode: str, members: Any) -> None:
        """Without a toolkit, the environment decides, as for `install(app)`."""
        monkeypatch.setenv("RESILIENCE_SERVER__ERRORS", mode)
        schema = error_responses(429)[429]["content"]["application/json"]["schema"]
        assert list(schema["properties"]) == (members or list(schema["properties"]))
        assert ("detail" in schema["properties"]) == (mode == "native")
