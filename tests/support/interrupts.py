"""Raises at every point of a call at which CPython looks for a signal, one point after the other.

CPython runs signal handlers, and raises what `PyThreadState_SetAsyncExc` left for a thread, in its evaluation loop, at
three kinds of instruction only: at the start of a Python function or when a generator goes on (`RESUME`), at a jump
backwards, and when a call of something written in C has returned. So an interrupt never comes between the return of a
Python function and the assignment of its result, nor behind an operator (`del a[-1]`, `a += b`, `a[k] = v`), but it
does come behind `lock.acquire()`, whose result is then lost. The kinds are the same in 3.11, 3.12 and 3.13; which
specialized instruction leaves a look out differs.

That is why this module does not raise by itself, which would also hit instructions that can never be hit. Its tracing
function stops tracing and sets an asynchronous exception right before the instruction, and the interpreter raises it
at its own next look. The exception is set by a unary operator whose method is written in C: a call would have the
tracing function itself interrupted.

Points inside `contextlib` and `threading` count as well: they run on our behalf.
"""

from __future__ import annotations

import contextlib
import ctypes
import dis
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import resilience
from resilience._support import executor

_OURS = str(Path(resilience.__file__).parent)
_ON_OUR_BEHALF = (contextlib.__file__, threading.__file__)
_CALLS = {number for name, number in dis.opmap.items() if name.startswith(("CALL", "JUMP_BACKWARD"))}
_MOST_POINTS = 2_000  # of one call: a call that never runs through is an error of the scenario


class TimeLimitError(Exception):
    """Like `celery.exceptions.SoftTimeLimitExceeded`: an ordinary exception, raised from outside."""


class ShutdownRequested(BaseException):
    """Like `KeyboardInterrupt` or `dramatiq.middleware.Interrupt`."""


KINDS: tuple[type[BaseException], ...] = (TimeLimitError, ShutdownRequested)


class _Armed:
    """`-armed` has an exception raised in this thread at the next look, and is no call."""

    def __init_subclass__(cls, *, arm: Callable[[], object]) -> None:
        cls.__neg__ = staticmethod(arm)  # type: ignore[operator]  # found by the operator alone


def _armed(kind: type[BaseException]) -> Any:
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    set_exception = functools.partial(raise_in, ctypes.c_ulong(threading.get_ident()), ctypes.py_object(kind))

    class Armed(_Armed, arm=set_exception):
        pass

    return Armed()


def _native_threads() -> set[str]:
    tasks = Path("/proc/self/task")
    return {task.name for task in tasks.iterdir()} if tasks.is_dir() else set()


def _let_new_threads_begin(known: set[str]) -> None:
    """Wait for threads that the system has created since it listed `known`, and that have not begun to run.

    Until a new thread runs it has the identifier of its creator on 3.11. The exception would be raised in the new
    thread, and the creator would wait for ever for the thread to begin. A busy machine takes its time to run it.
    """
    for _ in range(20_000):
        new = [thread for thread in list(threading._limbo) if thread.ident is None]  # type: ignore[attr-defined]  # between `start` and their first step
        begun = {str(thread.native_id) for thread in threading.enumerate()}
        if not new or not _native_threads() - known - begun:
            return
        time.sleep(0.0001)


def _signalling() -> Any:
    class Signalling(_Armed, arm=functools.partial(ctypes.pythonapi.PyErr_SetInterruptEx, signal.SIGUSR1)):
        pass

    return Signalling()


@contextlib.contextmanager
def _workers_untraced() -> Iterator[None]:
    """Let no tracing function, such as that of coverage, be called in the threads of our executors.

    While an exception is set for a thread that waits for another thread, CPython 3.11 repeats the first instruction of
    a function for ever in that other thread, if the function is traced.
    """
    tracing, idle = threading.gettrace(), executor._idle
    threading.settrace(None)  # as `sys.settrace` does, it takes None for no function
    executor._idle = []  # the idle threads are traced already
    try:
        yield
    finally:
        executor._idle = idle
        threading.settrace(tracing)


@contextlib.contextmanager
def _handler_raises(kind: type[BaseException]) -> Iterator[None]:
    def handle(_number: int, _frame: object) -> None:
        raise kind

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


Subject = tuple[Callable[[], object], Callable[[], object]]
"""The call to interrupt, and the check."""
Place = tuple[Any, int]
"""An instruction: the code object and the offset in it."""


