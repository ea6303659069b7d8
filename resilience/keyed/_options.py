"""The options of a policy per key."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Options, Whole, option

__all__ = ("KeyedOptions",)


@dataclass(frozen=True, kw_only=True)
class KeyedOptions(Options):
    """How many keys are kept, and for how long."""

    max_keys: int = option(
        1000, Whole(1, 1_000_000), "keys that are kept; beyond it the least recently used one is dropped"
    )
    idle: float = option(600.0, Duration(above=True), "time without a call after which a key is dropped")
