"""gunicorn's settings for an application loaded before the workers are forked, as docs/howto/lifecycle.md says."""

from __future__ import annotations

from typing import Any


def post_worker_init(worker: Any) -> None:
    """Take SIGTERM after gunicorn has, in each worker."""
    worker.wsgi.extensions["resilience"].lifecycle.install_signals()
