"""What the lifecycle can be told."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Options, option

__all__ = ("LifecycleOptions",)


@dataclass(frozen=True, kw_only=True)
class LifecycleOptions(Options):
    """How a process says goodbye."""

    drain_timeout: float = option(30.0, Duration(above=True), "longest wait for requests under way")
