"""The switch that makes every policy of the process let its calls pass."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from resilience._engine._steps import AwaitedCall, Call, Steps

__all__ = ("OFF_SWITCH", "OffSwitch")

_OFF = object()
"""The permit of a call that was admitted while the policies are off."""


class OffSwitch:
    """Wraps the steps of each policy that is compiled after `install`."""

    def __init__(self) -> None:
        self._blocks: set[object] = set()

    @property
    def is_installed(self) -> bool:
        """Whether policies can be switched off."""
        return Steps.switch is not None

    def install(self) -> None:
        """Wrap the steps of all policies that are compiled from now on."""
        Steps.switch = self._around

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Switch all policies off while the block runs. Blocks may overlap."""
        key = object()
        self._blocks.add(key)
        try:
            yield
        finally:
            self._blocks.remove(key)

    def _around(self, steps: Steps) -> Steps:
        if steps.slot is not None:
            return steps  # the policy of each key has steps of its own
        return self._owning(steps) if steps.around is not None else self._settling(steps)

    def _settling(self, steps: Steps) -> Steps:
        """Return steps that give a call the permit `_OFF` while the switch is off, and do nothing with that permit."""
        blocks = self._blocks

        def admit() -> object:
            if blocks:
                return _OFF
            return None if steps.admit is None else steps.admit()

        def blocking(admit_blocking: Callable[[], object]) -> Callable[[], object]:
            return lambda: _OFF if blocks else admit_blocking()

        def awaiting(admit_awaiting: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
            async def admit() -> object:
                return _OFF if blocks else await admit_awaiting()

            return admit

        def unless_off(step: Call) -> Call:
            return lambda permit, *outcome: None if permit is _OFF else step(permit, *outcome)

        return replace(
            steps,
            admit=admit,
            admit_blocking=None if steps.admit_blocking is None else blocking(steps.admit_blocking),
            admit_awaiting=None if steps.admit_awaiting is None else awaiting(steps.admit_awaiting),
            fast_permit=None,
            on_success=None if steps.on_success is None else unless_off(steps.on_success),
            on_failure=unless_off(steps.on_failure),
            on_abandon=unless_off(steps.on_abandon),
            no_more_attempts=None if steps.no_more_attempts is None else unless_off(steps.no_more_attempts),
        )

    def _owning(self, steps: Steps) -> Steps:
        """Return steps that make the bare call while the switch is off."""
        blocks, scope = self._blocks, steps.scope

        def blocking(around: Call) -> Callable[..., Call]:
            def wrap(call: Call, /, **leading: int) -> Call:
                guarded = around(call, **leading)

                def choose(*args: Any, **kwargs: Any) -> Any:
                    return (call if blocks else guarded)(*args, **kwargs)

                return choose

            return wrap

        def awaiting(around: Call) -> Callable[..., AwaitedCall]:
            def wrap(call: Call, /, **leading: int) -> AwaitedCall:
                guarded = around(call, **leading)

                async def choose(*args: Any, **kwargs: Any) -> Any:
                    return await (call if blocks else guarded)(*args, **kwargs)

                return choose

            return wrap

        return replace(
            steps,
            around=None if steps.around is None else blocking(steps.around),
            around_async=None if steps.around_async is None else awaiting(steps.around_async),
            around_nested=None if steps.around_nested is None else blocking(steps.around_nested),
            around_nested_async=None if steps.around_nested_async is None else awaiting(steps.around_nested_async),
            scope=None if scope is None else lambda: contextlib.nullcontext() if blocks else scope(),
        )


OFF_SWITCH = OffSwitch()
