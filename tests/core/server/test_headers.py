"""Which request this is."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.server._headers import identity_of, new_span_id, request_id_of


@pytest.mark.parametrize("offered", ["a", "A-z_0.9", "x" * 128])
def test_sane_id_is_kept(offered: str) -> None:
    """A request id of harmless characters is the caller's."""
    assert request_id_of(offered) == offered


@pytest.mark.parametrize("offered", [None, "", "x" * 129, "a b", "a\nb", "a\n", "é", "a, b", "a;b", '"', "<script>"])
def test_other_ids_are_replaced(offered: str | None) -> None:
    """Anything that could do harm in a log or a header is replaced by 32 hexadecimal characters."""
    assert re.fullmatch("[0-9a-f]{32}", request_id_of(offered))


def test_made_ids_differ() -> None:
    """No two requests are given the same id."""
    assert len({request_id_of(None) for _ in range(1000)}) == 1000


def test_made_ids_differ_between_threads() -> None:
    """Threads that draw ids at the same time never draw the same one."""
    with ThreadPoolExecutor(8) as pool:
        drawn = [
            one for batch in pool.map(lambda _: [request_id_of(None) for _ in range(500)], range(16)) for one in batch
        ]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # 3.12 warns of any thread, an idle one too
def test_made_ids_differ_after_a_fork() -> None:
    """A forked child does not give its requests the ids its parent gives."""
    request_id_of(None)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, " ".join(request_id_of(None) for _ in range(20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 4096).decode().split()
    os.close(reader)
    os.close(writer)
    assert len(theirs) == 20
    assert not set(theirs) & {request_id_of(None) for _ in range(300)}


@given(st.text())
def test_any_text_gives_a_sane_id(offered: str) -> None:
    """Whatever a caller sends, the id in use fits the pattern."""
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", request_id_of(offered))


def test_span_ids() -> None:
    """A parent id for an outgoing call is 16 hexadecimal characters, never all 0, and new each time."""
    drawn = {new_span_id() for _ in range(1000)}
    assert len(drawn) == 1000
    assert all(re.fullmatch("[0-9a-f]{16}", one) and int(one, 16) for one in drawn)


@pytest.mark.parametrize("offered", ["ann", "a b", "svc/orders@prod", "x" * 256])
def test_sane_identity_is_kept(offered: str) -> None:
    """A caller's name is printable ASCII, up to 256 characters."""
    assert identity_of(offered) == offered


@pytest.mark.parametrize("offered", [None, "", " a", "a ", "x" * 257, "a\r\nb", "a\n", "\x00", "\u00e9", "ann, bob"])
def test_other_identities_are_nobody(offered: str | None) -> None:
    """What could be two headers, end a line or hide in a log is no name at all."""
    assert identity_of(offered) is None
