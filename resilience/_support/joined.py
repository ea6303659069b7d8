"""Errors that are of two classes at once: one of ours, and one of the library in whose place it is raised.

So `except httpx.HTTPError` and `except grpc.RpcError`, written before this library was there, catch our refusals as
well. The class of each pair is made once, when the first error of the pair is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, new_class
from typing import Any, TypeVar

from resilience._support.portable import Portable, copied_as

__all__ = ("joined_class", "joined_with")

E = TypeVar("E", bound=Exception)
K = TypeVar("K")
_classes: dict[tuple[type, type], type] = {}


def joined_with(
    error: Exception, other: type[E], facts: Mapping[str, object] = MappingProxyType({}), *, overrides: bool = False
) -> E:
    """Return `error` as an error that is of the class `other`, too.

    Text, facts, notes, cause and traceback are those of `error`. No constructor is called. The result can be pickled
    and copied, as `error` can.

    Args:
        error: An error of this library.
        other: The class to join. An error that is of this class already is returned as it is.
        facts: The attributes that the constructor of `other` would set.
        overrides: Whether the members of `other` win over those of the class of `error`.

    Raises:
        TypeError: Python cannot join the classes: both have slots or fields of C.

    Example:
        >>> from resilience import RateLimitedError
        >>> error = joined_with(RateLimitedError("too many", policy="p", retry_after=2.0), ConnectionError)
        >>> isinstance(error, RateLimitedError), isinstance(error, OSError), str(error)
        (True, True, 'too many; retry in 2 s')
    """
    if isinstance(error, other):
        return error
    pair = (other, type(error)) if overrides else (type(error), other)
    given: Any = error
    joined: Any = copied_as(error, joined_class(*pair))
    joined.__context__, joined.__traceback__ = given.__context__, given.__traceback__
    for name, fact in facts.items():
        setattr(joined, name, fact)
    return joined  # type: ignore[no-any-return]  # of both classes


def joined_class(first: type[K], second: type) -> type[K]:
    """Return the class of errors that are of both classes, the same one each time. One of the two must be `Portable`.

    Pickles name this function, because no module has the class under a name.
    """
    found = _classes.get((first, second))
    if found is not None:
        return found
    ours = first if issubclass(first, Portable) else second
    body = {
        "__module__": ours.__module__,  # for tracebacks, which show module and name
        "__doc__": f"A `{first.__name__}` and a `{second.__name__}`.",
        "__reduce__": Portable.__reduce__,  # before that of a class with fields of C
        "made_as": lambda _self: (joined_class, (first, second)),
    }
    made = new_class(ours.__name__, (first, second), exec_body=lambda namespace: namespace.update(body))
    return _classes.setdefault((first, second), made)  # atomic: if two threads make the class, one class stays
