"""Where the limits of an envelope's fields are."""

from typing import Any

import pytest

from resilience.envelope import http_envelope, title_of
from resilience.envelope._machine import INTERNAL_MESSAGE, MEANINGS, Meaning, is_code, meaning_of, seconds_known
from resilience.errors import ConfigurationError


def test_a_code_of_the_longest_length_is_one() -> None:
    """A code may have 63 characters, as the reason of google.rpc.ErrorInfo may."""
    assert is_code("A" * 63)
    assert not is_code("A" * 64)


def test_waits_are_told_by_the_millisecond_from_none_to_a_year() -> None:
    """Both ends are waits; a fraction of a millisecond is rounded away."""
    assert [seconds_known(wait) for wait in (0, 1.23456, 31_536_000.0)] == [0.0, 1.235, 31_536_000.0]
    assert [seconds_known(wait) for wait in (-0.001, 31_536_000.5)] == [None, None]


def test_a_status_nobody_registered_speaks_for_its_class() -> None:
    """From 500 on it is the server's mistake and says nothing of it; below that it is the client's."""
    assert 500 in MEANINGS
    assert meaning_of(599) == Meaning("HTTP_599", "Server Error", INTERNAL_MESSAGE, "INTERNAL", "internal")
    client = Meaning("HTTP_498", "Client Error", "The request is not valid.", "INVALID_ARGUMENT", "client")
    assert meaning_of(498) == client


def test_titles_are_those_of_http() -> None:
    """A problem's title is HTTP's own phrase for its status (RFC 9457, 4.2.1), or where HTTP has none, its class."""
    titles = {404: "Not Found", 418: "I'm a Teapot", 507: "Insufficient Storage", 499: "Client Closed Request"}
    for status, title in {**titles, 498: "Client Error", 520: "Server Error"}.items():
        assert title_of(status) == http_envelope(status).problem()["title"] == title
    refused: list[Any] = [399, 600, True, 404.0]
    for status in refused:
        with pytest.raises(ConfigurationError, match="from 400 to 599"):
            title_of(status)
