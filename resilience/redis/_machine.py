"""When callers may ask a server that did not answer.

The machine is pure: the caller passes in the time and the jitter, and the caller holds the lock.

States. The server is `Up` or `Down`. Each state object is an *epoch*: every transition makes a new object, and epochs
are compared by identity.

    Up    every caller may ask. The permit is the `Up` object itself, so giving it out takes no lock and no memory.
    Down  no caller may ask before `trial_at`. After it, one caller gets an `OutageTrial`. The other callers get None:
          they decide without the server.

A permit is an `Up` or an `OutageTrial`. Its holder reports exactly one of three outcomes:

    failed     There was no answer. A permit of the present `Up` starts an outage with the pause `FIRST_PAUSE`. The
               present trial starts a new `Down` with a pause twice as long, up to `MAX_PAUSE`.
    succeeded  There was an answer. The present trial ends the outage. In `Up` there is nothing to do.
    abandoned  The caller was cancelled, so the outcome is unknown. The present trial is free for another caller.

A report with a permit of an earlier epoch changes nothing. Of fifty calls that time out together, the first report
starts the outage and the other 49 are late. A late success does not end an outage: the connections made since may lead
to another server.

A trial has a lease. A caller that never reports (its thread was killed, its loop has stopped) loses its trial at
`lease_end`, and the next caller gets a new one.

The jitter shortens each pause by up to half, so that the processes of a fleet do not ask at the same moment.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ("Availability", "Down", "OutagePermit", "OutageTrial", "Up")

FIRST_PAUSE = 0.1
MAX_PAUSE = 5.0
GROWTH = 2.0


class Up:
    """The server answers: every caller may ask it."""

    __slots__ = ()


class Down:
    """The server did not answer: no caller asks before `trial_at`, then one caller does."""

    __slots__ = ("pause", "trial", "trial_at")

    def __init__(self, pause: float, trial_at: float) -> None:
        self.pause = pause
        self.trial_at = trial_at
        self.trial: OutageTrial | None = None


class OutageTrial:
    """The permit of the one caller that asks during an outage. After `lease_end` another caller gets a new one."""

    __slots__ = ("lease_end",)

    def __init__(self, lease_end: float) -> None:
        self.lease_end = lease_end


OutagePermit: TypeAlias = Up | OutageTrial


class Availability:
    """Whether one server is up or down.

    Args:
        lease: The longest time that a trial may take, in seconds.
    """

    __slots__ = ("_lease", "epoch")

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self.epoch: Up | Down = Up()

    def admit(self, now: float) -> OutagePermit | None:
        """Return a permit to ask the server, or None if this caller must not ask it now."""
        epoch = self.epoch
        if isinstance(epoch, Up):
            return epoch
        is_tried = epoch.trial is not None and now < epoch.trial.lease_end
        if now < epoch.trial_at or is_tried:
            return None
        epoch.trial = OutageTrial(now + self._lease)
        return epoch.trial

    def failed(self, permit: OutagePermit, now: float, jitter: float) -> bool:
        """Record that the server did not answer; returns whether an outage has just begun.

        Args:
            permit: The permit of the caller that got no answer.
            now: The time in seconds.
            jitter: 0 to 1; shortens the next pause by up to half.
        """
        epoch = self.epoch
        if permit is epoch:
            self.epoch = self._down(FIRST_PAUSE, now, jitter)
            return True
        if isinstance(epoch, Down) and permit is epoch.trial:
            self.epoch = self._down(min(MAX_PAUSE, epoch.pause * GROWTH), now, jitter)
        return False

    def _down(self, pause: float, now: float, jitter: float) -> Down:
        return Down(pause, now + pause * (1 - jitter / 2))

    def succeeded(self, permit: OutagePermit) -> bool:
        """Record an answer; returns whether an outage has just ended."""
        epoch = self.epoch
        if isinstance(epoch, Up) or permit is not epoch.trial:
            return False
        self.epoch = Up()
        return True

    def abandoned(self, permit: OutagePermit) -> None:
        """Free the trial of a caller that was cancelled, for the next caller."""
        if isinstance(self.epoch, Down) and permit is self.epoch.trial:
            self.epoch.trial = None

    def trial_after(self, now: float) -> float:
        """Return the seconds until a caller may ask again; 0 if the server is up."""
        epoch = self.epoch
        return 0.0 if isinstance(epoch, Up) else max(0.0, epoch.trial_at - now)
