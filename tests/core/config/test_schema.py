from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import resilience
from resilience.config import Config, load
from resilience.config._names import variable
from resilience.config._render import written
from resilience.config._schema import SECTIONS, Section, find, section
from resilience.options import Instance, Opaque, Options, Rule, rule_of


def _all_options_modules() -> set[str]:
    root = Path(resilience.__file__).parent
    return {f"resilience.{path.parent.name}" for path in root.glob("*/_options.py")}


def test_every_options_class_is_in_the_schema() -> None:
    """A slice that has options has a section: no knob is left without a variable (L22)."""
    in_code_only = {"resilience.keyed"}  # what a key is, and what is made for it, only code can say
    assert _all_options_modules() - in_code_only == {known.options_path.partition("._options")[0] for known in SECTIONS}


@pytest.mark.parametrize("known", SECTIONS, ids=lambda known: known.pattern or "loader")
def test_every_knob_has_a_rule_a_doc_a_default_and_a_variable(known: Section) -> None:
    """Every field of every Options class is documented, checked, and set by the variable its name says (L22)."""
    fields = known.options.fields()
    assert fields
    for name, field in fields.items():
        rule: Rule = rule_of(field)
        assert rule.expected
        assert field.metadata["doc"]
        assert field.default is not dataclasses.MISSING
        if field.default is None:
            assert field.metadata["none"], f"{name} does not say what None means"
        if name not in known.without and not isinstance(rule, Instance | Opaque):
            assert find(known.key(name, "payments")) is known


@pytest.mark.parametrize("known", SECTIONS, ids=lambda known: known.pattern or "loader")
def test_every_variable_reaches_its_option(known: Section) -> None:
    """Setting the variable of a field to its default is accepted, and reported as coming from that variable."""
    for name, field in known.fields.items():
        key = known.key(name, "payments")
        text = "1/second" if field.default is None and name == known.needs else written(field.default, rule_of(field))
        environ = {variable(key): text}
        if known.needs and name != known.needs:
            environ[variable(known.key(known.needs, "payments"))] = "1/second"
        shown = {setting.variable: setting for setting in load(environ).values()}
        assert shown[variable(key)].source == variable(key)


def test_options_without_a_schema_line_would_be_found() -> None:
    """The walk over the packages really sees the slices."""
    assert "resilience.breaker" in _all_options_modules()


@pytest.mark.parametrize("known", [known for known in SECTIONS if known.builds], ids=lambda known: known.pattern)
def test_options_are_what_their_constructor_takes(known: Section) -> None:
    """What a section builds can be built from its options by name (L22: every variable has a code equivalent)."""
    wanted = {"options"} if not known.has_instances else known.fields.keys() - {"enabled"}
    assert wanted <= _parameters(known.constructor)


def _parameters(constructor: type) -> set[str]:
    """Return the names it takes, those of a typed bundle of keywords included."""
    names: set[str] = set()
    for name, parameter in inspect.signature(constructor).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            hints = typing.get_type_hints(constructor.__init__)  # type: ignore[misc]  # asked of the class itself
            names |= set(typing.get_args(hints[name])[0].__annotations__)
        else:
            names.add(name)
    return names


def test_reading_configuration_imports_no_slice_it_does_not_mention() -> None:
    """A service that configures only its server does not pay for pybreaker, tenacity, limits or redis."""
    code = (
        "import sys; from resilience.config import load; "
        "config = load({'RESILIENCE_SERVER__DEADLINE': '1s'}); config.server; config.pipeline; "
        "print(sorted({'pybreaker', 'tenacity', 'limits', 'redis', 'asyncio'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_the_environment_of_the_process_is_not_read_at_import() -> None:
    """A broken environment is reported when it is loaded, not when a module is imported."""
    code = "import resilience.config, resilience.toolkit, resilience.__main__; print('fine')"
    environ = {"RESILIENCE_SERVER__DEADLINE": "never", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True, timeout=30
    )
    assert done.stdout.strip() == "fine"


def test_one_section_can_be_looked_up_by_its_pattern() -> None:
    """The toolkit finds what to build by the pattern in the table."""
    assert section("pipeline.*.retry").name == "retry"
    assert section("limiter.*").name == "limiter"
    assert section("").name == ""


def test_defaults_are_the_defaults_of_the_options() -> None:
    """With nothing set, every section is its Options class with no arguments."""
    config = Config()
    for known in SECTIONS:
        if not known.has_instances and known.pattern:
            options = getattr(config, known.pattern)
            assert isinstance(options, Options)
            assert options == known.options()


@pytest.mark.parametrize("known", SECTIONS, ids=lambda known: known.pattern)
def test_defaults_are_in_their_working_form(known: Section) -> None:
    """A default is never checked again: its rule would return it unchanged, and it is no secret."""
    for field in known.options.fields().values():
        if field.default is not None:
            checked = rule_of(field).check(field.default)
            assert (checked, type(checked)) == (field.default, type(field.default))
            assert not field.metadata["secret"]
