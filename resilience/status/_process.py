"""The toolkits of this process, and the sockets that show them."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from resilience._support.fork import renew_after_fork
from resilience.status._socket import StatusSocket

__all__ = ("PROCESS",)

_MAX_TOOLKITS = 20


class _Shown(Protocol):
    """A toolkit."""

    def snapshot(self) -> object: ...


class _ProcessStatus:
    """Shows all toolkits that were made with a status socket, on the socket that they name.

    A process can have several toolkits: one for each application, and the default one of its clients. The socket closes
    with the last of them.
    """

    def __init__(self) -> None:
        self._sockets: dict[str, StatusSocket] = {}
        self._shown: dict[str, weakref.WeakValueDictionary[int, _Shown]] = {}
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Replace the lock: another thread may have held it at the moment of the fork."""
        self._lock = threading.RLock()  # guards both dictionaries; re-entrant, for finalizers

    def show(self, path: str, toolkit: _Shown) -> None:
        """Show `toolkit` on the socket of `path`, which is opened if this process has none there."""
        with self._lock:
            self._shown.setdefault(path, weakref.WeakValueDictionary())[id(toolkit)] = toolkit
            if path not in self._sockets:
                self._sockets[path] = StatusSocket(path, lambda: self.state(path))

    def hide(self, path: str, toolkit: _Shown) -> None:
        """Show `toolkit` no more. The last one closes the socket."""
        with self._lock:
            shown = self._shown.get(path, weakref.WeakValueDictionary())
            shown.pop(id(toolkit), None)
            last = None if len(shown) else self._sockets.pop(path, None)
        if last is not None:
            last.close()

    def state(self, path: str) -> dict[str, object]:
        """Return the state of the process as plain data: its id, and a snapshot of each toolkit."""
        with self._lock:
            toolkits = list(self._shown.get(path, {}).values())
        return {"pid": os.getpid(), "toolkits": [each.snapshot() for each in toolkits[:_MAX_TOOLKITS]]}


PROCESS = _ProcessStatus()
"""The toolkits of this process."""
