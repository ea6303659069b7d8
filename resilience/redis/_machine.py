"""When to leave a server alone that did not answer, and when to ask it again.

Pure: told the time and the jitter, not thread-safe. A permit belongs to the epoch it was given in; what stragglers of
an earlier epoch report changes nothing.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ("Absence", "Away", "Permit", "Probe", "Up")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
GROWTH = 2.0


class Up:
    """The server answers: everybody asks it."""

    __slots__ = ()


class Away:
    """The server did not answer: nobody asks before `probe_at`, then one caller does."""

    __slots__ = ("pause", "probe", "probe_at")

    def __init__(self, pause: float, probe_at: float) -> None:
        self.pause = pause
        self.probe_at = probe_at
        self.probe: Probe | None = None


class Probe:
    """The permit of the one caller that tries; after `lease_end` it is presumed lost."""

    __slots__ = ("lease_end",)

    def __init__(self, lease_end: float) -> None:
        self.lease_end = lease_end


Permit: TypeAlias = Up | Probe


class Absence:
    """`lease` is the longest a probe may take, in seconds. `jitter` (0 to 1) shortens a pause by up to half."""

    __slots__ = ("_lease", "epoch")

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self.epoch: Up | Away = Up()

    def admit(self, now: float) -> Permit | None:
        """Return a permit to ask, or None while the server is to be left alone."""
        epoch = self.epoch
        if isinstance(epoch, Up):
            return epoch
        is_probed = epoch.probe is not None and now < epoch.probe.lease_end
        if now < epoch.probe_at or is_probed:
            return None
        epoch.probe = Probe(now + self._lease)
        return epoch.probe

    def failed(self, permit: Permit, now: float, jitter: float) -> bool:
        """Note that there was no answer; returns whether the server has just been found away."""
        epoch = self.epoch
        if permit is epoch:
            self.epoch = self._away(FIRST_PAUSE, now, jitter)
            return True
        if isinstance(epoch, Away) and permit is epoch.probe:
            self.epoch = self._away(min(LONGEST_PAUSE, epoch.pause * GROWTH), now, jitter)
        return False

    def _away(self, pause: float, now: float, jitter: float) -> Away:
        return Away(pause, now + pause * (1 - jitter / 2))

    def succeeded(self, permit: Permit) -> bool:
        """Note an answer; returns whether the server has just been found back."""
        epoch = self.epoch
        if isinstance(epoch, Up) or permit is not epoch.probe:
            return False
        self.epoch = Up()
        return True

    def abandoned(self, permit: Permit) -> None:
        """Let another caller probe in place of one that was cancelled."""
        if isinstance(self.epoch, Away) and permit is self.epoch.probe:
            self.epoch.probe = None

    def probe_after(self, now: float) -> float:
        """Return the seconds until somebody asks again; 0 where anybody may."""
        epoch = self.epoch
        return 0.0 if isinstance(epoch, Up) else max(0.0, epoch.probe_at - now)
