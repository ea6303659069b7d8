"""The options of the status socket."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Options, Text, option

__all__ = ("StatusOptions",)


@dataclass(frozen=True, kw_only=True)
class StatusOptions(Options):
    """How a running service shows its state to `python -m resilience status`."""

    socket: str | None = option(
        None,
        Text("an absolute path of at most 90 characters", pattern=r"/[^\x00-\x1f]+", longest=90),
        "Unix socket that shows the state of this process to its own user; each process appends its id to the path",
        none="no socket",
    )
