from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from resilience.config import Config, ConfigurationWarning, load
from resilience.errors import ConfigurationError

ATTEMPTS = "RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS"


def _refusal(environ: dict[str, str], **more: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(environ, **more)  # type: ignore[arg-type]  # each test passes what its law is about
    return caught.value


def _retry_attempts(config: Config, name: str = "payments") -> object:
    return getattr(config.pipeline(name)["retry"], "attempts")  # noqa: B009 - the mapping is typed as plain Options


# One error


def test_a_bad_value_names_variable_value_rule_and_default() -> None:
    """One error tells what to fix: which variable, what it holds, what is expected, what the default is (L23)."""
    error = _refusal({ATTEMPTS: "abc"})
    assert str(error) == f"{ATTEMPTS}='abc': expected a whole number from 1 to 1,000, or none (no limit) (default 3)"


def test_five_mistakes_are_one_error_of_five_lines() -> None:
    """Every mistake shows at the first start, not one a start (L23)."""
    error = _refusal(
        {
            ATTEMPTS: "abc",
            "RESILIENCE_SERVER__DEADLINE": "-1",
            "RESILIENCE_REDIS__OUTAGE": "panic",
            "RESILIENCE_HEALTH__DETAILS": "maybe",
            "RESILIENCE_CONFIG_FILE": "/nowhere/at/all.toml",
        }
    )
    assert len(error.problems) == 5
    assert str(error).splitlines()[0] == "5 configuration problems:"
    assert len(str(error).splitlines()) == 6


def test_no_other_exception_is_chained() -> None:
    """The traceback of a bad start is one error, and holds no value that the message has hidden."""
    error = _refusal({"RESILIENCE_REDIS__URL": "hunter2", ATTEMPTS: "hunter3"})
    text = "".join(traceback.format_exception(error))
    assert "hunter2" not in text
    assert error.__cause__ is None
    assert error.__context__ is None


def test_the_problem_holds_no_secret_value() -> None:
    """Code that reads the problems of an error finds a secret neither as text nor as value."""
    (problem,) = _refusal({"RESILIENCE_REDIS__URL": "hunter2"}).problems
    assert problem.value == "***"


def test_fields_wrong_only_together_are_named_by_their_variables() -> None:
    """A rule between fields is reported under the variable that was set."""
    error = _refusal({"RESILIENCE_PIPELINE__PAYMENTS__BREAKER__MINIMUM_CALLS": "300"})
    (problem,) = error.problems
    assert problem.option == "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__MINIMUM_CALLS"
    assert "sliding_window (100)" in problem.expected


def test_an_inherited_mistake_is_reported_once_under_the_variable_that_made_it() -> None:
    """Ten pipelines that inherit one mistake make one line."""
    environ = {f"RESILIENCE_PIPELINE__P{number}__BREAKER__FAIL_MAX": "3" for number in range(10)}
    environ["RESILIENCE_PIPELINE__DEFAULT__BREAKER__MINIMUM_CALLS"] = "300"
    (problem,) = _refusal(environ).problems
    assert problem.option == "RESILIENCE_PIPELINE__DEFAULT__BREAKER__MINIMUM_CALLS"


def test_fields_beside_a_bad_one_are_not_judged_together() -> None:
    """A consequence of a mistake is not reported as a second mistake."""
    error = _refusal(
        {
            "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__MINIMUM_CALLS": "300",
            "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__SLIDING_WINDOW": "lots",
        }
    )
    assert [problem.option for problem in error.problems] == ["RESILIENCE_PIPELINE__PAYMENTS__BREAKER__SLIDING_WINDOW"]


def test_fields_that_inherit_a_bad_one_are_not_judged_together() -> None:
    """If a value that a pipeline inherits is wrong, its own values are judged at the next start."""
    error = _refusal(
        {
            "RESILIENCE_PIPELINE__DEFAULT__BREAKER__SLIDING_WINDOW": "lots",
            "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__MINIMUM_CALLS": "300",
        }
    )
    assert [problem.option for problem in error.problems] == ["RESILIENCE_PIPELINE__DEFAULT__BREAKER__SLIDING_WINDOW"]


@pytest.mark.parametrize("section", ["PIPELINE__PAYMENTS__RATE_LIMIT", "LIMITER__LOGIN"])
def test_a_limit_without_a_rate_is_a_mistake(section: str) -> None:
    """A limit that was asked for is never silently unlimited."""
    (problem,) = _refusal({f"RESILIENCE_{section}__BURST": "10"}).problems
    assert str(problem).startswith(f"RESILIENCE_{section}__RATE is not set: expected a rate such as 100/minute")
    assert f"because RESILIENCE_{section}__BURST is set" in str(problem)


def test_a_limit_without_a_rate_that_pipelines_inherit_is_one_mistake() -> None:
    """The mistake is reported where it was made, not again for each pipeline that inherits it."""
    environ = {f"RESILIENCE_PIPELINE__P{number}__RETRY__ATTEMPTS": "3" for number in range(10)}
    environ["RESILIENCE_PIPELINE__DEFAULT__RATE_LIMIT__BURST"] = "10"
    (problem,) = _refusal(environ).problems
    assert problem.option == "RESILIENCE_PIPELINE__DEFAULT__RATE_LIMIT__RATE"


# Names


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("RESILIENCE_SERVER__RATELIMIT", "RESILIENCE_SERVER__RATE_LIMIT"),
        ("RESILIENCE_SERVER_DEADLINE", "RESILIENCE_SERVER__DEADLINE"),
        ("RESILIENCE_REDIS_URL", "RESILIENCE_REDIS__URL"),
        ("RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATEMPTS", ATTEMPTS),
        ("RESILIENCE_PIPELINES__PAYMENTS__RETRY__ATTEMPTS", ATTEMPTS),
        ("RESILIENCE_PIPELINE__RETRY__ATTEMPTS", "RESILIENCE_PIPELINE__DEFAULT__RETRY__ATTEMPTS"),
        ("RESILIENCE_RETRY__ATTEMPTS", "RESILIENCE_PIPELINE__DEFAULT__RETRY__ATTEMPTS"),
        (
            "RESILIENCE_PIPELINE__PAYMENTS__CIRCUIT_BREAKER__FAIL_MAX",
            "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__FAIL_MAX",
        ),
        ("RESILIENCE_STRIKT", "RESILIENCE_STRICT"),
        ("RESILIENCE_LIMITER__LOGIN__MAX_WAIT", None),
        ("RESILIENCE_", None),
        ("RESILIENCE___", None),
        ("RESILIENCE_PIPELINE____RETRY__ATTEMPTS", None),
    ],
)
def test_an_unknown_variable_is_warned_about_with_what_was_meant(wrong: str, meant: str | None) -> None:
    """A typing mistake is never silent, and the nearest real name is offered."""
    with pytest.warns(ConfigurationWarning) as warned:
        config = load({wrong: "hunter2"})
    (problem,) = config.unknown
    assert problem.option == wrong
    assert "hunter2" not in str(warned[0].message)
    if meant is not None:
        assert problem.hint == f"did you mean {meant}?"


