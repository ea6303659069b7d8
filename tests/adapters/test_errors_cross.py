"""Errors cross processes: every class can be pickled, copied and deep-copied, with what servers have sent."""

from __future__ import annotations

import concurrent.futures
import copy
import importlib
import multiprocessing
import pickle
import pkgutil
import threading
import traceback
from collections.abc import Callable
from typing import Any

import grpc
import httpx2
import pybreaker
import pytest
import requests
from failing import OrderError, fail

import resilience
import resilience_fastapi
import resilience_flask
import resilience_grpc
import resilience_http
from resilience import AppError, CircuitOpenError, ConfigurationError, DeadlineExceededError
from resilience.errors import Problem, RateLimitedError, RejectedError, RunningWork, StartupError, joined_class
from resilience.policy import Substitute
from resilience_grpc.client._errors import AioCallError, CallError, CallStatus, SyncCallError, as_call_error
from resilience_http import _requests
from resilience_http._transports._parts import FailedResponseError

PACKAGES = (resilience, resilience_fastapi, resilience_flask, resilience_grpc, resilience_http)
TRAILING = (("x-request-id", "r-9"), ("grpc-retry-pushback-ms", "1500"), ("blob-bin", b"\x00\xff"))
NEVER_RAISED_TO_CALLERS = {
    "resilience._engine._colour.ReturnedAwaitable",
    "resilience_grpc.client._call.AttemptSuperseded",
}
"""Signals between two frames of ours: they hold a coroutine or a call of this process."""


