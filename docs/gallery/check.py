"""What a report page and the MLflow UI must do in a real browser; each check raises BrowserError with what is wrong."""

from __future__ import annotations

import asyncio
import csv
import json
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from browser import BrowserError, Page

FRONT_FILTER = "tags.`pareto.front` = 'true'"
#: Where MLflow's runs page keeps a view that it restores from an address (its own "share view" button writes such tags).
VIEW_KEY = "gallery"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
#: MLflow opens a chat and says that a view is a shared one: both take room from the charts.
ASIDES = ("mlflow.assistant.chat_panel.close", "mlflow.experiment_page.shared_view.dismiss")


def need(right: object, what: str) -> None:
    """Raise BrowserError with ``what`` unless ``right``."""
    if not right:
        raise BrowserError(what)


def front_of(report: Path) -> set[str]:
    """Models in the report's ``front.csv``."""
    with (report / "front.csv").open(newline="") as file:
        return {row["model"] for row in csv.DictReader(file)}


BROKEN = """<!DOCTYPE html><title>broken</title><img src="missing.png"><img src="http://127.0.0.1:9/outside.png">
<script>console.error("said"); setTimeout(() => { throw new Error("thrown"); });</script>"""


async def check_hearing(page: Page) -> None:
    """A broken page must be noticed, or silence about the others would mean nothing."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "broken.html"
        file.write_text(BROKEN)
        await page.open(file.as_uri())
        await page.until("document.readyState === 'complete'", "the broken page is loaded")
        heard = "\n".join(page.complaints)
        for what in ("said", "thrown", "missing.png"):
            need(what in heard, f"the browser did not report {what!r} of a page that is broken on purpose")
        need(any("outside" in url for url in page.requests), "a request to the outside was not noticed")


async def check_report(page: Page, report: Path, server: str) -> dict[str, int]:
    """Open ``report/report.html``: front, filters, clicks and links work, nothing is loaded from outside.

    Args:
        server: address of an MLflow server over the sweep's store; links to runs are followed there.
    """
    await page.open((report / "report.html").resolve().as_uri())
    await page.until("F.front.length > 0", "the front is drawn")
    expected = front_of(report)
    drawn = await page.ask("F.front.map(r => r.model)")
    need(set(drawn) == expected, f"the drawn front {sorted(drawn)} is not {sorted(expected)}")
    filtered = await _filters(page)
    await _clicks(page)
    links = await _links(page, report, server)
    outside = [url for url in page.requests if urlparse(url).scheme not in ("file", "data", "blob")]
    need(not outside, f"the page loads from outside: {outside[:3]}")
    need(not page.complaints, "the page complains: " + "; ".join(page.complaints[:3]))
    return {
        "front": len(expected),
        "trials": await page.ask("D.trials.length"),
        "left at 50 %": filtered,
        **links,
    }


async def _filters(page: Page) -> int:
    """Half of the MACs at most, then any parameter value, all trials instead of the front, another cost axis."""
    await _change(page, "$('f-macs').value = 50; $('f-macs').oninput()")
    expected = await page.ask("D.trials.filter(r => r.macs_kept !== null && 100 * r.macs_kept <= 50).length")
    shown = await page.ask("$('shown').textContent")
    need(shown.startswith(f"{expected} of "), f"the MACs filter shows {shown!r}, not {expected}")
    rows = "document.querySelectorAll('#rows tbody tr:not(.baseline)').length"
    front_rows = await page.ask(rows)
    await _change(page, "$('f-only').click()")
    need(await page.ask(rows) == expected >= front_rows, "the table does not list all trials that pass")
    await _change(page, "$('f-only').click()")
    if await page.ask("$('f-value').options.length > 1"):
        await _change(page, "$('f-value').selectedIndex = 1; $('f-value').onchange()")
        wanted = await page.ask(
            "D.trials.filter(r => 100 * r.macs_kept <= 50 && String(r.config[$('f-name').value]) === $('f-value').value)"
            ".length"
        )
        need(
            (await page.ask("$('shown').textContent")).startswith(f"{wanted} of "),
            "the parameter filter is wrong",
        )
        await _change(page, "$('f-value').selectedIndex = 0; $('f-value').onchange()")
    await _change(page, "$('f-x').selectedIndex = 1; $('f-x').onchange()")
    label = await page.ask("$('plot-front').textContent")
    need("Parameters" in label, f"the cost axis did not change: {label!r}")
    await _change(page, "$('f-x').selectedIndex = 0; $('f-x').onchange()")
    return int(expected)


async def _change(page: Page, script: str) -> None:
    """Do something and wait until the page has drawn what it leads to."""
    await page.ask(f"(() => {{ {script}; return new Promise(requestAnimationFrame); }})()")


async def _clicks(page: Page) -> None:
    """A click on a point and on a row shows that trial; a click on a head sorts."""
    await _change(page, "$('f-macs').value = 100; $('f-macs').oninput(); $('plot-front').scrollIntoView()")
    place = await page.ask(
        "(() => { const p = F.points.find(p => F.front.includes(p.r) && p.r.key !== S.selected) ?? F.points[0],"
        " b = F.scales.root.getBoundingClientRect(); return [b.x + p.x, b.y + p.y]; })()"
    )
    before = await page.ask("$('detail').innerHTML = 'nothing yet'")
    await page.click(*place)
    await page.until(f"$('detail').innerHTML !== {json.dumps(before)}", "a click on a point shows its trial")
    last = "document.querySelector('#rows tbody tr:last-child')"
    await page.ask(f"{last}.click()")
    name = await page.ask(f"{last}.querySelector('th').textContent")
    need(
        (await page.ask("$('detail').textContent")).startswith(name),
        f"a click on row {name} does not show it",
    )
    values = "[...document.querySelectorAll('#rows tbody tr td:nth-child(2)')].map(c => +c.textContent)"
    await page.ask("document.querySelector('#rows thead th:nth-child(2) button').click()")
    ordered = await page.ask(values)
    need(ordered == sorted(ordered), "a click on the head does not sort")


async def _links(page: Page, report: Path, server: str) -> dict[str, int]:
    """Every file link leads to a file beside the page; every run link to a run that the server knows."""
    links = await page.ask("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    files = [link for link in links if not link.startswith("http")]
    broken = [link for link in files if not (report / unquote(link)).is_file()]
    need(not broken, f"broken links: {broken}")
    runs = sorted({link.rsplit("/", 1)[1] for link in links if "/runs/" in link})
    need(runs, "no trial links to its MLflow run")
    for run in runs:
        with urllib.request.urlopen(f"{server}/api/2.0/mlflow/runs/get?run_id={run}", timeout=60) as answer:
            need(answer.status == 200, f"MLflow does not know run {run}")
    return {"file links": len(files), "run links": len(runs)}


async def check_mlflow(page: Page, server: str, experiment: str, report: Path) -> None:
    """One filter in the MLflow UI shows exactly the front."""
    expected = front_of(report)
    # Sorted by a metric, the table is flat; sorted by time, children hide below their parent.
    runs = (
        f"{server}/#/experiments/{experiment}/runs?orderByKey={quote('metrics.`final/macs`')}&orderByAsc=true"
        "&startTime=ALL"
    )
    names = "[...document.querySelectorAll('[role=row] a[href*=\"/runs/\"]')].map(a => a.textContent.trim())"
    await page.open(runs, 1900, 1500)
    await page.until(f"{names}.length > 0", "the run table appears")
    await page.open("about:blank")
    await page.open(f"{runs}&searchFilter={quote(FRONT_FILTER)}", 1900, 1100)
    await page.until(f"{names}.length >= {len(expected)}", "the filtered run table appears")
    shown = {name for name in await page.ask(names) if name}
    need(shown == expected, f"the filter shows {sorted(shown)}, the front is {sorted(expected)}")
    columns = ["final/val_accuracy", "final/macs", "final/macs_removed", "final/params"]
    order = {"orderByKey": "metrics.`final/macs`", "orderByAsc": True}
    chosen = [f"metrics.`{name}`" for name in columns]
    state = view(searchFilter=FRONT_FILTER, selectedColumns=chosen, **order)
    async with shared_view(page, server, experiment, state):
        await page.until(f"{names}.length === {len(expected)}", "the view shows the front")
        await close_asides(page)
        heads = "[...document.querySelectorAll('[role=columnheader]')].map(c => c.textContent.trim())"
        for name in columns:
            await page.until(f"{heads}.some(h => h.includes({json.dumps(name)}))", f"a column of {name}")


def view(**state: object) -> dict[str, object]:
    """The state of MLflow's runs page, as its own "share view" button keeps it."""
    usual = {
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
    return {**usual, "runsHiddenMode": "SHOW_ALL", **state}


def parallel_view(params: list[str]) -> dict[str, object]:
    """All snapshots as lines through parameters, MACs and accuracy."""
    section = {
        "uuid": "models",
        "name": "Every model of every path",
        "display": True,
        "columns": 1,
        "cardHeight": 700,
    }
    chart = {
        "uuid": "parallel",
        "type": "PARALLEL",
        "metricSectionId": "models",
        "selectedParams": params,
        "selectedMetrics": ["final/macs", "final/val_accuracy"],
        "showAllRuns": True,
        "runsCountToCompare": 1000,
    }
    made = {"deleted": False, "isGenerated": False}
    return view(
        searchFilter="tags.kind = 'snapshot'",
        orderByKey="metrics.`final/val_accuracy`",
        orderByAsc=False,
        isAccordionReordered=True,
        compareRunSections=[{**section, **made, "isReordered": False}],
        compareRunCharts=[{**chart, **made}],
    )


@asynccontextmanager
async def shared_view(
    page: Page, server: str, experiment: str, state: dict[str, object], more: str = ""
) -> AsyncIterator[None]:
    """The runs page in that state, as long as the block lasts; nothing of it stays in the sweep."""
    tag = {"experiment_id": experiment, "key": VIEW_TAG}
    post(server, "experiments/set-experiment-tag", tag | {"value": json.dumps(state)})
    try:
        await page.open("about:blank")
        where = f"{server}/#/experiments/{experiment}/runs"
        await page.open(f"{where}?viewStateShareKey={VIEW_KEY}{more}", 1900, 1100)
        yield
    finally:
        post(server, "experiments/delete-experiment-tag", tag)


async def close_asides(page: Page) -> None:
    """Close what takes room, where it is there."""
    for aside in ASIDES:
        button = f"document.querySelector('[data-component-id=\"{aside}\"]')"
        if await page.ask(f"{button} !== null"):
            await page.ask(f"{button}.click()")
            await page.until(f"{button} === null", f"{aside} closes")
    await asyncio.sleep(2)  # table and charts are drawn anew in the room that has become free


async def check_parallel(page: Page, server: str, experiment: str, params: list[str]) -> None:
    """MLflow draws every snapshot through the searched parameters, its MACs and its accuracy."""
    state = parallel_view(params)
    async with shared_view(page, server, experiment, state, "&compareRunsMode=CHART"):
        labels = "[...document.querySelectorAll('text')].map(t => t.textContent)"
        await page.until(f"{labels}.includes('final/macs')", "MLflow draws an axis of the MACs")
        await close_asides(page)
        for name in (*params, "final/macs", "final/val_accuracy"):
            await page.until(f"{labels}.includes({json.dumps(name)})", f"MLflow draws an axis of {name}")


def post(server: str, path: str, values: dict[str, str]) -> None:
    """One call of MLflow's own interface."""
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/{path}",
        data=json.dumps(values).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=60).read()