@pytest.mark.parametrize("strict", [{"RESILIENCE_STRICT": "true"}, {"RESILIENCE_STRICT": "On"}])
def test_strict_mode_refuses_unknown_variables(strict: dict[str, str]) -> None:
    """In strict mode a typing mistake stops the start."""
    error = _refusal({"RESILIENCE_SERVER__RATELIMIT": "5/second", **strict})
    assert str(error) == "RESILIENCE_SERVER__RATELIMIT: no such variable (did you mean RESILIENCE_SERVER__RATE_LIMIT?)"


def test_the_argument_beats_the_variable_in_strictness_too() -> None:
    """`strict=` in code wins over RESILIENCE_STRICT, either way."""
    _refusal({"RESILIENCE_TYPO__X": "1"}, strict=True)
    with pytest.warns(ConfigurationWarning):
        load({"RESILIENCE_TYPO__X": "1", "RESILIENCE_STRICT": "true"}, strict=False)


def test_the_warning_points_at_the_caller() -> None:
    """The warning names the line that loads, so that it can be filtered and found."""
    with pytest.warns(ConfigurationWarning) as warned:
        load({"RESILIENCE_TYPO": "1"})
    assert warned[0].filename == __file__


def test_variables_of_others_are_left_alone() -> None:
    """Other prefixes, and what Kubernetes injects for a service called resilience, are nobody's typing mistake."""
    config = load(
        {
            "PATH": "/bin",
            "RESILIENCE": "1",
            "XRESILIENCE_SERVER__DEADLINE": "x",
            "RESILIENCE_SERVICE_HOST": "10.0.0.1",
            "RESILIENCE_SERVICE_PORT": "80",
            "RESILIENCE_SERVICE_PORT_HTTP": "80",
            "RESILIENCE_PORT": "tcp://10.0.0.1:80",
            "RESILIENCE_PORT_80_TCP": "tcp://10.0.0.1:80",
            "RESILIENCE_PORT_80_TCP_ADDR": "10.0.0.1",
            "RESILIENCE_DEMO_SERVICE_HOST": "10.0.0.1",
        },
        strict=True,
    )
    assert config.unknown == ()
    assert not [setting for setting in config.values() if setting.source.startswith("RESILIENCE_")]


