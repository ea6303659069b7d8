"""The instrumentation of OpenTelemetry: `opentelemetry-instrument` finds it by its entry point.

Needs the extra `otel`. It uses the API of OpenTelemetry alone, and never makes or sets a provider.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # not checked
from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import TracerProvider, get_tracer_provider

from resilience._version import __version__
from resilience.config import load
from resilience.errors import ConfigurationError, Problem, one_line
from resilience.events import Emitter
from resilience.telemetry._options import TelemetryOptions
from resilience.telemetry._otel_metrics import Instruments
from resilience.telemetry._otel_spans import OpenTelemetryObserver

__all__ = ("ResilienceInstrumentor",)

_log = logging.getLogger("resilience")
_SCOPE = "resilience"


class ResilienceInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # see the import
    """Switches the telemetry of this process on and off.

    `opentelemetry-instrument python app.py` calls it without a line of code;
    `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=resilience` keeps it off. There is one instance for each process.

    `instrument` takes the fields of `TelemetryOptions` (`metrics`, `histograms`, `span_events`, `attempt_spans`),
    `tracer_provider` and `meter_provider`. The default of a field is its setting, such as
    `RESILIENCE_TELEMETRY__ATTEMPT_SPANS`; the default providers are the global ones. A second call changes nothing.
    `uninstrument` undoes all of it, except that the providers keep instruments, which report nothing any more.

    Raises:
        ConfigurationError: An argument of `instrument` is wrong. A wrong setting is logged, and the defaults apply: the
            toolkit refuses it when the service starts.

    Example:
        >>> from resilience.telemetry.otel import ResilienceInstrumentor
        >>> ResilienceInstrumentor().instrument(attempt_spans=True)
        >>> ResilienceInstrumentor().uninstrument()
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return no package: the toolkit instruments itself."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        tracers: TracerProvider = kwargs.pop("tracer_provider", None) or get_tracer_provider()
        meters: MeterProvider = kwargs.pop("meter_provider", None) or get_meter_provider()
        if unknown := sorted(kwargs.keys() - TelemetryOptions.fields().keys()):
            known = ", ".join((*TelemetryOptions.fields(), "tracer_provider", "meter_provider"))
            raise ConfigurationError([Problem(f"instrument({unknown[0]}=...)", kwargs[unknown[0]], f"one of {known}")])
        options = TelemetryOptions.of(**{**_settings().as_data(), **kwargs})
        instruments = _instruments_of(meters)
        instruments.switch(gauges=options.metrics, histograms=options.histograms)
        self._active = instruments
        tracer = tracers.get_tracer(_SCOPE, __version__)
        Emitter.observer = OpenTelemetryObserver(options, tracer, instruments)

    def _uninstrument(self, **_kwargs: Any) -> None:
        observer, Emitter.observer = Emitter.observer, None
        self._active.switch(gauges=False, histograms=False)
        if isinstance(observer, OpenTelemetryObserver):  # functions wrapped meanwhile still hold it
            observer.options = TelemetryOptions(metrics=False, histograms=False, span_events=False)


_known: list[tuple[MeterProvider, Instruments]] = []
"""The instruments of each provider: a provider would keep, and warn of, a second set."""


def _instruments_of(provider: MeterProvider) -> Instruments:
    for known, instruments in _known:
        if known is provider:
            return instruments
    instruments = Instruments(provider.get_meter(_SCOPE, __version__))
    _known.append((provider, instruments))
    return instruments


def _settings() -> TelemetryOptions:
    """Return the settings of the environment and the file. The start of the program must not fail here."""
    try:
        return load().telemetry
    except ConfigurationError as error:
        _log.error("telemetry uses its defaults, because the configuration is wrong: %s", one_line(error))
        return TelemetryOptions()
