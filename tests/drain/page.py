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
    "told twice: lost",
    "gone after, s",
    "at the limit: lost",
    "gone after, s",
    "stop hooks",
)

_TEXT = """\
# What a drain loses

Nothing, under each of these servers. This page is generated: `python tests/drain/matrix.py --write` measures and
writes it again; the test `tests/drain/test_matrix.py` runs the same processes on every Python, and fails for a
request that is lost.

Measured on {today}: Python {python}, {machine}. With {versions}.

{table}

## How it is measured

Each server is a process of its own on loopback, with the toolkit installed by its one line (`tests/drain/apps`),
and is told to leave three times:

- **Under load.** Four clients make a new connection for each request and one keeps its connection, as long as a
  router sends them: it looks at `/readyz` (or gRPC's health service) every 20 ms. A request of {long:g} s is under
  way when SIGTERM comes; `drain_delay` is {delay:g} s. A client that has not heard goes on making connections until
  two thirds of the delay are over. *Lost* is every request that got no whole answer.
- **Told twice**, the second time all processes of the server, 0.7 s later, with a `drain_delay` of {patient:g} s:
  the rest of the delay is left out, and the {long:g} s request is answered all the same.
- **At the limit.** The server's own limit is {limit:g} s (`--timeout-graceful-shutdown`, `--graceful-timeout`,
  `DRAIN_TIMEOUT` for gRPC), and one request would take 12 s. It is broken off; *lost* counts the other one, which
  would have ended in time.

## What to know of each

- **uvicorn** starts its limit when the delay is over. The parent of `--workers` passes the signal on up to half a
  second late, and readiness follows as late.
- **gunicorn** starts its limit at SIGTERM, so that it has to be longer than the delay and the longest request
  together. At the limit it kills its workers: stop hooks run only in those that had nothing left. With `--preload`
  a Flask application calls `lifecycle.install_signals()` in `post_worker_init` (`tests/drain/apps/preloaded.py`).
- A second SIGTERM is for all processes of a server (`kill -- -PID`): parents do not pass it on to their workers.
- **hypercorn** takes SIGTERM in its event loop, and closes its socket at once. It is told by the drain file, as
  `preStop: touch $RESILIENCE_LIFECYCLE__DRAIN_FILE && sleep {delay:g}` does; *gone after* counts from SIGTERM, that
  is from the end of the `sleep`.
  On Python 3.12 and later `-w 0` waits for its last request, whatever its limit.
- **grpc** servers leave a `with lifecycle:` (or `async with`) block after `drain` (`adrain`). Python waits for a
  thread that never returns; `os._exit(1)` where `drain` returns False ends the process all the same.
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
