from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from resilience.breaker import CircuitBreaker
from resilience.bulkhead import Bulkhead
from resilience.config import Config
from resilience.errors import ConfigurationError
from resilience.fallback import Fallback
from resilience.health import Health
from resilience.lifecycle import Lifecycle
from resilience.policy import PolicyBase
from resilience.retry import Retry
from resilience.timeout import Timeout
from resilience.toolkit import Resilience

EMPTY = {"RESILIENCE_PIPELINE__DEFAULT__ENABLED": "false"}
EVERYTHING = {
    "RESILIENCE_PIPELINE__PAYMENTS__TIMEOUT__SECONDS": "800ms",
    "RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS": "4",
    "RESILIENCE_PIPELINE__PAYMENTS__BULKHEAD__MAX_CONCURRENT_CALLS": "7",
    "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__FAIL_MAX": "2",
    "RESILIENCE_PIPELINE__PAYMENTS__RATE_LIMIT__RATE": "50/second",
}


def _kinds(policies: Any) -> list[str]:
    return [policy.kind for policy in policies]


def test_policies_come_from_the_configuration_in_the_recommended_order() -> None:
    """Retry, breaker, rate limit, bulkhead, timeout, with the values that were set."""
    policies: Any = Resilience.from_env(EVERYTHING).pipeline("payments").policies
    assert _kinds(policies) == ["retry", "breaker", "ratelimit", "bulkhead", "timeout"]
    assert policies[0].options.attempts == 4
    assert policies[1].fail_max == 2
    assert policies[2].options.rate == "50/second"
    assert policies[3].options.max_concurrent_calls == 7
    assert policies[4].options.seconds == 0.8


def test_the_same_name_is_the_same_pipeline() -> None:
    """One dependency has one breaker, however its name is written."""
    toolkit = Resilience.from_env(EMPTY)
    assert toolkit.pipeline("payments-api") is toolkit.pipeline("PAYMENTS.API")
    assert toolkit.pipeline("payments-api") is not toolkit.pipeline("orders")


def test_policies_are_new_each_time() -> None:
    """Who needs one set per host gets policies as configured, which share nothing with the pipeline or one another."""
    toolkit = Resilience.from_env(EVERYTHING)
    first, second = toolkit.policies("payments", key="a.example"), toolkit.policies("PAYMENTS", key="b.example")
    assert _kinds(first) == _kinds(second) == _kinds(toolkit.pipeline("payments").policies)
    assert not {id(policy) for policy in first} & {id(policy) for policy in second}
    assert first[1].fail_max == 2
    assert (first[2].key, second[2].key) == ("a.example", "b.example")
    assert first[2].name == "payments.ratelimit"
    assert toolkit.policies("orders") == ()


def test_two_toolkits_share_nothing() -> None:
    """State belongs to the object that made it."""
    assert Resilience.from_env(EMPTY).pipeline("x") is not Resilience.from_env(EMPTY).pipeline("x")


def test_threads_that_ask_at_once_get_the_same_pipeline() -> None:
    """Fifty threads that start together share one breaker."""
    toolkit, barrier, found = Resilience.from_env(EVERYTHING), threading.Barrier(50), set()

    def ask() -> None:
        barrier.wait(timeout=10)
        found.add(id(toolkit.pipeline("payments")))

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(found) == 1


def test_a_pipeline_with_nothing_configured_passes_calls_through() -> None:
    """No policy, no change: result and error are the function's own."""
    pipeline = Resilience.from_env(EMPTY).pipeline("payments")

    @pipeline
    def charge(amount: int) -> int:
        return 100 // amount

    assert charge(5) == 20
    with pytest.raises(ZeroDivisionError):
        charge(0)


