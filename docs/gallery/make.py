"""Make the gallery of a sweep: its report, figures and tables, and what the MLflow UI shows, as pictures.

    make gallery                                              # of the demo sweep
    python docs/gallery/make.py SWEEP_FOLDER --out docs/gallery/NAME [--chromium chromium]

Opens the report page and the MLflow UI in a real headless Chromium and fails (exit code 1) on a console error, a broken
link, a filter that does not filter, a front that is not the front, or anything loaded from outside. The cheapest model
within one point of its baseline, if there is one, is measured with ``bench`` and registered first.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))
from browser import BrowserError, chromium
from check import check_hearing, check_mlflow, check_parallel, check_report, front_of
from pictures import report_pictures
from views import check_model, check_views, views_of

FILES = ("front_macs", "confirmed")


@contextmanager
def mlflow_server(store: str) -> Iterator[str]:
    """A server over ``store`` on a free loopback port, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", store]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *where],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{url}/health", server)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    sys.exit("the MLflow server did not start")


def forget_place(table: Path) -> None:
    """Keep only the last part of ``data.path``: where the data lay on one machine is nobody's business."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["data.path"] = Path(row.get("data.path") or "").name
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


async def look(sweep: Path, out: Path, server: str, program: str, model: str) -> None:
    """Check report and MLflow UI in the browser and take the pictures; ``model`` is a registered one ("" = none is)."""
    answer = urllib.request.urlopen(f"{server}/api/2.0/mlflow/runs/get?run_id={_parent(sweep)}", timeout=120)
    experiment = json.load(answer)["run"]["info"]["experiment_id"]
    async with chromium(program) as page:
        await check_hearing(page)
        seen = await check_report(page, sweep / "report", server)
        print("report: " + ", ".join(f"{value} {name}" for name, value in seen.items()))
        await report_pictures(page, sweep / "report", out)
        await check_mlflow(page, server, experiment, sweep / "report")
        print("MLflow: the filter shows exactly the front")
        await check_views(page, server, views_of(sweep), out)
        print(f"MLflow: {len(views_of(sweep))} ready-made views open")
        if any("@" in model for model in front_of(sweep / "report")):
            await check_parallel(page, server, experiment, searched(sweep))
            print("MLflow: every snapshot is a line through its parameters, MACs and accuracy")
        if model:
            await check_model(page, server, sweep.name, model, out)
            print(f"MLflow: the registered model has the card of {model}")


def searched(sweep: Path) -> list[str]:
    """The settings of training and pruning of which the sweep tries several values."""
    tree = yaml.safe_load((sweep / "config.yaml").read_text())
    leaves = {f"{part}.{name}": value for part in ("train", "prune") for name, value in tree[part].items()}
    return [
        path for path, value in leaves.items() if isinstance(value, dict) and {"choice", "low"} & value.keys()
    ]


def default_choice(program: Path, sweep: Path) -> str:
    """The cheapest model within one point of its baseline, "" if there is none."""
    words = [program, "select", sweep, "accuracy_drop <= 1", "--cheapest", "macs", "--json"]
    found = subprocess.run(words, capture_output=True, text=True)
    return "" if found.returncode else str(json.loads(found.stdout)["chosen"][0]["model"])


def _parent(sweep: Path) -> str:
    return str(json.loads((sweep / "sweep.json").read_text())["parent_run_id"])


def main() -> int:
    """Collect files and pictures of one sweep; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chromium", default="chromium")
    options = parser.parse_args()
    if shutil.which(options.chromium) is None:
        print(f"no {options.chromium} here: apt-get install chromium, or --chromium PROGRAM", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).parent / "gcp-analyze"
    model = default_choice(program, options.sweep)
    if model:
        for words in (["bench", "--clock", "cpu"], ["register", "--name", options.sweep.name]):
            subprocess.run([program, words[0], options.sweep, "--id", model, *words[1:]], check=True)
    subprocess.run([program, "report", options.sweep, "--publish"], check=True)
    table = subprocess.run([program, "front", options.sweep], check=True, capture_output=True, text=True)
    (options.out / "front.txt").write_text(table.stdout)
    report = options.sweep / "report"
    for name in [f"{stem}.{kind}" for stem in FILES for kind in ("png", "csv")] + ["front.csv"]:
        if (report / name).exists():
            shutil.copy(report / name, options.out / name)
    forget_place(options.out / "front.csv")
    try:
        with mlflow_server(f"sqlite:///{(options.sweep / 'mlflow.db').resolve()}") as url:
            asyncio.run(look(options.sweep, options.out, url, options.chromium, model))
    except BrowserError as error:
        print(f"gallery: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
