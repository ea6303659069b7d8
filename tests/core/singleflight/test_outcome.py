"""What callers that did not make the call are given of its error."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from resilience import RateLimitedError
from resilience.policy import Substitute
from resilience.singleflight._outcome import FollowerSignal, SharedOutcome, outcome_of


class WantsMoreError(Exception):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code} because {why}")


class ReformatsError(Exception):
    def __init__(self, code: object) -> None:
        super().__init__(f"code {code}")


class SlottedError(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class ChangesItselfError(Exception):
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return ValueError, ("another",)


class AsksItselfError(Exception):
    def __getattr__(self, name: str) -> Any:
        return self.args[0][name]


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    pass


def raised(error: BaseException) -> BaseException:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def delivered(outcome: SharedOutcome) -> BaseException:
    with pytest.raises(BaseException) as caught:
        outcome.deliver()
    return caught.value


def depth(error: BaseException) -> int:
    count, traceback = 0, error.__traceback__
    while traceback is not None:
        count, traceback = count + 1, traceback.tb_next
    return count


def test_a_result_is_handed_out() -> None:
    """A result is the same object for everybody."""
    result = object()
    assert SharedOutcome(result).deliver() is result


def test_everybody_raises_a_copy() -> None:
    """Each caller gets an error of its own with the same facts and history; changes of one caller stay its own."""
    error = raised(RateLimitedError("no", policy="limit", retry_after=3))
    error.add_note("first")
    error.__cause__ = cause = KeyError("x")
    outcome = SharedOutcome(error=error)  # type: ignore[arg-type]  # raised() returns what it was given
    error.add_note("the leader's")
    one = delivered(outcome)
    one.add_note("mine")
    two = delivered(outcome)
    assert error is not one is not two
    for copy in (one, two):
        assert isinstance(copy, RateLimitedError)
        assert (str(copy), copy.policy, copy.retry_after, copy.__cause__) == (str(error), "limit", 3, cause)
    assert (one.__notes__, two.__notes__) == (["first", "mine"], ["first"])


def test_tracebacks_do_not_grow() -> None:
    """However many callers raise it, an error's traceback is that of the call and of its own caller."""
    for original in (ValueError("down"), WantsMoreError(3, why="it does")):
        error = raised(original)
        before, outcome = depth(error), SharedOutcome(error=error)  # type: ignore[arg-type]  # see above
        depths = [depth(delivered(outcome)) for _ in range(20)]
        assert set(depths) == {before + 2}


def test_an_error_that_cannot_be_copied_is_shared() -> None:
    """Where a copy would not be faithful everybody raises the error itself."""
    for original in (WantsMoreError(3, why="it does"), ReformatsError(3), SlottedError(3), ChangesItselfError("x")):
        error = raised(original)
        assert delivered(SharedOutcome(error=error)) is error  # type: ignore[arg-type]  # see above


def test_errors_that_raise_when_they_are_looked_at() -> None:
    """An error that raises for an attribute it lacks is copied like any other; one that takes none is shared."""
    error = raised(AsksItselfError({"code": 3}))
    twin = delivered(SharedOutcome(error=error))  # type: ignore[arg-type]  # see above
    assert twin is not error
    assert (type(twin), twin.args) == (AsksItselfError, ({"code": 3},))
    frozen = raised(FrozenError())
    assert delivered(SharedOutcome(error=frozen)) is frozen  # type: ignore[arg-type]  # see above


def test_a_stand_in_is_handed_out_as_one() -> None:
    """A fallback's stand-in reaches every caller, each with an error of its own."""
    given = Substitute("spare", error=ValueError("down"))
    one, two = (delivered(SharedOutcome(error=given)) for _ in range(2))
    for each in (one, two):
        assert isinstance(each, Substitute)
        assert (each.value, str(each.error)) == ("spare", "down")
    turned_down = delivered(SharedOutcome(error=Substitute("spare", result=3)))
    assert isinstance(turned_down, Substitute)
    assert (turned_down.error, turned_down.result) == (None, 3)


def test_what_serves_once_is_not_handed_out() -> None:
    """An iterator is not shared."""
    assert outcome_of(iter([1])) is FollowerSignal.CALL_ALONE
    assert isinstance(outcome_of([1]), SharedOutcome)
