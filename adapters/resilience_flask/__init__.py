"""Resilience for an existing Flask application: `FlaskResilience(app)`, and nothing else in it changes.

Needs the `flask` extra: `pip install "resilience-plugins[flask]"`.
"""

try:
    import flask as _flask  # noqa: F401 - asked for first, so that what is missing is named with its remedy
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        'resilience_flask needs Flask: pip install "resilience-plugins[flask]"', name="flask"
    ) from _missing

from resilience_flask._extension import FlaskResilience
from resilience_flask._limit import exempt, rate_limit
from resilience_flask._probes import health_blueprint

__all__ = ("FlaskResilience", "exempt", "health_blueprint", "rate_limit")
