"""docs/cookbook/grpc.md: both servers as processes, both clients in this process."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cookbook import Recipe
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_process import ServerProcess

from resilience import AppError, CircuitOpenError, DeadlineExceededError

pytestmark = [pytest.mark.servers, pytest.mark.once]

PAGE = Recipe("grpc")
COLOURS = {"blocking": ("stock_server.py", "stock_client.py"), "aio": ("stock_server_aio.py", "stock_client_aio.py")}


def wait_ready(server: ServerProcess, *, status: str = "SERVING") -> None:
    """Wait until the health service of the server says `status`."""
    wanted = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        while health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=10).status != wanted:
            pass


def error_of(call: Callable[[str], Any], article: str = "tea") -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call(article)
    return caught.value


def status_of(error: Any) -> grpc.StatusCode:
    """Return the status, as gRPC's own errors have it."""
    status: grpc.StatusCode = error.code()
    return status


def go_through_an_outage(call: Callable[[str], Any], server: ServerProcess) -> None:
    """Ask, drain the server, and ask until the circuit is open."""
    assert call("tea") == 12
    missing = error_of(call, "coffee")
    assert isinstance(missing, AppError)
    PAGE.shows("an article that is not there", f"{status_of(missing)}\n{missing.code} {missing.details}")
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:  # a client that does not watch the health
        method = channel.unary_unary("/shop.Stock/Count", StringValue.SerializeToString, Int64Value.FromString)
        assert method(StringValue(value="tea")).value == 12
        server.tell(signal.SIGTERM)
        wait_ready(server, status="NOT_SERVING")
        assert method(StringValue(value="tea")).value == 12
    assert server.ended() == 0
    errors = [error_of(call)]
    assert isinstance(errors[0], AppError | DeadlineExceededError)
    while not isinstance(errors[-1], CircuitOpenError):
        assert len(errors) < 40
        errors.append(error_of(call))
    PAGE.shows("the error while the circuit is open", f"{status_of(errors[-1])}\n{errors[-1]}")


@pytest.mark.parametrize("colour", COLOURS)
def test_an_outage_and_a_drain_are_as_the_page_shows_them(
    colour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In each colour the errors and the log are those of the page, and the server drains at SIGTERM."""
    server_file, client_file = COLOURS[colour]
    with PAGE.started(f"python {server_file}", tmp_path, RESILIENCE_LIFECYCLE__DRAIN_DELAY="300ms") as server:
        wait_ready(server)
        for name, value in PAGE.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("STOCK_TARGET", f"127.0.0.1:{server.port}")
        client = PAGE.load(client_file, tmp_path)
        ask, close = client["in_stock"], client["channel"].close
        if colour == "blocking":
            go_through_an_outage(ask, server)
            close()
        else:
            with asyncio.Runner() as runner:
                go_through_an_outage(lambda article: runner.run(ask(article)), server)
                runner.run(close())
    PAGE.shows("the log of the client", "\n".join(line(record) for record in caplog.records))


def line(record: logging.LogRecord) -> str:
    return f"{record.levelname} {record.name} {record.getMessage()}"
