from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracked_variables import variables_of

from resilience import Resilience
from resilience._support.redaction import Secret, redacted
from resilience.config import ConfigurationWarning, load
from resilience.errors import ConfigurationError
from resilience.redis import RedisConnection
from resilience.redis._options import RedisOptions

PASSWORD = "hunter2"  # noqa: S105 - the one that must never show
URL = f"redis://shop:{PASSWORD}@cache:6379/0?password={PASSWORD}&db=1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://shop:hunter2@cache:6379/0", "redis://shop:***@cache:6379/0"),
        ("redis://:hunter2@cache", "redis://:***@cache"),
        ("redis://hunter2@cache", "redis://***@cache"),
        ("rediss://u:hun@ter2@cache", "rediss://u:***@cache"),
        ("redis://u:hun/ter2@cache/0", "redis://u:***@cache/0"),
        ("redis://u:hun?ter2@cache/0", "redis://***"),
        ("redis://cache/0?password=hun@ter2", "redis://***"),
        ("redis://cache/0?db=1&password=hunter2", "redis://cache/0?***"),
        ("unix://u:hunter2@/run/redis.sock", "unix://u:***@/run/redis.sock"),
        ("hunter2", "***"),
    ],
)
def test_a_secret_url_shows_its_place_and_no_password(url: str, shown: str) -> None:
    """The host helps to find a mistake; whatever could be a password is hidden, ambiguous cases whole."""
    assert redacted(url, secret=True) == shown


@given(
    st.text(min_size=8, alphabet=st.characters(codec="ascii", exclude_characters="*r")),
    st.sampled_from(["u:{}@h", "{}@h", ":{}@h/0", "h/0?password={}"]),
)
def test_no_password_survives(password: str, shape: str) -> None:
    """Whatever a password holds, it is not to be found in what is shown."""
    assert password not in redacted("redis://" + shape.format(password), secret=True)


def test_passwords_in_urls_are_hidden_even_where_no_secret_is_expected() -> None:
    """A URL in an ordinary option loses its password and keeps the rest."""
    assert redacted("https://u:hunter2@docs/errors?x=1", secret=False) == "https://u:***@docs/errors?x=1"
    assert redacted(("https://u:p@h", "plain"), secret=False) == ("https://u:***@h", "plain")


def test_nothing_and_numbers_need_no_hiding() -> None:
    """None says that nothing is set, which is no secret; other values are."""
    assert redacted(None, secret=True) is None
    assert redacted(5, secret=True) == "***"
    assert redacted(5, secret=False) == 5


def test_no_text_of_a_configuration_shows_a_secret() -> None:
    """The configuration, its sections and every row of the table hide what is secret."""
    config = load({"RESILIENCE_REDIS__URL": URL})
    assert config.redis.url == URL
    for text in (repr(config), repr(config.redis), repr(config.values()), str(config)):
        assert PASSWORD not in text
    assert "redis://shop:***@cache:6379/0" in repr(config)


@pytest.mark.parametrize("url", [f"http://u:{PASSWORD}@h", PASSWORD, f"//u:{PASSWORD}@h"])
def test_no_error_shows_a_secret(url: str) -> None:
    """A bad secret is reported without being shown, in the environment and in code."""
    with pytest.raises(ConfigurationError) as caught:
        load({"RESILIENCE_REDIS__URL": url})
    assert PASSWORD not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        RedisOptions(url=url)
    assert PASSWORD not in str(caught.value)


def test_a_secret_under_a_misspelt_name_is_not_shown() -> None:
    """An unknown variable is named, its value never."""
    with pytest.warns(ConfigurationWarning) as warned:
        load({"RESILIENCE_REDIS__PASSWORD": PASSWORD})
    assert PASSWORD not in str(warned[0].message)


@pytest.mark.parametrize(
    "fail",
    [
        lambda: load({"RESILIENCE_REDIS__URL": URL, "RESILIENCE_SERVER__DEADLINE": "soon"}),
        lambda: load({"RESILIENCE_REDIS__URL": f"http://u:{PASSWORD}@cache"}),
        lambda: Resilience.from_env({"RESILIENCE_REDIS__URL": URL, "RESILIENCE_SERVER__DEADLINE": "soon"}),
        lambda: Resilience.from_env({}, redis={"url": URL}, server={"deadline": "soon"}),
        lambda: Resilience.from_env({"RESILIENCE_REDIS__URL": f"redis://u:{PASSWORD}@cache?nonsense=1"}),
        lambda: RedisConnection.from_url(f"redis://u:{PASSWORD}@cache?nonsense=1"),
        lambda: RedisConnection.from_url(f"http://u:{PASSWORD}@cache"),
    ],
    ids=["variable", "url", "toolkit", "argument", "parameter", "connection", "connection-url"],
)
def test_no_local_variable_shows_a_secret(fail: Callable[[], object]) -> None:
    """Whatever is wrong with a configuration, no variable of a frame of ours shows a password to an error tracker."""
    with pytest.raises(ConfigurationError) as caught:
        fail()
    assert PASSWORD not in variables_of(caught.value)


def test_a_secret_is_its_text_but_for_its_repr() -> None:
    """A secret is hidden from `repr` alone; it is equal to its text, and written and encoded as such."""
    secret = Secret(URL)
    assert (secret, f"{secret}", str(secret), secret.encode()) == (URL, URL, URL, URL.encode())
    assert PASSWORD not in repr(secret)
    assert PASSWORD not in repr({"url": [secret]})
    assert pickle.loads(pickle.dumps(secret)) == URL
    assert type(pickle.loads(pickle.dumps(secret))) is Secret


def test_a_value_that_is_no_secret_is_shown() -> None:
    """Hiding what may be a secret keeps no mistake in another value from being shown."""
    with pytest.raises(ConfigurationError, match="'soon'"):
        Resilience.from_env({"RESILIENCE_SERVER__DEADLINE": "soon"})
    with pytest.raises(ConfigurationError, match="'soon'"):
        Resilience.from_env({}, server={"errors": "soon"})
