"""What a caller says about the trace."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.server import RequestContext, ServerGate
from resilience.server._trace import Trace, baggage_of, trace_of, tracestate_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [
        (TRACEPARENT, 1),
        (f"00-{TRACE}-{PARENT}-00", 0),
        (f"cc-{TRACE}-{PARENT}-03-more", 3),
        (f"00-{TRACE}-{PARENT}-ff", 3),
    ],
)
def test_trace_is_read(traceparent: str, flags: int) -> None:
    """A well-formed traceparent of this or a later version names trace and span; flags nobody knows yet are dropped."""
    assert trace_of(traceparent) == Trace(TRACE, PARENT, flags)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "garbage",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"{TRACEPARENT}\n",
        f"{TRACEPARENT}, {TRACEPARENT}",
    ],
)
def test_malformed_traceparent_is_no_trace(traceparent: str) -> None:
    """A traceparent that breaks the specification is ignored."""
    assert trace_of(traceparent) is None


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_trace_id_is_hexadecimal_or_nothing(traceparent: str) -> None:
    """Whatever a caller sends, the trace id is 32 hexadecimal characters or empty."""
    assert re.fullmatch("([0-9a-f]{32})?", ServerGate().receive({"traceparent": traceparent}).trace_id)


@pytest.mark.parametrize(
    "text", ["a=1", "a=1,b=2", "vendor@sys=x y", "a=" + "v" * 256, ",".join(f"k{n}=v" for n in range(32))]
)
def test_sane_tracestate_is_kept(text: str) -> None:
    """Up to 32 well-formed members are kept as they are."""
    assert tracestate_of(text) == text


def test_tracestate_is_tidied() -> None:
    """Empty members, and space around members, are allowed and not passed on."""
    assert tracestate_of(" a=1 ,, b=2\t,") == "a=1,b=2"


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "=1",
        "A=1",
        "a=",
        "a=1,a=2",
        "a=\r\nb",
        "a=\u00e9",
        "a=1=2",
        "a=" + "v" * 257,
        ",".join(f"k{n}=v" for n in range(33)),
    ],
)
def test_malformed_tracestate_is_dropped_whole(text: str) -> None:
    """One bad member, a key twice, or a 33rd member, and none of it can be trusted."""
    assert tracestate_of(text) == ""


def test_long_tracestate_loses_large_members_first() -> None:
    """Beyond 512 characters members over 128 go first, then those at the end, and never a part of one."""
    large, small = "big=" + "v" * 200, [f"k{n}=" + "v" * 60 for n in range(6)]
    assert tracestate_of(",".join([large, *small])) == ",".join(small)
    many = [f"k{n:02}=" + "v" * 100 for n in range(10)]
    assert tracestate_of(",".join(many)) == ",".join(many[:4])


def test_tracestate_needs_a_trace() -> None:
    """Without a valid traceparent there is nothing a tracestate could belong to."""
    assert ServerGate().receive({"tracestate": "a=1"}).tracestate == ""
    assert ServerGate().receive({"tracestate": "a=1", "traceparent": TRACEPARENT}).tracestate == "a=1"


@pytest.mark.parametrize("text", ["a=1", "a=1;p;q=2,b=%20", "a=", "a = 1 ; p = 2"])
def test_sane_baggage_is_kept(text: str) -> None:
    """Well-formed baggage travels on as it is, properties included."""
    assert ServerGate().receive({"baggage": text}).baggage == text


def test_bad_bags_are_left_behind() -> None:
    """A member that breaks the specification is dropped; the others travel on."""
    assert baggage_of('a=1,b,c="x",d=a b,\u00e9=1,e=\r\nx: y,f=2') == "a=1,f=2"


def test_baggage_is_bounded() -> None:
    """At most 64 members travel, and at most 8192 bytes, and never a part of a member."""
    assert baggage_of(",".join(f"k{n}=v" for n in range(70))).count(",") == 63
    kept = baggage_of(",".join(f"k{n}=" + "v" * 1000 for n in range(10)))
    assert kept.count(",") == 7
    assert len(kept) <= 8192
    assert baggage_of("a=1," + "x" * 20_000) == ""


@given(st.text(max_size=300) | st.text("ab=,;% \t", max_size=300))
def test_what_travels_is_safe(text: str) -> None:
    """Whatever a caller sends, what is passed on is printable ASCII within its bounds."""
    for passed, longest in ((tracestate_of(text), 512), (baggage_of(text), 8192)):
        assert re.fullmatch(r"[\t -~]*", passed)
        assert len(passed) <= longest
        assert "\n" not in passed


def test_baggage_can_be_set() -> None:
    """The service may put something in; what is malformed or too much is refused at once."""
    context = RequestContext()
    context.baggage = "tenant=blue"
    assert context.baggage == "tenant=blue"
    for bad in ("no", "a=1,b", "a=\r\n", ",".join(f"k{n}=v" for n in range(65))):
        with pytest.raises(ValueError, match="64 members"):
            context.baggage = bad
    assert context.baggage == "tenant=blue"
    context.baggage = ""
    assert context.baggage == ""