async def test_a_pipeline_decorates_both_colours() -> None:
    """The configured retry holds for `def` and `async def` alike."""
    toolkit = Resilience.from_env(
        {"RESILIENCE_PIPELINE__P__RETRY__ATTEMPTS": "3", "RESILIENCE_PIPELINE__P__RETRY__WAIT_INITIAL": "0",
         "RESILIENCE_PIPELINE__P__RETRY__WAIT_JITTER": "0"}
    )  # fmt: skip
    calls = []

    @toolkit.pipeline("p")
    def blocking() -> int:
        calls.append("sync")
        if calls.count("sync") < 3:
            raise ConnectionError
        return 1

    @toolkit.pipeline("p")
    async def awaiting() -> int:
        calls.append("async")
        if calls.count("async") < 3:
            raise ConnectionError
        return 2

    assert (blocking(), await awaiting()) == (1, 2)
    assert calls == ["sync"] * 3 + ["async"] * 3


# Code and configuration together


def test_a_policy_in_code_replaces_the_configured_one_of_its_kind() -> None:
    """The argument wins, whole; the others stay as configured."""
    mine = CircuitBreaker(fail_max=9)
    policies = Resilience.from_env(EVERYTHING).pipeline("payments", mine).policies
    assert _kinds(policies) == ["retry", "breaker", "ratelimit", "bulkhead", "timeout"]
    assert policies[1] is mine


def test_a_policy_only_code_can_give_takes_its_recommended_place() -> None:
    """A fallback stands outside of everything that is configured."""
    policies = Resilience.from_env(EVERYTHING).pipeline("payments", Fallback(None)).policies
    assert _kinds(policies) == ["fallback", "retry", "breaker", "ratelimit", "bulkhead", "timeout"]


def test_policies_in_code_alone_keep_their_order() -> None:
    """With nothing configured, the first listed is outermost."""
    policies = Resilience().pipeline("x", Timeout(5), Retry(), Bulkhead()).policies
    assert _kinds(policies) == ["timeout", "retry", "bulkhead"]


def test_an_order_chosen_in_code_survives_configuration() -> None:
    """A variable adds a policy; it never turns around what code put in order on purpose."""
    toolkit = Resilience.from_env({"RESILIENCE_PIPELINE__X__BREAKER__FAIL_MAX": "3"})
    assert _kinds(toolkit.pipeline("x", Timeout(5), Retry()).policies) == ["timeout", "retry", "breaker"]


def test_a_policy_of_somebody_else_keeps_its_neighbours() -> None:
    """A kind the toolkit does not know has no recommended place, so it stays where code put it."""

    class Audit(PolicyBase):
        kind = "audit"

    toolkit = Resilience.from_env(EVERYTHING)
    policies = toolkit.pipeline("payments", Retry(), Audit(), Timeout(1)).policies
    assert _kinds(policies) == ["retry", "breaker", "ratelimit", "bulkhead", "audit", "timeout"]


def test_asking_again_with_other_policies_is_refused() -> None:
    """One name cannot mean two things; asking without policies, or with the same, is fine."""
    toolkit, retry = Resilience(), Retry()
    first = toolkit.pipeline("payments", retry)
    assert toolkit.pipeline("payments") is first
    assert toolkit.pipeline("payments", retry) is first
    for others in ((Retry(),), (retry, Timeout(1))):
        with pytest.raises(ConfigurationError, match="'payments' is already in use with other values"):
            toolkit.pipeline("payments", *others)


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 101, None, 5])
def test_a_name_that_could_not_be_configured_is_refused(name: Any) -> None:
    """Names of pipelines and limiters can stand in a variable."""
    with pytest.raises(ConfigurationError, match="pipeline name"):
        Resilience().pipeline(name)
    with pytest.raises(ConfigurationError, match="limiter name"):
        Resilience().limiter(name, "5/second")


# Limiters


def test_a_limiter_takes_rate_and_burst_from_configuration() -> None:
    """What is configured needs no arguments."""
    toolkit = Resilience.from_env(
        {"RESILIENCE_LIMITER__LOGIN__RATE": "5/minute", "RESILIENCE_LIMITER__LOGIN__BURST": "2"}
    )
    bucket = toolkit.limiter("login")
    assert (str(bucket.rate), bucket.burst, bucket.name) == ("5/minute", 2, "login")
    assert [bucket.acquire("ann").allowed for _ in range(3)] == [True, True, False]
    assert toolkit.limiter("LOGIN") is bucket


