"""Which connection goes to which caller."""

from __future__ import annotations

import pytest

from resilience.redis._errors import ExchangeFailure
from resilience.redis._pool_machine import ATTEMPT_INTERVAL, Link, LinkMachine, NotAskedError, StillConnectingError

PATIENCE = 0.025


def places(maximum: int = 2) -> LinkMachine[str, str]:
    return LinkMachine(maximum)


def connected(pool: LinkMachine[str, str], name: str) -> Link[str]:
    """Bring a link into use: its connecting ends while a caller waits."""
    pool.join(f"caller of {name}", 0.0, PATIENCE)
    assert pool.begin_connecting(0.0)
    link = Link(name, pool.epoch)
    assert pool.connected(link) == f"caller of {name}"
    return link


def test_one_attempt_at_a_time() -> None:
    """However many callers wait, one attempt to connect is under way."""
    pool = places()
    for number in range(5):
        pool.join(str(number), 0.0, PATIENCE)
        assert pool.begin_connecting(0.0) is (number == 0)


def test_no_attempt_without_a_caller_or_a_free_place() -> None:
    """No connection is made that no caller waits for, nor one more than the maximum."""
    pool = places(maximum=1)
    assert not pool.begin_connecting(0.0)
    held = connected(pool, "a")
    pool.join("second", 0.0, PATIENCE)
    assert not pool.begin_connecting(0.0)
    assert pool.release(held) == "second"


def test_first_come_first_served() -> None:
    """A link that comes back goes to the caller that has waited longest, and only then becomes idle."""
    pool = places(maximum=1)
    link = connected(pool, "a")
    pool.join("first", 0.0, PATIENCE)
    pool.join("second", 0.0, PATIENCE)
    assert [pool.release(link), pool.release(link), pool.release(link)] == ["first", "second", None]
    assert pool.take() is link
    assert pool.take() is None


def test_a_queue_of_our_own_says_so() -> None:
    """A caller that gets no link while others use them was not refused by the server."""
    pool = places(maximum=1)
    held = connected(pool, "a")
    pool.join("second", 0.0, PATIENCE)
    assert type(pool.leave("second")) is NotAskedError
    assert pool.release(held) is None


def test_a_lost_link_gives_its_place_back() -> None:
    """A link that is collected as garbage, as after an interrupt, leaves its place to another one."""
    pool = places(maximum=1)
    connected(pool, "lost")
    connected(pool, "b")


def test_no_caller_waits_for_a_long_connecting() -> None:
    """Callers wait for the first connection, until one of them could have waited in vain; the attempt goes on."""
    pool = places()
    pool.join("first", 0.0, PATIENCE)
    assert pool.begin_connecting(0.0)
    pool.join("second", PATIENCE / 2, PATIENCE)
    assert type(pool.leave("first")) is StillConnectingError
    with pytest.raises(StillConnectingError):
        pool.join("third", PATIENCE, PATIENCE)
    assert pool.connected(Link("a", pool.epoch)) == "second"


def test_callers_wait_for_links_in_use_while_another_is_connected() -> None:
    """A long attempt to add a link to links that work keeps no caller from waiting for these."""
    pool = places()
    link = connected(pool, "a")
    pool.join("second", 0.0, PATIENCE)
    assert pool.begin_connecting(0.0)
    pool.join("third", 10.0, PATIENCE)
    assert pool.release(link) == "second"


def test_a_failed_attempt_fails_the_waiting_callers() -> None:
    """If there is no other link, every caller that waits gets the error of connecting."""
    pool, error = places(), OSError("refused")
    for caller in ("first", "second"):
        pool.join(caller, 0.0, PATIENCE)
    assert pool.begin_connecting(0.0)
    assert pool.failed(error, 1.0) == ["first", "second"]
    pool.join("third", 1.0, PATIENCE)
    assert pool.begin_connecting(1.0)


