from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from resilience.testing import reset

if TYPE_CHECKING:
    from telemetry_sdk import Telemetry


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    pytest.importorskip("opentelemetry.sdk.metrics", reason="needs the SDK of OpenTelemetry")
    pytest.importorskip("opentelemetry.instrumentation.instrumentor", reason="needs the extra otel")
    from telemetry_sdk import Telemetry  # noqa: PLC0415 - needs both

    reset()  # a test that runs again begins at zero
    made = Telemetry()
    yield made
    made.close()
