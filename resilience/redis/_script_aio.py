"""Scripts in a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resilience.redis._script import Script, unknown_script

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ("run_awaiting",)


async def run_awaiting(script: Script, client: Redis, key: bytes, arguments: Sequence[Any]) -> Any:
    """Return the script's reply, suspending this task."""
    try:
        return await client.execute_command(*script.by_hash(key, arguments))  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    except unknown_script():
        return await client.execute_command(*script.by_text(key, arguments))  # type: ignore[no-untyped-call]  # see above
