"""The name of a policy, and its description as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from resilience._support.fixed import Fixed
from resilience.errors import ConfigurationError
from resilience.errors import named as display_name
from resilience.options import Options, Text, checked

__all__ = ("Named",)

_NAME = Text("a name", longest=100)


class Named(Fixed):
    """Base of policies: has a name, or takes one from the first pipeline that contains it.

    Args:
        name: A metric label: text of 1 to 100 characters, stable and one of few. None: the first pipeline names the
            policy `<pipeline>.<kind>`.
    """

    kind: str = "policy"
    sources: Mapping[str, str] = MappingProxyType({})
    """The source of each option, if the policy was configured by text."""

    _assignable = frozenset({"sources"})

    def __init__(self, name: str | None = None) -> None:
        self._name = None if name is None else checked(name, "name", _NAME)

    @property
    def name(self) -> str:
        """The name given, or derived from the first pipeline; before that, the kind."""
        return self._name or self.kind

    @name.setter
    def name(self, name: str) -> None:
        self._name = checked(name, "name", _NAME)
        self.renamed()

    def join(self, pipeline: str) -> None:
        """Take a name from `pipeline` if there is none yet. A pipeline calls this when it is made, never later."""
        if self._name is None:
            self._name = f"{pipeline}.{self.kind}"
            self.renamed()

    def renamed(self) -> None:
        """Do nothing. It is called after each change of the name: override it if something is kept under the name."""

    if not TYPE_CHECKING:  # a type checker says by itself that a policy cannot be called

        def __call__(self, function: object = None, /, *_args: object, **_options: object) -> NoReturn:
            """Raise: a policy is no decorator."""
            kind = type(self).__name__
            what = f"{display_name(function)} " if callable(function) else "a call "
            raise ConfigurationError(
                f"{kind} is a policy and cannot guard {what}by itself: put it into a pipeline and use that as the "
                f'decorator, as in @Pipeline("name", {kind}(...))'
            )

    def describe(self) -> dict[str, Any]:
        """Return kind, name, options and the sources of the options, as plain data."""
        options = getattr(self, "options", None)  # a policy may have none, or options of another make
        data = options.as_data() if isinstance(options, Options) else {}
        return {"kind": self.kind, "name": self.name, "options": data, "sources": dict(self.sources)}

    def snapshot(self) -> dict[str, Any]:
        """Return the present state as plain data. It changes nothing and takes no permit."""
        return {}
