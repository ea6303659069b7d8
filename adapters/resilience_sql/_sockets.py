"""The end of a connection whose other end may hang."""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ("shut_down",)


def shut_down(descriptor: int) -> None:
    """Shut a socket down, without a farewell and without waiting. A thread that waits for it goes on with an error.

    The descriptor stays open: its owner closes it. So no thread that still uses it can meet another file under its
    number.
    """
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as end:
        end.shutdown(socket.SHUT_RDWR)
