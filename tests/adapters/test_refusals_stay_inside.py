"""The text of a refusal states names, keys and counts; a remote client gets the fixed message."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from fastapi import FastAPI
from flask import Flask

from resilience import CircuitBreaker, CircuitOpenError, Keyed, Pipeline, Resilience
from resilience_fastapi import install
from resilience_flask import FlaskResilience
from resilience_grpc import aio_server_interceptors, server_interceptors

SECRETS = ("vault", "internal.example", "calls failed", "TimeoutError", "next trial")
MESSAGE = CircuitOpenError.public_message


def refused() -> str:
    """Raise the refusal of an open circuit, as a handler does that calls a dependency."""
    vault = Pipeline("vault", Keyed(lambda _: CircuitBreaker(fail_max=1), key=lambda host: host))

    def failing(_host: str) -> None:
        raise TimeoutError

    with contextlib.suppress(TimeoutError):
        vault.call(failing, "internal.example")
    with pytest.raises(CircuitOpenError) as caught:
        vault.call(failing, "internal.example")
    assert all(secret in str(caught.value) for secret in SECRETS)
    raise caught.value


def toolkit(errors: str) -> Resilience:
    return Resilience.from_env({"RESILIENCE_SERVER__ERRORS": errors} if errors else {})


def from_fastapi(errors: str) -> str:
    app = FastAPI()
    install(app, toolkit(errors))
    app.get("/")(refused)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return await client.get("/")

    answer = asyncio.run(ask())
    return f"{answer.status_code} {dict(answer.headers)} {answer.text}"


def from_flask(errors: str) -> str:
    app = Flask("shop")
    FlaskResilience(app, toolkit(errors))
    app.get("/")(refused)
    answer = app.test_client().get("/")
    return f"{answer.status_code} {dict(answer.headers)} {answer.text}"


def handlers(call: Any) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler("shop.Orders", {"Get": grpc.unary_unary_rpc_method_handler(call)})


def failure(error: grpc.RpcError) -> str:
    told: Any = error
    return f"503 {told.code()} {told.details()} {told.trailing_metadata()}"


def from_grpc(_errors: str) -> str:
    def get(_request: bytes, _context: grpc.ServicerContext) -> None:
        refused()

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), interceptors=server_interceptors(Resilience()))
    server.add_generic_rpc_handlers((handlers(get),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary("/shop.Orders/Get")
            with pytest.raises(grpc.RpcError) as caught:
                method(b"", timeout=30)
        return failure(caught.value)
    finally:
        server.stop(None).wait()


def from_grpc_aio(_errors: str) -> str:
    async def get(_request: bytes, _context: Any) -> None:
        refused()

    async def ask() -> str:
        server = grpc.aio.server(interceptors=aio_server_interceptors(Resilience()))
        server.add_generic_rpc_handlers((handlers(get),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                method: Any = channel.unary_unary("/shop.Orders/Get")
                with pytest.raises(grpc.RpcError) as caught:
                    await method(b"", timeout=30)
            return failure(caught.value)
        finally:
            await server.stop(None)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("answer", "errors"),
    [
        (from_fastapi, ""),
        (from_fastapi, "native"),
        (from_fastapi, "problem"),
        (from_flask, ""),
        (from_flask, "native"),
        (from_flask, "problem"),
        (from_grpc, ""),
        (from_grpc_aio, ""),
    ],
)
def test_a_client_gets_the_fixed_message(answer: Callable[[str], str], errors: str) -> None:
    """Nothing of the text of a refusal is in the body, the headers or the details, in any form of answers (L16)."""
    got = answer(errors)
    assert got.startswith("503 ")
    assert MESSAGE in got
    assert [secret for secret in SECRETS if secret in got] == []