def test_arguments_of_a_limiter_win_one_by_one() -> None:
    """A rate in code with a burst from the environment is both."""
    toolkit = Resilience.from_env(
        {"RESILIENCE_LIMITER__LOGIN__RATE": "5/minute", "RESILIENCE_LIMITER__LOGIN__BURST": "2"}
    )
    bucket = toolkit.limiter("login", "9/second")
    assert (str(bucket.rate), bucket.burst) == ("9/second", 2)


def test_a_limiter_without_any_rate_names_the_variable() -> None:
    """Neither code nor configuration says how much: the error says what to set."""
    with pytest.raises(ConfigurationError, match="RESILIENCE_LIMITER__SIGN_UP__RATE is not set: expected a rate"):
        Resilience().limiter("sign-up")


def test_a_limiter_cannot_change_its_rate() -> None:
    """The same name with another rate is a mistake; leaving it out is not."""
    toolkit = Resilience()
    bucket = toolkit.limiter("login", "5/minute", 9)
    assert toolkit.limiter("login") is bucket
    assert toolkit.limiter("login", "5/minute") is bucket
    with pytest.raises(ConfigurationError, match="limiter 'login' is already in use"):
        toolkit.limiter("login", "6/minute")


def test_a_failed_attempt_leaves_nothing_behind() -> None:
    """After an error the same name can be asked for again, correctly."""
    toolkit = Resilience()
    with pytest.raises(ConfigurationError):
        toolkit.limiter("login", "lots")
    assert toolkit.limiter("login", "5/minute").burst == 5


# Parts and life


def test_parts_are_built_once_from_their_options() -> None:
    """Health, lifecycle and catalogue are the same object at every look, with the values that were set."""
    toolkit = Resilience.from_env(
        {
            "RESILIENCE_SERVICE__NAME": "orders",
            "RESILIENCE_HEALTH__TIMEOUT": "3s",
            "RESILIENCE_LIFECYCLE__DRAIN_TIMEOUT": "2s",
        }
    )
    assert isinstance(toolkit.health, Health)
    assert isinstance(toolkit.lifecycle, Lifecycle)
    assert toolkit.health is toolkit.health
    assert toolkit.lifecycle is toolkit.lifecycle
    assert toolkit.catalog is toolkit.catalog
    assert toolkit.health.options.timeout == 3.0
    assert toolkit.lifecycle.options.drain_timeout == 2.0
    assert toolkit.catalog.domain == "orders"


