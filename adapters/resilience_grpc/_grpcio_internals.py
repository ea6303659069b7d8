"""Every place where this adapter relies on something that grpcio does not document.

The public API of grpcio leaves these questions open. Each function here answers one of them from the insides of grpcio,
and its docstring says what the answer relies on and what happens without it. All of it was checked with grpcio 1.66.0
(the oldest that we support) and 1.85.3. No function raises if the detail is gone.

One more reliance has no function. When a channel closes, grpc.aio 1.66 looks for a `self` in the frame of each task. If
that `self` is a call object of a class that it does not know, it raises an error. So the tasks of our own call objects
run functions (`_first_response`, `_closed` in `client/_aio_calls.py`) and not methods. grpcio 1.85.3 keeps a set of the
calls of a channel instead.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType
from typing import Any, Protocol, cast

import grpc
from grpc.aio import AbortError

from resilience.errors import leaves
from resilience_grpc._types import Behaviour

__all__ = (
    "abort_behind",
    "cancellable_attempt",
    "connectivity_of",
    "has_done_writing",
    "is_bare",
    "is_pushed",
    "makes_future",
    "serve_in",
    "status_sent",
    "weak_channel_callback",
)

_CONNECTIVITIES = {state.value[0]: state for state in grpc.ChannelConnectivity}
_STATUSES = {code.value[0]: code for code in grpc.StatusCode}
_MAX_LINKS = 16
"""How many errors `abort_behind` follows from each error to the error that it was raised in."""


class _AttemptDetails(Protocol):
    """The call details that an interceptor passes on."""

    method: str
    timeout: float | None
    metadata: object
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


def makes_future(continuation: object) -> bool:
    """Return whether the caller of a unary method on `grpc` asked for a future.

    grpcio does not say so. But a future has a continuation of its own:
    `_UnaryUnaryMultiCallable.future.<locals>.continuation`.

    Relies on: the name of a closure (`__qualname__`).
    Without it: `stub.Method.future()` blocks until the response has come.
    """
    return str(getattr(continuation, "__qualname__", "")).endswith(".future.<locals>.continuation")


def cancellable_attempt(continuation: object) -> Callable[[Any, object], Any] | None:
    """Return a function that begins a unary call on `grpc` and returns its future, or None.

    The continuation of a blocking call returns when the response has come, so the attempt cannot be cancelled before.
    The multi-callable in the closure can begin the same call as a future. Its `_thunk` makes a multi-callable of the
    channel for a method.

    Relies on: the free variable `self` of the closure, and `_thunk` of that object.
    Without it: an attempt that has lost a hedge is not cancelled: it runs to its own end.
    """
    if not isinstance(continuation, FunctionType) or "self" not in continuation.__code__.co_freevars:
        return None
    cell = (continuation.__closure__ or ())[continuation.__code__.co_freevars.index("self")]
    thunk = getattr(cell.cell_contents, "_thunk", None)
    return None if thunk is None else functools.partial(_begin, thunk)


def _begin(thunk: Callable[[str], Any], details: _AttemptDetails, request: object) -> Any:
    return thunk(details.method).future(
        request,
        timeout=details.timeout,
        metadata=details.metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
        compression=details.compression,
    )


def abort_behind(error: BaseException, context: object) -> BaseException | None:
    """Return the abort by which the handler ended the RPC, if `error` is that abort or comes from it, else None.

    `abort` of grpc.aio raises an `AbortError`. `abort` of `grpc` raises a bare `Exception()`, which means an abort only
    if a status is set. An error that has lost its link to such an abort is recognised by the state of the context.

    Relies on: `abort` of `grpc` raises exactly `Exception()`, and sets `_state.aborted` of the context.
    Without it: if a cleanup raises an error after an abort of `grpc`, the client sees INTERNAL, and not the abort.
    """
    is_of_threads = isinstance(context, grpc.ServicerContext)
    link: BaseException | None = error
    for _ in range(_MAX_LINKS):
        if link is None:
            break
        for each in leaves(link) if isinstance(link, BaseExceptionGroup) else (link,):
            if isinstance(each, AbortError) or (is_of_threads and is_bare(each) and _has_failed(context)):
                return each
        link = link.__context__
    return Exception() if is_of_threads and getattr(getattr(context, "_state", None), "aborted", False) else None


def is_bare(error: BaseException) -> bool:
    """Return whether `error` is an `Exception()` without a word, as `abort` of `grpc` raises it."""
    return type(error) is Exception and not error.args


def _has_failed(context: object) -> bool:
    code: Callable[[], object] | None = getattr(context, "code", None)
    return code is not None and code() not in {None, grpc.StatusCode.OK}


def status_sent(context: Any) -> str:
    """Return the name of the status with which an RPC has ended, as far as its handler and its client know.

    The context of grpcio has the status as a member of `StatusCode`, that of grpc.aio as a number. Without the member
    `_state`, whose `statused` says that grpcio has sent the status, an RPC whose handler pushed its responses counts as
    cancelled.
    """
    code = context.code()
    if code in {None, 0, grpc.StatusCode.OK}:
        is_active: Callable[[], bool] | None = getattr(context, "is_active", None)  # grpc.aio has `cancelled`
        is_sent = getattr(getattr(context, "_state", None), "statused", False)
        has_left = context.cancelled() if is_active is None else not (is_active() or is_sent)
        return "CANCELLED" if has_left else "OK"
    found = code if isinstance(code, grpc.StatusCode) else _STATUSES.get(code)
    return "UNKNOWN" if found is None else found.name


def has_done_writing(call: object) -> bool:
    """Return whether no more requests may be written. grpc.aio asks a call object this before each write.

    Relies on: `_done_writing_flag` of a call, which grpc.aio reads from our call objects, too.
    Without it: a write after `done_writing()` is refused a step later, by the call itself.
    """
    return bool(getattr(call, "_done_writing_flag", False))


def weak_channel_callback(callback: object) -> Callable[[object], None] | None:
    """Return the channel's own done callback so that it does not refer to the call; None for any other callback.

    grpc.aio cancels a call when its object is collected. Newer channels keep their calls in a `WeakSet` and have each
    call discard itself from the set at its end. That callback refers to the object which grpc.aio puts around ours.

    Relies on: the callback is a `functools.partial` over a method of the call, and its argument is `WeakSet.discard`.
    Without it: a stream that nothing refers to is cancelled only when its channel closes.
    """
    outer = getattr(getattr(callback, "func", None), "__self__", None)
    discard: Callable[[object], None] | None = next(iter(getattr(callback, "args", ())), None)
    if outer is None or discard is None or not isinstance(getattr(discard, "__self__", None), weakref.WeakSet):
        return None
    known = weakref.ref(outer)

    def discard_if_alive(_call: object) -> None:
        call = known()
        if call is not None:
            discard(call)

    return discard_if_alive


def connectivity_of(channel: grpc.Channel) -> grpc.ChannelConnectivity | None:
    """Return the state of a channel of `grpc` now, None if it is not known.

    grpcio reports changes of the state, from a thread for each channel, but not that a channel was closed.

    Relies on: `_channel` of a channel, and its method `check_connectivity_state`, which raises after a close.
    Without it: a pool lends a channel that has failed, and its borrower gets UNAVAILABLE.
    """
    check = getattr(getattr(channel, "_channel", None), "check_connectivity_state", None)
    if check is None:
        return None
    try:
        return _CONNECTIVITIES.get(check(False))  # False: do not connect
    except ValueError:
        return grpc.ChannelConnectivity.SHUTDOWN


class _ServedApart(Protocol):
    """A function with the attributes that `grpc` looks for."""

    experimental_thread_pool: ThreadPoolExecutor
    experimental_non_blocking: bool


def serve_in(behaviour: Behaviour, pool: ThreadPoolExecutor, *, is_pushed: bool = False) -> None:
    """Have `grpc` call a function in `pool`, not in the threads of the server.

    A function that is pushed (`is_pushed`) gets a third argument: a function that sends one response from any thread,
    and ends the stream if the response is None. The stream then takes no thread.

    Relies on: the attributes `experimental_thread_pool` and `experimental_non_blocking` of a function.
    Without it: health is answered by the threads of the server, and a health stream takes one.
    """
    served = cast("_ServedApart", behaviour)
    served.experimental_thread_pool = pool
    if is_pushed:
        served.experimental_non_blocking = True


def is_pushed(behaviour: object) -> bool:
    """Return whether the responses of a stream are sent by a function, as `serve_in` says."""
    return bool(getattr(behaviour, "experimental_non_blocking", False))
