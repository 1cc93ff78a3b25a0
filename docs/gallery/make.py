"""Make the gallery of a sweep: its report, figures and tables, and what the MLflow UI shows, as pictures.

    python docs/gallery/make.py SWEEP_FOLDER --out docs/gallery/NAME [--chromium chromium]

Needs a Chromium for the pictures; the report itself does not. Fails on a console error of the report page.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

FILES = ("front_macs.png", "front_macs.csv", "front_params.png", "front_params.csv", "front.csv")
FRONT_FILTER = "tags.`pareto.front` = 'true'"


def screenshot(chromium: str, url: str, target: Path, size: tuple[int, int], wait_ms: int) -> list[str]:
    """Write a picture of ``url``; the page's console errors."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                chromium,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--enable-logging=stderr",
                f"--user-data-dir={profile}",
                f"--window-size={size[0]},{size[1]}",
                f"--virtual-time-budget={wait_ms}",
                f"--screenshot={target}",
                url,
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    if not target.exists():
        sys.exit(f"{chromium} made no picture of {url}: {done.stderr[-500:]}")
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line and "Error" in line]


@contextmanager
def mlflow_server(store: str) -> Iterator[str]:
    """A server over ``store`` on a free loopback port, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
            "--backend-store-uri",
            store,
        ],
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
    deadline = time.monotonic() + 180
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


def main() -> None:
    """Collect files and pictures of one sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chromium", default="chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    programs = Path(sys.executable).parent
    subprocess.run([programs / "gcp-analyze", "report", options.sweep], check=True)
    table = subprocess.run(
        [programs / "gcp-analyze", "front", options.sweep], check=True, capture_output=True, text=True
    )
    (options.out / "front.txt").write_text(table.stdout)
    report = options.sweep / "report"
    for name in FILES:
        if (report / name).exists():
            shutil.copy(report / name, options.out / name)
    forget_place(options.out / "front.csv")
    page = (report / "report.html").resolve().as_uri()
    errors = screenshot(options.chromium, page, options.out / "report.png", (1400, 3000), 15_000)
    if errors:
        sys.exit("the report page logs errors:\n" + "\n".join(errors))
    with mlflow_server(f"sqlite:///{(options.sweep / 'mlflow.db').resolve()}") as url:
        # Sorted by a metric, the table is flat; sorted by time, children hide below their parent.
        runs = f"{url}/#/experiments/1/runs?orderByKey={quote('metrics.`final/macs`')}&orderByAsc=true"
        screenshot(options.chromium, runs, options.out / "mlflow_runs.png", (1900, 1500), 30_000)
        front = f"{runs}&searchFilter={quote(FRONT_FILTER)}"
        screenshot(options.chromium, front, options.out / "mlflow_front.png", (1900, 900), 30_000)


if __name__ == "__main__":
    main()
