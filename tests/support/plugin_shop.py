"""A service as users write it: its pipelines are made when the module is imported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from resilience import (
    Bulkhead,
    Cache,
    CircuitBreaker,
    Deadline,
    Fallback,
    Keyed,
    Lifecycle,
    Pipeline,
    RateLimit,
    Retry,
    ThreadPoolBulkhead,
    Timeout,
    TokenBucket,
)

calls: list[str] = []
payments = Pipeline(
    "payments", Retry(on=ConnectionError, wait_initial=10), CircuitBreaker(fail_max=2, reset_timeout=30)
)
stock = Pipeline("stock", Cache(ttl="1h"), Timeout("5s"))
names = Pipeline("names", Fallback(value="unknown"), RateLimit("2/hour"), Bulkhead(5), Timeout("5s"))
tenants = Keyed(lambda _: CircuitBreaker(fail_max=1), key=lambda tenant: tenant)
hosts = Pipeline("hosts", tenants)
reports = Pipeline("reports", ThreadPoolBulkhead(1))
uploads = TokenBucket("1/hour", name="uploads")
lifecycle = Lifecycle()


def fail(order: str) -> str:
    calls.append(order)
    raise ConnectionError(order)


@payments
def charge(order: str) -> str:
    return fail(order)


@payments
async def acharge(order: str) -> str:
    return fail(order)


@stock
def count(article: str) -> int:
    calls.append(article)
    return len(calls)


@stock
async def acount(article: str) -> int:
    calls.append(article)
    return len(calls)


@names
def name_of(customer: str) -> str:
    if customer == "bad":
        raise ValueError(customer)
    return customer.upper()


@hosts
def ask(tenant: str) -> str:
    return fail(tenant)


@Pipeline("items", CircuitBreaker(fail_max=1))
def items() -> Iterator[int]:
    yield 1
    raise ConnectionError


@Pipeline("aitems", CircuitBreaker(fail_max=1))
async def aitems() -> AsyncIterator[int]:
    yield 1
    raise ConnectionError


def deadline() -> Deadline:
    return Deadline.after(5)