@pytest.mark.parametrize("spelled", ["PAYMENTS_API", "payments-api", "Payments.Api", "payments/api", "payments_api"])
@pytest.mark.parametrize("asked", ["payments-api", "payments.api", "PAYMENTS_API", "payments/api"])
def test_instance_names_match_after_folding(spelled: str, asked: str) -> None:
    """`-`, `.`, `/`, `_` and case make no difference in the name of an instance."""
    config = load({f"RESILIENCE_PIPELINE__{spelled}__RETRY__ATTEMPTS": "7"})
    assert _retry_attempts(config, asked) == 7


def test_two_variables_for_one_field_are_a_problem_that_names_both() -> None:
    """Nothing decides silently between two spellings of one setting."""
    one, other = (
        "RESILIENCE_PIPELINE__PAYMENTS_API__RETRY__ATTEMPTS",
        "RESILIENCE_PIPELINE__payments-api__RETRY__ATTEMPTS",
    )
    (problem,) = _refusal({one: "3", other: "3"}).problems
    assert one in str(problem)
    assert other in str(problem)


def test_an_empty_second_spelling_does_not_clash() -> None:
    """Empty is unset, also for the other spelling."""
    one, other = (
        "RESILIENCE_PIPELINE__PAYMENTS_API__RETRY__ATTEMPTS",
        "RESILIENCE_PIPELINE__payments-api__RETRY__ATTEMPTS",
    )
    assert _retry_attempts(load({one: "3", other: " "}), "payments-api") == 3


# Values


@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_empty_is_unset(empty: str) -> None:
    """A variable that is there and empty is as good as absent, known or not."""
    assert load({"RESILIENCE_SERVER__DEADLINE": empty, "RESILIENCE_TYPO": empty}, strict=True).server.deadline is None


@pytest.mark.parametrize("text", ["true", "1", "yes", "on", "TRUE", "On"])
def test_words_for_yes(text: str) -> None:
    """Booleans take the usual words in any case."""
    assert load({"RESILIENCE_HEALTH__DETAILS": text}).health.details is True


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8,192.168.0.1", " 10.0.0.0/8 , 192.168.0.1 ", '["10.0.0.0/8", "192.168.0.1"]']
)
def test_lists_are_commas_or_json(text: str) -> None:
    """Both ways to write a list mean the same."""
    assert load({"RESILIENCE_SERVER__TRUSTED_PROXIES": text}).server.trusted_proxies == ("10.0.0.0/8", "192.168.0.1")


def test_an_empty_list_can_be_written() -> None:
    """`[]` is a list of nothing, where an empty variable would mean the default."""
    assert load({"RESILIENCE_SERVER__EXCLUDE_PATHS": "[]"}).server.exclude_paths == ()


@pytest.mark.parametrize(
    ("text", "expected"), [("250ms", 0.25), ("30s", 30.0), ("5m", 300.0), ("2", 2.0), (" 1h\n", 3600.0)]
)
def test_durations_have_units(text: str, expected: float) -> None:
    """A bare number is seconds; white space around a value means nothing."""
    assert load({"RESILIENCE_SERVER__DEADLINE": text}).server.deadline == expected


def test_none_takes_a_limit_away_where_none_has_a_meaning() -> None:
    """`none` unsets what is inherited; where None means nothing, it is a bad value."""
    config = load(
        {"RESILIENCE_PIPELINE__DEFAULT__RETRY__TIMEOUT": "5s", "RESILIENCE_PIPELINE__PAYMENTS__RETRY__TIMEOUT": "None"}
    )
    assert getattr(config.pipeline("payments")["retry"], "timeout") is None  # noqa: B009 - see _retry_attempts
    _refusal({"RESILIENCE_PIPELINE__PAYMENTS__BULKHEAD__MAX_WAIT": "none"})


