"""The options of the log: which events become a line, and the form of all lines."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Choice, Duration, Flag, Listing, Options, Text, Whole, option

__all__ = ("ALL", "NONE", "LogOptions")

ALL, NONE = "all", "none"


@dataclass(frozen=True, kw_only=True)
class LogOptions(Options):
    """Which events the logger `resilience` gets, and the form of the lines that `configure_logging()` sets up."""

    events: str = option(
        "transitions",
        Choice("transitions", ALL, NONE),
        "events in the log: transitions (changes of state; samples of refusals, timeouts and given-up retries), all, "
        "or none",
    )
    interval: float = option(
        60.0,
        Duration(above=True, maximum=86_400),
        "time in which a policy logs one refusal of a kind, and counts the others",
    )
    requests: bool = option(
        False, Flag(), "one line for each request that the server has answered: method, route, status and duration"
    )
    format: str = option(
        "json", Choice("json", "text"), "form of the lines of configure_logging(): a JSON object, or a text to read"
    )
    level: str = option(
        "info",
        Choice("debug", "info", "warning", "error", "critical"),
        "lowest level that configure_logging() lets through",
    )
    stream: str = option("stderr", Choice("stderr", "stdout"), "where configure_logging() writes the lines")
    max_text: int = option(
        8192,
        Whole(100, 1_000_000),
        "characters of a text in a line; a longer text is cut, and all extra fields of a line have eight times as many",
    )
    redact: tuple[str, ...] = option(
        (),
        Listing(Text("a word of a field name", pattern=r"[A-Za-z0-9_.-]+", longest=100)),
        "further words: the value of a field whose name has one of them is hidden, as that of password or token is",
    )
