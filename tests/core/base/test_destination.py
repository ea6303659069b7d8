"""The host of a request in the log, for the policies of a client that serve all hosts."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

from resilience.client import Destination
from resilience.event_log._destination import current_destination


def test_the_inner_request_wins_and_the_outer_one_returns() -> None:
    """A request that is sent while another one is being sent has its own host."""
    assert current_destination() == ""
    with Destination(str, "outer"):
        with Destination(str, "inner"):
            assert current_destination() == "inner"
        assert current_destination() == "outer"
    assert current_destination() == ""


async def test_tasks_do_not_share_it() -> None:
    """Requests of concurrent tasks have their own hosts."""

    async def send(host: str) -> str:
        assert current_destination() == ""
        with Destination(str, host):
            await asyncio.sleep(0)
            return current_destination()

    assert [*await asyncio.gather(send("a"), send("b"))] == ["a", "b"]
    assert current_destination() == ""


def test_a_url_that_cannot_be_read_changes_nothing() -> None:
    """If the host of a request raises, the line has no host and the caller keeps its outcome."""

    def broken(_request: object) -> str:
        raise ValueError("Port out of range")

    with Destination(broken, None):
        assert current_destination() == ""


def test_no_host_forges_a_line() -> None:
    """A host with a line break is one line."""
    with Destination(str, "a\nCRITICAL b"):
        assert current_destination() == "a\\nCRITICAL b"


def test_a_coroutine_that_is_closed_in_another_context_raises_nothing() -> None:
    """The garbage collector closes a dropped request in any context."""

    async def send() -> None:
        with Destination(str, "a"):
            await asyncio.Future[None](loop=loop)

    loop = asyncio.new_event_loop()
    sending: Coroutine[Any, Any, None] = send()
    contextvars.copy_context().run(sending.send, None)
    sending.close()
    loop.close()
    assert current_destination() == ""
