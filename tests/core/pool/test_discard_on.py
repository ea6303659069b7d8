"""A connector can name the exceptions after which no check can vouch for a connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience import AsyncPool, ConfigurationError, Pool
from resilience.pool import Connector


class UnclearError(Exception):
    """An error after which an answer may be on its way."""


def test_a_connection_is_closed_after_a_named_error() -> None:
    """Neither `check` nor `reset` keeps a connection whose block ended with an error of `discard_on`."""
    asked: list[object] = []
    connector: Connector[Any] = Connector(
        connect=object, check=asked.append, reset=asked.append, discard_on=(UnclearError,)
    )
    with Pool(connector) as pool:
        with pytest.raises(UnclearError), pool.connection():
            raise UnclearError
        assert (asked, pool.snapshot()["closed"]) == ([], {"error in use": 1})
        with pytest.raises(ZeroDivisionError), pool.connection():
            raise ZeroDivisionError
        assert (len(asked), pool.snapshot()["idle"]) == (2, 1)


def test_an_async_connection_is_closed_after_a_named_error() -> None:
    """The same holds for tasks."""
    asked: list[object] = []

    async def connect() -> object:
        return object()

    async def ask(connection: object) -> None:
        asked.append(connection)

    async def main() -> None:
        connector: Connector[Any] = Connector(connect=connect, check=ask, reset=ask, discard_on=(UnclearError,))
        async with AsyncPool(connector) as pool:
            with pytest.raises(UnclearError):
                async with pool.connection():
                    raise UnclearError
            assert (asked, pool.snapshot()["closed"]) == ([], {"error in use": 1})
            with pytest.raises(ZeroDivisionError):
                async with pool.connection():
                    raise ZeroDivisionError
            assert (len(asked), pool.snapshot()["idle"]) == (2, 1)

    asyncio.run(main())


@pytest.mark.parametrize("wrong", [None, Exception, (int,), ("Exception",)])
def test_other_values_are_refused(wrong: Any) -> None:
    """Anything but a tuple of classes of exceptions is named when the pool is made."""
    with pytest.raises(ConfigurationError, match="discard_on="):
        Pool(Connector(connect=object, discard_on=wrong))


@pytest.mark.parametrize("wrong", [None, "sqlalchemy", ["sqlalchemy"], (1,), ("",)])
def test_other_packages_in_between_are_refused(wrong: Any) -> None:
    """`between` is a tuple of names: a text alone would be taken for its letters."""
    with pytest.raises(ConfigurationError, match=r"between=.*a tuple of names of packages"):
        Pool(Connector(connect=object, between=wrong))
