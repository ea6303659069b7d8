"""Is it ready? Asked as a kubelet asks: on a connection of its own, with little patience."""

from __future__ import annotations

import asyncio

__all__ = ("NOBODY", "readiness")

NOBODY = 0
"""In place of a status: no connection, or no answer in time."""

_PATIENCE = 1.0
_QUESTION = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


async def readiness(port: int) -> int:
    """Return the status with which the server on `port` answers `/readyz`."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await _asked(port)
    except (OSError, ValueError, IndexError):  # a TimeoutError is an OSError; the others are answers cut short
        return NOBODY


async def _asked(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_QUESTION)
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
