"""Probes the readiness of a server as a kubelet does: on a new connection, with a short timeout."""

from __future__ import annotations

import asyncio

__all__ = ("NO_ANSWER", "readiness")

NO_ANSWER = 0
"""The status if the connection fails or no answer comes in time."""

_TIMEOUT = 1.0
_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


async def readiness(port: int) -> int:
    """Return the status with which the server on `port` answers `/readyz`."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await _probe(port)
    except (OSError, ValueError, IndexError):  # TimeoutError is an OSError; the others mean a malformed answer
        return NO_ANSWER


async def _probe(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_REQUEST)
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
