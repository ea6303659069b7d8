"""Errors with contents that cannot be sent whole: the rest arrives, and no exception text with it (L16)."""

from __future__ import annotations

import logging
import math
from typing import Any

import grpc
import pytest
from grpc_shop import Running, Tasks, Threads

from resilience import AppError
from resilience_grpc._status import error_of_call

UNSAID = "this stays here"


class Hostile(str):
    """A text of which every method raises."""

    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError(UNSAID)

    __repr__ = __len__ = __iter__ = __str__  # type: ignore[assignment]  # that it raises is the point


def nested(times: int, kind: Any = dict) -> Any:
    nest: Any = "end"
    for _ in range(times):
        nest = {"in": nest} if kind is dict else [nest]
    return nest


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE

CLEANED: dict[str, tuple[Any, Any]] = {
    "surrogate": ({"a": "\ud800b"}, {"a": "?b"}),
    "surrogate key": ({"\ud800": 1}, {"?": 1}),
    "surrogate deeper": ({"a": [{"b": "\udfff"}]}, {"a": [{"b": "?"}]}),
    "surrogate beside fields": (
        {"fields": [{"field": "\ud800"}], "x": "\ud800"},
        {"fields": [{"field": "?", "message": "", "type": ""}], "x": "?"},
    ),
    "pair": ({"a": "\ud83d\ude00"}, {"a": "\U0001f600"}),
    "deep": ({"a": nested(300)}, {}),
    "deep list": ({"a": nested(900, list)}, {}),
    "deeper": ({"a": nested(20_000)}, None),
    "cycle": (CYCLE, None),
    "list": ([1, 2], {}),
    "text": ("abc", {}),
    "nothing": (None, {}),
    "hostile": ({"a": Hostile("x"), "b": 1}, None),
    "hostile key": ({Hostile("x"): 1}, None),
    "object": ({"a": object()}, {"a": "<object>"}),
    "huge": ({"a": 10**5000}, {"a": "<int>"}),
    "large": ({"a": -(10**25)}, {"a": "-10000000000000000000000000"}),
    "no number": ({"a": math.nan, "b": -math.inf}, {"a": None, "b": None}),
}
"""Details as they are set, and as they arrive. None if only the rest of the error has to arrive."""

FAULTS: dict[str, dict[str, Any]] = {
    "message": {"message": Hostile("x")},
    "code": {"code": Hostile("A_B")},
    "translations": {"translations": Hostile("x")},
    "translation": {"translations": {"de": Hostile("x"), "en": Hostile("x")}},
    "status": {"grpc_status": {}},
    "retry": {"retry_after": Hostile("x")},
}
"""Attributes that make an error unreadable, in part or whole."""


def awkward(case: str) -> AppError:
    error = AppError("SHOP_C001", "Sold out.", http_status=409, grpc_status="ABORTED", retry_after=2)
    error.translations = {"de": "Ausverkauft."}
    if case in CLEANED:
        error.details = CLEANED[case][0]
    else:
        vars(error).update(FAULTS[case])
    return error


class AwkwardThreads(Threads):
    def act(self, text: str, servicer: Any) -> str:
        raise awkward(text)


class AwkwardTasks(Tasks):
    def act(self, text: str, servicer: Any) -> str:
        raise awkward(text)


@pytest.fixture
def shop(serve: Any, stack: str) -> Running:
    """Serve methods that raise the error that the request names."""
    served: Running = serve(stack, shop=AwkwardTasks() if stack == "aio" else AwkwardThreads())
    return served


def test_the_code_outlives_its_details(shop: Running) -> None:
    """Code, status, translated message, wait and id always arrive, and all details that can be sent."""
    for case, (_, expected) in CLEANED.items():
        failed = shop.failure("unary_unary", case, metadata=[("accept-language", "de"), ("x-request-id", "r-1")])
        error = error_of_call(failed)
        assert error is not None, case
        assert (failed.code(), failed.details()) == (grpc.StatusCode.ABORTED, "Ausverkauft."), case
        assert (error.code, error.http_status, error.retry_after) == ("SHOP_C001", 409, 2), case
        assert error.remote_request_id == "r-1"
        assert expected in (None, error.details), case
    assert shop.settled()


@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
def test_an_unreadable_error_is_internal(shop: Running, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error whose attributes raise is answered with an envelope, and its text does not leave the process."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # the log cannot write it, either
    for case in FAULTS:
        failed = shop.failure(kind, case, metadata=[("accept-language", "de"), ("x-request-id", "r-1")])
        error = error_of_call(failed)
        assert error is not None, case
        assert error.remote_request_id == "r-1"
        assert failed.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED}, case
        assert UNSAID not in failed.details() + repr(failed.trailing_metadata()), case
    assert shop.settled()


def test_a_log_that_fails_changes_nothing(shop: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the log cannot be written, the client gets the same answer."""

    def failing(record: logging.LogRecord) -> bool:
        raise RuntimeError(UNSAID)

    log = logging.getLogger("resilience")
    monkeypatch.setattr(log, "filters", [failing])
    failed = shop.failure("unary_unary", "message")
    assert (failed.code(), UNSAID in failed.details()) == (grpc.StatusCode.INTERNAL, False)
    assert error_of_call(failed) is not None
