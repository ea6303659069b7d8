"""Excluded paths, and the ways round a limit that they must not open."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import ConfigurationError
from resilience.server import ServerGate, ServerOptions
from resilience.server._headers import ExcludedPaths

EXCLUDED = ExcludedPaths(["/static", "/files/", "/"])


@pytest.mark.parametrize(
    "path",
    [
        "/static",
        "/static/",
        "/static/a.b/..c/...",
        "/static/a/.well-known/x",
        "/static/v1.2/a",
        "/static//a",
        "/static/a;v=1",
        "/files",
        "/files/a",
        "/",
    ],
)
def test_a_path_and_all_below_it(path: str) -> None:
    """An excluded path is excluded with all below it, dots in names included; / is the root page alone."""
    assert path in EXCLUDED


@pytest.mark.parametrize(
    "path",
    [
        "/static/../login",
        "/static/./login",
        "/static/..",
        "/static/.",
        "/static/a/../../login",
        "/static//../login",
        "/static/..//login",
        "/static/%2e%2e/login",
        "/static/.%2E/login",
        "/static/%252e%252e/login",
        "/static/..%2flogin",
        "/static/..%5Clogin",
        "/static/..%252Flogin",
        "/static\\../login",
        "/static/..\\login",
        "/static/a\\..\\..\\login",
        "/static/..;/login",
        "/static/..;a=b/login",
        "/static/..?/login",
        "/STATIC/a",
        "/staticky",
        "//static/a",
        "/login",
        "",
    ],
)
def test_ways_round_a_limit(path: str) -> None:
    """A path that could be resolved to one outside is not excluded, nor is one of another case."""
    assert path not in EXCLUDED


@given(st.lists(st.sampled_from(["..", ".", "%2e", "%2E.", "a", "", "static", "login", "..;", "%252e"]), max_size=6))
def test_what_is_excluded_stays_below(segments: list[str]) -> None:
    """However often a path is decoded before it is resolved, an excluded one resolves to a path below."""
    path = "/static/" + "/".join(segments)
    if path in EXCLUDED:
        for decoded in (path, unquote(path), unquote(unquote(path))):
            resolved = posixpath.normpath(decoded.replace(";", ""))
            assert resolved == "/static" or resolved.startswith("/static/")


@pytest.mark.parametrize("path", ["/static/../login", "/./a", "/a/..", "/.."])
def test_a_setting_that_excludes_nothing(path: str) -> None:
    """A dot segment in the setting itself is refused: no request would match it."""
    with pytest.raises(ConfigurationError, match="exclude_paths"):
        ServerOptions(exclude_paths=(path,))
    assert ServerOptions(exclude_paths=("/.well-known/a..b/...",)).exclude_paths


def test_of_a_method() -> None:
    """A name of gRPC is excluded by the same rules."""
    gate = ServerGate(ServerOptions(exclude_paths=("/shop.Orders",)))
    assert gate.receive({}, path="/shop.Orders/Get").is_excluded
    assert not gate.receive({}, path="/shop.Orders/../shop.Admin/Drop").is_excluded
