"""The state of clients belongs to the toolkit, the name of the pipeline and the host."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from resilience import (
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Pipeline,
    RateLimitedError,
    Resilience,
    Retry,
)
from resilience.errors import ConfigurationError
from resilience.retry import no_waits
from resilience.testing import RecordingListener

SHOP = {
    "RESILIENCE_PIPELINE__SHOP__RETRY__ENABLED": "false",
    "RESILIENCE_PIPELINE__SHOP__BREAKER__FAIL_MAX": "3",
    "RESILIENCE_PIPELINE__SHOP__BREAKER__RESET_TIMEOUT": "1h",
}


class OwnMistakeError(Exception):
    """An error that says nothing about the other side."""


def by_host(host: str, *_rest: object) -> str:
    return host


def first_word(text: str, *_rest: object) -> str:
    return text.split(maxsplit=1)[0]


def failing(*_args: object) -> None:
    raise ConnectionError


def kinds(pipeline: Pipeline) -> list[str]:
    return [policy["kind"] for policy in pipeline.describe()["policies"]]


def open_circuit(pipeline: Pipeline, host: str) -> None:
    """Make calls until the pipeline refuses one."""
    for _ in range(10):
        with pytest.raises((ConnectionError, CircuitOpenError)) as caught:
            pipeline.call(failing, host)
        if isinstance(caught.value, CircuitOpenError):
            return
    raise AssertionError("the circuit did not open")


def test_clients_of_one_name_and_host_share_a_circuit() -> None:
    """Law: a name and host has one circuit, whichever way a client reads the host from its calls."""
    toolkit = Resilience.from_env(SHOP)
    open_circuit(toolkit.client_pipeline("shop", by_host), "a")
    others = [
        toolkit.client_pipeline("SHOP", first_word, retry_on=OSError, exclude=[OwnMistakeError]),
        toolkit.client_pipeline("shop", "a"),
    ]
    for other in others:
        with pytest.raises(CircuitOpenError):
            other.call(failing, "a")
    assert others[0].call(len, "b") == 1
    assert toolkit.client_pipeline("other", by_host).call(len, "a") == 1
    assert Resilience.from_env(SHOP).client_pipeline("shop", by_host).call(len, "a") == 1


def test_a_function_can_name_its_host() -> None:
    """Law: `toolkit.pipeline(name, host=...)` has the circuit of the clients; without `host` it has its own."""
    toolkit = Resilience.from_env(SHOP)
    open_circuit(toolkit.client_pipeline("shop", by_host), "a")
    with pytest.raises(CircuitOpenError):
        toolkit.pipeline("shop", host="a").call(len, "abc")
    assert toolkit.pipeline("shop", host="b").call(len, "abc") == 3
    assert toolkit.pipeline("shop").call(len, "abc") == 3
    with pytest.raises(ConfigurationError, match="no host beside policies"):
        toolkit.pipeline("shop", Retry(), host="a")


def test_a_function_with_a_host_is_not_repeated_by_default() -> None:
    """Law: the default retry is for clients, which know what may be repeated; the default breaker guards the host."""
    toolkit = Resilience.from_env({"RESILIENCE_PIPELINE__SHOP__TIMEOUT__SECONDS": "5s"})
    pipeline = toolkit.pipeline("shop", host="a")
    assert kinds(pipeline) == ["breaker", "timeout"]
    configured = Resilience.from_env({"RESILIENCE_PIPELINE__SHOP__RETRY__ATTEMPTS": "2"}).pipeline("shop", host="a")
    retry: Any = configured.policies[0]
    assert (retry.options.attempts, retry.options.timeout) == (2, None)


def test_a_client_made_per_call_opens_the_circuit() -> None:
    """Law: equal clients get the same pipeline, so a thousand of them leave nothing behind and count together."""
    toolkit = Resilience.from_env(SHOP)
    first = weakref.ref(toolkit.client_pipeline("shop", by_host))
    pipeline = toolkit.client_pipeline("shop", by_host, retry_on=ConnectionError)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(1000):
        pipeline = toolkit.client_pipeline("shop", by_host, retry_on=ConnectionError)
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert first() is toolkit.client_pipeline("shop", by_host)
    open_circuit(pipeline, "a")


def test_pipelines_of_many_targets_are_bounded() -> None:
    """Law: a program with a new target per client keeps a bounded number of pipelines, and of circuits."""
    toolkit = Resilience.from_env(SHOP)
    kept = [weakref.ref(toolkit.client_pipeline("shop", f"pod-{number}:50051")) for number in range(3000)]
    for number in range(3000):
        toolkit.client_pipeline("shop", by_host).call(len, f"pod-{number}")
    gc.collect()
    assert sum(ref() is not None for ref in kept) <= 1001
    assert toolkit.pipeline("shop").snapshot()["clients"][0]["keys"] <= 1000


def test_two_clients_share_limit_and_bulkhead_of_a_host() -> None:
    """Law: a rate of 3 a day is 3 calls of a host, whichever client makes them; so is a bulkhead of 1."""
    toolkit = Resilience.from_env(
        {
            "RESILIENCE_PIPELINE__SHOP__RATE_LIMIT__RATE": "3/day",
            "RESILIENCE_PIPELINE__SHOP__BULKHEAD__MAX_CONCURRENT_CALLS": "1",
        }
    )
    one = toolkit.client_pipeline("shop", by_host, retry_on=OSError)
    two = toolkit.client_pipeline("shop", by_host, retry_on=ValueError)

    def inside(_host: str) -> None:
        with pytest.raises(BulkheadFullError):
            two.call(len, "a")

    one.call(inside, "a")  # of the three tokens, the refused call took one
    two.call(len, "a")
    for client in (one, two):
        with pytest.raises(RateLimitedError):
            client.call(len, "a")
        assert client.call(len, f"b{id(client)}")


def test_exclusions_of_every_library_are_in_force_for_the_shared_circuit() -> None:
    """Law: a circuit counts no error that one of its clients excludes, also if it is older than that client."""
    toolkit = Resilience.from_env(SHOP)
    old = toolkit.client_pipeline("shop", by_host)
    old.call(len, "a")
    new = toolkit.client_pipeline("shop", by_host, exclude=[OwnMistakeError])

    def mistaken(_host: str) -> None:
        raise OwnMistakeError

    for _ in range(5):
        for pipeline in (old, new):
            with pytest.raises(OwnMistakeError):
                pipeline.call(mistaken, "a")


def test_each_library_retries_its_own_errors() -> None:
    """Law: the retry of a name has one set of options, and the errors of the library that calls."""
    toolkit = Resilience.from_env({"RESILIENCE_PIPELINE__SHOP__RETRY__ATTEMPTS": "4"})
    calls: list[str] = []

    def fail(_host: str) -> None:
        calls.append("called")
        raise ConnectionError

    for retry_on, attempts in ((ConnectionError, 4), (ZeroDivisionError, 1)):
        calls.clear()
        with no_waits(), pytest.raises(ConnectionError):
            toolkit.client_pipeline("shop", by_host, retry_on=retry_on).call(fail, "a")
        assert len(calls) == attempts


def test_the_pipeline_of_the_name_shows_its_clients() -> None:
    """Law: snapshot, description and events of `toolkit.pipeline(name)` include the clients, made before or after."""
    toolkit = Resilience.from_env(SHOP)
    heard = RecordingListener()
    end = toolkit.pipeline("shop").subscribe(heard)
    assert "clients" not in toolkit.pipeline("shop").snapshot()
    client = toolkit.client_pipeline("shop", by_host)
    open_circuit(client, "a")
    client.call(len, "b")
    (breaker,) = toolkit.pipeline("shop").snapshot()["clients"]
    assert (breaker["kind"], breaker["name"]) == ("breaker", "shop.breaker")
    assert {host: figures["state"] for host, figures in breaker["each"].items()} == {"a": "open", "b": "closed"}
    (described,) = toolkit.pipeline("shop").describe()["clients"]
    assert described["each"]["fail_max"] == 3
    opened = [event for event in heard.events if event.kind == "breaker.opened"]
    assert [event.facts["key"] for event in opened] == ["a"]
    end()
    open_circuit(client, "c")
    assert [event for event in heard.events if event.kind == "breaker.opened"] == opened


def test_policies_from_code_are_the_same_objects_for_clients() -> None:
    """Law: a client has the policies that code gave to its name, as they are, and the configured ones around them."""
    toolkit, breaker = Resilience.from_env({"RESILIENCE_PIPELINE__DEFAULT__TIMEOUT__SECONDS": "5s"}), CircuitBreaker(1)
    toolkit.pipeline("shop", breaker)
    client = toolkit.client_pipeline("shop", by_host)
    assert kinds(client) == ["breaker", "timeout"]
    assert client.policies[0] is breaker
    heard = RecordingListener()
    toolkit.pipeline("shop").subscribe(heard)
    with pytest.raises(ConnectionError):
        client.call(failing, "a")
    assert heard.kinds.count("breaker.opened") == 1
    with pytest.raises(ConfigurationError, match="already in use"):
        toolkit.pipeline("shop", Retry())


def test_threads_that_ask_at_once_get_one_state() -> None:
    """Law: fifty threads that make the first client of a name share its circuits."""
    toolkit, barrier = Resilience.from_env(SHOP), threading.Barrier(50)
    outcomes: list[str] = []

    def call() -> None:
        barrier.wait(timeout=10)
        pipeline = toolkit.client_pipeline("shop", by_host)
        try:
            pipeline.call(failing, "a")
        except (ConnectionError, CircuitOpenError) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=call) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(outcomes) == 50
    with pytest.raises(CircuitOpenError):
        toolkit.client_pipeline("shop", "a").call(failing)


def test_invented_hosts_close_no_circuit() -> None:
    """Law: a client that is sent to thousands of hosts drops closed circuits, and keeps those that are open."""
    toolkit = Resilience.from_env(SHOP)
    client = toolkit.client_pipeline("shop", by_host)
    open_circuit(client, "bank")
    for number in range(3000):
        client.call(len, f"invented-{number}")
    with pytest.raises(CircuitOpenError):
        client.call(len, "bank")


def test_open_circuits_of_invented_hosts_are_bounded() -> None:
    """Law: if every invented host fails, memory stays bounded: at most four times 1,000 circuits are kept."""
    toolkit = Resilience.from_env(SHOP | {"RESILIENCE_PIPELINE__SHOP__BREAKER__FAIL_MAX": "1"})
    client = toolkit.client_pipeline("shop", by_host)
    for number in range(4500):
        with pytest.raises(ConnectionError):
            client.call(failing, f"invented-{number}")
    assert len(client.policies[0]) == 4000  # type: ignore[arg-type]  # a view of circuits has a length


def test_observing_a_pipeline_with_clients_is_no_mistake() -> None:
    """Law: the name of a client is no misspelt name, even if nothing is configured for functions."""
    toolkit = Resilience.from_env({}, strict=True)
    toolkit.client_pipeline("http", by_host)
    assert toolkit.pipeline("http").snapshot()["clients"]
