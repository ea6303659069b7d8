"""Where a configured policy goes among those given in code."""

from typing import Any

from resilience.toolkit._machine import compose


class Known:
    def __init__(self, kind: str) -> None:
        self.kind = kind


class Unknown:
    """A policy of somebody else's making, which need not say of what kind it is."""


def order(given: list[Any], *configured: str) -> list[str]:
    policies = compose(given, [Known(kind) for kind in configured])
    return [getattr(policy, "kind", "unknown") for policy in policies]


def test_a_policy_without_a_kind_stays_where_code_put_it() -> None:
    """What the toolkit does not know has no recommended place, and is no place to put others after."""
    assert order([Unknown(), Known("breaker"), Unknown()], "timeout", "retry") == [
        "retry",
        "unknown",
        "breaker",
        "timeout",
        "unknown",
    ]


def test_a_kind_is_one_however_it_is_written() -> None:
    """`single_flight` and `singleflight` are one kind, which code has given already."""
    assert order([Known("single_flight")], "singleflight", "thread_pool") == ["single_flight", "thread_pool"]