def test_parts_are_imported_when_they_are_first_used() -> None:
    """A service that only retries imports neither pybreaker nor redis nor limits, and no event loop."""
    code = (
        "import sys; from resilience.toolkit import Resilience; "
        "toolkit = Resilience.from_env({'RESILIENCE_PIPELINE__X__RETRY__ATTEMPTS': '2'}); "
        "assert toolkit.pipeline('x').call(lambda: 7) == 7; "
        "print(sorted({'pybreaker', 'limits', 'redis', 'asyncio', 'tenacity'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_from_env_reads_the_environment_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument it is the environment of the process, as it is now."""
    monkeypatch.setenv("RESILIENCE_SERVICE__NAME", "late")
    assert Resilience.from_env().config.service.name == "late"


def test_arguments_beat_the_environment() -> None:
    """Every variable has an equivalent in code."""
    toolkit = Resilience.from_env(
        EVERYTHING, service={"name": "orders"}, pipeline={"payments": {"retry": {"attempts": 9}}}
    )
    assert toolkit.config.service.name == "orders"
    policies: Any = toolkit.pipeline("payments").policies
    assert policies[0].options.attempts == 9


def test_a_bad_environment_is_one_error() -> None:
    """The toolkit object does not exist half configured."""
    with pytest.raises(ConfigurationError) as caught:
        Resilience.from_env({"RESILIENCE_SERVER__DEADLINE": "x", "RESILIENCE_REDIS__OUTAGE": "y"})
    assert len(caught.value.problems) == 2


def test_no_configuration_is_all_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain constructor does not look at the environment."""
    monkeypatch.setenv("RESILIENCE_SERVICE__NAME", "from-env")
    assert Resilience().config.service.name == "service"
    config = Config()
    assert Resilience(config).config is config


async def test_closing_twice_is_fine() -> None:
    """In either colour, in any order, also when nothing was ever opened."""
    toolkit = Resilience.from_env(EMPTY)
    toolkit.close()
    await toolkit.aclose()
    toolkit.close()
    await toolkit.aclose()
    assert toolkit.pipeline("p").call(len, "abc") == 3  # nothing was open, so nothing is gone


async def test_a_toolkit_is_a_context_manager_in_both_colours() -> None:
    """`with` and `async with` hand it out and close it."""
    toolkit = Resilience()
    with toolkit as inside:
        assert inside is toolkit
    async with toolkit as inside:
        assert inside is toolkit


def test_repr_shows_what_is_set_and_no_secret() -> None:
    """A toolkit in a log line tells how it is configured."""
    text = repr(Resilience.from_env({"RESILIENCE_REDIS__URL": "redis://u:hunter2@cache"}))
    assert text == "Resilience(Config(RESILIENCE_REDIS__URL=redis://u:***@cache))"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_is_not_stuck_on_the_parents_lock() -> None:
    """A lock held by another thread at the moment of the fork does not block the child."""
    code = (
        "import os, threading; from resilience.toolkit import Resilience\n"
        "toolkit, held, done = Resilience(), threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with toolkit._parts._lock:\n"
        "        held.set(); done.wait(10)\n"
        "thread = threading.Thread(target=hold); thread.start(); held.wait(10)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    toolkit.pipeline('x'); os._exit(7)\n"
        "done.set(); thread.join(); print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout.strip() == "7"


async def test_aclose_does_not_need_to_be_awaited_by_the_same_task() -> None:
    """The coroutine can be handed to any task of the loop."""
    task = asyncio.create_task(Resilience().aclose())
    await asyncio.wait([task], timeout=5)
    assert (task.done(), task.exception()) == (True, None)


Toolkit: Any = Resilience  # these tests give what the types forbid
Checks: Any = Health
NOT_CONFIGURATION: dict[str, tuple[Any, str]] = {
    "config": (lambda: Toolkit("redis://:hunter2@cache"), "config='str': expected a Config"),
    "environment": (
        lambda: Toolkit({"RESILIENCE_REDIS__URL": "redis://:hunter2@cache"}),
        "config='dict': expected a Config",
    ),
    "environ": (lambda: Toolkit.from_env(3), "environ='int': expected a mapping"),
    "variable": (lambda: Toolkit.from_env({"RESILIENCE_STRICT": 1}), "RESILIENCE_STRICT='int': expected text"),
    "toolkit": (lambda: Toolkit.of({}), "resilience='dict': expected a Resilience, or None"),
    "options": (lambda: Checks("1s"), "options='1s': expected HealthOptions"),
    "lifecycle": (lambda: Checks(lifecycle="ready"), "lifecycle='ready': expected a Lifecycle"),
    "attached": (lambda: Checks().attach(None), "lifecycle=None: expected a Lifecycle"),
}


@pytest.mark.parametrize("kind", NOT_CONFIGURATION)
def test_what_is_no_configuration_is_refused_by_name(kind: str) -> None:
    """The wrong kind of object is refused where it is given, not by the first request."""
    build, why = NOT_CONFIGURATION[kind]
    with pytest.raises(ConfigurationError, match=why):
        build()


def test_a_toolkit_is_the_one_given_or_one_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What adapters make of their argument is the same for all of them."""
    monkeypatch.setenv("RESILIENCE_SERVICE__NAME", "orders")
    toolkit = Resilience()
    assert Resilience.of(toolkit) is toolkit
    assert Resilience.of(None).config.service.name == "orders"


def test_only_our_own_variables_have_to_be_text() -> None:
    """What other names in a mapping hold is none of our business."""
    assert Toolkit.from_env({"PORT": 8000, 3: None}).config.service.name == "service"
