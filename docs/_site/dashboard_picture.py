"""Draw the panels of the dashboard from an outage of the example services: `python docs/_site/dashboard_picture.py`.

The queries are those of the dashboard, answered by a real Prometheus. matplotlib draws them in place of Grafana.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TypeAlias

import httpx2
from matplotlib import pyplot as plt

from resilience.telemetry.dashboard import dashboard

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "dashboard.svg"
SPELLS = (("healthy", 20), ("broken", 20), ("healthy", 20))
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#718096")
Line: TypeAlias = tuple[str, list[float], list[float]]
"""The legend, the times and the values of a series."""
INK, LINES = "#1a202c", "#cbd5e0"


def outage() -> Any:
    """Return the module of the example."""
    sys.path.insert(0, str(ROOT / "examples" / "observability"))
    return importlib.import_module("watch_outage")


def series_of(
    shop: Any, target: dict[str, str], began: float, ended: float
) -> list[tuple[str, list[float], list[float]]]:
    """Return the legend, the times and the values of each series of one query."""
    expr = target["expr"].replace("$__rate_interval", "5s").replace("$job", ".*")
    parameters = {"query": expr, "start": began, "end": ended, "step": 1}
    answer = shop.client.get(shop.url("prometheus", "/api/v1/query_range"), params=parameters).json()
    found = []
    for each in answer["data"]["result"]:
        legend = target["legendFormat"]
        for name, value in each["metric"].items():
            legend = legend.replace("{{" + name + "}}", value)
        points = [(float(at) - began, float(value)) for at, value in each["values"] if value != "NaN"]
        if any(value for _, value in points):
            found.append((legend, [at for at, _ in points], [value for _, value in points]))
    return found


def draw(panels: list[tuple[str, str, list[Line]]]) -> None:
    """Draw one small chart for each panel."""
    plt.rcParams.update({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8, "svg.hashsalt": "r"})
    rows = (len(panels) + 2) // 3
    figure, axes = plt.subplots(rows, 3, figsize=(13, 2.5 * rows), sharex=True, constrained_layout=True)
    for axis, (title, unit, lines) in zip(axes.flat, panels, strict=False):
        axis.set_title(f"{title} ({unit})" if unit not in {"short", "ops"} else title, color=INK, loc="left")
        for number, (legend, times, values) in enumerate(lines[:6]):
            axis.plot(times, values, color=COLOURS[number % len(COLOURS)], label=legend, linewidth=1.2)
        axis.axvspan(SPELLS[0][1], SPELLS[0][1] + SPELLS[1][1], color="#fed7d7", linewidth=0)
        axis.set_ylim(bottom=0)
        axis.grid(color=LINES, linewidth=0.4)
        axis.spines[["top", "right"]].set_visible(False)
        if lines:
            axis.legend(frameon=False, fontsize=6, loc="upper right")
    for axis in axes[-1]:
        axis.set_xlabel("seconds; the provider is broken in the red span")
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    """Break the provider for a while, and draw what the dashboard shows."""
    module = outage()
    with contextlib.ExitStack() as stack:
        shop = module.Shop(stack, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        module.until(lambda: shop.client.get(shop.url("shop", "/readyz")).is_success, "the shop")
        module.until(lambda: shop.targets_up() == len(module.SCRAPED), "the targets")
        stack.callback(shop.serve_customers())
        began = time.time()
        for mode, seconds in SPELLS:
            with contextlib.suppress(httpx2.HTTPError):
                shop.set_provider(mode)
            time.sleep(seconds)
        ended = time.time()
        panels = []
        for panel in dashboard()["panels"]:  # type: ignore[attr-defined]  # it is plain data
            if panel["type"] == "row":
                continue
            unit = panel["fieldConfig"]["defaults"]["unit"]
            lines = [line for target in panel["targets"] for line in series_of(shop, target, began, ended)]
            panels.append((panel["title"], unit, lines))
        draw(panels)
    sys.stdout.write(f"wrote {PICTURE.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