def every_class() -> list[type[BaseException]]:
    """Return all exception classes that our packages define, found by importing every module."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__") and ".demo" not in module.name:
                importlib.import_module(module.name)
    found: set[type[BaseException]] = set()
    pending: list[type[BaseException]] = [BaseException]
    while pending:
        for kind in type.__subclasses__(pending.pop()):
            if kind not in found:
                found.add(kind)
                pending.append(kind)
    ours = [kind for kind in found if kind.__module__.split(".")[0].startswith("resilience")]
    named = [kind for kind in ours if f"{kind.__module__}.{kind.__qualname__}" not in NEVER_RAISED_TO_CALLERS]
    # The classes that `as_call_error` makes have no name in a module; they are among the errors below.
    return sorted({kind for kind in named if _is_named(kind)}, key=lambda kind: (kind.__module__, kind.__name__))


def _is_named(kind: type) -> bool:
    return getattr(importlib.import_module(kind.__module__), kind.__name__, None) is kind


def _request() -> httpx2.Request:
    return httpx2.Request("POST", "http://shop.example/orders", headers={"X-Mine": "1"}, content=b"order")


def _response() -> httpx2.Response:
    return httpx2.Response(503, headers={"Retry-After": "7"}, content=b'{"code":"X"}', request=_request())


def failed_response(*args: Any, **facts: Any) -> BaseException:
    """Return the error that policies get: an error of the library, too, whose class no module has by name."""
    return joined_class(FailedResponseError, httpx2.HTTPStatusError)(*args, **facts)


def _prepared() -> requests.PreparedRequest:
    return requests.Request("POST", "http://shop.example/orders", headers={"X-Mine": "1"}, data=b"order").prepare()


def _answer() -> requests.Response:
    answer = requests.Response()
    answer.status_code, answer._content, answer.request = 503, b"busy", _prepared()
    answer.headers["Retry-After"] = "7"
    return answer


MADE: dict[type[BaseException], Callable[[], BaseException]] = {
    AppError: lambda: AppError(
        "SHOP_C001", "Sold out.", details={"left": 0, "tags": ["a"]}, http_status=409, category="conflict",
        retryable=True, retry_after=2.5, headers={"X-A": "1"}, translations={"de": "Aus."}, remote_request_id="r-1",
    ),
    ConfigurationError: lambda: ConfigurationError([Problem("a", 1, "b", "c"), Problem("d", len, "e")]),
    DeadlineExceededError: lambda: DeadlineExceededError("late", policy="p", seconds=1.5, allowed=3.0),
    StartupError: lambda: StartupError("no", step="db"),
    Substitute: lambda: Substitute(7, error=AppError("X_1", details={"a": 1})),
    FailedResponseError: lambda: failed_response(_request(), _response(), allowed=2.0),
    _requests.RequestsFailedResponse: lambda: _requests.RequestsFailedResponse(_prepared(), _answer(), allowed=2.0),
    CallError: lambda: _call_error(is_aio=False),
    SyncCallError: lambda: _call_error(is_aio=False),
    AioCallError: lambda: _call_error(is_aio=True),
}  # fmt: skip
"""How to make an error with all it can hold; a class that is not here takes a text, and `policy` if it refuses."""


def _call_error(*, is_aio: bool) -> Any:
    trailing: Any = grpc.aio.Metadata(*TRAILING) if is_aio else TRAILING
    status = CallStatus(grpc.StatusCode.UNAVAILABLE, "down", (), trailing, "debug")
    error: Any = MADE[AppError]()
    return as_call_error(error, status, is_aio=is_aio)


def made(kind: type[BaseException]) -> BaseException:
    if kind in MADE:
        return MADE[kind]()
    if issubclass(kind, RejectedError):
        return kind("no", policy="p", retry_after=1.5)
    return kind("text")


def crossed(error: Any) -> dict[str, Any]:
    """Return what crosses by each way."""
    return {
        "pickle": pickle.loads(pickle.dumps(error)),
        "oldest protocol": pickle.loads(pickle.dumps(error, 2)),
        "copy": copy.copy(error),
        "deepcopy": copy.deepcopy(error),
    }


FACTS = (
    "code", "category", "retryable", "http_status", "grpc_status", "retry_after", "is_remote", "policy", "seconds",
    "allowed", "is_callers", "is_before_call", "details", "message", "headers", "translations", "remote_request_id",
    "request_id", "is_answer", "step",
)  # fmt: skip


def facts(error: Any) -> dict[str, Any]:
    """Return what an error says about itself, as it can be compared."""
    said = {name: getattr(error, name) for name in FACTS if hasattr(error, name)}
    return {name: fact for name, fact in said.items() if not callable(fact) or isinstance(fact, str | dict)}


@pytest.mark.parametrize("kind", every_class(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_error_crosses(kind: type[BaseException]) -> None:
    """Class, text, facts, notes and cause of every error class are the same after pickling and copying."""
    error = made(kind)
    error.add_note("tried twice")
    error.__cause__ = ConnectionResetError(104, "reset")
    for way, twin in crossed(error).items():
        assert type(twin) is type(error), way
        assert (str(twin), facts(twin), twin.__notes__) == (str(error), facts(error), ["tried twice"]), way
        if isinstance(error, resilience.ResilienceError | httpx2.HTTPStatusError | requests.HTTPError | grpc.RpcError):
            cause: Any = twin.__cause__
            assert (type(cause), cause.args) == (ConnectionResetError, (104, "reset")), way
            assert twin.__suppress_context__, way


@pytest.mark.parametrize("kind", [kind for kind in every_class() if issubclass(kind, resilience.ResilienceError)])
def test_what_belongs_to_this_process_stays_here(kind: type[BaseException]) -> None:
    """A lock, a thread, a generator or a local class in an attribute costs that attribute, never the error."""

    class Local:
        pass

    error: Any = made(kind)
    error.lock, error.local, error.generator = threading.Lock(), Local(), (each for each in "lazy")
    error.running, error.plain = RunningWork(lambda _callback: None), {"lock": threading.Lock(), "left": 3}
    error.__cause__ = ConnectionError(threading.Lock())
    back = pickle.loads(pickle.dumps(error))
    assert (back.lock, back.local, back.generator, back.running, back.__cause__) == (None, None, None, None, None)
    assert back.plain["left"] == 3
    assert repr(back.plain["lock"]) == repr(error.plain["lock"])
    assert (str(back), facts(back)) == (str(error), facts(error))
    for twin in (copy.copy(error), copy.deepcopy(error)):
        assert (twin.lock, twin.running) == (error.lock, error.running)
        assert twin.__cause__ is error.__cause__ or isinstance(twin.__cause__, ConnectionError)


@pytest.mark.parametrize("make", [MADE[SyncCallError], MADE[AioCallError]], ids=["sync", "aio"])
def test_metadata_of_a_call_crosses(make: Callable[[], Any]) -> None:
    """Status, text and binary metadata are there afterwards, as `grpcio` has them."""
    error = make()
    for way, twin in crossed(error).items():
        assert twin.code() is grpc.StatusCode.UNAVAILABLE, way
        assert (twin.code, twin.details(), dict(twin.details)) == ("SHOP_C001", "down", {"left": 0, "tags": ["a"]}), way
        assert tuple(map(tuple, twin.trailing_metadata())) == TRAILING, way
        assert (twin.debug_error_string(), isinstance(twin, grpc.RpcError)) == ("debug", True), way
    first = next(iter(pickle.loads(pickle.dumps(MADE[SyncCallError]())).trailing_metadata()))
    assert (first.key, first.value) == TRAILING[0]


def test_request_and_response_cross() -> None:
    """The failed answer that a policy judged has its request, its headers and its body."""
    for error, body in (
        (MADE[FailedResponseError](), b'{"code":"X"}'),
        (MADE[_requests.RequestsFailedResponse](), b"busy"),
    ):
        for way, twin in crossed(error).items():
            assert (twin.response.status_code, twin.response.headers["Retry-After"]) == (503, "7"), way
            assert (twin.response.content, twin.retry_after) == (body, 7.0), way
            assert (twin.request.method, twin.request.headers["X-Mine"]) == ("POST", "1"), way


def test_an_unread_answer_crosses_without_its_body() -> None:
    """A streamed answer keeps its head."""
    response = httpx2.Response(503, stream=httpx2.ByteStream(b"later"), request=_request())
    twin = pickle.loads(pickle.dumps(failed_response(_request(), response)))
    assert (twin.response.status_code, str(twin)) == (503, "shop.example answered 503")


def test_what_cannot_be_unpickled_costs_only_itself() -> None:
    """The cause of a class whose constructor wants more than it keeps does not break the error that it caused."""
    error = CircuitOpenError("open", policy="p", retry_after=3.0)
    error.__cause__ = httpx2.HTTPStatusError("busy", request=_request(), response=_response())
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(error.__cause__))
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.policy, back.retry_after, back.__cause__) == (CircuitOpenError, "p", 3.0, None)


def test_errors_that_lead_back_to_themselves_cross() -> None:
    """Causes in a circle, and an error among its own attributes, end."""
    first, second = AppError("A_1", details={"a": 1}), AppError("B_1")
    first.__cause__, second.__cause__ = second, first
    first.details["all"] = [first, second, first]
    back = pickle.loads(pickle.dumps(first))
    assert (back.code, back.__cause__.code, back.details["a"]) == ("A_1", "B_1", 1)
    assert copy.deepcopy(first).code == "A_1"


def test_a_long_chain_of_causes_crosses_in_good_time() -> None:
    """The pickle of an error grows with its causes, not with the power of their number."""
    error: Exception = AppError("A_0")
    for number in range(1, 40):
        following = AppError(f"A_{number}")
        following.__cause__ = error
        error = following
    raw = pickle.dumps(error)
    assert len(raw) < 100_000
    back, length = pickle.loads(raw), 1
    while back.__cause__ is not None:
        back, length = back.__cause__, length + 1
    assert (length, back.code) == (40, "A_0")


def test_a_copy_has_its_own_notes() -> None:
    """A note on a copy does not appear on the original; a deep copy shares nothing that can be copied."""
    error = AppError("A_1", details={"list": [1]})
    error.add_note("one")
    for twin in (copy.copy(error), copy.deepcopy(error)):
        twin.add_note("two")
    copy.deepcopy(error).details["list"].append(2)
    assert (error.__notes__, error.details) == (["one"], {"list": [1]})


def test_groups_of_errors_cross() -> None:
    """An exception group crosses with all errors in it."""
    group = BaseExceptionGroup("g", [made(CircuitOpenError), made(AppError), made(FailedResponseError)])
    for way, twin in crossed(group).items():
        assert [type(each) for each in twin.exceptions] == [type(each) for each in group.exceptions], way
        assert twin.exceptions[0].retry_after == 1.5, way


def test_errors_come_back_from_a_process_pool() -> None:
    """A process pool hands each error on, with the traceback of the other process, and stays usable."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        for name in ("open", "own", "rpc", "group"):
            found[name] = pool.submit(fail, name).exception(timeout=60)
    assert (type(found["open"]), found["open"].policy) == (CircuitOpenError, "ledger")
    assert isinstance(found["open"], pybreaker.CircuitBreakerError)
    assert "in fail" in "".join(traceback.format_exception(found["own"]))
    assert (type(found["own"]), found["own"].order, found["own"].details) == (OrderError, 7, {"shop": "north"})
    assert (found["rpc"].code(), found["rpc"].code, found["rpc"].retry_after) == (
        grpc.StatusCode.UNAVAILABLE, "SHOP_C001", 2.5,
    )  # fmt: skip
    assert [type(each) for each in found["group"].exceptions] == [RateLimitedError]