# Precedence and sources


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """Write a file that sets a little of everything."""
    path = tmp_path / "resilience.toml"
    path.write_text(
        '[server]\ndeadline = "3s"\nrate_limit_headers = true\n'
        "[pipeline.payments.retry]\nattempts = 4\n"
        '[pipeline."orders-api".timeout]\nseconds = 1.5\n',
        encoding="utf-8",
    )
    return path


def _sources(config: Config) -> dict[str, tuple[str, str]]:
    return {setting.variable: (setting.text, setting.source) for setting in config.values()}


def test_argument_beats_environment_beats_file_beats_default(toml: Path) -> None:
    """The strongest source wins, field by field, and is named."""
    environ = {
        "RESILIENCE_CONFIG_FILE": str(toml),
        "RESILIENCE_SERVER__DEADLINE": "2s",
        "RESILIENCE_SERVER__ERRORS": "problem",
    }
    found = _sources(load(environ, arguments={"server": {"errors": "json"}}))
    assert found["RESILIENCE_SERVER__ERRORS"] == ("json", "argument")
    assert found["RESILIENCE_SERVER__DEADLINE"] == ("2s", "RESILIENCE_SERVER__DEADLINE")
    assert found["RESILIENCE_SERVER__RATE_LIMIT_HEADERS"] == ("true", f"file: {toml}:server.rate_limit_headers")
    assert found["RESILIENCE_SERVER__RATE_LIMIT_KEY"] == ("ip", "default")
    assert found[ATTEMPTS] == ("4", f"file: {toml}:pipeline.payments.retry.attempts")
    assert found["RESILIENCE_PIPELINE__ORDERS_API__TIMEOUT__SECONDS"][0] == "1.5s"


def test_a_bad_value_is_reported_even_where_a_stronger_source_hides_it(toml: Path) -> None:
    """A mistake in the file shows now, not on the day the variable goes away."""
    toml.write_text('[server]\ndeadline = "soon"\n', encoding="utf-8")
    error = _refusal({"RESILIENCE_CONFIG_FILE": str(toml), "RESILIENCE_SERVER__DEADLINE": "2s"})
    assert [problem.option for problem in error.problems] == [f"{toml}:server.deadline"]


def test_pipelines_inherit_from_default_field_by_field() -> None:
    """What an instance does not say itself, DEFAULT says, and the source tells."""
    config = load(
        {
            "RESILIENCE_PIPELINE__DEFAULT__RETRY__ATTEMPTS": "2",
            "RESILIENCE_PIPELINE__DEFAULT__RETRY__WAIT_MAX": "9s",
            ATTEMPTS: "4",
        }
    )
    assert _retry_attempts(config) == 4
    assert _retry_attempts(config, "anything") == 2
    found = _sources(config)
    assert found["RESILIENCE_PIPELINE__PAYMENTS__RETRY__WAIT_MAX"] == (
        "9s",
        "RESILIENCE_PIPELINE__DEFAULT__RETRY__WAIT_MAX",
    )


def test_enabled_false_drops_an_inherited_policy_and_true_adds_one() -> None:
    """A switch of its own for every policy of every pipeline."""
    config = load(
        {
            "RESILIENCE_PIPELINE__DEFAULT__RETRY__ATTEMPTS": "2",
            "RESILIENCE_PIPELINE__PAYMENTS__RETRY__ENABLED": "false",
            "RESILIENCE_PIPELINE__PAYMENTS__BULKHEAD__ENABLED": "true",
        }
    )
    assert list(config.pipeline("payments")) == ["bulkhead"]
    assert list(config.pipeline("orders")) == ["retry"]
    shown = [setting.variable for setting in config.values(pipeline="payments") if "RETRY" in setting.variable]
    assert shown == ["RESILIENCE_PIPELINE__PAYMENTS__RETRY__ENABLED"]


def test_policies_come_in_the_recommended_order() -> None:
    """Retry, breaker, rate limit, bulkhead, timeout: outermost first, whatever the order of the variables."""
    environ = {
        f"RESILIENCE_PIPELINE__P__{policy}__ENABLED": "true" for policy in ("TIMEOUT", "BULKHEAD", "BREAKER", "RETRY")
    }
    environ["RESILIENCE_PIPELINE__P__RATE_LIMIT__RATE"] = "5/second"
    assert list(load(environ).pipeline("p")) == ["retry", "breaker", "rate_limit", "bulkhead", "timeout"]


