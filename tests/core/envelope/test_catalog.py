import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import errors
from resilience.breaker import CircuitOpenError
from resilience.envelope import ErrorCatalog, grpc_status_for, http_status_for
from resilience.envelope._machine import GRPC_TO_HTTP, MEANINGS, is_code
from resilience.errors import AppError, ConfigurationError


def test_a_definition_makes_errors() -> None:
    """What the catalogue says about a code is what every error of it carries."""
    catalog = ErrorCatalog("orders")
    unknown_sku = catalog.define("ORDERS_V001", "No such article.", http_status=422, description="The SKU is wrong.")
    error = unknown_sku(details={"sku": "x"}, retry_after=2.0)
    assert type(error) is AppError
    assert (error.code, error.message, error.details) == ("ORDERS_V001", "No such article.", {"sku": "x"})
    assert (error.http_status, error.grpc_status, error.category) == (422, "INVALID_ARGUMENT", "validation")
    assert (error.retryable, error.retry_after) == (False, 2.0)
    assert catalog.error("ORDERS_V001", "No article x.", headers={"Allow": "GET"}).message == "No article x."
    assert catalog.get("ORDERS_V001") is unknown_sku
    assert "ORDERS_V001" in catalog


@pytest.mark.parametrize(
    ("http_status", "grpc_status", "category"),
    [
        (400, "INVALID_ARGUMENT", "validation"),
        (401, "UNAUTHENTICATED", "authentication"),
        (403, "PERMISSION_DENIED", "permission"),
        (404, "NOT_FOUND", "not_found"),
        (409, "ABORTED", "conflict"),
        (412, "FAILED_PRECONDITION", "precondition"),
        (429, "RESOURCE_EXHAUSTED", "rate_limit"),
        (499, "CANCELLED", "cancelled"),
        (500, "INTERNAL", "internal"),
        (501, "UNIMPLEMENTED", "internal"),
        (502, "UNAVAILABLE", "dependency"),
        (503, "UNAVAILABLE", "unavailable"),
        (504, "DEADLINE_EXCEEDED", "timeout"),
        (418, "INVALID_ARGUMENT", "client"),
        (599, "INTERNAL", "internal"),
    ],
)
def test_the_rest_follows_from_the_status(http_status: int, grpc_status: str, category: str) -> None:
    """The gRPC status and the category follow from the HTTP status where nothing else is said."""
    one = ErrorCatalog().define("X1", "x", http_status=http_status)
    assert (one.grpc_status, one.category) == (grpc_status, category)


def test_what_is_said_wins() -> None:
    """A gRPC status or category that is given is taken."""
    one = ErrorCatalog().define("X1", "x", http_status=409, grpc_status="ALREADY_EXISTS", category="taken")
    assert (one.grpc_status, one.category) == ("ALREADY_EXISTS", "taken")


def test_every_grpc_status_has_an_http_status() -> None:
    """google.rpc's mapping is complete, and unknown names are internal errors."""
    assert len(GRPC_TO_HTTP) == 16
    assert http_status_for("UNAVAILABLE") == 503
    assert http_status_for("NO_SUCH") == 500
    assert {grpc_status_for(status) for status in MEANINGS} <= set(GRPC_TO_HTTP)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"code": "orders"}, "code='orders'"),
        ({"code": "A"}, "code='A'"),
        ({"code": "A" * 64}, "code="),
        ({"code": "A_"}, "code='A_'"),
        ({"code": "1A"}, "code='1A'"),
        ({"code": "AÉ1"}, "code="),
        ({"code": "AB\n"}, "code="),
        ({"code": None}, "code=None"),
        ({"message": ""}, "message=''"),
        ({"message": 3}, "message=3"),
        ({"http_status": 399}, "http_status=399"),
        ({"http_status": 600}, "http_status=600"),
        ({"http_status": "404"}, "http_status='404'"),
        ({"http_status": True}, "http_status=True"),
        ({"http_status": float("nan")}, "http_status=nan"),
        ({"grpc_status": "UNAVAILIBLE"}, "did you mean UNAVAILABLE"),
        ({"grpc_status": "OK"}, "grpc_status='OK'"),
        ({"category": ""}, "category=''"),
        ({"retryable": "yes"}, "retryable='yes'"),
        ({"description": None}, "description=None"),
    ],
)
def test_refuses_a_bad_definition(arguments: dict[str, Any], named: str) -> None:
    """A mistake in a definition is named at the line that makes it, with its value."""
    catalog = ErrorCatalog()
    before = len(catalog)
    define: Any = catalog.define
    with pytest.raises(ConfigurationError) as caught:
        define(**({"code": "GOOD_1", "message": "m"} | arguments))
    assert named in str(caught.value)
    assert len(catalog) == before


