"""For policies that share results: which calls have the same key, and which results can be shared."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

from resilience.options import Opaque, is_plain_callable

__all__ = ("KEY", "Keys", "is_shareable", "unhashable")

KEY = Opaque(
    "a function of the call's arguments that returns something hashable (not a coroutine function)",
    lambda value: value is None or is_plain_callable(value),
)


class _Keywords:
    """Stands before keyword arguments in a key, so that no positional argument can look like one."""


class Keys:
    """Makes a call's key: its arguments, or the result of `function` for them.

    Where `leading_args` is 1 the first argument is the function that is called: it is part of the key and not shown to
    `function`. Keyword arguments may come in any order; one given by position makes another key.
    """

    __slots__ = ("_function", "are_arguments", "leading_args")

    def __init__(self, function: Callable[..., Hashable] | None, leading_args: int = 0) -> None:
        self._function = function
        self.leading_args = leading_args
        self.are_arguments = function is None and not leading_args
        """Whether the key of a call without keywords is the tuple of its arguments."""

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
        """Return the key of the call that was made with these arguments."""
        if self.leading_args:
            return args[0], self.of(args[1:], kwargs)
        return self.of(args, kwargs)

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
        """Return the key that these arguments have, whatever function they are for."""
        if self._function is not None:
            return self._function(*args, **kwargs)
        return (_Keywords, args, *sorted(kwargs.items())) if kwargs else args


def unhashable(policy: str, key: object, error: TypeError) -> TypeError:
    """Return the error to raise if looking up `key` raised. It names `key=` if a part cannot be hashed."""
    for part in _parts(key):
        try:
            hash(part)
        except TypeError:
            message = f"{policy}: a {type(part).__name__} cannot be hashed, so it cannot be part of the key of a call"
            return TypeError(f"{message}; give key=, a function of the arguments that returns something hashable")
    return error


def _parts(key: object) -> Iterator[object]:
    """Yield the parts of a key, the innermost first."""
    if isinstance(key, tuple):
        inside: Iterable[object] = key
        for part in inside:
            yield from _parts(part)
    yield key


def is_shareable(result: object) -> bool:
    """Whether a second caller can use `result` as well: an awaitable or an iterator is used up by the first."""
    kind = type(result)
    return not (hasattr(kind, "__next__") or hasattr(kind, "__await__") or hasattr(kind, "__anext__"))
