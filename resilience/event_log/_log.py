"""The log of a toolkit, and that of all policies without a toolkit: which events become a line."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

from resilience._support.fork import renew_after_fork
from resilience.errors import ConfigurationError
from resilience.event_log._options import ALL, LogOptions

__all__ = ("EVENT_LOG", "EventLog", "EventSource")


class EventSource(Protocol):
    """An emitter of events, to which listeners subscribe."""

    def subscribe(self, listener: Callable[[Any], object], /) -> Callable[[], None]:
        """Send the events to `listener`; the function returned ends this."""
        ...

    def unsubscribe(self, listener: Callable[[Any], object], /) -> None:
        """End one subscription of `listener`, if it has one."""
        ...


class EventLog:
    """Decides which events are logged.

    Each toolkit has one with the settings of its section `log`. `EVENT_LOG` is that of all policies that no toolkit has
    made; it reads `RESILIENCE_LOG__EVENTS` and `RESILIENCE_LOG__INTERVAL` of the process.

    Args:
        options: The settings. None: those of the environment, read when the first event occurs. A value that is wrong
            there counts as not set, because only a toolkit can refuse the start of a service.

    Example:
        >>> from resilience.events import EVENT_LOG
        >>> EVENT_LOG.configure(events="all", interval="10s")
        >>> EVENT_LOG.options.events
        'all'
        >>> EVENT_LOG.configure()  # the defaults
    """

    def __init__(self, options: LogOptions | None = None) -> None:
        self._options = options
        self.has_details = options is not None and options.events == ALL
        """Whether the log has all events."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Replace the lock: another thread may have held it."""
        # Guards the samples of all policies; taken once for a line. Re-entrant, for finalizers that make calls.
        self.lock = threading.RLock()

    @property
    def options(self) -> LogOptions:
        """The settings in force."""
        options = self._options
        if options is None:
            options = self._options = _of_environment()
            self.has_details = options.events == ALL
        return options

    @property
    def listeners(self) -> tuple[Callable[[Any], object], ...]:
        """The listeners that get the events of all sources of this log: none, except in the log of a toolkit."""
        return ()

    def attach(self, source: EventSource) -> None:
        """Take note that a source is logged here from now on."""

    def detach(self, source: EventSource) -> None:
        """Take note that a source is logged elsewhere from now on."""

    def configure(self, *, events: str = "transitions", interval: float | str = 60.0) -> None:
        """Use other settings from now on.

        Args:
            events: `transitions`, `all` or `none`.
            interval: Seconds as a number or text, above 0, at most a day.

        Raises:
            ConfigurationError: A value is wrong.
        """
        self._options = options = LogOptions.of(events=events, interval=interval)
        self.has_details = options.events == ALL


def _of_environment() -> LogOptions:
    given = {field: os.environ.get(f"RESILIENCE_LOG__{field.upper()}", "") for field in LogOptions.fields()}
    known: dict[str, Any] = {}
    for field, text in given.items():
        try:
            known |= {field: getattr(LogOptions.of(**{field: text}), field)} if text else {}
        except ConfigurationError:
            continue
    return LogOptions(**known)


EVENT_LOG = EventLog()
"""The log of all policies that no toolkit has made."""
