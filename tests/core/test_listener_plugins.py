"""Listeners that the configuration names, and listeners of a whole toolkit."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributions
import pytest

from resilience import (
    Bulkhead,
    CircuitBreaker,
    ConfigurationError,
    Event,
    Keyed,
    Pipeline,
    PluginError,
    RateLimit,
    Resilience,
    Retry,
)
from resilience.config import load
from resilience.ratelimit import RedisStore
from resilience.redis import RedisConnection, RedisOptions
from resilience.testing import RecordingListener

GROUP = "resilience.listeners"
ANY: Any = contextlib.suppress(Exception)

SOURCE = """
    made = []

    class Listener:
        def __init__(self, toolkit):
            self.toolkit, self.events, self.closed = toolkit, [], 0
            made.append(self)

        def __call__(self, event):
            self.events.append(event)

        def close(self):
            self.closed += 1

    events = []

    def function(event):
        events.append(event)

    class Failing:
        def __init__(self, toolkit):
            raise ValueError("no WEBHOOK_URL")

    class Mute:
        def __init__(self, toolkit): ...

    async def waits(event): ...

    class CloseFails(Listener):
        def close(self):
            raise OSError("gone")

    class Async(Listener):
        async def aclose(self):
            self.closed += 10
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[distributions.Install]:
    with distributions.on_path(tmp_path, monkeypatch) as install:
        names = ("Listener", "function", "Failing", "Mute", "waits", "CloseFails", "Async")
        install("acme", GROUP, "\n".join(f"{name.lower()} = acme_module:{name}" for name in names), SOURCE)
        yield install


def toolkit(names: str, **settings: str) -> Resilience:
    return Resilience.from_env({"RESILIENCE_EVENTS__LISTENERS": names, **settings})


def module() -> Any:
    return sys.modules["acme_module"]


def fail(*_args: object) -> None:
    raise ConnectionError("down")


def test_nothing_is_loaded_that_is_not_named(site: distributions.Install) -> None:
    """A toolkit imports no plugin unless the configuration names it."""
    site("other", GROUP, "other = other_module:x", "1 / 0")
    Resilience.from_env({})
    assert "acme_module" not in sys.modules
    toolkit("function")
    assert "other_module" not in sys.modules


def test_a_function_and_a_class_get_all_events(site: distributions.Install) -> None:
    """A function is the listener; of a class one object is made, with the toolkit, however often it is named."""
    made = toolkit("function, listener, listener", RESILIENCE_PIPELINE__BANK__BREAKER__FAIL_MAX="1")
    with ANY:
        made.pipeline("bank").call(fail)
    (listener,) = module().made
    assert listener.toolkit is made
    assert [event.kind for event in listener.events] == ["breaker.opened"]
    assert module().events == listener.events


def test_code_and_environment_are_equal(site: distributions.Install) -> None:
    """The setting can be given in code, and to a toolkit that is made of a configuration."""
    Resilience.from_env({}, events={"listeners": ["listener"]})
    Resilience(load({}, arguments={"events": {"listeners": ["listener"]}}))
    assert len(module().made) == 2


def test_a_listener_is_closed_with_the_toolkit(site: distributions.Install) -> None:
    """It is closed once for each close, after the other parts."""
    with toolkit("listener"):
        assert module().made[0].closed == 0
    assert module().made[0].closed == 1


async def test_a_listener_is_closed_in_async_code(site: distributions.Install) -> None:
    """`aclose()` is awaited if the listener has it, else `close()` is called; an error of one is logged."""
    async with toolkit("async,listener,closefails"):
        pass
    assert [each.closed for each in module().made[:2]] == [10, 1]


def test_a_lifecycle_closes_the_listeners(site: distributions.Install, caplog: pytest.LogCaptureFixture) -> None:
    """The stop of the lifecycle closes the toolkit and its listeners, and an error of one does not keep the others."""
    made = toolkit("listener,closefails")
    made.lifecycle.stop()
    assert module().made[0].closed == 1
    assert "listener 'closefails' failed to close: OSError: gone" in caplog.text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "hook",
            r"RESILIENCE_EVENTS__LISTENERS: no plugin 'hook' in resilience\.listeners; installed: async, closefails,",
        ),
        (
            "failing",
            r"LISTENERS: plugin 'failing' \(acme_module:Failing\) of acme cannot be made: ValueError: no WEBHOOK_URL",
        ),
        (
            "mute",
            r"'mute' \(acme_module:Mute\) of acme is no listener: expected a function that takes one Event .*not Mute",
        ),
        ("waits", r"'waits' \(acme_module:waits\) of acme is no listener: .*not a coroutine function"),
    ],
)
def test_a_listener_that_cannot_be_made_stops_the_start(site: distributions.Install, name: str, message: str) -> None:
    """The error names the setting, the plugin, its object and its distribution, and those made before are closed."""
    with pytest.raises(PluginError, match=message):
        toolkit(f"listener,{name}")
    assert module().made[0].closed == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import nosuchlib.deep",
            r"plugin 'sick' \(sick_module:x\) of sick cannot be loaded: 'nosuchlib' is.*pip install nosuchlib",
        ),
        ("raise OSError('no\\nlicence')", r"plugin 'sick' .* of sick failed to import: OSError: no\\nlicence"),
        ("y = 1", r"plugin 'sick' .* of sick failed to import: AttributeError"),
    ],
)
def test_a_listener_that_cannot_be_imported_stops_the_start(
    site: distributions.Install, source: str, message: str
) -> None:
    """The error names entry point, distribution and the module to install, and has the cause."""
    site("sick", GROUP, "sick = sick_module:x", source)
    with pytest.raises(PluginError, match=message) as caught:
        toolkit("sick")
    assert caught.value.__cause__ is not None


