"""The listeners of a toolkit: how they reach every policy, and how the configuration names those of third parties."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from resilience import plugins
from resilience._support.log_writer import write_line
from resilience.config._names import variable
from resilience.errors import ConfigurationError, PluginError, described
from resilience.events import LISTENER, EventLog, Listener
from resilience.options import Refused, checked

if TYPE_CHECKING:
    from resilience.event_log import EventSource, LogOptions

__all__ = ("PluggedListener", "ToolkitLog", "use_listeners")

_GROUP = "resilience.listeners"
_SETTING = variable(("events", "listeners"))


class ToolkitLog(EventLog):
    """Decides which events of a toolkit are logged, and sends all of them to the listeners of the toolkit.

    Each policy of a toolkit is attached when it is made: an emitter that is logged here has the listeners of this log.
    A keyed policy is attached as a whole, and forwards the events of its keys.

    Args:
        options: The section `log` of the configuration.
    """

    def __init__(self, options: LogOptions) -> None:
        self._sources: weakref.WeakSet[EventSource] = weakref.WeakSet()
        self._listeners: tuple[Listener, ...] = ()
        super().__init__(options)

    def after_fork(self) -> None:
        """Replace the locks: another thread may have held them."""
        super().after_fork()
        # Guards sources and listeners. No emitter is called under it, because it would take locks of policies.
        self._attaching = threading.RLock()

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The listeners that get the events of all sources of this log."""
        return self._listeners

    def attach(self, source: EventSource) -> None:
        """Send the events of a source to the listeners, those of today and of later."""
        with self._attaching:
            self._sources.add(source)
            listeners = self._listeners
        for listener in listeners:
            source.subscribe(listener)

    def detach(self, source: EventSource) -> None:
        """Send the events of a source to the listeners no longer."""
        with self._attaching:
            self._sources.discard(source)
            listeners = self._listeners
        for listener in listeners:
            source.unsubscribe(listener)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Send the events of all sources, those of today and of later, to `listener`; the result ends this."""
        checked(listener, "listener", LISTENER)
        with self._attaching:
            self._listeners = (*self._listeners, listener)
            sources = list(self._sources)
        for source in sources:
            source.subscribe(listener)
        return functools.partial(self._end, [listener])

    def _end(self, subscription: list[Listener]) -> None:
        """End one subscription; a second call does nothing."""
        if not subscription:
            return
        listener = subscription.pop()
        with self._attaching:
            listeners = list(self._listeners)
            listeners.remove(listener)
            self._listeners = tuple(listeners)
            sources = list(self._sources)
        for source in sources:
            source.unsubscribe(listener)


class PluggedListener:
    """A listener of an entry point, made for one toolkit.

    The entry point names a function that takes an event, or a class. Of a class, one object is made with the toolkit as
    the only argument. It is called with each event, and closed with the toolkit if it has `close()` or `aclose()`.

    Args:
        name: The name of the entry point.
        toolkit: The toolkit.

    Raises:
        PluginError: The plugin cannot be loaded, its class raises, or the object is no listener.
        ConfigurationError: The class finds a setting of its own wrong.
    """

    def __init__(self, name: str, toolkit: object) -> None:
        self.name = name
        try:
            loaded = plugins.load(_GROUP, name)
        except PluginError as error:
            raise PluginError(f"{_SETTING}: {error}") from error.__cause__
        self.listener: Listener = _made(name, loaded, toolkit)

    def close(self) -> None:
        """Close the listener if it can be closed. Its error is logged, because all other parts have to be closed."""
        close: Callable[[], object] | None = getattr(self.listener, "close", None)
        if close is not None:
            try:
                close()
            except Exception as error:  # noqa: BLE001 - code of the plugin
                self._report(error)

    async def aclose(self) -> None:
        """Close the listener: by its `aclose()` if it has one, else as `close` does."""
        aclose: Callable[[], Any] | None = getattr(self.listener, "aclose", None)
        if aclose is None:
            self.close()
            return
        try:
            await aclose()
        except Exception as error:  # noqa: BLE001 - code of the plugin
            self._report(error)

    def _report(self, error: Exception) -> None:
        write_line(40, f"listener {self.name!r} failed to close: {described(error)}", error=error)


def _made(name: str, loaded: object, toolkit: object) -> Listener:
    made = loaded
    if isinstance(loaded, type):
        try:
            made = loaded(toolkit)
        except (ConfigurationError, PluginError):
            raise
        except Exception as error:
            raise PluginError(f"{_SETTING}: {_shown(name)} cannot be made: {described(error)}") from error
    try:
        return LISTENER.check(made)  # type: ignore[no-any-return]  # a rule returns the value that it has checked
    except Refused:
        kind = type(made).__name__
        raise PluginError(
            f"{_SETTING}: {_shown(name)} is no listener: expected {LISTENER.expected}, not {kind}"
        ) from None


def _shown(name: str) -> str:
    plugin = next(each for each in plugins.available(_GROUP) if each.name == name)
    return f"plugin {name!r} ({plugin.target}) of {plugin.distribution}"


def use_listeners(
    names: Iterable[str],
    toolkit: object,
    keep: Callable[[PluggedListener], object],
    subscribe: Callable[[Listener], object],
) -> None:
    """Load and make the listeners of these names, and no others, and subscribe them.

    Args:
        names: The names of entry points.
        toolkit: The toolkit.
        keep: Keeps a listener for as long as the toolkit, and closes it with the toolkit.
        subscribe: Sends all events of the toolkit to a function.

    Raises:
        PluginError: One of them cannot be loaded or made. Those made before are closed.
        ConfigurationError: One of them finds a setting of its own wrong.
    """
    made: list[PluggedListener] = []
    try:
        for name in dict.fromkeys(names):
            made.append(PluggedListener(name, toolkit))  # noqa: PERF401 - if the next one raises, this one is closed
    except BaseException:
        for each in reversed(made):
            each.close()
        raise
    for each in made:
        keep(each)
        subscribe(each.listener)
