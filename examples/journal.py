"""The journal of the example shops: each service notes each parcel in it. It has a connection for each writer.

A service that a pool is for: to connect costs a handshake here and a thread there, and the journal can go away. Start
it beside the three services, from the root of the repository, and let them know its address::

    JOURNAL_FILE=journal.txt python examples/journal.py
    export SHOP_JOURNAL=127.0.0.1:9004        (for grpc_shop.py, flask_shop.py and fastapi_shop.py)

A line has the number of a parcel and the name of a service. The answer is "ok", once the line is in the file. `python
-m resilience demo --all` kills the journal while customers order, and no order is lost.
"""

from __future__ import annotations

import os
import socketserver
from pathlib import Path


class Writer(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self) -> None:
        """Write each line into the file, and answer it."""
        for line in self.rfile:
            os.write(self.server.file, line)  # type: ignore[attr-defined]  # the server is a `Journal`
            self.wfile.write(b"ok\n")


class Journal(socketserver.ThreadingTCPServer):
    """The server. A line that it has answered is with the operating system: `kill -9` does not lose it."""

    allow_reuse_address = True
    allow_reuse_port = True  # the demo holds the port while the journal is away
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        super().__init__(address, Writer)

    def server_close(self) -> None:
        """Close the port and the file."""
        super().server_close()
        os.close(self.file)


if __name__ == "__main__":
    host, _, port = os.environ.get("JOURNAL_ADDRESS", "127.0.0.1:9004").rpartition(":")
    with Journal((host, int(port)), Path(os.environ.get("JOURNAL_FILE", "journal.txt"))) as journal:
        journal.serve_forever()
