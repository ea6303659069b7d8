"""A bulkhead that counts answers that are still being read, not only calls that have not returned."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from resilience._engine._steps import Member, Steps
from resilience.bulkhead import Bulkhead
from resilience.policy import NO_RESULT

__all__ = ("while_open",)

WhenClosed = Callable[[object, Callable[[], None]], bool]


def while_open(policy: Member, when_closed: WhenClosed) -> Member:
    """Return a bulkhead, or one per key, that holds its permits until results are closed; any other policy as it is.

    A call that fails settles its permit at once.

    Args:
        policy: A policy of a pipeline.
        when_closed: A function of the result and of `settle`. It arranges that `settle` is called once, and returns
            whether it will be: False if the result is complete already. The result must hold the only reference to
            `settle`: if the result is dropped without being closed, `settle` is dropped as well and settles the
            permit.
    """
    steps = Steps.of(policy)
    one = steps if steps.template is None else steps.template
    if not isinstance(one.policy, Bulkhead):
        return policy
    return steps.adapted(functools.partial(_settled_when_closed, when_closed))


def _settled_when_closed(when_closed: WhenClosed, steps: Steps) -> Steps:
    def on_success(permit: object, result: object, /) -> None:
        settle = _Settlement(steps, permit)
        if not when_closed(result, settle):
            settle()

    return replace(steps, on_success=on_success)


class _Settlement:
    """Settles a permit once: when it is called, or when the garbage collector frees it.

    It does not refer to the result that holds it: a cycle would keep the permit until the next full collection. The
    collector runs in any thread, between any two instructions, and a bulkhead can take its permits back there.
    """

    __slots__ = ("_held",)

    def __init__(self, steps: Steps, permit: object) -> None:
        self._held = [(steps, permit)]

    def __call__(self) -> None:
        try:
            steps, permit = self._held.pop()
        except IndexError:  # settled before
            return
        if steps.on_success is not None:
            steps.on_success(permit, NO_RESULT)

    __del__ = __call__