def test_nothing_configured_is_no_policy_and_no_limiter() -> None:
    """Without a word about it, a pipeline is empty and a limiter unknown."""
    assert dict(Config().pipeline("x")) == {}
    assert Config().limiter("x") is None
    assert Config().values(pipeline="x") == ()


def test_a_limiter_has_rate_and_burst() -> None:
    """Limiters are configured by name."""
    options = load({"RESILIENCE_LIMITER__LOGIN__RATE": "5/minute", "RESILIENCE_LIMITER__LOGIN__BURST": "9"}).limiter(
        "login"
    )
    assert options is not None
    assert (options.rate, options.burst) == ("5/minute", 9)


def test_values_of_one_pipeline_exist_even_when_all_are_inherited() -> None:
    """A pipeline nobody mentions still has effective values."""
    config = load({"RESILIENCE_PIPELINE__DEFAULT__TIMEOUT__SECONDS": "800ms"})
    (seconds,) = [row for row in config.values(pipeline="New-One") if row.variable.endswith("SECONDS")]
    assert seconds.variable == "RESILIENCE_PIPELINE__NEW_ONE__TIMEOUT__SECONDS"
    assert (seconds.text, seconds.default_text) == ("800ms", "30s")
    assert seconds.source == "RESILIENCE_PIPELINE__DEFAULT__TIMEOUT__SECONDS"


# Arguments


def test_an_argument_that_does_not_exist_is_always_an_error() -> None:
    """Code is not warned: a wrong name in it is wrong."""
    error = _refusal({}, arguments={"pipeline": {"payments": {"retry": {"atempts": 3}}}})
    assert "pipeline.payments.retry.atempts: no such setting" in str(error)
    assert "did you mean pipeline.payments.retry.attempts?" in str(error)


def test_arguments_are_values_and_not_text() -> None:
    """In code a number is a number: "4" is refused where the constructor would refuse it too."""
    _refusal({}, arguments={"pipeline": {"payments": {"retry": {"attempts": "4"}}}})
    assert _retry_attempts(load({}, arguments={"pipeline": {"payments": {"retry": {"attempts": None}}}})) is None


