"""What importing costs a process that starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import harness
from harness import Case, Contender, Sample, Session, Unit

__all__ = ("CASES",)


def _started(statement: str, needs: str | None = None) -> Callable[[Session], Sample]:
    """Start an interpreter that runs `statement`; its CPU time, user and system, is what counts."""

    def once() -> float:
        before = _of_children()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return _of_children() - before

    def build(_session: Session) -> Sample:
        if needs is not None:
            harness.peer(needs)
        return lambda number: min(once() for _ in range(number))

    return build


def _of_children() -> float:
    times = os.times()
    return _precise() or (times.children_user + times.children_system) * 1e9


def _precise() -> float:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) * 1e9


CASES = (
    Case(
        "import",
        "Importing, above a bare interpreter",
        Contender("python -c pass", _started("pass")),
        (
            Contender("import resilience", _started("import resilience"), "names are loaded at their first use", 25),
            Contender(
                "the same, Pipeline and Retry used",
                _started("from resilience import Pipeline, Retry"),
            ),
            Contender(
                "the same, and RateLimit, Bulkhead, Timeout, Fallback",
                _started("from resilience import Bulkhead, Fallback, Pipeline, RateLimit, Retry, Timeout"),
            ),
            Contender(
                "the same, and CircuitBreaker",
                _started(
                    "from resilience import Bulkhead, CircuitBreaker, Fallback, Pipeline, RateLimit, Retry, Timeout"
                ),
                "it is a pybreaker.CircuitBreaker, and pybreaker imports redis if redis is installed",
            ),
            Contender("Resilience.from_env()", _started("from resilience import Resilience; Resilience.from_env()")),
            Contender("import circuitbreaker", _started("import circuitbreaker", "circuitbreaker")),
            Contender("import interlock", _started("import interlock", "interlock")),
            Contender("import limits", _started("import limits", "limits")),
            Contender("import pybreaker", _started("import pybreaker", "pybreaker")),
            Contender("import pyresilience", _started("import pyresilience", "pyresilience")),
            Contender("import stamina", _started("import stamina", "stamina")),
            Contender("import tenacity", _started("import tenacity", "tenacity")),
        ),
        unit=Unit.MILLISECONDS,
        note="CPU time of the child process, user and system, with everything in the file cache and compiled.",
        largest=1,
    ),
)
