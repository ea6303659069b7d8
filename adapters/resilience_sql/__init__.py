"""Connection pools for databases: SQLAlchemy engines, and connections of psycopg 3.

SQLAlchemy and psycopg are extras: `pip install "resilience-plugins[sqlalchemy]"` or `[psycopg]`. Each is imported when
you use the first name that needs it.
"""

from __future__ import annotations

from resilience.plugins import lazy_names

TYPE_CHECKING = False  # as at the root of `resilience`
if TYPE_CHECKING:
    from resilience_sql._engine_pool import ResiliencePool
    from resilience_sql._engine_pool_aio import AsyncAdaptedResiliencePool
    from resilience_sql._psycopg import psycopg_connector
    from resilience_sql._psycopg_aio import aio_psycopg_connector

__all__ = ("AsyncAdaptedResiliencePool", "ResiliencePool", "aio_psycopg_connector", "psycopg_connector")

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "_engine_pool": ("ResiliencePool",),
        "_engine_pool_aio": ("AsyncAdaptedResiliencePool",),
        "_psycopg": ("psycopg_connector",),
        "_psycopg_aio": ("aio_psycopg_connector",),
    },
    {
        "_engine_pool": "sqlalchemy",
        "_engine_pool_aio": "sqlalchemy",
        "_psycopg": "psycopg",
        "_psycopg_aio": "psycopg",
    },
)