class _Watch:
    """Follows one call, and interrupts it at its `at`-th point; 0 interrupts nothing and learns the points."""

    def __init__(self, at: int, armed: Any, enters: set[Place]) -> None:
        self.left = at
        self.armed = armed
        self.enters = enters
        """Instructions other than calls that run a Python function: `with`, properties, operators, iteration."""
        self.points = 0
        self.where = ""
        self.natives = _native_threads()
        self._last: Place | None = None

    def enter(self, frame: Any, _event: str, _arg: Any) -> Any:
        caller = frame.f_back
        if caller is not None and (place := (caller.f_code, caller.f_lasti)) == self._last:
            self.enters.add(place)
        file = frame.f_code.co_filename
        is_called_by_us = caller is not None and caller.f_trace is not None
        if not file.startswith(_OURS) and not (is_called_by_us and file in _ON_OUR_BEHALF):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.step

    def step(self, frame: Any, event: str, _arg: Any) -> Any:
        if event == "opcode":
            code, offset = frame.f_code, frame.f_lasti
            self._last = code, offset
            if code.co_code[offset] in _CALLS or self._last in self.enters:
                self.points += 1
                if self.points == self.left:
                    self.where = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_qualname}"
                    sys.settrace(None)
                    armed = self.armed
                    _let_new_threads_begin(self.natives)
                    _ = -armed  # from here to the return no call, no jump backwards
                    return None
        return self.step


def _run(call: Callable[[], object], watch: _Watch) -> None:
    sys.settrace(watch.enter)
    try:
        call()
    finally:
        sys.settrace(None)


def _learn(call: Callable[[], object], enters: set[Place]) -> None:
    with contextlib.suppress(Exception):
        _run(call, _Watch(0, None, enters))


def _made(make: Callable[[], Subject], enters: set[Place]) -> Subject:
    """Return a new subject; 3.13 forgets to trace opcodes of code that runs untraced meanwhile."""
    sys.settrace(_Watch(0, None, enters).enter)
    try:
        return make()
    finally:
        sys.settrace(None)


def every_signal(make: Callable[[], Subject], kind: type[BaseException]) -> Iterator[str]:
    """Do as `every_interrupt`, by the handler of a signal, which runs in the main thread alone.

    An exception that is set for a thread can hit a thread that it starts, which has the number of the first one until
    it runs. A signal cannot.
    """
    tracing = sys.gettrace()  # coverage measures the main thread this way
    try:
        with _workers_untraced(), _handler_raises(kind):
            yield from _strikes(make, kind, _signalling())
    finally:
        sys.settrace(tracing)


def every_interrupt(make: Callable[[], Subject], kind: type[BaseException]) -> list[str]:
    """Interrupt the call at each of its points in turn, and check afterwards that all is as good as new.

    `make` returns a new subject each time: the call to interrupt, and the check. The check runs while the exception is
    still being handled, which is where a task cleans up after its time limit. Returns where each interrupt struck.

    All of it happens in a thread of its own. On 3.11 a thread that the system refused to start leaves a state behind
    with the number of its creator, and the exception for the creator would be set there.
    """
    with _workers_untraced():
        return list(in_another_thread(lambda: list(_strikes(make, kind)), seconds=200))


def _strikes(make: Callable[[], Subject], kind: type[BaseException], armed: Any = None) -> Iterator[str]:
    enters: set[Place] = set()
    _learn(make()[0], enters)
    for at in range(1, _MOST_POINTS):
        _learn(
            _made(make, enters)[0], enters
        )  # from 3.12 on opcodes are traced from the second run on, and anew after each stop
        call, check = _made(make, enters)
        watch = _Watch(at, armed or _armed(kind), enters)
        try:
            _run(call, watch)
        except kind:
            _check(check, watch)
        except Exception:  # noqa: BLE001 - what the call itself raises; an interrupt may have been its cause
            _check(check, watch)
        else:
            _check(check, watch)
        if watch.points < at:
            return
        yield watch.where
    raise AssertionError(f"the call did not run through within {_MOST_POINTS} interrupts")


def _check(check: Callable[[], object], watch: _Watch) -> None:
    try:
        check()
    except BaseException as error:
        error.add_note(f"after an interrupt at {watch.where or 'no point'}")
        raise


def in_another_thread(call: Callable[[], Any], seconds: float = 2.0) -> Any:
    """Return what `call` returns in a new thread; fail where that takes longer than `seconds`: a lock is taken."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, "another thread hangs"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
