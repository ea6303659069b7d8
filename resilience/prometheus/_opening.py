"""The metrics page of this process, opened as the settings say."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from resilience._support.fork import renew_after_fork
from resilience.health import HealthServer
from resilience.prometheus._page import MetricsPage

if TYPE_CHECKING:
    from resilience.config._options import MetricsOptions

__all__ = ("OPEN_PAGE", "OpenPage")


class OpenPage:
    """One page for all toolkits of a process: the metrics are those of the process.

    The port is opened once, too. With several workers one of them has it, and another takes it over when that worker
    ends; `PROMETHEUS_MULTIPROC_DIR` makes the page show the sums of all of them.
    """

    def __init__(self) -> None:
        self._page: MetricsPage | None = None
        self._servers: dict[tuple[str, int], HealthServer] = {}
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Replace the lock: another thread may have held it at the moment of the fork."""
        self._lock = threading.Lock()

    def get(self, options: MetricsOptions) -> MetricsPage:
        """Return the page, and open its port if the options name one.

        Raises:
            ConfigurationError: The address cannot be used, or the directory of several processes.
        """
        with self._lock:
            if self._page is None:
                self._page = MetricsPage(options.flush_interval, requests=options.requests)
            page = self._page
            if options.port is not None and (options.host, options.port) not in self._servers:
                server = HealthServer(page, options.port, options.host, serves=lambda: page.has_served)
                self._servers[options.host, options.port] = server
            return page

    def ports(self) -> list[int]:
        """Return the ports that are open."""
        return [server.port for server in self._servers.values() if server.is_listening]

    def close(self) -> None:
        """Close the ports."""
        with self._lock:
            servers, self._servers = self._servers, {}
        for server in servers.values():
            server.close()


OPEN_PAGE = OpenPage()
