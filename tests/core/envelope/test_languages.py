"""Messages in the client's language."""

from __future__ import annotations

import copy
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.envelope import ErrorCatalog, envelope_of, http_envelope, read_envelope
from resilience.envelope._languages import chosen
from resilience.errors import ConfigurationError, RateLimitedError


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, "en"),
        ("", "en"),
        ("de", "de"),
        ("DE", "de"),
        ("de-CH", "de"),
        ("pt-br", "pt-br"),
        ("pt", "en"),
        ("fr, de;q=0.5", "de"),
        ("de;q=0.5, en;q=0.8", "en"),
        ("de;q=0.5, en-GB;q=0.8", "en"),
        ("en;q=0.2, de;q=0.3", "de"),
        ("de;q=0", "en"),
        ("de;q=0, *", "en"),
        ("*", "en"),
        ("*, de", "en"),
        ("de;q=soon", "en"),
        ("zh-Hant-TW, pt-BR-x-old;q=0.9", "pt-br"),
        (",".join(["fr"] * 20 + ["de"]), "en"),
    ],
)
def test_the_best_language_there_is(header: str | None, expected: str) -> None:
    """The language wanted most of those there are, a region of it counting as it, else the catalogue's own."""
    assert chosen(header, {"de", "pt-br"}, "en") == expected


@given(st.text(max_size=300))
def test_any_header_is_survived(header: str) -> None:
    """Whatever the header holds, one of the languages there are is chosen."""
    assert chosen(header, {"de"}, "en") in {"de", "en"}


@pytest.fixture
def catalog() -> ErrorCatalog:
    catalog = ErrorCatalog("orders")
    catalog.define(
        "ORDERS_V001", "No such article.", category="validation", translations={"de": "Unbekannter Artikel."}
    )
    catalog.define("ORDERS_C001", "Sold out.", http_status=409)
    catalog.translate("de_AT", {"ORDERS_V001": "Kenn ma net.", "RATE_LIMITED": "Zu viele Anfragen."})
    catalog.translate("de", {"NOT_FOUND": "Hier ist nichts."})
    return catalog


def test_an_error_speaks_the_clients_language(catalog: ErrorCatalog) -> None:
    """A catalogue's message is sent in the client's language, which is named, and caches are told it varies."""
    envelope = catalog.localized(envelope_of(catalog.error("ORDERS_V001")), "de-AT, en;q=0.5")
    assert envelope.body()["message"] == "Kenn ma net."
    assert envelope.response_headers() == {"Content-Language": "de-at", "Vary": "Accept-Language"}
    assert envelope.problem()["detail"] == "Kenn ma net."
    english = catalog.localized(envelope_of(catalog.error("ORDERS_V001")), None)
    assert (english.message, english.response_headers()["Content-Language"]) == ("No such article.", "en")


def test_other_messages_stay(catalog: ErrorCatalog) -> None:
    """A message the code gave itself, and one nobody translated, stay as they are and say nothing of languages."""
    for error in (catalog.error("ORDERS_V001", "No article x-1."), catalog.error("ORDERS_C001"), ValueError("x")):
        envelope = envelope_of(error)
        assert catalog.localized(envelope, "de") == envelope
        assert envelope.response_headers() == {}


def test_the_toolkits_own_messages_can_be_translated(catalog: ErrorCatalog) -> None:
    """Refusals of the toolkit and errors of the framework are translated by their codes, and keep their headers."""
    envelope = catalog.localized(envelope_of(RateLimitedError("x", retry_after=2)), "de-AT")
    assert envelope.message == "Zu viele Anfragen."
    assert envelope.response_headers()["Retry-After"] == "2"
    assert catalog.localized(http_envelope(404), "de").message == "Hier ist nichts."
    assert catalog.localized(http_envelope(404, message="Not Found"), "de").message == "Hier ist nichts."
    assert catalog.localized(http_envelope(404, message="No order 5."), "de").message == "No order 5."
    catalog.translate("de", {"CANCELLED": "Abgebrochen.", "VALIDATION_FAILED": "Ungültig."})
    assert catalog.localized(http_envelope(499, message="bye"), "de").message == "bye"
    assert catalog.localized(http_envelope(422, message=HTTPStatus(422).phrase), "de").message == "Ungültig."
    assert ErrorCatalog("other").localized(http_envelope(404), "de").message == "There is nothing here."