def test_the_page_shows_the_error(site: distributions.Install, tmp_path: Path) -> None:
    """The error of a missing module is the one that docs/events.md shows."""
    site("acme-hooks", GROUP, "webhook = acme_hooks:Webhook", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "requests", None)
        (tmp_path / "acme_hooks.py").write_text("import requests")
        with pytest.raises(PluginError) as caught:
            toolkit("webhook")
    assert str(caught.value) in (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def test_a_module_that_the_distribution_lost(site: distributions.Install, tmp_path: Path) -> None:
    """If the module of the entry point itself is missing, its distribution is the one to install again."""
    site("lost", GROUP, "lost = gone:x", "")
    with pytest.raises(
        PluginError, match="'gone' is not installed; install lost again: its entry point names this module"
    ):
        toolkit("lost")


def test_a_name_that_cannot_be_one_is_refused() -> None:
    """A wrong text is a problem of the configuration, with the variable."""
    with pytest.raises(ConfigurationError, match="RESILIENCE_EVENTS__LISTENERS"):
        toolkit("web hook")


def test_a_wrong_setting_after_the_listener_closes_it(site: distributions.Install) -> None:
    """A start that fails later on closes the listeners that it has made."""
    with pytest.raises(ConfigurationError):
        toolkit("listener", RESILIENCE_REDIS__URL="redis://host:notaport")
    assert [each.closed for each in getattr(sys.modules.get("acme_module"), "made", [])] in ([], [1])


def test_a_listener_that_raises_costs_the_call_nothing(site: distributions.Install) -> None:
    """The caller gets its own error, and the other listeners get the event."""
    made = Resilience.from_env({"RESILIENCE_PIPELINE__BANK__BREAKER__FAIL_MAX": "1"})
    recorder = RecordingListener()
    made.subscribe(lambda _event: fail())
    made.subscribe(recorder)
    with pytest.raises(ConnectionError, match="down"):
        made.pipeline("bank").call(fail)
    assert recorder.kinds == ["breaker.opened"]


# Listeners of a whole toolkit.


def keyed(name: str) -> Any:
    return Keyed(lambda _key: CircuitBreaker(fail_max=1), key=lambda *arguments: arguments[-1], name=name)


def test_policies_of_today_and_of_later_are_heard() -> None:
    """A listener gets the events of pipelines, keyed policies, clients and limiters made before and after it."""
    made = Resilience.from_env({
        "RESILIENCE_PIPELINE__DEFAULT__BREAKER__FAIL_MAX": "1",
        "RESILIENCE_LIMITER__LOGIN__RATE": "1/hour",
    })  # fmt: skip

    def use(stage: str, *policies: Any) -> None:
        with ANY:
            made.pipeline(f"{stage}-plain").call(fail)
        with ANY:
            made.pipeline(f"{stage}-keyed", *policies).call(fail, f"{stage}-tenant")
        with ANY:
            made.client_pipeline(f"{stage}-client", "bank.example", retry_on=OSError).call(fail)

    made.pipeline("old-plain")
    made.pipeline("old-keyed", old := keyed("old"))
    client = made.client_pipeline("old-client", "bank.example")
    login = made.limiter("login")
    recorder = RecordingListener()
    end = made.subscribe(recorder)
    with ANY:
        made.pipeline("old-plain").call(fail)
    with ANY:
        made.pipeline("old-keyed").call(fail, "acme")
    for _ in range(3):
        with ANY:
            client.call(fail)
    login.acquire("ann")
    login.report(login.acquire("ann"))
    use("new", keyed("tenants"))
    opened = [event for event in recorder.events if event.kind == "breaker.opened"]
    assert [(event.policy, event.facts.get("key")) for event in opened] == [
        ("old-plain.breaker", None),
        ("old", "acme"),
        ("old-client.breaker", "bank.example"),
        ("new-plain.breaker", None),
        ("tenants", "new-tenant"),
        ("new-client.breaker", "bank.example"),
    ]
    assert [event.policy for event in recorder.events if event.kind == "ratelimit.rejected"] == ["login"]
    end()
    end()
    seen = len(recorder.events)
    with ANY:
        made.pipeline("later").call(fail)
    with ANY:
        made.pipeline("old-keyed").call(fail, "other")
    assert len(recorder.events) == seen
    assert len(old) == 2


def test_health_lifecycle_and_server_limits_are_heard() -> None:
    """A listener of the toolkit gets the events of parts that are no policies, once each."""
    from resilience.server import ServerGate  # noqa: PLC0415 - after the toolkit, as adapters do

    made = Resilience.from_env({"RESILIENCE_SERVER__MAX_CONCURRENT_REQUESTS": "1"})
    recorder = RecordingListener()
    made.subscribe(recorder)
    gate = ServerGate.of(made)
    gate.admit(gate.receive({}))
    with ANY:
        gate.admit(gate.receive({}))
    made.health.add("bank", lambda: False)
    made.health.handle("/readyz")
    made.lifecycle.start()
    made.lifecycle.stop()
    kinds = [kind for kind in recorder.kinds if kind != "lifecycle.started"]
    assert kinds == ["bulkhead.rejected", "health.changed", "lifecycle.draining", "lifecycle.stopped"]


def test_two_toolkits_do_not_hear_each_other() -> None:
    """A policy belongs to the toolkit that used it last; no event goes to two toolkits, and none goes twice."""
    first, second = Resilience.from_env({}), Resilience.from_env({})
    one, two = RecordingListener(), RecordingListener()
    first.subscribe(one)
    second.subscribe(two)
    shared = CircuitBreaker(fail_max=1, name="shared")
    for made in (first, second):
        made.pipeline("a", shared)
        made.pipeline("b", shared)
    with ANY:
        second.pipeline("a").call(fail)
    assert (one.kinds, two.kinds) == ([], ["breaker.opened"])


def test_an_outage_of_redis_is_heard_once() -> None:
    """The store reports an outage once; the policies that share it repeat it to their own listeners alone."""
    connection = RedisConnection(RedisOptions(url="redis://127.0.0.1:1/0"))
    made, recorder, own = Resilience.from_env({}), RecordingListener(), RecordingListener()
    made.subscribe(recorder)
    store = RedisStore(connection)
    store.events.log_to(made.event_log)
    for name in ("a", "b"):
        pipeline = made.pipeline(name, RateLimit("5/second", store=store, name=f"{name}-limit"))
        pipeline.subscribe(own)
    made.pipeline("a").call(int)
    made.pipeline("b").call(int)
    outages = [event.policy for event in recorder.events if event.kind == "ratelimit.outage"]
    assert outages == ["redis"]
    assert sorted(event.policy for event in own.events if event.kind == "ratelimit.outage") == ["a-limit", "b-limit"]
    connection.close()


def test_a_listener_keeps_no_policy_alive() -> None:
    """A toolkit with a listener does not keep policies that nothing else refers to."""
    made = Resilience.from_env({})
    made.subscribe(RecordingListener())
    pipeline: Any = Pipeline("gone", Bulkhead(1))
    pipeline.log_to(made.event_log)
    living = weakref.ref(pipeline.policies[0])
    del pipeline
    gc.collect()
    assert living() is None


def test_threads_that_make_pipelines_and_listeners_miss_none() -> None:
    """Whatever the order, each listener gets each event of each pipeline exactly once."""
    made = Resilience.from_env({"RESILIENCE_PIPELINE__DEFAULT__BREAKER__FAIL_MAX": "1"})
    recorders = [RecordingListener() for _ in range(20)]
    barrier = threading.Barrier(2)

    def listen() -> None:
        barrier.wait()
        for recorder in recorders:
            made.subscribe(recorder)

    def build() -> None:
        barrier.wait()
        for number in range(50):
            made.pipeline(f"p{number}")

    threads = [threading.Thread(target=listen), threading.Thread(target=build)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(50):
        with ANY:
            made.pipeline(f"p{number}").call(fail)
    assert [len(recorder.events) for recorder in recorders] == [50] * 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_listen_and_make_pipelines() -> None:
    """A fork while another thread holds the lock of the listeners leaves the child able to go on."""
    made = Resilience.from_env({"RESILIENCE_PIPELINE__DEFAULT__BREAKER__FAIL_MAX": "1"})
    recorder = RecordingListener()
    made.subscribe(recorder)
    codes: list[int] = []
    with made.event_log._attaching:
        thread = threading.Thread(target=_fork_and_use, args=(made, recorder, codes))
        thread.start()
        thread.join(20)
    assert codes == [0]


def _fork_and_use(made: Resilience, recorder: RecordingListener, codes: list[int]) -> None:
    pid = os.fork()
    if pid == 0:
        with ANY:
            with ANY:
                made.pipeline("child").call(fail)
            os._exit(0 if recorder.kinds == ["breaker.opened"] else 3)
        os._exit(4)
    end = time.monotonic() + 15
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            codes.append(os.waitstatus_to_exitcode(status))
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_a_retry_of_a_client_is_heard_once() -> None:
    """Each library has a retry of its own under one name; one exhausted retry is one event."""
    made = Resilience.from_env({})
    recorder = RecordingListener()
    made.subscribe(recorder)
    pipeline = made.client_pipeline("bank", "bank.example", retry_on=ConnectionError)
    assert any(isinstance(policy, Retry) for policy in pipeline.policies)
    with ANY:
        pipeline.call(fail)
    events: list[Event] = [event for event in recorder.events if event.kind == "retry.exhausted"]
    assert len(events) == 1
