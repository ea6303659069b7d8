"""The settings of the service itself, of the loader, of the metrics page, and of the switch of each policy."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Flag, Listing, Options, Text, Whole, option

__all__ = ("EventsOptions", "LoaderOptions", "MetricsOptions", "PipelineOptions", "ServiceOptions", "SwitchOptions")


@dataclass(frozen=True, kw_only=True)
class ServiceOptions(Options):
    """Who this service is, to its clients and to the services it calls."""

    name: str = option(
        "service",
        Text("letters, digits and . _ -", pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*", longest=100),
        "domain of this service's error codes (ErrorInfo of gRPC), and user agent of its gRPC channels",
    )


@dataclass(frozen=True, kw_only=True)
class EventsOptions(Options):
    """Who gets the events of all policies."""

    listeners: tuple[str, ...] = option(
        (),
        Listing(Text("the name of a plugin", pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*", longest=100)),
        "plugins of the group resilience.listeners that get every event of the toolkit; no other plugin is imported",
    )


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(Options):
    """How configuration is read."""

    config_file: str | None = option(
        None,
        Text("the path of a TOML file", longest=4096),
        "TOML file with the same sections in lower case",
        none="no file",
    )
    strict: bool = option(False, Flag(), "refuse to start when a variable or key is unknown, instead of warning")


@dataclass(frozen=True, kw_only=True)
class MetricsOptions(Options):
    """Where Prometheus can read the metrics of the process. By default: nowhere."""

    endpoint: bool = option(False, Flag(), "answer /metrics in the application, to every client that can reach it")
    port: int | None = option(
        None, Whole(0, 65_535), "port of its own for /metrics, 0 for a free one", none="no port of its own"
    )
    host: str = option("127.0.0.1", Text("an address of this machine", longest=255), "address of that port")
    requests: bool = option(True, Flag(), "measure the duration of each request, if the metrics can be read")
    flush_interval: float = option(
        1.0,
        Duration(0.05, maximum=60),
        "interval at which a worker writes its numbers for the others, with PROMETHEUS_MULTIPROC_DIR",
    )

    @property
    def is_open(self) -> bool:
        """Whether the metrics can be read at all."""
        return self.endpoint or self.port is not None


@dataclass(frozen=True, kw_only=True)
class PipelineOptions(Options):
    """Whether a pipeline guards at all."""

    enabled: bool = option(
        True, Flag(), "false removes all configured policies: the pipeline is empty on purpose, and nothing warns of it"
    )


@dataclass(frozen=True, kw_only=True)
class SwitchOptions(Options):
    """Whether a policy that is configured, or inherited, is used."""

    enabled: bool = option(True, Flag(), "whether to use this policy: true adds it, false drops an inherited one")
