"""A Unix socket on which a process shows its state to its own user.

Each process of a service has a socket of its own: the path of the setting, a dot, and the process id. A client connects
and reads one JSON document; it sends nothing, so there is no request that could be half sent or hostile. One daemon
thread answers one client after the other, each for at most a second. The thread takes no lock of a policy for longer
than a snapshot needs.

The socket listens only after its mode is set, so no other user can connect in between. A process that dies leaves its
socket file behind; the next process removes files whose process is gone and on which no process listens.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resilience.errors import one_line

__all__ = ("StatusSocket", "read_status", "sockets_of")

_log = logging.getLogger("resilience")
_CLIENT_TIMEOUT = 1.0
_RETRY_INTERVAL = 1.0
_MAX_BYTES = 32 * 2**20
_MAX_PROCESSES = 256


class StatusSocket:
    """Shows the state of this process on a socket.

    Args:
        path: The path of the setting, without the process id.
        state: Returns the state as plain data.
    """

    def __init__(self, path: str, state: Callable[[], object]) -> None:
        self._path, self._state = path, state
        self._listener: socket.socket | None = None
        self._remove: Callable[[], object] = _nothing
        self._open()
        _sockets.add(self)

    def close(self) -> None:
        """Close the socket and remove its file. A second call does nothing."""
        _sockets.discard(self)
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # `close` alone does not wake the thread in `accept`
            listener.close()
        self._remove()

    def after_fork(self) -> None:
        """Open a socket of the child. The file of the parent stays."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._open()

    def _open(self) -> None:
        """Listen. A status that cannot be shown stops no service: the log says why."""
        path = f"{self._path}.{os.getpid()}"
        try:
            _remove_stale(self._path)
            listener = _listen(path)
        except OSError as error:
            _log.warning("no status on %s: %s", one_line(path), one_line(error))
            return
        self._listener = listener
        self._remove = weakref.finalize(self, _remove_own, path, os.getpid())
        try:
            threading.Thread(target=_serve, args=(listener, self._state), name="resilience-status", daemon=True).start()
        except RuntimeError as error:  # no more threads
            self.close()
            _log.warning("no status on %s: %s", one_line(path), one_line(error))


def _nothing() -> None:
    """Stand for the removal of a file that was not made."""


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        Path(path).chmod(0o600)  # a socket that does not listen yet accepts no connection
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener


def _serve(listener: socket.socket, state: Callable[[], object]) -> None:
    pause = threading.Event()
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            if listener.fileno() < 0:  # closed
                return
            pause.wait(_RETRY_INTERVAL)  # the process has no more file descriptors
            continue
        with connection, contextlib.suppress(OSError):  # the client may have gone, or may not read
            connection.settimeout(_CLIENT_TIMEOUT)
            connection.sendall(_document(state))


def _document(state: Callable[[], object]) -> bytes:
    try:
        return json.dumps(state()).encode()
    except Exception as error:  # noqa: BLE001 - a policy of a third party may raise anything in its snapshot
        return json.dumps({"pid": os.getpid(), "error": type(error).__name__, "toolkits": []}).encode()


def _remove_own(path: str, process: int) -> None:
    if os.getpid() == process:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def _remove_stale(path: str) -> None:
    for found in sockets_of(path):
        process = int(found.rpartition(".")[2])
        # Both are asked: a socket that is bound does not listen yet, and a directory may be shared between containers.
        if (process == os.getpid() or not _is_alive(process)) and _is_refused(found):
            with contextlib.suppress(OSError):
                Path(found).unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _is_refused(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CLIENT_TIMEOUT)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def sockets_of(path: str) -> list[str]:
    """Return the sockets of all processes of a service, in the order of their ids; at most 256."""
    place = Path(path)
    try:
        names = [entry.name for entry in place.parent.iterdir() if entry.name.startswith(f"{place.name}.")]
    except OSError:
        return []
    processes = sorted(int(end) for name in names if (end := name[len(place.name) + 1 :]).isascii() and end.isdigit())
    found = [f"{path}.{process}" for process in processes]
    return [name for name in found if Path(name).is_socket()][:_MAX_PROCESSES]


def read_status(path: str) -> Any:
    """Return the state that a process shows on its socket.

    Raises:
        OSError: No process listens there, or it did not answer within 5 seconds.
        ValueError: The answer is no JSON.
    """
    read = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(path)
        while part := connection.recv(65_536):
            read += part
            if len(read) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES:,} bytes")
    return json.loads(read)


_sockets: set[StatusSocket] = set()


def _after_fork_in_child() -> None:
    for each in list(_sockets):
        each.after_fork()


# Not by `renew_after_fork`: this starts a thread, and the work of `threading` after a fork has to come first.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
