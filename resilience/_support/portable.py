"""Errors that cross to another process, or are copied, with all that they say about themselves.

The default pickling of exceptions calls the class with `args` alone. For a constructor with keyword arguments that
fails, and only where the error is unpickled: a process pool is broken by it. A lock or a socket in one attribute makes
the whole error unpicklable. Here each attribute crosses by itself. One that cannot cross arrives as None; a value that
cannot, in `args` or inside a container, arrives as its text.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Self, TypeVar

from resilience._support.printable import shown

__all__ = ("Portable", "copied_as", "facts_of", "packed", "unpacked")

K = TypeVar("K")

_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
_under_way: ContextVar[frozenset[int]] = ContextVar("errors being pickled", default=frozenset())
_CAUSE, _SUPPRESSED, _NOTES = "__cause__", "__suppress_context__", "__notes__"


class Portable:
    """Mixed into an exception class: instances can be pickled, copied and deep-copied, whatever they hold.

    Class, `args`, attributes, notes and the cause are kept; traceback and context are not. The constructor is not
    called: a subclass may take any arguments. Pickling never raises for an attribute that belongs to this process.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        error: Any = self
        within = _under_way.get()
        if id(self) in within:  # an attribute or cause leads back to the error: it does not hold itself a second time
            return _restored, (*self.made_as(), (), {})
        token = _under_way.set(within | {id(self)})
        try:
            facts = {name: _crossing(fact, None) for name, fact in _with_cause(error).items()}
            return _restored, (*self.made_as(), tuple(packed(each) for each in error.args), facts)
        finally:
            _under_way.reset(token)

    def made_as(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return a function and its arguments that yield the class; override if no module has the class by name."""
        return _itself, (type(self),)

    def __copy__(self) -> Self:
        return copied_as(self, type(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        error: Any = self
        facts = {name: _deep(fact, memo) for name, fact in _with_cause(error).items()}
        return _filled(type(self), tuple(_deep(each, memo) for each in error.args), facts)  # type: ignore[no-any-return]  # an error of this class


def copied_as(error: Any, kind: type[K]) -> K:
    """Return a shallow copy of an error, of the class `kind`. No constructor is called."""
    facts = _with_cause(error)
    if _NOTES in facts:
        facts[_NOTES] = list(facts[_NOTES])  # a note on the copy is no note on the original
    return _filled(kind, error.args, facts)  # type: ignore[no-any-return]  # of the class it is given


def facts_of(error: Any) -> dict[str, Any]:
    """Return all attributes of an error, those in slots included."""
    kind: Any = type(error)
    held = {name: getattr(error, name) for name in _slots_of(kind) if hasattr(error, name)}
    return {**vars(error), **held}


@functools.lru_cache(maxsize=256)
def _slots_of(kind: type) -> frozenset[str]:
    names = {name for each in kind.__mro__ for name in _names(vars(each).get("__slots__", ()))}
    return frozenset(name for name in names if not name.startswith("__"))


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _with_cause(error: Any) -> dict[str, Any]:
    facts = facts_of(error)
    if error.__cause__ is not None:
        facts[_CAUSE] = error.__cause__
    if error.__suppress_context__:
        facts[_SUPPRESSED] = True
    return facts


class _Pickled:
    """A value that is pickled by itself: if it cannot be unpickled, only this value is lost."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def __reduce__(self) -> tuple[Any, ...]:
        return _Pickled, (self.raw,)


class _PickledText(str):
    """The text of a value that did not cross; its `repr` is the value's."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def packed(value: Any) -> Any:
    """Return `value` in a form that can always be pickled. `unpacked` returns the value, or its text if need be."""
    return _crossing(value, value)


def _crossing(value: Any, instead: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    try:
        if kind is dict:
            return {packed(key): packed(each) for key, each in value.items()}
        if kind in {list, tuple}:
            return kind(packed(each) for each in value)
        return _Pickled(pickle.dumps(value))
    except Exception:  # noqa: BLE001 - locks, sockets, local classes, structures that refer to themselves
        return None if instead is None else _PickledText(shown(instead))


def unpacked(value: Any) -> Any:
    """Return the value that was `packed`; None for one that this process cannot unpickle."""
    kind = type(value)
    if kind is dict:
        return {unpacked(key): unpacked(each) for key, each in value.items()}
    if kind in {list, tuple}:
        return kind(unpacked(each) for each in value)
    if kind is not _Pickled:
        return value
    try:
        return pickle.loads(value.raw)  # noqa: S301 - part of a pickle that is being read already
    except Exception:  # noqa: BLE001 - classes of other versions, constructors that want more than they keep
        return None


def _itself(kind: Any) -> Any:
    return kind


def _restored(make: Callable[..., Any], made_of: tuple[Any, ...], args: Any, facts: dict[str, Any]) -> Any:
    return _filled(make(*made_of), unpacked(args), {name: unpacked(fact) for name, fact in facts.items()})


def _filled(kind: Any, args: tuple[Any, ...], facts: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    error.args = args
    for name, fact in facts.items():
        if fact is None and name == _CAUSE:
            continue
        with contextlib.suppress(AttributeError, TypeError):  # a property without a setter in a newer version
            setattr(error, name, fact)
    error.__suppress_context__ = facts.get(_SUPPRESSED, False)  # a cause sets it
    return error


def _deep(value: Any, memo: dict[int, Any]) -> Any:
    """Return a deep copy of `value`, or `value` itself if it cannot be copied."""
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001 - as in `_crossing`
        return value
