"""A timer of the running loop that goes on while the deadline it watches moves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from resilience.timeout._moving import Patience

__all__ = ("Alarm",)


class Alarm:
    """Calls `ring` once, when `patience` is at its end, unless it is cancelled before."""

    __slots__ = ("_handle", "_patience", "_ring")

    def __init__(self, patience: Patience, ring: Callable[[], None]) -> None:
        self._patience, self._ring = patience, ring
        self._handle: asyncio.Handle | None = None
        if patience.seconds is not None:
            self._set(patience.seconds)

    def cancel(self) -> None:
        """Do not ring any more."""
        if self._handle is not None:
            self._handle.cancel()

    def _set(self, seconds: float) -> None:
        if seconds < math.inf:
            self._handle = asyncio.get_running_loop().call_later(seconds, self._come)

    def _come(self) -> None:
        if more := self._patience.more():
            self._set(more)
        else:
            self._ring()
