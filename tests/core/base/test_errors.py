import copy
import pickle
from typing import Any

import pytest

from resilience import (
    AppError,
    BulkheadFullError,
    CircuitOpenError,
    ConfigurationError,
    DeadlineExceededError,
    RateLimitedError,
    RejectedError,
    ResilienceError,
)
from resilience.errors import Problem, RunningWork, joined_with, running_behind, said_by


@pytest.mark.parametrize(
    "error",
    [
        RejectedError("no", policy="p", retry_after=1.5),
        CircuitOpenError("open", policy="p", retry_after=2.0),
        DeadlineExceededError("late", policy="p", seconds=1.0),
        AppError("ORDERS_V001", "bad", details={"field": "x"}, http_status=422),
        ConfigurationError([Problem("a", 1, "b")]),
    ],
)
def test_errors_survive_pickling_and_copying(error: ResilienceError) -> None:
    """An error crosses a process boundary with its text and its facts."""
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert {**twin.__dict__, "problems": 0} == {**error.__dict__, "problems": 0}


def test_running_work_stays_in_its_process() -> None:
    """A thread that is still at work cannot be pickled along with the error."""
    error = DeadlineExceededError("late", running=RunningWork(lambda callback: callback()))
    assert pickle.loads(pickle.dumps(error)).running is None


@pytest.mark.parametrize(
    ("error", "code", "http", "grpc"),
    [
        (RateLimitedError("x"), "RATE_LIMITED", 429, "RESOURCE_EXHAUSTED"),
        (BulkheadFullError("x"), "BULKHEAD_FULL", 503, "RESOURCE_EXHAUSTED"),
        (CircuitOpenError("x"), "CIRCUIT_OPEN", 503, "UNAVAILABLE"),
        (DeadlineExceededError("x"), "DEADLINE_EXCEEDED", 504, "DEADLINE_EXCEEDED"),
        (AppError("X_1"), "X_1", 500, "INTERNAL"),
    ],
)
def test_errors_say_their_facts(error: ResilienceError, code: str, http: int, grpc: str) -> None:
    """Code and statuses are attributes, never only text."""
    assert (error.code, error.http_status, error.grpc_status) == (code, http, grpc)


def test_problem_shows_long_values_cut_short() -> None:
    """A bad value that is a whole file does not flood the log."""
    text = str(Problem("option", "x" * 10_000, "less", "default 3"))
    assert len(text) < 200
    assert text.endswith("...: expected less (default 3)")
    assert "option='xxx" in repr(Problem("option", "xxx", "less"))


def test_an_error_whose_attributes_raise_says_nothing() -> None:
    """What an error of somebody else's says is asked without being hurt by what its attributes do."""

    class ApiError(Exception):
        def __getattr__(self, name: str) -> Any:
            return self.args[0][name]

    assert said_by(ApiError({"retry_after": 3}), "retry_after") == 3
    assert said_by(ApiError({}), "retry_after") is None
    assert said_by(OSError(), "retry_after") is None
    assert running_behind(ApiError({})) is None


class QuotaError(RejectedError):
    """A refusal of a third party, with arguments of its own."""

    def __init__(self, calls: int, quota: str) -> None:
        super().__init__(f"{calls} calls are used up", policy=quota, retry_after=60.0)


def test_a_refusal_has_its_facts_whatever_its_class_takes() -> None:
    """Message, policy and wait of a refusal are those given to its base class, and can be changed."""
    refusal = QuotaError(100, "daily")
    assert (str(refusal), refusal.policy, refusal.retry_after) == ("100 calls are used up", "daily", 60.0)
    assert refusal.args == ("100 calls are used up", "daily", 60.0)
    refusal.policy, refusal.retry_after = "hourly", None
    assert (str(refusal), refusal.policy, refusal.retry_after) == ("100 calls are used up", "hourly", None)
    assert (str(RejectedError()), RejectedError().policy, RejectedError().retry_after) == ("", "", None)


def test_a_refusal_can_be_an_os_error_too() -> None:
    """The class of a refusal has no slots, so that a client's error, an `OSError`, can be one as well."""

    class UnreachableError(CircuitOpenError, ConnectionError): ...

    error = UnreachableError("open", policy="payments", retry_after=3.0)
    assert (str(error), error.policy, error.retry_after) == ("open; next trial in 3 s", "payments", 3.0)


def test_a_joined_error_is_of_both_classes() -> None:
    """It has text, facts, notes and cause of ours, is an error of theirs, and stays one in another process."""
    ours = DeadlineExceededError("late", policy="p", seconds=0.5, allowed=3.0)
    ours.add_note("second attempt")
    ours.__cause__ = KeyError("slow")
    theirs: Any = joined_with(ours, ConnectionError)
    assert joined_with(theirs, OSError) is theirs
    assert type(joined_with(ours, ConnectionError)) is type(theirs)
    theirs.add_note("of theirs alone")
    assert ours.__notes__ == ["second attempt"]
    for error in (theirs, copy.copy(theirs), copy.deepcopy(theirs), pickle.loads(pickle.dumps(theirs))):
        assert isinstance(error, DeadlineExceededError)
        assert isinstance(error, ConnectionError)
        assert (str(error), error.policy, error.seconds, error.is_callers) == ("late", "p", 0.5, True)
        assert error.__notes__ == ["second attempt", "of theirs alone"]
        assert repr(error.__cause__) == "KeyError('slow')"


def test_classes_that_cannot_be_joined_are_an_error() -> None:
    """A class with slots has a layout of its own, which no class with fields of C can share."""

    class SlottedError(RejectedError):
        __slots__ = ("quota",)

    with pytest.raises(TypeError, match="conflict"):
        joined_with(SlottedError("no"), OSError)
