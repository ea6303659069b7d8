"""The length of each part of the demo, the rate of the orders, and the environment of the servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ("FULL", "SHORT", "ChainScript", "environment")

_OWN = ("RESILIENCE_", "GUNICORN_")
_PASSED_ON = "RESILIENCE_PIPELINE__"


@dataclass(frozen=True)
class ChainScript:
    """The length of each part in seconds, and `rate` in orders per second."""

    rate: float
    steady: float
    """Before the first incident."""
    away: float
    """Between the end of an instance and the start of its successor."""
    rest: float
    """After each incident."""


FULL = ChainScript(rate=30, steady=4, away=2, rest=3)
SHORT = ChainScript(
    rate=20, steady=1.5, away=0.5, rest=0.5
)  # machines that run scripts are often busy, so the rate is lower


def environment(inherited: Mapping[str, str], **own: str) -> dict[str, str]:
    """Return the environment of a server.

    Of the variables of the toolkit and of gunicorn in `inherited`, only those of pipelines remain: users can try other
    retries, and the demo never uses the Redis or the limits of another application.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith(_OWN)}
    tried = {name: value for name, value in inherited.items() if name.startswith(_PASSED_ON)}
    # Six servers can overload a small machine. The long deadline keeps that load from failing orders.
    return {**kept, "RESILIENCE_SERVER__DEADLINE": "10s", **own, **tried}
