"""The options of a lifecycle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from resilience.options import Duration, Flag, Options, Text, option

__all__ = ("LifecycleOptions", "Period")

Period: TypeAlias = float | str | timedelta | None
"""Seconds, text such as `"250ms"`, or a `timedelta`. None stands for the default of the option."""

_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class LifecycleOptions(Options):
    """How a process starts, drains and stops."""

    drain_delay: float = option(
        0.0, Duration(maximum=_HOUR, usual=300), "time to go on serving after SIGTERM, until routers have noticed"
    )
    drain_timeout: float = option(30.0, Duration(above=True, usual=3600), "longest wait for requests in flight")
    drain_file: str | None = option(
        None, Text("the path of a file", longest=4096), "readiness is 503 while this file exists", none="no file"
    )
    hook_timeout: float = option(
        10.0, Duration(above=True, maximum=_HOUR), "longest time for a start, drain or stop hook"
    )
    startup_timeout: float = option(
        30.0, Duration(above=True, maximum=_HOUR), "longest wait for one dependency at start"
    )
    startup_interval: float = option(
        1.0, Duration(above=True, maximum=_HOUR), "pause between two checks of a dependency"
    )
    signals: bool = option(True, Flag(), "drain on SIGTERM")
