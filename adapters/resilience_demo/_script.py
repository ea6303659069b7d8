"""The phases of the demo, its load, and the settings of the shop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ("FULL", "SHORT", "Phase", "Script", "environment")

_OWN = "RESILIENCE_"
_PASSED_ON = "RESILIENCE_PIPELINE__PAYMENTS__"


@dataclass(frozen=True)
class Phase:
    """A period of `seconds` in which the provider is in `mode`."""

    name: str
    mode: str
    seconds: float
    words: str

    @property
    def is_outage(self) -> bool:
        """Whether the provider is not healthy."""
        return self.mode != "healthy"


@dataclass(frozen=True)
class Script:
    """The phases in order, the settings of the shop, and the load, which is the same in all phases."""

    phases: tuple[Phase, ...]
    settings: Mapping[str, str]
    rate: float = 15.0
    """Orders per second to each side, independent of the answers."""
    shoppers: int = 3
    """Customers of each side that wait for an answer, pause, and order again."""
    pause: float = 0.15
    readers: float = 8.0
    """Requests per second for the catalogue of each side, independent of the answers."""
    lookers: float = 20.0
    """Requests per second for the price list, which the shop limits to 10."""
    max_waiting: int = 150
    """The most requests of one kind and side in flight. Requests over this limit are counted and not sent."""

    @property
    def seconds(self) -> float:
        """The length of all phases together, without start and shutdown of the servers."""
        return sum(phase.seconds for phase in self.phases)


def _phases(*seconds: float) -> tuple[Phase, ...]:
    phases = (
        ("healthy", "healthy", "The payment provider answers in a few ms; one call in 25 fails, as in real life."),
        ("hanging", "hanging", "The provider hangs: every call takes 2 s, and then fails."),
        ("broken", "broken", "The provider was restarted badly: every answer is an error."),
        ("recovered", "healthy", "The provider is back."),
    )
    return tuple(Phase(name, mode, length, words) for (name, mode, words), length in zip(phases, seconds, strict=True))


FULL = Script(_phases(6, 9, 5, 8), {f"{_PASSED_ON}BREAKER__RESET_TIMEOUT": "2s"})
SHORT = Script(
    _phases(2, 4.5, 2, 4),
    {f"{_PASSED_ON}BREAKER__RESET_TIMEOUT": "1s", f"{_PASSED_ON}BULKHEAD__MAX_CONCURRENT_CALLS": "4"},
    rate=10,  # machines that run scripts are often busy, so the load and the bulkhead are smaller
    shoppers=1,
    lookers=15,
)


def environment(inherited: Mapping[str, str], script: Script, redis_url: str | None) -> dict[str, str]:
    """Return the environment of the shop.

    Of the toolkit's variables in `inherited`, only those of the pipeline `payments` remain: users can try another
    breaker, and the demo never uses the Redis or the limits of another application.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith(_OWN)}
    tried = {name: value for name, value in inherited.items() if name.startswith(_PASSED_ON)}
    redis = {"RESILIENCE_REDIS__URL": redis_url} if redis_url else {}
    return {**kept, **script.settings, **redis, **tried}
