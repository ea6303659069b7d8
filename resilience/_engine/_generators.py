"""The blocking driver for generator functions: it holds a permit from its first item to its end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

from resilience._engine._keyed_call import by_key
from resilience._engine._steps import TRANSPARENT, Steps
from resilience._engine._sync import Sleep, admission, held
from resilience.policy import NO_RESULT, STARTED, Replace

__all__ = ("compile_sync_generator",)

P = ParamSpec("P")
Y = TypeVar("Y")
S = TypeVar("S")
R = TypeVar("R")


class _Progress(Generator[Y, S, R]):
    """A generator that knows whether it has yielded an item: after that it cannot be started again."""

    _generator: Generator[Y, S, R]
    started = False

    def over(self, generator: Generator[Y, S, R]) -> _Progress[Y, S, R]:
        """Run `generator` next, and return this."""
        self._generator = generator
        return self

    def send(self, value: S) -> Y:
        item = self._generator.send(value)
        if item is not STARTED:
            self.started = True
        return item

    def throw(self, *error: Any) -> Y:
        item = self._generator.throw(*error)
        self.started = True
        return item

    def close(self) -> None:
        self._generator.close()


def compile_sync_generator(
    policies: tuple[Steps, ...], fn: Callable[P, Generator[Y, S, R]], sleep: Sleep
) -> Callable[P, Generator[Y, S, R]]:
    """Compose `policies` around a generator function. The call holds its permits from its first item to its end."""
    call = fn
    for steps in reversed(policies):
        call = _compose(steps, call, sleep)
    # A plain function picks the generator by key: a generator function around it keeps the colour.
    return _guard_generator(TRANSPARENT, call, sleep) if policies and policies[0].slot is not None else call


def _compose(steps: Steps, inner: Callable[P, Generator[Y, S, R]], sleep: Sleep) -> Callable[P, Generator[Y, S, R]]:
    if steps.slot is not None:
        return by_key(steps, lambda known: _compose(known, inner, sleep))
    return _guard_generator(steps.blocking(), inner, sleep)


def _guard_generator(
    steps: Steps, inner: Callable[P, Generator[Y, S, R]], sleep: Sleep
) -> Callable[P, Generator[Y, S, R]]:
    admit, fast = admission(steps, sleep), steps.fast_permit
    last, interrupted = steps.no_more_attempts, steps.on_interrupt
    on_success, on_failure, on_abandon = steps.on_success, steps.on_failure, steps.on_abandon

    def call(*args: P.args, **kwargs: P.kwargs) -> Generator[Y, S, R]:
        permit = None if fast is None else fast.fast_permit
        if permit is None and admit is not None:
            permit = admit()
        verdict: Any  # never `Pending`: `blocks` refused such policies
        is_settled = False
        try:
            while True:
                progress: _Progress[Y, S, R] = _Progress()
                try:
                    result = yield from progress.over(inner(*args, **kwargs))
                except Exception as error:
                    if progress.started and last is not None:
                        permit = last(permit)
                    verdict = on_failure(permit, error)
                    if verdict is None:
                        is_settled = True
                        raise
                    if not isinstance(verdict, Replace) and progress.started:
                        is_settled = True
                        on_abandon(verdict.permit)  # another attempt would yield the items twice
                        raise
                    steps.discard(error, verdict)
                except BaseException:
                    is_settled = True
                    on_abandon(permit)
                    raise
                else:
                    if progress.started and last is not None:
                        permit = last(permit)
                    value = NO_RESULT if result is None else result
                    verdict = None if on_success is None else on_success(permit, value)
                    if verdict is None:
                        return result
                    if not isinstance(verdict, Replace) and progress.started:
                        is_settled = True
                        on_abandon(verdict.permit)
                        return result
                if isinstance(verdict, Replace):
                    return verdict.value  # type: ignore[no-any-return]  # the replacement has the type of the result
                permit = verdict.permit
                held(steps, permit, verdict.after, sleep)
        except BaseException:  # an interrupt before a step or in it
            if not is_settled:
                interrupted(permit)
            raise

    return call