# Files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[server\n", "line 1"),
        (b"\xff\xfe", "utf-8"),
        (b"x = " + b"[" * 100_000, ""),
        (b"#" * 1_000_001, "larger than 1,000,000 bytes"),
    ],
    ids=["not toml", "not text", "endless nesting", "too large"],
)
def test_a_broken_file_names_variable_path_and_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    """A file that cannot be used is one problem, of the variable that names it."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    (problem,) = _refusal({"RESILIENCE_CONFIG_FILE": str(path)}).problems
    assert problem.option == "RESILIENCE_CONFIG_FILE"
    assert problem.value == str(path)
    assert reason in problem.hint
    assert problem.hint


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nowhere.toml", "No such file"),
        ("/", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("a\x00b", "null"),
    ],
)
def test_a_path_that_is_no_file_is_one_problem(path: str, reason: str) -> None:
    """Directories, devices and what is not there are refused without being read."""
    (problem,) = _refusal({"RESILIENCE_CONFIG_FILE": path}).problems
    assert reason in problem.hint


@pytest.mark.parametrize(
    ("content", "spelled"),
    [
        ("[server]\nratelimit = 1\n", "server.ratelimit"),
        ("server = 5\n", "server"),
        ("strict = true\n", "strict"),
        ("[server.deadline]\nseconds = 1\n", "server.deadline.seconds"),
        ("[[pipeline]]\nname = 'x'\n", "pipeline"),
        ("[pipeline.x.retry.attempts]\nn = 1\n", "pipeline.x.retry.attempts.n"),
    ],
)
def test_an_unknown_key_of_the_file_is_treated_like_an_unknown_variable(
    tmp_path: Path, content: str, spelled: str
) -> None:
    """Warned about by default, refused in strict mode, named by file and key."""
    path = tmp_path / "r.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.warns(ConfigurationWarning, match="no such key"):
        load({"RESILIENCE_CONFIG_FILE": str(path)})
    (problem,) = _refusal({"RESILIENCE_CONFIG_FILE": str(path)}, strict=True).problems
    assert problem.option == f"{path}:{spelled}"


def test_two_keys_of_the_file_for_one_field_clash(tmp_path: Path) -> None:
    """Folding applies to the file too, and so does the refusal to choose."""
    path = tmp_path / "r.toml"
    path.write_text("[pipeline.a-b.retry]\nattempts=1\n[pipeline.a_b.retry]\nattempts=2\n", encoding="utf-8")
    (problem,) = _refusal({"RESILIENCE_CONFIG_FILE": str(path)}).problems
    assert "pipeline.a-b.retry.attempts" in str(problem)
    assert "pipeline.a_b.retry.attempts" in str(problem)


@pytest.mark.parametrize("value", ["1979-05-27", "[1, 2]", "true", '"abc"', "nan", "-1", "10000000000000000000000"])
def test_a_bad_value_in_the_file_names_file_and_key(tmp_path: Path, value: str) -> None:
    """A number is expected; everything else TOML can say is one problem."""
    path = tmp_path / "r.toml"
    path.write_text(f"[pipeline.a.retry]\nattempts = {value}\n", encoding="utf-8")
    (problem,) = _refusal({"RESILIENCE_CONFIG_FILE": str(path)}).problems
    assert problem.option == f"{path}:pipeline.a.retry.attempts"


def test_text_in_the_file_is_read_like_text_of_a_variable(tmp_path: Path) -> None:
    """`"5s"`, `"4"` and an empty string mean in the file what they mean in a variable."""
    path = tmp_path / "r.toml"
    path.write_text('[server]\ndeadline = "5s"\nmax_concurrent_requests = "4"\nrate_limit = ""\n', encoding="utf-8")
    server = load({"RESILIENCE_CONFIG_FILE": str(path)}).server
    assert (server.deadline, server.max_concurrent_requests, server.rate_limit) == (5.0, 4, None)


def test_no_file_can_be_said() -> None:
    """`none` is no file; so is an argument of None."""
    assert load({"RESILIENCE_CONFIG_FILE": "none"}, strict=True).unknown == ()
    assert load({"RESILIENCE_CONFIG_FILE": "/nowhere"}, arguments={"config_file": None}).unknown == ()


# The object


def test_the_environment_of_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load()` means the environment as it is now."""
    monkeypatch.setenv("RESILIENCE_SERVER__DEADLINE", "7s")
    assert load().server.deadline == 7.0
    assert "RESILIENCE_SERVER__DEADLINE" in os.environ


def test_a_configuration_cannot_be_changed() -> None:
    """What was validated stays what it was."""
    config = Config()
    with pytest.raises(AttributeError):
        config.unknown = ()  # type: ignore[misc]  # the law under test


def test_every_section_is_typed() -> None:
    """Each section is an Options object with its variables applied."""
    config = load(
        {
            "RESILIENCE_SERVICE__NAME": "orders",
            "RESILIENCE_REDIS__TIMEOUT": "100ms",
            "RESILIENCE_HEALTH__CACHE": "0",
            "RESILIENCE_LIFECYCLE__DRAIN_TIMEOUT": "2s",
        }
    )
    assert config.service.name == "orders"
    assert config.redis.timeout == 0.1
    assert config.health.cache == 0.0
    assert config.lifecycle.drain_timeout == 2.0


def test_a_proxy_that_is_no_network_stops_the_start() -> None:
    """A trusted proxy nobody can read is reported with its variable, like any other mistake (L23)."""
    with pytest.raises(ConfigurationError, match=r"RESILIENCE_SERVER__TRUSTED_PROXIES='10\.0\.0\.0/99'"):
        load({"RESILIENCE_SERVER__TRUSTED_PROXIES": "10.0.0.0/99"})
    assert load({"RESILIENCE_SERVER__TRUSTED_PROXIES": "10.0.0.0/8,::1"}).server.trusted_proxies == (
        "10.0.0.0/8",
        "::1",
    )


def test_a_pipeline_is_configured_by_its_own_settings_alone() -> None:
    """`has_pipeline` is true for a name with settings of its own, however spelt, not for one that only inherits."""
    config = load({"RESILIENCE_PIPELINE__SHOP_ORDERS__RETRY__ATTEMPTS": "4"})
    assert config.has_pipeline("shop.Orders")
    assert not config.has_pipeline("shop.Orders/Get")
    assert not config.has_pipeline("default")
    assert load({"RESILIENCE_PIPELINE__DEFAULT__RETRY__ATTEMPTS": "4"}).has_pipeline("default")