def test_a_failed_attempt_fails_the_next_caller() -> None:
    """An attempt that failed after its callers had left fails the next one, if that comes soon, and only that."""
    for age, is_news in ((ATTEMPT_INTERVAL / 2, True), (ATTEMPT_INTERVAL, False)):
        pool, error = places(), OSError("refused")
        pool.join("first", 0.0, PATIENCE)
        assert pool.begin_connecting(0.0)
        pool.leave("first")
        assert pool.failed(error, 1.0) == []
        if is_news:
            with pytest.raises(OSError, match="refused"):
                pool.join("second", 1.0 + age, PATIENCE)
        pool.join("third", 1.0 + age, PATIENCE)
        assert pool.begin_connecting(1.0 + age)


def test_a_failed_addition_changes_nothing_for_links_that_work() -> None:
    """A server that takes no more connections is not down: callers wait for a link in use, and growth pauses."""
    pool = places()
    link = connected(pool, "a")
    pool.join("second", 0.0, PATIENCE)
    assert pool.begin_connecting(0.0)
    assert pool.failed(OSError("max number of clients reached"), 0.0) == []
    assert not pool.begin_connecting(ATTEMPT_INTERVAL / 2)
    assert pool.release(link) == "second"
    pool.join("third", 0.0, PATIENCE)
    assert pool.begin_connecting(ATTEMPT_INTERVAL)


def test_no_link_outlives_its_epoch() -> None:
    """After `renew` no link that was idle, in use or being connected is used again; each is handed out for closing."""
    pool = places(maximum=3)
    idle, used = connected(pool, "idle"), connected(pool, "used")
    pool.release(idle)
    pool.join("late", 0.0, PATIENCE)
    assert pool.begin_connecting(0.0)
    late = Link("late", pool.epoch)
    pool.renew()
    assert pool.take() is None
    assert pool.connected(late) is None
    assert pool.release(used) is None
    assert pool.stale() == [idle, late, used]
    assert pool.stale() == []
    assert pool.begin_connecting(0.0)  # for the caller that still waits


def test_each_link_is_handed_out_for_closing_once() -> None:
    """A caller that found nothing to close keeps nothing when another one puts a link away."""
    pool = places()
    link = connected(pool, "a")
    found = pool.stale()
    link.is_in_step = False
    pool.release(link)
    assert found == []
    assert pool.stale() == [link]


def test_a_link_out_of_step_is_not_used_again() -> None:
    """A link whose reply is outstanding is closed, and its place is free."""
    pool = places(maximum=1)
    link = connected(pool, "a")
    link.is_in_step = False
    assert pool.release(link) is None
    assert pool.stale() == [link]
    connected(pool, "b")


def test_close_hands_out_what_is_idle() -> None:
    """Closing hands out the idle links, and each link in use when it comes back."""
    pool = places()
    idle, used = connected(pool, "idle"), connected(pool, "used")
    pool.release(idle)
    assert pool.close() == [idle]
    pool.release(used)
    assert pool.close() == [used]


@pytest.mark.parametrize("failure", ExchangeFailure)
@pytest.mark.parametrize("waited", [0.0, 0.01])
def test_the_first_exchange_of_a_link_blames_the_server(failure: ExchangeFailure, waited: float) -> None:
    """A link that fails in its first use was not closed by a server that had found it idle for too long."""
    link = Link("a", object())
    assert link.was_closed(failure, waited) is False


def test_a_link_that_was_used_before_may_have_been_closed_meanwhile() -> None:
    """The loss of such a link says that the server closed it; a late or unreadable reply does not."""
    pool = places()
    link = connected(pool, "a")
    pool.release(link)
    assert link.was_closed(ExchangeFailure.CLOSED, 0.0) is True
    assert link.was_closed(ExchangeFailure.CLOSED, 0.01) is True
    assert link.was_closed(ExchangeFailure.LATE, 0.0) is False
    assert link.was_closed(ExchangeFailure.OTHER, 0.01) is False


