"""What an ASGI scope says, and what it says badly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.authentication import BaseUser, SimpleUser, UnauthenticatedUser

from resilience_fastapi._scope import path_of, template_of, user_of


class Nameless(BaseUser):
    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def display_name(self) -> str:
        return "ann"


@pytest.mark.parametrize(
    ("path", "root", "own"),
    [("/a", "", "/a"), ("/x/a", "/x", "/a"), ("/x", "/x", ""), ("/xa", "/x", "/xa"), ("/a", "/x", "/a")],
)
def test_path_without_what_stands_before_it(path: str, root: str, own: str) -> None:
    """The path is what the application's routes know, whether or not the server left the prefix in it."""
    assert path_of({"path": path, "root_path": root}) == own


@pytest.mark.parametrize(
    ("user", "name"),
    [(None, None), (UnauthenticatedUser(), None), (Nameless(), "ann"), (object(), None)],
)
def test_user_is_whoever_is_authenticated(user: Any, name: str | None) -> None:
    """A user counts when authenticated, by identity or else by name."""
    assert user_of({"user": user}) == name


def test_simple_users_have_a_name() -> None:
    """Starlette's own user has no identity, and is known by its name."""
    assert user_of({"user": SimpleUser("bob")}) == "bob"


def test_template_without_fastapi() -> None:
    """A route that knows no template is known by its endpoint, never by the path the client chose."""
    scope = {"path": "/1234", "endpoint": test_template_without_fastapi}
    assert template_of(scope).endswith("test_template_without_fastapi")
    assert template_of({"path": "/1234"}) == ".unknown"
    assert template_of({"path": "/x/1", "root_path": "/x", "route": SimpleNamespace(path="/{n}")}) == "/{n}"
