"""The figures of the matrix as the page docs/drain.md."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Sequence
from importlib import metadata

from measure import DELAY, LONG, PATIENT, SHORT_LIMIT, Measured

__all__ = ("COLUMNS", "page", "rows")

COLUMNS = (
    "server",
    "answered",
    "of them on connections made after SIGTERM",
    "lost",
    "readiness 503 after, s",
    "gone after, s",
    "second signal: lost",
    "gone after, s",
    "at the limit: lost",
    "gone after, s",
    "stop hooks",
)

_TEXT = """\
# What a drain loses

A drain loses no request under any of these servers. `python tests/drain/matrix.py --write` measures, and generates
this page. The test `tests/drain/test_matrix.py` runs the same processes on every Python, and fails if a request is
lost.

Measured on {today}: Python {python}, {machine}. With {versions}.

{table}

## How it is measured

Each server is a process of its own on loopback, with the toolkit installed by its one line (`tests/drain/apps`). It
gets SIGTERM in three experiments:

- **Under load.** Four clients make a new connection for each request, and one client keeps its connection. They send
  while a router allows it, which looks at `/readyz` (or gRPC's health service) every 20 ms. A request of {long:g} s is
  in flight when SIGTERM comes, and `drain_delay` is {delay:g} s. One client ignores the router, and makes connections
  until two thirds of the delay are over. *Lost* counts the requests without a complete answer.
- **Second signal.** All processes of the server get SIGTERM again 0.7 s later, with a `drain_delay` of {patient:g} s.
  That ends the delay, and the {long:g} s request is still answered.
- **At the limit.** The server's own limit is {limit:g} s (`--timeout-graceful-shutdown`, `--graceful-timeout`,
  `DRAIN_TIMEOUT` for gRPC), and one request takes 12 s. The server cuts that request off. *Lost* counts a second
  request, which would have ended in time.

## Notes on the servers

- **uvicorn** starts its limit when the delay is over. The parent of `--workers` passes the signal on up to half a
  second late, and readiness changes as late.
- **gunicorn** starts its limit at SIGTERM. So the limit must be longer than the delay and the longest request
  together. At the limit gunicorn kills its workers; stop hooks run only in workers without a request in flight. With
  `--preload` a Flask application calls `lifecycle.install_signals()` in `post_worker_init`
  (`tests/drain/apps/preloaded.py`).
- Send a second SIGTERM to all processes of a server (`kill -- -PID`): parents do not pass it on to their workers.
- **hypercorn** takes SIGTERM in its event loop, and closes its socket at once. The drain begins by the drain file, as
  `preStop: touch $RESILIENCE_LIFECYCLE__DRAIN_FILE && sleep {delay:g}` does; *gone after* counts from SIGTERM, that
  is from the end of the `sleep`.
  On Python 3.12 and later `-w 0` waits for its last request, beyond its limit.
- **grpc** servers leave a `with lifecycle:` (or `async with`) block after `drain` (`adrain`). Python waits for a
  thread that never returns. Call `os._exit(1)` if `drain` returns False, to end the process in that case too.
"""


def page(measured: Sequence[Measured]) -> str:
    """Return the whole page."""
    return _TEXT.format(
        today=dt.datetime.now(tz=dt.UTC).date(),
        python=platform.python_version(),
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        versions=", ".join(f"{name} {metadata.version(name)}" for name in _INSTALLED),
        table=_table(rows(measured)),
        long=LONG,
        delay=DELAY,
        patient=PATIENT,
        limit=SHORT_LIMIT,
    )


_INSTALLED = ("uvicorn", "gunicorn", "uvicorn-worker", "gevent", "hypercorn", "fastapi", "flask", "grpcio")


def rows(measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Return a row a server, as text."""
    return [_row(each) for each in measured]


def _row(each: Measured) -> tuple[str, ...]:
    drained, hurried, forced = each.drained, each.hurried, each.forced
    return (
        each.server.name,
        str(drained.answered + drained.late),
        str(drained.late),
        str(len(drained.lost)),
        f"{drained.noticed:.2f}",
        f"{drained.took:.1f}",
        str(len(hurried.lost)),
        f"{hurried.took:.1f}",
        str(len(forced.lost)),
        f"{forced.took:.1f}",
        "run" if forced.hooks_ran and not each.server.kills else "not in a killed worker",
    )


def _table(found: Sequence[tuple[str, ...]]) -> str:
    lines = [COLUMNS, ("---",) + ("---:",) * (len(COLUMNS) - 2) + ("---",), *found]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
