"""Metrics for Prometheus: a collector for your own registry, and the page `/metrics`.

It needs prometheus-client: `pip install 'resilience-plugins[prometheus]'`.
"""

from resilience.prometheus._collector import PrometheusCollector
from resilience.prometheus._opening import OpenPage
from resilience.prometheus._page import MetricsPage

__all__ = ("MetricsPage", "OpenPage", "PrometheusCollector")
