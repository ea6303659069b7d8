"""What happens when: the phases of the story, and the settings it is told with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ("FULL", "SHORT", "Phase", "Script", "environment")

_OWN = "RESILIENCE_"
_PASSED_ON = "RESILIENCE_PIPELINE__PAYMENTS__"


@dataclass(frozen=True)
class Phase:
    """`seconds` during which the provider is in `mode`."""

    name: str
    mode: str
    seconds: float
    words: str

    @property
    def is_outage(self) -> bool:
        """Whether the provider is of no use."""
        return self.mode != "healthy"


@dataclass(frozen=True)
class Script:
    """The phases in order, the load in each, and how often it is looked at."""

    phases: tuple[Phase, ...]
    settings: Mapping[str, str]
    rate: float = 15.0
    """Orders per second that come whatever happens, to each side."""
    shoppers: int = 3
    """Customers on each side who wait for their answer, pause, and order again."""
    pause: float = 0.15
    lookers: float = 20.0
    """Requests per second for the price list, which the shop limits to 10."""
    most_waiting: int = 150
    """Orders of one side under way at once; those that come on top are not sent, and counted."""

    @property
    def seconds(self) -> float:
        """How long it all takes, start and end not counted."""
        return sum(phase.seconds for phase in self.phases)


def _phases(*seconds: float) -> tuple[Phase, ...]:
    told = (
        ("healthy", "healthy", "The payment provider answers in a few ms; one call in 25 fails, as in real life."),
        ("hanging", "hanging", "The provider hangs: every call takes 2 s, and then fails."),
        ("broken", "broken", "The provider was restarted badly: every answer is an error."),
        ("recovered", "healthy", "The provider is back."),
    )
    return tuple(Phase(name, mode, length, words) for (name, mode, words), length in zip(told, seconds, strict=True))


FULL = Script(_phases(6, 9, 5, 8), {f"{_PASSED_ON}BREAKER__RESET_TIMEOUT": "2s"})
SHORT = Script(
    _phases(2, 4, 2, 4.5),
    {f"{_PASSED_ON}BREAKER__RESET_TIMEOUT": "1s", f"{_PASSED_ON}BULKHEAD__MAX_CONCURRENT_CALLS": "4"},
    rate=10,  # machines that run scripts are busy: half the customers, and places for them
    shoppers=1,
    lookers=15,
)


def environment(inherited: Mapping[str, str], script: Script, redis_url: str | None) -> dict[str, str]:
    """Return what the shop is started with: of the settings around us, only those of its payments count.

    Somebody else's Redis or limits have no place in a demo; trying another breaker does.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith(_OWN)}
    tried = {name: value for name, value in inherited.items() if name.startswith(_PASSED_ON)}
    redis = {"RESILIENCE_REDIS__URL": redis_url} if redis_url else {}
    return {**kept, **script.settings, **redis, **tried}
