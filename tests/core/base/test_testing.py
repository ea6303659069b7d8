import asyncio
from typing import Any

import pytest

from resilience.policy import PolicyBase
from resilience.testing import ManualClock, PolicyConformance


async def test_manual_clock_owns_time() -> None:
    """Time passes only when told to, or by sleeping on the clock."""
    clock = ManualClock(5)
    clock.advance(1)
    clock.sleep(2)
    await clock.asleep(3)
    assert (clock(), clock.slept) == (11, [2, 3])


class Leaky(PolicyBase):
    """Swallows what it should let stand."""

    def on_failure(self, permit: Any, error: Exception, /) -> None:
        raise RuntimeError("a policy's own bug")


class LeakyConformance(PolicyConformance):
    __test__ = False

    def make_policy(self) -> PolicyBase:
        return Leaky()


def test_conformance_suite_can_fail() -> None:
    """The suite notices a policy that does not keep the contract."""
    with pytest.raises(AssertionError):
        LeakyConformance().test_error_passes_through()
    with pytest.raises(AssertionError):
        asyncio.run(LeakyConformance()._colours_agree())


def test_conformance_suite_asks_for_a_policy() -> None:
    """A suite that makes no policy says so."""
    with pytest.raises(NotImplementedError):
        PolicyConformance().make_policy()
