"""The checks of one process, and the answers to its probes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.health import _schedule
from resilience.health._check import Check, CheckFunction, Launch
from resilience.health._options import GROUPS, LIFECYCLE, LIFECYCLE_GROUPS, PING, HealthOptions, problems_of
from resilience.health._reply import PROBE_PATHS, Reply, parse_probe, reply_to
from resilience.health._report import Report, ReportBuilder, ReportEntry, unknown_excludes
from resilience.health._schedule import Schedule
from resilience.lifecycle import READY, STARTING, Lifecycle
from resilience.options import CLOCK, Instance, checked, seconds

__all__ = ("Health",)

F = TypeVar("F", bound=Callable[[], Any])
Period: TypeAlias = float | str | timedelta | None
Query: TypeAlias = str | bytes | Mapping[str, Sequence[str]]
_OPTIONS = Instance(HealthOptions, expected="HealthOptions")
_LIFECYCLE = Instance(Lifecycle, expected="a Lifecycle")


class _Page(Protocol):
    """A page that is answered beside the probes."""

    def handle(self, path: str, query: Query, accept: str | None, /) -> Reply:
        """Answer a request, blocking."""
        ...

    async def ahandle(self, path: str, query: Query, accept: str | None, /) -> Reply:
        """Answer a request."""
        ...


class Health:
    """The checks of one process and the answers to its probes.

    Liveness runs no check unless you add one to the group `live`: it says that this process answers, and a dependency
    that is down must not get the process killed. With a lifecycle, readiness is 503 before the start has finished and
    while the process drains.

    All probes share one run of a check, and its outcome for the time `cache`. A check that hangs is reported and not
    started again. It delays neither other checks, nor the probe beyond the check's timeout (L18).

    Args:
        options: Defaults for all checks.
        lifecycle: Decides about start and drain; `attach` can set it later.
        clock: Monotonic time.

    Raises:
        ConfigurationError: An argument, here or of a method, is wrong.

    Example:
        >>> health = Health()
        >>> health.add("cache", lambda: False, failure="warn")
        >>> print(health.report("ready").text(verbose=True), end="")
        [+]ping ok
        [!]cache warning: reason withheld
        readyz check passed
    """

    def __init__(
        self, options: HealthOptions | None = None, *, lifecycle: Lifecycle | None = None, clock: Clock = monotonic
    ) -> None:
        self.options: HealthOptions = HealthOptions() if options is None else checked(options, "options", _OPTIONS)
        self.events = Emitter()
        self._clock = checked(clock, "clock", CLOCK)
        self._lifecycle: Lifecycle | None = None
        if lifecycle is not None:
            self.attach(lifecycle)
        self._checks: dict[str, Check] = {}
        self._pages: dict[str, _Page] = {}
        self._schedule = Schedule(self._background_launch)

    def attach(self, lifecycle: Lifecycle) -> None:
        """Let `lifecycle` decide about start and drain from now on."""
        self._lifecycle = checked(lifecycle, "lifecycle", _LIFECYCLE)

    def mount(self, path: str, page: _Page) -> None:
        """Answer `path` by `page`, wherever the probes are answered; such a request is never limited or refused.

        Args:
            path: One segment, such as "/metrics". An adapter that exists already does not see it.
            page: Its `handle` and `ahandle` take path, query and `Accept`.
        """
        self._pages[path] = page

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the probes, and of the pages beside them."""
        return (*PROBE_PATHS, *self._pages)

    def add(
        self,
        name: str,
        check: CheckFunction,
        *,
        groups: Collection[str] = ("ready",),
        timeout: Period = None,
        cache: Period = None,
        failure: str | None = None,
        every: Period = None,
        failure_threshold: int | None = None,
        success_threshold: int | None = None,
    ) -> None:
        """Add a check.

        Args:
            name: Letters, digits and `. _ -`, at most 63 characters. Unique.
            check: A function without parameters, plain or async. It fails if it raises or returns False.
            groups: `live`, `ready`, `startup`, or words of your own, for `report` and `/healthz?group=`.
            timeout: Longest time for a run. Default: the option.
            cache: How long an outcome is used again. Default: the option.
            failure: `fail`, or `warn` for a failure that is shown and takes nothing out of service. Default: the
                attribute `failure` of `check` if it has one (the built-in checks have `warn`), else `fail`.
            every: Run the check in the background, that often. Probes get the last outcome, which fails as stale after
                three rounds and the timeout. Default: run when a probe asks.
            failure_threshold: Failures in a row after which a check that passed has failed. Default: the option.
            success_threshold: Passes in a row after which a check that failed passes. Default: the option.

        Raises:
            ConfigurationError: The name is in use, or an argument is wrong.
        """
        failure = failure if failure is not None else getattr(check, "failure", "fail")
        problems = list(problems_of(name, check, groups, failure))
        if problems:
            raise ConfigurationError(problems)
        options = self._options_with(
            timeout=timeout, cache=cache, failure_threshold=failure_threshold, success_threshold=success_threshold
        )
        period = None if every is None else seconds(every, "every", above=True)
        added = Check(name, check, tuple(groups), cast("str", failure), options, self._clock, self.events, period)
        # One atomic step: if two threads add the same name, one of them fails.
        if self._checks.setdefault(name, added) is not added:
            raise ConfigurationError([Problem("name", name, "a name no other check has")])

    def check(
        self,
        name: str,
        *,
        groups: Collection[str] = ("ready",),
        timeout: Period = None,
        cache: Period = None,
        failure: str | None = None,
        every: Period = None,
        failure_threshold: int | None = None,
        success_threshold: int | None = None,
    ) -> Callable[[F], F]:
        """Add the decorated function as a check, and return it unchanged. For the arguments see `add`."""

        def register(check: F) -> F:
            self.add(
                name,
                check,
                groups=groups,
                timeout=timeout,
                cache=cache,
                failure=failure,
                every=every,
                failure_threshold=failure_threshold,
                success_threshold=success_threshold,
            )
            return check

        return register

    def _options_with(self, **given: Any) -> HealthOptions:
        return dataclasses.replace(self.options, **{name: value for name, value in given.items() if value is not None})

    def names(self, group: str) -> tuple[str, ...]:
        """Return the names of the entries in a report of `group`, in order.

        Raises:
            ConfigurationError: There is no such group.
        """
        own = (PING, LIFECYCLE) if self._lifecycle is not None and group in LIFECYCLE_GROUPS else (PING,)
        return (*own, *(check.name for check in self._checks_of(group)))

    def _checks_of(self, group: str) -> list[Check]:
        members = [check for check in tuple(self._checks.values()) if group in check.groups]
        if not members and group not in GROUPS:
            raise ConfigurationError([Problem("group", group, "one of " + ", ".join(self.groups()))])
        return members

    def groups(self) -> tuple[str, ...]:
        """Return the groups: `live`, `ready`, `startup`, and the groups of your own that have checks."""
        named = (group for check in tuple(self._checks.values()) for group in check.groups)
        return tuple(dict.fromkeys((*GROUPS, *named)))

    def report(self, group: str, *, exclude: Iterable[str] = (), only: str | None = None) -> Report:
        """Return the state of `group`. Runs the checks without a fresh outcome, and blocks for the longest timeout.

        Coroutine functions run in a loop of their own; async code should call `areport`.

        Args:
            group: One of `groups()`.
            exclude: Names of checks to leave out. An unknown name becomes a warning.
            only: Ask for this check alone, one of `names(group)`.

        Raises:
            ConfigurationError: There is no such group, or `only` is not in it.
        """
        builder = self._builder(group, tuple(exclude), only, _schedule.launch)
        return builder.build(_schedule.collect(builder.asked))

    async def areport(self, group: str, *, exclude: Iterable[str] = (), only: str | None = None) -> Report:
        """Return a report without blocking. For the arguments see `report`. Coroutine functions run in this loop."""
        from resilience.health import _aio  # noqa: PLC0415 - asyncio costs 40 ms, and blocking code needs none

        builder = self._builder(group, tuple(exclude), only, _aio.launch_here())
        return builder.build(await _aio.collect(builder.asked))

    def handle(self, path: str, query: Query = "", accept: str | None = None) -> Reply:
        """Answer a probe. Blocks as `report` does.

        Args:
            path: The part after the prefix that the probes are mounted under, such as `/readyz/redis`.
            query: The raw query string, or all values of each parameter.
            accept: The header `Accept`. JSON is returned only if it asks for JSON.
        """
        if (page := self._pages.get(path)) is not None:
            return page.handle(path, query, accept)
        request = parse_probe(path, query, accept, self.names, self.groups)
        if isinstance(request, Reply):
            return request
        return reply_to(request, self.report(request.group, exclude=request.exclude, only=request.only))

    async def ahandle(self, path: str, query: Query = "", accept: str | None = None) -> Reply:
        """Answer a probe without blocking. For the arguments see `handle`."""
        if (page := self._pages.get(path)) is not None:
            return await page.ahandle(path, query, accept)
        request = parse_probe(path, query, accept, self.names, self.groups)
        if isinstance(request, Reply):
            return request
        return reply_to(request, await self.areport(request.group, exclude=request.exclude, only=request.only))

    def snapshot(self) -> list[dict[str, Any]]:
        """Return the last outcome of each check as plain data. Runs no check, and gives no reason: the log has it."""
        return [check.snapshot() for check in tuple(self._checks.values())]

    def close(self) -> None:
        """End the background checks. Runs go on to their end, and the next probe begins the background again."""
        self._schedule.close()

    async def aclose(self) -> None:
        """Close as `close` does. Waits for nothing."""
        self.close()

    def _builder(self, group: str, exclude: tuple[str, ...], only: str | None, launch: Launch) -> ReportBuilder:
        if only is not None and only not in self.names(group):
            raise ConfigurationError([Problem("only", only, "one of " + ", ".join(self.names(group)))])
        members = self._checks_of(group)
        chosen = [check for check in members if check.name not in exclude and only in {None, check.name}]
        passed: list[ReportEntry] = []
        if self._background_checks():
            self._schedule.ensure(self._background_checks)
        if group == "startup":  # a check that has passed once is not asked again
            passed = [ReportEntry(name=check.name) for check in chosen if check.has_passed]
            chosen = [check for check in chosen if not check.has_passed]
        return ReportBuilder(
            group=group,
            own=tuple(entry for entry in (*self._own_entries(group), *passed) if only in {None, entry.name}),
            asked=[(check, check.ask(launch)) for check in chosen],
            warnings=unknown_excludes(exclude, {check.name for check in members}),
            details=self.options.details,
        )

    def _own_entries(self, group: str) -> Iterable[ReportEntry]:
        """Yield the entries that `exclude` cannot leave out: no probe may send requests to a process that drains."""
        yield ReportEntry(name=PING)
        if self._lifecycle is None or group not in LIFECYCLE_GROUPS:
            return
        state = self._lifecycle.state
        if group == "startup":
            ok, reason = state != STARTING, state
        elif state == READY and self._lifecycle.server.drain_file_exists:
            ok, reason = False, "the drain file exists"
        else:
            ok, reason = state == READY, state
        yield ReportEntry(name=LIFECYCLE, status="ok" if ok else "failed", reason=reason, is_public=True)

    def _background_checks(self) -> list[Check]:
        return [check for check in tuple(self._checks.values()) if check.every is not None]

    def _background_launch(self) -> Launch:
        """Return the launch for background runs: in the loop that serves, because clients may be bound to it."""
        loop = None if self._lifecycle is None else self._lifecycle.server.loop
        if loop is None or not loop.is_running():
            return _schedule.launch
        from resilience.health import _aio  # noqa: PLC0415 - asyncio costs 40 ms, and blocking code needs none

        return _aio.launch_in(loop)
