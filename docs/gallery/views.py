"""The ready-made views of a sweep and a registered model in the MLflow UI; a picture of each."""

from __future__ import annotations

import json
from pathlib import Path

from browser import Page
from check import close_asides, need

_NAMES = "[...document.querySelectorAll('[role=row] a[href*=\"/runs/\"]')].map(a => a.textContent.trim())"
_ACCURACIES = (
    "[...document.querySelectorAll('[role=gridcell][col-id*=\"final/val_accuracy\"]')]"
    ".filter(c => c.textContent.trim() !== '-').map(c => +c.textContent)"
)
_HEADS = "[...document.querySelectorAll('[role=columnheader]')].map(c => c.getAttribute('col-id') || '')"
_CHARTS = "document.querySelectorAll('.js-plotly-plot .main-svg, .parcoords svg').length"


def views_of(sweep: Path) -> dict[str, str]:
    """Title -> address below the UI's own, as the sweep noted them; empty where it was run before there were views."""
    return dict(json.loads((sweep / "sweep.json").read_text()).get("views", {}))


async def check_views(page: Page, server: str, views: dict[str, str], shots: Path) -> None:
    """Every view opens, shows runs, and is what its title says."""
    for title, where in views.items():
        await page.open("about:blank")
        await page.open(f"{server}/{where}", 1900, 1100)
        await page.until(f"{_NAMES}.length > 0", f"the view {title!r} lists runs")
        await close_asides(page)
        if "compareRunsMode=CHART" in where:
            await page.until(f"{_CHARTS} > 0", f"the view {title!r} draws charts")
        else:
            await _check_table(page, title)
        await page.picture(shots / f"mlflow_view_{title.split(',')[0].replace(' ', '_')}.png")


async def check_model(page: Page, server: str, name: str, title: str, shots: Path) -> None:
    """The page of version 1 of a registered model shows its card."""
    await page.open("about:blank")
    await page.open(f"{server}/#/models/{name}/versions/1?workflowType=machine_learning", 1500, 1100)
    card = "[...document.querySelectorAll('h1, h2')].map(h => h.textContent)"
    await page.until(f"{card}.some(h => h.includes({json.dumps(title)}))", "the model's page shows its card")
    await close_asides(page)
    await page.picture(shots / "mlflow_model.png")


async def _check_table(page: Page, title: str) -> None:
    for name in ("final/val_accuracy", "final/macs", "final/params"):
        await page.until(
            f"{_HEADS}.some(h => h.includes({json.dumps(name)}))", f"{title!r}: a column of {name}"
        )
    shown = await page.ask(_ACCURACIES)
    need(shown and shown == sorted(shown, reverse=True), f"the view {title!r} is not sorted: {shown[:5]}")
    heads = await page.ask(_HEADS)
    need(not any("test_accuracy" in head for head in heads), f"the view {title!r} shows test accuracies")
