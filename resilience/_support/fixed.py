"""Objects that take their options when they are made: a later assignment would have no effect, so it is refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ("Fixed",)


class Fixed:
    """Base of an object whose public attributes are set when it is made, and not later.

    An assignment of a public attribute raises `AttributeError`, which says where the value belongs. Properties with a
    setter, and the names in `_assignable`, stay assignable. Reading costs nothing. A subclass outside of this package
    may set any attribute.
    """

    _is_made = False
    _assignable: frozenset[str] = frozenset()
    _changed_by: str = ""
    """A method that changes the object instead, such as `resize(limit)`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.partition(".")[0] != "resilience" and cls.__setattr__ is Fixed.__setattr__:
            cls.__setattr__ = object.__setattr__  # type: ignore[assignment,method-assign]  # see the docstring

    def __setattr__(self, name: str, value: object) -> None:
        if self._is_made and name[0] != "_" and name not in self._assignable:
            has_setter = getattr(getattr(type(self), name, None), "fset", None) is not None
            if not has_setter:
                raise AttributeError(_refusal(self, name), name=name, obj=self)
        object.__setattr__(self, name, value)


def _refusal(thing: Fixed, name: str) -> str:
    import inspect  # noqa: PLC0415 - 10 ms, for the text of a mistake

    kind = type(thing).__name__
    options: Iterable[str] = getattr(getattr(thing, "options", None), "fields", dict)()
    given = [each for each in (*inspect.signature(type(thing)).parameters, *options) if each != "policies"]
    if name in given:
        or_else = f", or use its method {thing._changed_by}" if thing._changed_by else ""  # noqa: SLF001 - its own text
        return f"{kind}.{name} cannot be changed: give it when the object is made, as in {kind}({name}=...){or_else}"
    if hasattr(thing, name):
        return f"{kind}.{name} cannot be set: an assignment would have no effect"
    meant = difflib.get_close_matches(name, given, 1)
    hint = f"did you mean {kind}({meant[0]}=...)?" if meant else "an assignment would have no effect"
    return f"{kind} has no attribute {name!r} to set: {hint}"