def test_lists_every_mistake_at_once() -> None:
    """One run shows all that is wrong with a definition (L23)."""
    with pytest.raises(ConfigurationError) as caught:
        ErrorCatalog().define("bad", "", http_status=200, grpc_status="x")
    assert [problem.option for problem in caught.value.problems] == ["code", "message", "http_status", "grpc_status"]


@pytest.mark.parametrize("domain", ["", "x" * 254, None, 3])
def test_refuses_a_bad_domain(domain: Any) -> None:
    """The domain is a name."""
    with pytest.raises(ConfigurationError, match="domain"):
        ErrorCatalog(domain)


def test_a_code_is_defined_once() -> None:
    """A code that is taken stays what it was, and the error says by whom."""
    catalog = ErrorCatalog()
    first = catalog.define("ORDERS_V001", "first")
    with pytest.raises(ConfigurationError, match="first"):
        catalog.define("ORDERS_V001", "second")
    assert catalog.get("ORDERS_V001") is first
    with pytest.raises(ConfigurationError, match="toolkit"):
        catalog.define("RATE_LIMITED", "mine")


def test_of_racing_definitions_one_wins() -> None:
    """Of 8 threads that define one code exactly one succeeds."""
    catalog = ErrorCatalog()

    def define(number: int) -> bool:
        try:
            catalog.define("RACE_1", f"by {number}")
        except ConfigurationError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(define, range(8))) == 1


def test_an_unknown_code_is_named() -> None:
    """A code nobody defined is an error that proposes the one meant."""
    catalog = ErrorCatalog("orders")
    catalog.define("ORDERS_V001", "m")
    with pytest.raises(ConfigurationError, match="did you mean ORDERS_V001"):
        catalog.error("ORDERS_V01")
    with pytest.raises(ConfigurationError, match="define it first"):
        catalog.get("zzz")
    assert 3 not in catalog


@pytest.mark.parametrize(
    "kind",
    [CircuitOpenError, *(kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not AppError)],
)
def test_every_toolkit_error_is_listed(kind: type) -> None:
    """The catalogue knows each of our error classes exactly as the class describes itself."""
    if not issubclass(kind, errors.ResilienceError):
        return
    one = ErrorCatalog().get(kind.code)
    assert one.is_builtin
    assert (one.http_status, one.grpc_status) == (kind.http_status, kind.grpc_status)
    assert (one.category, one.retryable, one.message) == (kind.category, kind.retryable, kind.public_message)


def test_every_builtin_code_is_a_code() -> None:
    """Our own codes keep the grammar we ask of others."""
    assert all(is_code(one.code) and one.is_builtin for one in ErrorCatalog())


def test_goes_through_its_own_first() -> None:
    """Iteration gives the service's codes in the order of definition, then ours, and len counts both."""
    catalog = ErrorCatalog()
    builtins = len(catalog)
    catalog.define("ZZ_1", "z")
    catalog.define("AA_1", "a")
    assert [one.code for one in catalog][:2] == ["ZZ_1", "AA_1"]
    assert len(catalog) == builtins + 2 == len(list(catalog))


def test_exports() -> None:
    """Both documents hold every code; Markdown survives pipes and line breaks in texts."""
    catalog = ErrorCatalog("orders")
    catalog.define("ORDERS_V001", "a|b\nc", http_status=422, retryable=True, description="d")
    text = catalog.markdown()
    assert "| `ORDERS_V001` | 422 | `INVALID_ARGUMENT` | yes | a\\|b c | d |" in text.splitlines()
    assert "`CIRCUIT_OPEN`" in text
    document = json.loads(catalog.json())
    assert document["domain"] == "orders"
    assert len(document["errors"]) == len(catalog)
    assert document["errors"][0] == {
        "code": "ORDERS_V001",
        "message": "a|b\nc",
        "http_status": 422,
        "grpc_status": "INVALID_ARGUMENT",
        "category": "validation",
        "retryable": True,
        "description": "d",
        "source": "service",
    }
    assert "None defined." in ErrorCatalog().markdown()


@given(st.text(max_size=70))
def test_codes_are_what_grpc_accepts(code: str) -> None:
    """Whatever passes as a code is a valid ErrorInfo reason: capitals, digits, underscores, at most 63."""
    letters = set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    allowed = letters | set("0123456789_")
    expected = 2 <= len(code) <= 63 and set(code) <= allowed and code[:1] in letters and code[-1:] != "_"
    assert is_code(code) == expected
