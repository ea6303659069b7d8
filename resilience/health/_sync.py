"""Running probes in their own threads, and waiting for them by blocking."""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from resilience.health._check import Check
from resilience.health._machine import Outcome, Run
from resilience.health._verdict import reason_of, verdict_of

__all__ = ("collect", "in_thread", "launch", "outcome_of")

Continue = Callable[[Check, Run, Awaitable[Any]], None]
"""Takes over a run whose probe, a plain function, returned something to await. Must not raise."""


def collect(asked: list[tuple[Check, Outcome | Run]]) -> list[Outcome]:
    """Return the outcome of each, blocking no longer than the longest timeout: they all run already."""
    return [outcome_of(check, found) for check, found in asked]


def outcome_of(check: Check, found: Outcome | Run) -> Outcome:
    """Return what is known, or wait for it."""
    if isinstance(found, Outcome):
        return found
    over = threading.Event()
    if check.watch(found, over.set):
        try:
            over.wait(check.patience(found))
        finally:
            check.forget(over.set)
    return check.conclude(found)


def launch(check: Check, run: Run) -> None:
    """Start a run for somebody who has no event loop: what needs one gets its own, in the check's thread."""
    in_thread(check, run, _await_here)


def in_thread(check: Check, run: Run, resume: Continue) -> None:
    """Call the probe in the check's thread."""
    check.worker.submit(functools.partial(_call, check, run, resume))


def _call(check: Check, run: Run, resume: Continue) -> None:
    try:
        result = check.probe()
    except BaseException as error:  # noqa: BLE001 - whatever leaves a probe is its answer, sys.exit() too
        check.finish(run, reason_of(error))
        return
    if hasattr(type(result), "__await__"):
        resume(check, run, result)
    else:
        check.finish(run, verdict_of(result))


def _await_here(check: Check, run: Run, awaitable: Awaitable[Any]) -> None:
    from resilience.health._aio import resolve  # noqa: PLC0415 - asyncio costs 40 ms and few need it here

    try:
        reason = verdict_of(resolve(awaitable))
    except BaseException as error:  # noqa: BLE001 - as above
        reason = reason_of(error)
    check.finish(run, reason)
