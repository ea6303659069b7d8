"""Admission: authentication, limits, validation, and methods that are left alone."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_shop import Tasks

from resilience import AppError, ConfigurationError, RateLimitedError, Resilience
from resilience.server import current_request
from resilience_grpc import aio_server_interceptors, server_interceptors
from resilience_grpc._status import DETAILS, error_of_call
from resilience_grpc.server._rpc import _address


def detail(call: Any, kind: Any) -> Any:
    status = Status.FromString(dict(call.trailing_metadata())[DETAILS])
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def by_token(servicer: Any) -> str | None:
    return dict(servicer.invocation_metadata()).get("token")


async def by_token_later(servicer: Any) -> str | None:
    await asyncio.sleep(0)
    return by_token(servicer)


class Hidden:
    def __call__(self, servicer: Any) -> Any:
        return by_token_later(servicer)


def hook(stack: str) -> Any:
    return by_token if stack == "sync" else by_token_later


def test_callers_are_known(serve: Any, stack: str, kind: str) -> None:
    """The handler sees the identity that `authenticate` returns. An RPC without one is refused before anything else."""
    shop = serve(stack, authenticate=hook(stack))
    shop.call(kind, "ok", metadata=(("token", "ada"),))
    assert shop.shop.seen["user"] == "ada"
    failed = shop.failure(kind, "never")
    assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
    assert detail(failed, ErrorInfo).reason == "UNAUTHENTICATED"
    assert shop.shop.seen["names"] == ["ok"]
    assert shop.settled()


@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
def test_authentication_fails_closed(serve: Any, stack: str, kind: str) -> None:
    """If a hook raises, the RPC is refused without a reason. An `AppError` is answered as it is."""
    raised: list[Exception] = [ValueError("secret"), KeyError("secret"), TimeoutError(), Exception()]

    def authenticate(servicer: Any) -> str:
        raise raised[0]

    shop = serve(stack, authenticate=authenticate)
    while raised:
        failed = shop.failure(kind, "never")
        assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "secret" not in repr(failed.trailing_metadata()) + failed.details()
        raised.pop(0)
    raised.append(AppError("SHOP_P001", "Suspended.", http_status=403, grpc_status="PERMISSION_DENIED"))
    failed = shop.failure(kind, "never")
    assert (failed.code(), failed.details()) == (grpc.StatusCode.PERMISSION_DENIED, "Suspended.")
    raised[0] = RateLimitedError("internal", retry_after=2)
    assert shop.failure(kind, "never").code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "names" not in shop.shop.seen
    assert shop.settled()


@pytest.mark.parametrize("nobody", [None, False, ""])
def test_nobody_is_nobody(serve: Any, stack: str, nobody: Any) -> None:
    """None, False and an empty name are no identity."""
    shop = serve(stack, authenticate=lambda servicer: nobody)
    assert shop.failure("unary_unary", "never").code() is grpc.StatusCode.UNAUTHENTICATED


def test_identities_are_opaque(serve: Any, stack: str) -> None:
    """An identity may be any object, and is kept. It is the name of the user only if it is text or a number."""
    seen: list[Any] = []
    account = object()
    shop = serve(stack, authenticate=lambda servicer: account)

    def look(text: str, servicer: Any) -> str:
        seen.append(current_request())
        return text

    shop.shop.act = look
    shop.call("unary_unary", "ok")
    assert (seen[0].identity, seen[0].user) == (account, None)


def test_authentication_may_abort(serve: Any, stack: str) -> None:
    """A hook may end the RPC itself."""

    async def later(servicer: Any) -> None:
        await servicer.abort(grpc.StatusCode.PERMISSION_DENIED, "go away")

    def now(servicer: Any) -> None:
        servicer.abort(grpc.StatusCode.PERMISSION_DENIED, "go away")

    shop = serve(stack, authenticate=now if stack == "sync" else later)
    failed = shop.failure("unary_unary", "never")
    assert (failed.code(), failed.details()) == (grpc.StatusCode.PERMISSION_DENIED, "go away")


def test_hooks_nobody_awaits(serve: Any) -> None:
    """On threads, a coroutine function is refused as a hook. A hook that returns an awaitable refuses the RPC."""
    with pytest.raises(ConfigurationError, match="authenticate is a coroutine function"):
        server_interceptors(Resilience(), authenticate=by_token_later)
    shop = serve("sync", authenticate=Hidden())
    assert shop.failure("unary_unary", "never", metadata=(("token", "ada"),)).code() is grpc.StatusCode.UNAUTHENTICATED
    shop = serve("sync", validate=Hidden())
    assert shop.failure("unary_unary", "never").code() is grpc.StatusCode.INTERNAL


def test_rate_limit(serve: Any, stack: str, kind: str) -> None:
    """Over the limit an RPC ends with RESOURCE_EXHAUSTED and RetryInfo. With the key `user`, each user has a quota."""
    settings = {"SERVER__RATE_LIMIT": "1/hour", "SERVER__RATE_LIMIT_KEY": "user", "SERVER__RATE_LIMIT_HEADERS": "true"}
    shop = serve(stack, settings, authenticate=hook(stack))
    call = shop.start(kind, "ok", metadata=(("token", "ada"),))
    _ = list(call) if kind.endswith("stream") else call.result()
    assert dict(call.trailing_metadata())["ratelimit"].startswith('"default";r=0;')
    shop.call(kind, "ok", metadata=(("token", "bob"),))
    failed = shop.failure(kind, "never", metadata=(("token", "ada"),))
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(failed, ErrorInfo).reason == "RATE_LIMITED"
    assert 3000 < detail(failed, RetryInfo).retry_delay.ToSeconds() <= 3600
    assert shop.shop.seen["names"] == ["ok", "ok"]
    assert shop.settled()


def test_several_rates(serve: Any, stack: str) -> None:
    """A server takes several rates: an RPC pays all or none, and the tightest one says when to come back."""
    shop = serve(stack, {"SERVER__RATE_LIMIT": "500/hour;2/day", "SERVER__RATE_LIMIT_HEADERS": "true"})
    for _ in range(2):
        shop.call("unary_unary", "ok")
    failed = shop.failure("unary_unary", "never")
    told = dict(failed.trailing_metadata())
    assert told["ratelimit-policy"] == '"default 500/hour";q=500;w=3600, "default 2/day";q=2;w=86400'
    assert told["ratelimit"].startswith('"default 2/day";r=0;')
    assert detail(failed, RetryInfo).retry_delay.ToSeconds() == pytest.approx(43_200, abs=30)


def test_quotas_are_shown_with_an_abort(serve: Any, stack: str, kind: str) -> None:
    """An RPC that its handler aborts has the quota in its trailing metadata, like an RPC that succeeds."""
    shop = serve(stack, {"SERVER__RATE_LIMIT": "2/hour", "SERVER__RATE_LIMIT_HEADERS": "true"})
    failed = shop.failure(kind, "abort")
    assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert dict(failed.trailing_metadata())["ratelimit"].startswith('"default";r=1;')


def test_keys_may_be_computed(serve: Any, stack: str) -> None:
    """`key` selects the quota that an RPC is charged to."""
    shop = serve(stack, {"SERVER__RATE_LIMIT": "1/hour"}, key=lambda servicer: str(by_token(servicer)))
    shop.call("unary_unary", "ok", metadata=(("token", "ada"),))
    shop.call("unary_unary", "ok", metadata=(("token", "bob"),))
    assert shop.failure("unary_unary", "ok", metadata=(("token", "bob"),)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_bulkhead(serve: Any, stack: str, kind: str) -> None:
    """If all places are taken, an RPC ends with RESOURCE_EXHAUSTED at once. The end of a stream frees its place."""
    shop = serve(stack, {"SERVER__MAX_CONCURRENT_REQUESTS": "1"})
    call = shop.start(kind, "wait")
    assert shop.shop.waits.wait(5)
    failed = shop.failure(kind, "never")
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(failed, ErrorInfo).reason == "BULKHEAD_FULL"
    assert shop.toolkit.lifecycle.in_flight == 1
    shop.shop.release.set()
    assert (list(call)[-1] if kind.endswith("stream") else call.result()) == "wait!"
    assert shop.settled()
    assert shop.call(kind, "ok")[-1] == "ok!"


def test_excluded_methods(serve: Any, stack: str) -> None:
    """Methods in `exclude_paths` have a request context, and are never limited, refused, timed or counted."""
    settings = {
        "SERVER__RATE_LIMIT": "1/hour",
        "SERVER__MAX_CONCURRENT_REQUESTS": "1",
        "SERVER__DEADLINE": "1s",
        "SERVER__EXCLUDE_PATHS": "/shop.Orders",
    }
    shop = serve(stack, settings)
    calls = [shop.start("unary_unary", "wait") for _ in range(3)]
    assert shop.shop.waits.wait(5)
    assert shop.toolkit.lifecycle.in_flight == 0
    shop.shop.release.set()
    assert [call.result() for call in calls] == ["wait!"] * 3
    assert shop.shop.seen["remaining"] is None
    assert len(shop.shop.seen["request_id"]) == 32


def checked(text: str) -> Any:
    return {
        "list": [{"field": "text", "message": "too short", "type": "too_short"}],
        "pairs": [("text", "too short")],
        "text": "too short",
        "false": False,
        "true": True,
        "none": [],
    }.get(text)


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ("list", ("text", "too short", "TOO_SHORT")),
        ("pairs", ("text", "too short", "")),
        ("text", ("", "too short", "")),
        ("false", ("", "The request is not valid.", "")),
    ],
)
def test_messages_are_validated(serve: Any, stack: str, kind: str, text: str, violation: tuple[str, ...]) -> None:
    """Violations from `validate` become INVALID_ARGUMENT with BadRequest, before the handler sees the message."""
    shop = serve(stack, validate=checked)
    failed = shop.failure(kind, text)
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(failed, ErrorInfo).reason == "VALIDATION_FAILED"
    (found,) = detail(failed, BadRequest).field_violations
    assert (found.field, found.description, found.reason) == violation
    assert "names" not in shop.shop.seen
    for fine in ("true", "none", "ok"):
        assert shop.call(kind, fine)[-1] == f"{fine}!"
    assert shop.settled()


class PydanticError(ValueError):
    def errors(self) -> list[dict[str, Any]]:
        return [{"loc": ("items", 0), "msg": "missing", "type": "missing", "input": "secret"}]


class HandWrittenError(ValueError):
    def errors(self) -> list[dict[str, Any]]:
        return [{"loc": ("name",), "msg": "Value error, secret is taken", "type": "value_error", "input": "secret"}]


@pytest.mark.parametrize(
    ("raised", "code", "violation"),
    [
        (ValueError("too short"), "INVALID_ARGUMENT", ("", "too short")),
        (PydanticError("secret"), "INVALID_ARGUMENT", ("items.0", "missing")),
        (HandWrittenError("secret"), "INVALID_ARGUMENT", ("name", "The value is not valid.")),
        (UnicodeError("secret"), "INVALID_ARGUMENT", ("", "The request is not valid.")),
        (AppError("SHOP_V001", "no", grpc_status="OUT_OF_RANGE"), "OUT_OF_RANGE", None),
        (KeyError("secret"), "INTERNAL", None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_validation_may_raise(
    serve: Any, stack: str, kind: str, raised: Exception, code: str, violation: tuple[str, str] | None
) -> None:
    """The text of a ValueError is sent, of a subclass only its `errors()`. Any other error is a fault."""

    async def later(text: str) -> None:
        raise raised

    def now(text: str) -> None:
        raise raised

    shop = serve(stack, validate=now if stack == "sync" else later)
    failed = shop.failure(kind, "ok")
    assert failed.code().name == code
    assert "secret" not in repr(failed.trailing_metadata()) + failed.details()
    bad = detail(failed, BadRequest)
    assert violation == (None if bad is None else (bad.field_violations[0].field, bad.field_violations[0].description))
    assert shop.settled()


def test_messages_that_are_read_are_validated(serve: Any) -> None:
    """A handler that reads messages from the context gets only valid messages, and the end of the stream."""
    read: list[str] = []

    async def stream_unary(texts: Any, servicer: Any) -> str:
        while (text := await servicer.read()) is not grpc.aio.EOF:
            read.append(text)
        return "done"

    tasks = Tasks()
    tasks.stream_unary = stream_unary  # type: ignore[method-assign]  # the same, reading by itself
    shop = serve("aio", shop=tasks, validate=checked)
    assert shop.call("stream_unary", "a", "b") == ["done"]
    assert shop.failure("stream_unary", "c", "text").code() is grpc.StatusCode.INVALID_ARGUMENT
    assert read == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
def test_later_messages_are_validated(serve: Any, stack: str, kind: str) -> None:
    """Each message of a stream is validated when it is read."""
    shop = serve(stack, validate=checked)
    assert shop.failure(kind, "ok", "text", "never").code() is grpc.StatusCode.INVALID_ARGUMENT
    assert shop.shop.seen["names"] == ["ok"]
    assert shop.settled()


def test_messages_in_the_callers_language(serve: Any, stack: str) -> None:
    """The message of an error in the catalog is in the language that the client prefers."""
    shop = serve(stack)
    shop.toolkit.catalog.translate("de", {"RATE_LIMITED": "Zu viele Anfragen."})
    shop.shop.act = lambda text, servicer: _refuse()
    failed = shop.failure("unary_unary", "ok", metadata=(("accept-language", "de-AT, en;q=0.5"),))
    assert failed.details() == "Zu viele Anfragen."
    assert shop.failure("unary_unary", "ok").details() == "Too many requests."


def _refuse() -> str:
    raise RateLimitedError("internal")


def test_errors_are_read_back(serve: Any, stack: str) -> None:
    """The largest error that is sent arrives whole at the client, in any script."""
    shop = serve(stack)
    fields = [{"field": f"f{n}", "message": "ü" * 300, "type": "x"} for n in range(100)]
    error = AppError(
        "SHOP_V001", "ü" * 5000, details={"fields": fields}, http_status=422, grpc_status="INVALID_ARGUMENT"
    )

    def fail(text: str, servicer: Any) -> str:
        raise error

    shop.shop.act = fail
    failed = shop.failure("unary_unary", "ok")
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    back = error_of_call(failed)
    assert back is not None
    assert (back.code, back.http_status) == ("SHOP_V001", 422)
    assert back.details["omitted"] == 100 - len(back.details["fields"])


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::1"),
        ("ipv6:[::1]:5000", "::1"),
        ("unix:/run/shop.sock", None),
        ("unix-abstract:shop", None),
        ("vsock:2:5000", "vsock"),
        ("unknown", "unknown"),
        ("", "unknown"),
    ],
)
def test_peers(peer: str, address: str | None) -> None:
    """The client's address is gRPC's name of the peer without family, port and escapes. A Unix socket has none."""
    assert _address(peer) == address


@pytest.mark.parametrize("trusted", ["", "unix"])
def test_callers_behind_a_unix_socket(
    serve: Any, stack: str, trusted: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a trusted Unix socket, each named client has its own quota. Behind any other, clients share no quota."""
    settings = {"SERVER__RATE_LIMIT": "1/hour", "SERVER__TRUSTED_PROXIES": trusted}
    place = f"unix:{tmp_path}/shop.sock"
    shop = serve(stack, settings, prepare=lambda server, _: server.add_insecure_port(place))
    with grpc.insecure_channel(place) as shop.channel, caplog.at_level(logging.WARNING):
        for number in range(5):
            assert shop.call("unary_unary", "ok", metadata=(("x-forwarded-for", f"203.0.113.{number}"),))
        if trusted:
            failed = shop.failure("unary_unary", "ok", metadata=(("x-forwarded-for", "6.6.6.6, 203.0.113.1"),))
            assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caplog.text.count("RESILIENCE_SERVER__TRUSTED_PROXIES=unix") == (not trusted)


@pytest.mark.parametrize("found", [None, ""])
def test_a_key_that_is_not_found_leaves_the_setting(serve: Any, stack: str, found: Any) -> None:
    """If `key` returns None or "", the RPC counts by address: it is neither free nor a fault."""
    shop = serve(stack, {"SERVER__RATE_LIMIT": "1/hour"}, key=lambda servicer: found)
    shop.call("unary_unary", "ok")
    assert shop.failure("unary_unary", "never").code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_without_a_toolkit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without a toolkit, the environment configures one. An error in it is raised at once."""
    assert len(server_interceptors()) == len(aio_server_interceptors()) == 1
    monkeypatch.setenv("RESILIENCE_SERVER__DEADLINE", "soon")
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigurationError, match="SERVER__DEADLINE"):
        server_interceptors()
