"""Secrets that reach a log call do not reach the line."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest

from resilience import ConfigurationError
from resilience.logs import JsonFormatter, TextFormatter

SECRET = "s3cretv4lue"  # noqa: S105 - of these tests


def fail(error: Exception) -> None:
    raise error


def line_of(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(JsonFormatter().format(logging.makeLogRecord({"levelname": "INFO", **fields})))
    return found


@pytest.mark.parametrize(
    "name",
    [
        "password", "db_password", "passwd", "PASSWORD", "client_secret", "token", "accessToken", "X-Api-Key", "apikey",
        "aws_access_key_id", "private-key", "privateKey", "Authorization", "Set-Cookie", "credentials",
        "session_id", "refresh_tokens",
    ],
)  # fmt: skip
def test_a_field_with_a_telling_name_is_hidden(name: str) -> None:
    """The value of a field named after a secret is `***`, at any depth and whatever its type."""
    for value in (SECRET, [SECRET], {"a": SECRET}, SECRET.encode()):
        assert SECRET not in JsonFormatter().format(logging.makeLogRecord({"msg": "x", name: value}))
    assert SECRET not in json.dumps(line_of(msg="x", order={"card": [{name: SECRET}]}))


@pytest.mark.parametrize("name", ["max_tokens", "prompt_tokens", "key", "keyboard", "author", "order_id", "passenger"])
def test_other_fields_stay(name: str) -> None:
    """A field whose name only resembles that of a secret keeps its value; so does a number of tokens."""
    assert line_of(msg="x", **{name: 5})[name] == 5


@pytest.mark.parametrize(
    "text",
    [
        f"connect to redis://app:{SECRET}@cache:6379/0",
        f"password={SECRET}",
        f"GET /login?user=a&access_token={SECRET}&x=1",
        f"{{'user': 'a', 'password': '{SECRET}'}}",
        f'{{"api_key": "{SECRET}"}}',
        f"Authorization: Bearer {SECRET}",
        f"{{'authorization': 'Basic {SECRET}'}}",
        f"sent Bearer {SECRET}",
        f"Cookie: session={SECRET}; other={SECRET}",
        f"User(name='a', password='{SECRET}')",
        f"host=db password='{SECRET}' dbname=x",
    ],
)
@pytest.mark.parametrize("form", [JsonFormatter, TextFormatter])
def test_a_secret_within_a_text_is_hidden(text: str, form: type[logging.Formatter]) -> None:
    """Credentials in URLs, parameters, headers and representations are hidden in messages, fields and tracebacks."""
    with pytest.raises(ConnectionError) as raised:
        fail(ConnectionError(text))
    record = logging.makeLogRecord(
        {
            "msg": "failed: %s",
            "args": (text,),
            "levelname": "ERROR",
            "reason": text,
            "cause": raised.value,
            "exc_info": (raised.type, raised.value, raised.tb),
        }
    )
    # The source line of a traceback holds names alone; the parameter of this test is not in it.
    assert SECRET not in form().format(record)


def test_what_is_no_secret_stays_readable() -> None:
    """A usual message is not changed."""
    for text in (
        "GET http://bank.example/pay?order=1 took 3 s",
        "max_tokens=100, key: value, at 12:30",
        "circuit 'payments.breaker' (bank.example) opened: 12 of 20 calls failed (failure rate)",
        "mail to a@b.example",
    ):
        assert line_of(msg=text)["event"] == text


def test_words_of_the_service_are_hidden_as_well() -> None:
    """`redact` adds words for the names of fields and for texts."""
    form = JsonFormatter(redact=["iban", "card-number"])
    record = logging.makeLogRecord({"msg": f"iban={SECRET}", "customer_iban": SECRET, "cardNumber": 1})
    line = json.loads(form.format(record))
    assert (line["event"], line["customer_iban"], line["cardNumber"]) == ("iban=***", "***", "***")


def test_wrong_arguments_are_refused_at_construction() -> None:
    """An error names the option, the value and the rule."""
    with pytest.raises(ConfigurationError, match=r"max_text.*5"):
        JsonFormatter(max_text=5)
    with pytest.raises(ConfigurationError, match="redact"):
        TextFormatter(redact=["a b"])


@pytest.mark.parametrize(
    "unit", ["://", "password", "token=", "Bearer ", "authorization:", "'token':\"", "cookie : ", "=:@ "]
)
def test_no_text_costs_more_than_its_length(unit: str) -> None:
    """A text of 8,000 characters made of the beginnings of secrets is formatted in milliseconds."""
    record = logging.makeLogRecord({"msg": unit * (8000 // len(unit)) + "@", "levelname": "INFO"})
    form = JsonFormatter()
    began = time.process_time()
    form.format(record)
    assert time.process_time() - began < 0.5
