"""Whether callers may ask a server, and when a background thread asks whether it is back.

The machine is pure: the caller passes in the time and the jitter, and the caller holds the lock.

States. The server is `Up` or `Down`. Each state object is an *epoch*: every transition makes a new object, and epochs
are compared by identity.

    Up    every caller may ask. The permit is the `Up` object itself, so giving it out takes no lock and no memory.
    Down  no caller may ask: callers get no permit and decide without the server. A *watch*, which is a background
          thread, makes a trial at `trial_at`, and again after each trial that failed.

A caller with a permit reports a failure: a permit of the present `Up` starts an outage. A report with a permit of an
earlier epoch changes nothing. Of fifty calls that time out together, the first report starts the outage and the other
49 are late. A success needs no report: it changes nothing. In particular a late success does not end an outage, because
the connections made since may lead to another server.

The watch reports each trial, and only the trials of the present `Down` count. A trial that got an answer ends the
outage. A trial that failed puts the next one off.

A watch claims its `Down` with an object of its own. If the claim is given up (the thread could not be started, or has
ended), the next caller starts another watch. A watch that finds another claim ends, so there is one at a time.

Pauses. The longest pause is `FIRST_PAUSE`, and doubles with each failed trial up to `MAX_PAUSE`. The pause is drawn
evenly from `MIN_PAUSE` to the longest pause (full jitter). So the processes of a fleet do not ask at one moment, nor do
they come back at one moment: after a long outage, they return spread over `MAX_PAUSE`.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ("Availability", "Down", "OutagePermit", "Up")

MIN_PAUSE = 0.05
FIRST_PAUSE = 0.1
MAX_PAUSE = 2.0
GROWTH = 2.0


class Up:
    """The server answers: every caller may ask it."""

    __slots__ = ()


OutagePermit: TypeAlias = Up


class Down:
    """The server did not answer: no caller asks, and the watch makes the next trial at `trial_at`."""

    __slots__ = ("longest_pause", "trial_at", "watch")

    def __init__(self) -> None:
        self.longest_pause = FIRST_PAUSE
        self.trial_at = 0.0
        self.watch: object | None = None

    def put_off(self, now: float, jitter: float) -> None:
        """Have the next trial after a pause."""
        self.trial_at = now + MIN_PAUSE + (self.longest_pause - MIN_PAUSE) * jitter
        self.longest_pause = min(MAX_PAUSE, self.longest_pause * GROWTH)


class Availability:
    """Whether one server is up or down."""

    __slots__ = ("epoch",)

    def __init__(self) -> None:
        self.epoch: Up | Down = Up()

    def failed(self, permit: OutagePermit, now: float, jitter: float) -> Down | None:
        """Record that a caller got no answer; returns the outage that has just begun, or None.

        Args:
            permit: The permit of the caller.
            now: The time in seconds.
            jitter: 0 to 1; where the first pause lies between the shortest and the longest.
        """
        if permit is not self.epoch:
            return None
        self.epoch = down = Down()
        down.put_off(now, jitter)
        return down

    def trial_failed(self, down: Down, now: float, jitter: float) -> None:
        """Record that a trial got no answer: the next one comes later."""
        if down is self.epoch:
            down.put_off(now, jitter)

    def trial_succeeded(self, down: Down) -> bool:
        """Record that a trial got an answer; returns whether an outage has just ended."""
        if down is not self.epoch:
            return False
        self.epoch = Up()
        return True

    def trial_after(self, now: float) -> float:
        """Return the seconds until the next trial; 0 if the server is up, or the trial is due."""
        epoch = self.epoch
        return 0.0 if isinstance(epoch, Up) else max(0.0, epoch.trial_at - now)
