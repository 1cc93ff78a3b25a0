"""How long the report takes to answer a user with 2,000 snapshots in it, in a real Chromium.

    python -m benchmarks.scale.report_interaction [--models 2000] [--times 40] [--out FILE.json]

The page is that of a made-up sweep: paths of ten snapshots with six searched parameters, and the epochs of every path.
Each interaction is done ``--times`` times with changing values. ``wall_ms`` is from the input to the end of the frame
that shows its result (two animation frames, so at least one period of the screen); ``busy_ms`` is the time that the
page's main thread computed for it, whatever else the machine does. Needs Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import analysis
from analysis.show import report
from benchmarks import record

MACS, PARAMS, ACCURACY, LEVELS = 40_000_000, 290_000, 92.0, 10

#: Name -> what the page does at the i-th time. Each goes through the same events as a person's.
INTERACTIONS = {
    "filter by MACs": "i => { $('f-macs').value = 30 + 60 * (i % 10) / 10; $('f-macs').oninput(); }",
    "filter by parameter": "i => { $('f-value').selectedIndex = i % 4; $('f-value').onchange(); }",
    "brush an axis": (
        "i => { const a = P.axes.find(a => a.name === 'val_accuracy'); const s = a.at.high - a.at.low;"
        " keepRange(a, a.at.low + s * (i % 20) / 40, a.at.high); update(); }"
    ),
    "brush the front": (
        "i => { const [l, r, t, b] = F.scales.area; brushFront({x: l + i, y: t, end: [r - 2 * i, b - 3 * i]}); }"
    ),
    "select a model": "i => select(D.trials[(97 * i) % D.trials.length].key)",
    "sort the table": "i => sortBy(['val_accuracy', 'macs', 'params'][i % 3])",
    "change the cost axis": "i => { $('f-x').selectedIndex = i % 2; $('f-x').onchange(); }",
    "colour by a parameter": "i => { $('f-colour').selectedIndex = i % 6; $('f-colour').onchange(); }",
    "point at models": (
        "i => { const b = $('plot-front').getBoundingClientRect(); $('plot-front').dispatchEvent(new PointerEvent("
        "'pointermove', {clientX: b.x + 60 + 12 * i, clientY: b.y + 200 + i, bubbles: true})); }"
    ),
}
_TIMED = """async ([source, times]) => {
  const act = eval('(' + source + ')'), frame = () => new Promise(requestAnimationFrame), found = [];
  for (let i = 0; i < times; i++) {
    await frame();
    const before = performance.now();
    act(i);
    await frame();
    await frame();
    found.push(performance.now() - before);
  }
  clearFilters();
  update();
  await frame();
  await frame();
  return found;
}"""


def a_sweep(folder: Path, models: int) -> pd.DataFrame:
    """The table of ``models`` snapshots, and what their paths reported after every epoch."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [_row("b0000", None, 1.0, ACCURACY, 60) | {"kind": "baseline"}]
    for number in range(models // LEVELS):
        trial, shift = f"t{number:04d}", float(rng.exponential(1.5))
        setting = {
            "prune.criterion": str(rng.choice(["frs", "l1", "random"])),
            "prune.start": int(rng.choice([4, 8, 12])),
            "prune.interval": int(rng.choice([2, 3, 4, 6])),
            "prune.ratio": float(np.round(rng.uniform(0.1, 0.4), 3)),
            "train.restart": float(rng.choice([0.5, 1.0])),
            "train.lr": float(np.round(10 ** rng.uniform(-2, -0.5), 4)),
        }
        lines = []
        for level in range(LEVELS):
            kept = (1 - setting["prune.ratio"]) ** level
            accuracy = ACCURACY - shift - 0.5 * (1 / kept - 1) ** 0.8 + float(rng.normal(0, 0.3))
            accuracy = round(max(accuracy, 10.0) * 50) / 50
            epochs = setting["prune.start"] + level * setting["prune.interval"]
            rows.append(_row(trial, level, kept, accuracy, epochs) | setting)
            lines += [
                {"epoch": e, "val/accuracy": accuracy - 2 * (epochs - e), "cost/macs": round(MACS * kept)}
                for e in range(max(1, epochs - setting["prune.interval"] + 1 if level else 1), epochs + 1)
            ]
        file = folder / "trials" / trial / "reported.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(map(json.dumps, lines)))
    pd.DataFrame(rows).to_csv(folder / "models.csv", index=False)
    df = analysis.load(folder / "models.csv")
    df.attrs["sweeps"] = [{"name": "models", "id": "1", "folder": str(folder)}]
    return df


def _row(trial: str, level: int | None, kept: float, accuracy: float, epochs: int) -> dict[str, Any]:
    return {
        "sweep": "models", "model": trial if level is None else f"{trial}@{level}", "trial": trial, "level": level,
        "kind": "trial", "seed": 0, "val_accuracy": accuracy, "test_accuracy": accuracy - 0.5, "epochs": epochs,
        "macs": round(MACS * kept), "params": round(PARAMS * kept**1.1), "val_images": 5000,
        "macs_removed": 1 - kept, "params_removed": 1 - kept**1.1,
    }  # fmt: skip


def measure(file: Path, program: str, times: int) -> dict[str, Any]:
    """Each interaction's times in the page, and those of its opening."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(600_000)
        page.goto(file.as_uri())
        page.wait_for_function("$('shown').textContent.length > 0")
        opened = page.evaluate("performance.now()")
        tools = page.context.new_cdp_session(page)
        tools.send("Performance.enable", {"timeDomain": "threadTicks"})

        def busy() -> float:
            metrics = tools.send("Performance.getMetrics")["metrics"]
            return 1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")

        found = {}
        for name, source in INTERACTIONS.items():
            before = busy()
            wall = page.evaluate(_TIMED, [source, times])
            found[name] = {
                "wall_ms": round(statistics.median(wall), 1),
                "wall_p90_ms": round(float(np.quantile(wall, 0.9)), 1),
                "busy_ms": round((busy() - before) / times, 1),
            }
            print(f"{name:<24} {found[name]}", flush=True)
        version = browser.version
        browser.close()
    every = statistics.median(entry["wall_ms"] for entry in found.values())
    return {"chromium": version, "opened_ms": round(opened), "median_wall_ms": every, "interactions": found}


def main() -> None:
    """Make the sweep, measure, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--times", type=int, default=40)
    record.add_out(parser)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(report.html(a_sweep(Path(folder), options.models)), encoding="utf-8")
        size = file.stat().st_size
        load = os.getloadavg()[0]
        result = measure(file, options.chromium, options.times)
    record.write(
        options.out,
        {"models": options.models, "times": options.times, "page_bytes": size, "load": load, **result},
    )


if __name__ == "__main__":
    main()
