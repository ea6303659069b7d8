"""The lines of one policy: how many it may write, and how many were left out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from resilience._support.log_writer import may_write, write_line
from resilience.event_log._destination import current_destination
from resilience.event_log._lines import ELSEWHERE, OF_ONE_CALL, Volume, event_fields, line_of, named_with_key
from resilience.event_log._log import EventLog
from resilience.event_log._options import ALL, NONE

__all__ = ("NOT_QUIET", "PolicyLog", "Sample")

_MOST = {Volume.TRANSITION: 20, Volume.SAMPLE: 1, Volume.DETAIL: 0}
"""The most lines of one kind that a policy writes in an interval. Thousands of keys can open their circuits at once."""


class Sample:
    """The lines of one kind that a policy may write in the present interval, and the number of those left out."""

    __slots__ = ("_ends", "_left", "left_out", "quiet_until")

    def __init__(self) -> None:
        self.quiet_until = self._ends = float("-inf")
        self._left = 0
        self.left_out = itertools.count()
        """Counts by `next`, which is atomic: a refusal that is not logged takes no lock."""

    def take(self, at: float, interval: float, most: int) -> int | None:
        """Return the number of lines left out before this one; None, and count this one, if it is left out too.

        Args:
            at: The time of the event in seconds, by the clock of the policy.
            interval: The length of an interval in seconds.
            most: The most lines of an interval.
        """
        if at >= self._ends:
            self._ends, self._left = at + interval, most
        self._left -= 1
        if self._left <= 0:
            self.quiet_until = self._ends
        if self._left < 0:
            next(self.left_out)
            return None
        counted, self.left_out = self.left_out, itertools.count()
        return next(counted)


NOT_QUIET = Sample()
"""Never used up: says that the next line may be written."""


class PolicyLog:
    """The lines of one policy, or of one key of a keyed policy, which shares the samples of all its keys.

    Args:
        log: The settings.
        samples: The samples of the policy, by kind of event.
        key: The key, "" for a policy without keys.
    """

    __slots__ = ("_quoted", "key", "log", "samples")

    def __init__(self, log: EventLog, samples: dict[str, Sample] | None = None, key: str = "") -> None:
        self.log = log
        _ = log.options  # the first policy of a process reads the environment: `has_details` is asked for each retry
        self.samples: dict[str, Sample] = {} if samples is None else samples
        self.key = key
        self._quoted = "", ""

    def of_key(self, key: str) -> PolicyLog:
        """Return the log of one key."""
        return PolicyLog(self.log, self.samples, key)

    def quoted(self, policy: str) -> str:
        """Return the quoted name of the policy, followed by the key in brackets if it has one."""
        known = self._quoted  # a refusal asks for it each time
        if known[0] is not policy:
            known = self._quoted = policy, named_with_key(policy, self.key)
        return known[1]

    def sample(self, kind: str) -> Sample:
        """Return the sample of this kind of event."""
        return self.samples.get(kind) or self.samples.setdefault(kind, Sample())

    def take(self, kind: str, at: float) -> int | None:
        """Return the number of events of this kind that were left out before this one; None if this is one of them."""
        options = self.log.options
        if options.events == ALL:
            return 0 if kind not in ELSEWHERE and may_write(line_of(kind).level) else None
        sample = self.sample(kind)
        if at < sample.quiet_until:
            next(sample.left_out)
            return None
        # Asked now, and not when the line is written: an event of a call that a log handler makes may be delivered
        # after the end of the handler.
        line = line_of(kind)
        is_shown = may_write(line.level)
        most = 0 if options.events == NONE or not is_shown else _MOST[line.volume]
        with self.log.lock:
            return sample.take(at, options.interval, most)

    def write(self, kind: str, policy: str, facts: Mapping[str, Any], left_out: int) -> None:
        """Write the line of an event, and how many such lines were left out before it.

        Args:
            kind: The name of the event.
            policy: The name of the policy.
            facts: The fields of the event.
            left_out: The number that `take` has returned.
        """
        line = line_of(kind)
        host = current_destination() if kind in OF_ONE_CALL and not self.key else ""
        text = line.text(named_with_key(policy, host) if host else self.quoted(policy), facts)
        more = f" ({left_out} more since the last such line)" if left_out else ""
        extra = event_fields(kind, policy, facts, key=self.key or host, left_out=left_out)
        write_line(line.level, f"{text}{more}", extra=extra)
