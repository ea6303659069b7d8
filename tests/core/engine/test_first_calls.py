"""First calls that come together: what is compiled for them is one and the same for all."""

import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pytest

from resilience import Keyed, Pipeline, Retry, idempotent
from resilience.policy import Named

P = ParamSpec("P")
R = TypeVar("R")


class Meeting(Named):
    """Has two threads compose it at the same time; writes down which of its compositions each call goes through."""

    kind = "meeting"

    def __init__(self) -> None:
        super().__init__()
        self.used: list[object] = []
        self._barrier = threading.Barrier(2, timeout=5)

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        composition = object()
        self._barrier.wait()

        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            self.used.append(composition)
            return call(*args, **kwargs)

        return guarded

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R]]:
        raise NotImplementedError


@idempotent
def plain() -> int:
    return 3


def by_key(meeting: Meeting) -> Keyed:
    return Keyed(lambda _key: meeting, key=lambda: "a")


Make = Callable[[Meeting], Callable[[], int]]
CALLS: dict[str, Make] = {
    "call": lambda meeting: functools.partial(Pipeline("p", meeting).call, plain),
    "call of a selection": lambda meeting: functools.partial(
        Pipeline("p", meeting, Retry(idempotent_only=True)).call, plain
    ),
    "decorated, by key": lambda meeting: Pipeline("p", by_key(meeting))(plain),
    "call, by key": lambda meeting: functools.partial(Pipeline("p", by_key(meeting)).call, plain),
}


@pytest.mark.parametrize("make", CALLS.values(), ids=CALLS)
def test_first_calls_that_come_together_go_through_one_composition(make: Make) -> None:
    """Threads that make the first call at once compose it each, and use the same: what shares calls shares theirs."""
    meeting = Meeting()
    call = make(meeting)
    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(meeting.used) == 2
    assert len(set(meeting.used)) == 1


def test_keys_are_composed_while_other_threads_compose_for_them() -> None:
    """What another thread composes for a key, in the midst of looking for what can go, breaks no call."""
    keyed = Keyed(lambda _key: Retry(), key=lambda: "a")
    compiled: dict[Any, Callable[..., Any]] = keyed.slot().compiled

    def place() -> str:
        """Stand for the place of another chain; a thread composes for a further one while this is looked at."""
        compiled[lambda: "there"] = plain
        return "there"

    compiled[place] = plain
    assert Pipeline("p", keyed)(plain)() == 3
