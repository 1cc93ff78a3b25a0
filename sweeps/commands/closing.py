"""What ``run`` says last: how the sweep ended, what to type next, and where to look at it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from gcp_core.schema import LOCAL_UI
from sweeps.config.places import as_typed
from sweeps.records.layout import JOURNAL
from sweeps.tracking.view import clicks

if TYPE_CHECKING:
    from sweeps.driver.launch import Sweep


def closing_words(
    sweep: Sweep, again: str, ledger: str | None = None, store: str | None = None, of_paths: bool = False
) -> str:
    """How it ended, and what to type next; ``ledger`` and ``store`` are URLs where they are not in the sweep's folder."""
    counts = (
        ", ".join(f"{number} {status}" for status, number in sorted(sweep.statuses.items()))
        or "no trial ended"
    )
    lines = ["", f"{sweep.name}: {sweep.state} ({counts})"]
    if sweep.message:
        lines.append(f"  {sweep.message}")
    if sweep.statuses.get("infeasible") and sweep.feasible and of_paths:
        lines.append(
            f"  a path counts by its last model; {sweep.feasible} of the models keep all constraints"
        )
    folder = shlex.quote(as_typed(sweep.folder))
    if store is not None:
        lines.append(f"  stored at {store}; {as_typed(sweep.folder)} is the driver's working folder")
    if sweep.unwritten:
        lines.append(f"  {sweep.unwritten} entries did not reach MLflow; the next run writes them")
    if sweep.state != "complete" or sweep.unwritten:
        lines.append(f"continue:  {again}")
    if any(sweep.statuses.get(name) for name in ("failed", "lost", "diverged")):
        lines.append(f"failures:  gcp-sweep status {folder} --failed")
    if sweep.statuses.get("complete") or sweep.feasible:
        lines += [
            "next:",
            f"  gcp-analyze front {folder}",
            f'  gcp-analyze select {folder} "macs <= 50%" --best accuracy',
            f"  gcp-analyze report {folder}",
        ]
    opened = shlex.quote(ledger or as_typed(sweep.folder / JOURNAL))
    lines += ["look at it:", *_ui(sweep, of_paths), f"  optuna-dashboard {opened}"]
    return "\n".join(lines)


def _ui(sweep: Sweep, of_paths: bool) -> list[str]:
    """Where MLflow shows the sweep: its ready-made views, or what to click."""
    uri = sweep.tracking_uri
    served = uri.startswith(("http://", "https://"))
    if uri.startswith("sqlite:///"):
        uri = f"sqlite:///{as_typed(Path(uri.removeprefix('sqlite:///')))}"
    lines = [f"  MLflow: {uri}" if served else f"  mlflow ui --backend-store-uri {shlex.quote(uri)}"]
    if not sweep.views:
        return [*lines, f"    {clicks(sweep.name, of_paths)}"]
    host = uri.rstrip("/") if served else LOCAL_UI
    width = max(map(len, sweep.views)) + 1
    return [*lines, *(f"    {title + ':':<{width}} {host}/{where}" for title, where in sweep.views.items())]
