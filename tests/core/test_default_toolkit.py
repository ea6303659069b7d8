"""The toolkit of the process, for clients that are given none."""

from __future__ import annotations

import os
import threading

import pytest

from resilience import CircuitOpenError, Resilience
from resilience.errors import ConfigurationError
from resilience.toolkit import _toolkit

FAIL_MAX = "RESILIENCE_PIPELINE__SHOP__BREAKER__FAIL_MAX"


def test_there_is_one_toolkit_of_a_process() -> None:
    """Law: fifty threads that ask at once get the same toolkit."""
    barrier, found = threading.Barrier(50), list[Resilience]()

    def ask() -> None:
        barrier.wait(timeout=10)
        found.append(Resilience.default())

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(found) == 50
    assert {id(toolkit) for toolkit in found} == {id(Resilience.default())}
    assert Resilience.of(None) is not Resilience.default()


def test_a_change_of_our_variables_makes_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the toolkit has the settings of the environment at the call; variables of others do not matter."""
    before = Resilience.default()
    monkeypatch.setenv("HOME", "/nowhere")
    assert Resilience.default() is before
    monkeypatch.setenv(FAIL_MAX, "7")
    assert Resilience.default() is not before
    assert len(Resilience.default().pipeline("shop").policies) == 1


def test_a_mistake_in_the_environment_is_raised_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a client is not made with a bad configuration, and a corrected one is read."""
    monkeypatch.setenv(FAIL_MAX, "many")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="FAIL_MAX"):
            Resilience.default()
    monkeypatch.setenv(FAIL_MAX, "7")
    assert Resilience.default().config.pipeline("shop")


async def test_a_closed_toolkit_is_not_handed_out_again() -> None:
    """Law: after `close()` or `aclose()` the next client gets a new toolkit; closing another one changes nothing."""
    first = Resilience.default()
    Resilience().close()
    assert Resilience.default() is first
    first.close()
    second = Resilience.default()
    assert second is not first
    await second.aclose()
    assert Resilience.default() is not second
    third = Resilience.default()
    Resilience.forget_default()
    assert Resilience.default() is not third


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_the_circuits_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a child forked while a thread makes the toolkit is not stuck, and an open circuit stays open in it."""
    monkeypatch.setenv(FAIL_MAX, "1")
    client = Resilience.default().client_pipeline("shop", "a")
    for _ in range(3):
        with pytest.raises((ZeroDivisionError, CircuitOpenError)):
            client.call(lambda: 1 // 0)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with _toolkit._default._lock:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(10)
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            Resilience.default().client_pipeline("shop", "a").call(len, "abc")
        except CircuitOpenError:
            status = 7
        finally:
            os._exit(status)
    done.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
