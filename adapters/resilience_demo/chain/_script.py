"""How long each part of the play takes, how many customers come, and what the servers are started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ("FULL", "SHORT", "Script", "environment")

_OURS = ("RESILIENCE_", "GUNICORN_")
_PASSED_ON = "RESILIENCE_PIPELINE__"


@dataclass(frozen=True)
class Script:
    """Seconds of each part, and orders per second all the while."""

    rate: float
    steady: float
    """Before anything happens."""
    away: float
    """Between the end of an instance and the start of its successor."""
    rest: float
    """After each incident."""


FULL = Script(rate=30, steady=4, away=2, rest=3)
SHORT = Script(rate=20, steady=1.5, away=0.5, rest=0.5)  # machines that run scripts are busy: fewer customers


def environment(inherited: Mapping[str, str], **own: str) -> dict[str, str]:
    """Return what a server is started with: of the settings around us, only those of pipelines count.

    Somebody else's Redis or limits have no place in a demo; trying other retries does.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith(_OURS)}
    tried = {name: value for name, value in inherited.items() if name.startswith(_PASSED_ON)}
    # Machines that play this are small, and busy with six servers: nobody is to run out of time for that.
    return {**kept, "RESILIENCE_SERVER__DEADLINE": "10s", **own, **tried}
