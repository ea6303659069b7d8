"""Servers of both stacks, real and in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc_shop
import pytest

from resilience import Resilience

Serve = Callable[..., grpc_shop.Running]


@pytest.fixture(params=grpc_shop.STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    """Name one of the ways to serve."""
    return str(request.param)


@pytest.fixture(params=grpc_shop.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name one of the kinds of methods."""
    return str(request.param)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers; they end with the test."""
    with contextlib.ExitStack() as servers:

        def start(stack: str, settings: dict[str, str] | None = None, **options: Any) -> grpc_shop.Running:
            named = {f"RESILIENCE_{name}": value for name, value in (settings or {}).items()}
            toolkit = Resilience.from_env({"RESILIENCE_SERVICE__NAME": "shop", **named})
            prepare = options.pop("prepare", None)
            if prepare is not None:
                options["prepare"] = lambda server: prepare(server, toolkit)
            return servers.enter_context(grpc_shop.running(stack, toolkit, **options))

        yield start