def test_a_late_reply_after_a_wait_says_nothing_about_the_server() -> None:
    """The caller that waited for its link had too little time left: it did not ask the server for long enough."""
    pool = places()
    link = connected(pool, "a")
    pool.release(link)
    with pytest.raises(NotAskedError, match=r"^the wait for a connection left too little time for an answer$"):
        link.was_closed(ExchangeFailure.LATE, 0.01)


def test_a_new_link_is_in_step_and_its_first_use_ends_at_its_release() -> None:
    """A link is new until it comes back for the first time."""
    pool = places()
    link = connected(pool, "a")
    assert (link.connection, link.epoch, link.is_in_step, link.is_new) == ("a", pool.epoch, True, True)
    pool.release(link)
    assert link.is_new is False


def test_a_caller_without_a_link_gets_the_reason_as_text() -> None:
    """The error says whether other callers use every connection or the first one is still being made."""
    pool = places(maximum=1)
    pool.join("first", 0.0, PATIENCE)
    assert pool.begin_connecting(0.0)
    assert str(pool.leave("first")) == "connecting takes longer than a call may wait"
    with pytest.raises(StillConnectingError, match=r"^connecting takes longer than a call may wait$"):
        pool.join("second", PATIENCE, PATIENCE)
    pool.connected(Link("a", pool.epoch))
    held = pool.take()
    assert held is not None
    pool.join("third", 1.0, PATIENCE)
    assert str(pool.leave("third")) == "every connection is in use"


def test_a_caller_that_was_served_has_left_already() -> None:
    """A caller that gives up at the moment in which it gets a link has no reason to report."""
    pool = places()
    pool.join("first", 0.0, PATIENCE)
    assert pool.begin_connecting(0.0)
    assert pool.connected(Link("a", pool.epoch)) == "first"
    assert pool.leave("first") is None


def test_idle_links_and_links_in_use_fill_the_pool() -> None:
    """The pool connects once more only while idle links and links in use together are fewer than the maximum."""
    pool = places(maximum=2)
    first = connected(pool, "a")
    second = connected(pool, "b")
    pool.release(second)
    pool.join("third", 0.0, PATIENCE)
    assert not pool.begin_connecting(0.0)
    assert pool.take() is second
    assert pool.release(first) == "third"


def test_growth_pauses_only_after_a_failed_addition() -> None:
    """A successful attempt ends the pause that a failed one began."""
    pool = places(maximum=3)
    held = connected(pool, "a")
    pool.join("second", 0.0, PATIENCE)
    assert pool.begin_connecting(0.0)
    assert pool.failed(OSError("max number of clients reached"), 5.0) == []
    assert not pool.begin_connecting(5.99)
    assert pool.begin_connecting(6.0)
    pool.connected(Link("b", pool.epoch))
    pool.join("third", 6.0, PATIENCE)
    assert pool.begin_connecting(6.0)
    assert held.epoch is pool.epoch


def test_a_failed_attempt_is_no_news_for_callers_of_links_that_work() -> None:
    """While another link is in use, a caller waits for it instead of failing with the last attempt to connect."""
    pool = places()
    link = connected(pool, "a")
    pool.join("second", 0.0, PATIENCE)
    assert pool.begin_connecting(0.0)
    pool.failed(OSError("refused"), 0.0)
    pool.join("third", 0.1, PATIENCE)
    assert [pool.release(link), pool.release(link)] == ["second", "third"]


def test_the_patience_counts_from_the_begin_of_connecting() -> None:
    """Callers wait for an attempt to connect for as long as any of them could have waited, at any time of day."""
    pool = places()
    pool.join("first", 1000.0, PATIENCE)
    assert pool.begin_connecting(1000.0)
    pool.join("second", 1000.0 + PATIENCE / 2, PATIENCE)
    with pytest.raises(StillConnectingError):
        pool.join("third", 1000.0 + 2 * PATIENCE, PATIENCE)


def test_every_renewal_begins_another_epoch() -> None:
    """A link of the epoch that began with one renewal is closed after the next one."""
    pool = places()
    pool.renew()
    link = connected(pool, "a")
    pool.renew()
    assert pool.release(link) is None
    assert pool.stale() == [link]