def test_vary_is_added_to(catalog: ErrorCatalog) -> None:
    """An error that varies by something else already varies by both."""
    error = catalog.error("ORDERS_V001", headers={"vary": "Origin"})
    assert catalog.localized(envelope_of(error), "de").response_headers()["vary"] == "Origin, Accept-Language"


def test_translations_travel_with_the_error(catalog: ErrorCatalog) -> None:
    """An error knows its translations itself, copies too: where it is answered nobody has to know its catalogue."""
    error = copy.copy(catalog.error("ORDERS_V001"))
    assert envelope_of(error).in_language("de").message == "Unbekannter Artikel."


def test_messages_from_elsewhere_stay(catalog: ErrorCatalog) -> None:
    """An error from another service keeps a message of its own in every language; the catalogue's is translated."""
    told = {"Article 7 was deleted on Monday.": "Article 7 was deleted on Monday.", "No such article.": "Kenn ma net."}
    for message, expected in told.items():
        status = catalog.get("ORDERS_V001").http_status
        error = read_envelope(status, {"code": "ORDERS_V001", "message": message}, {}, catalog=catalog)
        assert error is not None
        assert (error.message, str(error)) == (message, message)
        assert catalog.localized(envelope_of(error), "de-AT").message == expected


def test_what_is_not_translated_yet(catalog: ErrorCatalog) -> None:
    """A test of a service can ask which of its codes lack a language."""
    assert catalog.untranslated("de") == ("ORDERS_C001",)
    assert catalog.untranslated("fr") == ("ORDERS_V001", "ORDERS_C001")


def test_another_first_language() -> None:
    """A catalogue may be written in any language, which is then what clients without a wish get."""
    catalog = ErrorCatalog("orders", language="de")
    catalog.define("ORDERS_V001", "Unbekannter Artikel.", translations={"en": "No such article."})
    envelope = envelope_of(catalog.error("ORDERS_V001"))
    assert catalog.localized(envelope, "fr").message == "Unbekannter Artikel."
    assert catalog.localized(envelope, "en").message == "No such article."


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda catalog: catalog.translate("german language", {}), "language='german language'"),
        (lambda catalog: catalog.translate("de", {"ORDERS_V002": "x"}), "did you mean ORDERS_V001"),
        (lambda catalog: catalog.translate("de", {"ORDERS_V001": ""}), r"translations\[de\]=''"),
        (lambda catalog: catalog.define("X_1", "x", translations={"?": "x"}), r"translations='\?'"),
        (lambda _: ErrorCatalog("orders", language="!"), "language='!'"),
    ],
)
def test_refuses_what_is_wrong(catalog: ErrorCatalog, make: Any, named: str) -> None:
    """A translation that cannot be sent is refused where it is given, and nothing of it is kept."""
    with pytest.raises(ConfigurationError, match=named):
        make(catalog)


@pytest.mark.parametrize(
    ("members", "headers", "expected"),
    [
        ({"request_id": "5f0c"}, {"X-Request-ID": "other"}, "5f0c"),
        ({}, {"x-request-id": "5f0c"}, "5f0c"),
        ({"request_id": ""}, {}, ""),
        ({"request_id": 7}, {}, ""),
        ({"request_id": "a\nb"}, {}, ""),
        ({"request_id": "x" * 129}, {}, ""),
        ({"request_id": "ü"}, {}, ""),
    ],
)
def test_the_other_sides_request_id_is_kept(members: dict[str, Any], headers: dict[str, str], expected: str) -> None:
    """An error from another service names the request in that one's logs, by its body or else its header."""
    error = read_envelope(409, {"code": "X_1", "message": "m", **members}, headers)
    assert error is not None
    assert error.remote_request_id == expected
    assert copy.copy(error).remote_request_id == expected
    assert envelope_of(error, request_id="ours").request_id == "ours"
