"""What a policy per key can be told."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Options, Whole, option

__all__ = ("KeyedOptions",)


@dataclass(frozen=True, kw_only=True)
class KeyedOptions(Options):
    """How many keys are remembered, and for how long."""

    max_keys: int = option(1000, Whole(1, 1_000_000), "keys remembered; beyond it the least recently used is forgotten")
    idle: float = option(600.0, Duration(above=True), "time without a call after which a key is forgotten")
