"""Show the front inside MLflow: tags on the runs of models (a path's are its snapshots), figures, table and note above.

Afterwards one filter in the MLflow UI, ``tags.`pareto.front` = 'true'``, lists exactly the front.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import text
from analysis.front import pareto
from analysis.front.anchors import anchors_for, from_chance
from analysis.runs import table
from analysis.runs.fetch import own_artifacts
from analysis.runs.load import load
from analysis.runs.models import word
from analysis.runs.store import SweepRef, client_for, find, taking_files
from analysis.show import figures
from gcp_core.schema import FRONT_HYPERVOLUME, Tag

if TYPE_CHECKING:
    import pandas as pd

#: Folder of the artifacts on the parent run.
ARTIFACT_FOLDER = "front"


@dataclass(frozen=True)
class Published:
    """What was written: models on the front, tags changed, hypervolume, files in the sweep's report
    folder.
    """

    front: tuple[str, ...]
    tags_changed: int
    hypervolume: float
    files: tuple[Path, ...]


def publish(sweep: str | Path, *, tracking_uri: str | None = None, out: Path | None = None) -> Published:
    """Tag the front of a sweep in MLflow and attach figures, CSV and a Markdown note to its parent run.

    Safe to repeat: only tags that changed are written, and a trial that left the front is tagged so. A sweep
    without a finished trial gets nothing. Figures are also written to ``out`` (default: ``report/`` in the
    sweep's folder).
    """
    ref = find(sweep, tracking_uri=tracking_uri)
    df = load(sweep, tracking_uri=tracking_uri)
    if not df["candidate"].any():
        return Published((), 0, 0.0, ())
    folder = out or (ref.folder / "report" if ref.folder else Path.cwd() / f"{ref.name}-report")
    ranks = pareto.ranks(df, ref.objectives)
    best = pareto.distinct(df, ref.objectives).sort_values("macs")
    volume = pareto.hypervolume(df, ref.objectives, anchors_for(df, ref.objectives)).value
    files = write_figures(df, folder)
    best.to_csv(folder / "front.csv", index=False)
    files.append(folder / "front.csv")
    changed = _tag_children(ref, df, ranks, set(best["run_id"]))
    _attach(ref, files, note(df, best, volume), volume, int(df["candidate"].sum()))
    return Published(tuple(best["model"]), changed, volume, tuple(files))


def write_figures(df: pd.DataFrame, folder: Path, **options: Any) -> list[Path]:
    """The accuracy-cost figures of a table (PNG, SVG, CSV each): against MACs, parameters and, if measured,
    latency.
    """
    name = ", ".join(str(entry["name"]) for entry in df.attrs["sweeps"])
    files: list[Path] = []
    for column, words in (("macs", "multiply-adds"), ("params", "parameters"), ("latency_ms", "latency")):
        if column not in df.columns or not df.loc[df["candidate"], column].notna().any():
            continue
        title = f"{name}: accuracy against {words}"
        view = figures.front_view(df, column, title=title, **options)
        files += figures.save(figures.draw_front(view), view.points, folder, f"front_{column}")
    return files


def note(df: pd.DataFrame, best: pd.DataFrame, hypervolume: float) -> str:
    """Markdown for the parent run: the front as a table, the counts, and the filter that shows it."""
    header, rows = text.trials_cells(best, table.varying(df)[:6])
    goals = df.attrs["objectives"]
    scales = anchors_for(df, goals)
    chance = from_chance(scales, df, goals)
    old = f"; {pareto.hypervolume(df, goals, chance).value:.4f} with accuracy from chance" if chance else ""
    lines = [
        f"## Front: {len(best)} of {text.plural(int(df['candidate'].sum()), f'finished {word(df)}')}",
        "",
        f"Hypervolume {hypervolume:.4f} ({scales.describe()}){old}.",
        f"In the run list, filter by ``tags.`{Tag.FRONT}` = 'true'``.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    lines += [f"Left out, {reason}: {len(trials)}." for reason, trials in df.attrs["left_out"].items()]
    return "\n".join(lines)


def _tag_children(ref: SweepRef, df: pd.DataFrame, ranks: pd.Series, front: set[str]) -> int:
    """Write rank and front tags where they differ from what a run has; returns the number of runs changed.

    A near-tie has rank 1 and is not tagged as front: the filter shows what figures and tables show.
    """
    import pandas as pd
    from mlflow.entities import RunTag

    client = client_for(ref.tracking_uri)
    known = _known_tags(ref)
    off = {Tag.FRONT: "false", Tag.RANK: ""}
    # First the runs that stand for no model any more, as a path's own since it has snapshots.
    wanted = {run_id: off for run_id, tags in known.items() if tags.get(Tag.FRONT) == "true"}
    trials = df["kind"] == "trial"
    for run_id, rank in zip(df.loc[trials, "run_id"], ranks[trials]):
        shown = {Tag.FRONT: "true" if run_id in front else "false"}
        wanted[run_id] = off if pd.isna(rank) else shown | {Tag.RANK: str(int(rank))}
    wanted = {run_id: tags for run_id, tags in wanted.items() if known.get(run_id, {}) != tags}
    for run_id, tags in wanted.items():
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    return len(wanted)


def _known_tags(ref: SweepRef) -> dict[str, dict[str, str]]:
    """Front tags as they are now; read fresh, because the cache keeps what a run had when it ended."""
    from analysis.runs.store import read_records

    records = read_records(ref)
    names = [name for name in (Tag.FRONT, Tag.RANK) if f"tag:{name}" in records.columns]
    return {
        row["run_id"]: {n: row[f"tag:{n}"] for n in names if isinstance(row[f"tag:{n}"], str)}
        for row in records.to_dict("records")
    }


def _attach(ref: SweepRef, files: list[Path], markdown: str, hypervolume: float, finished: int) -> None:
    client = client_for(ref.tracking_uri)
    places = own_artifacts(ref.tracking_uri, ref.folder, ref.parent_run_id)
    own = next((place for place in places if place.is_dir()), None)
    for file in files:
        if own is None:
            with taking_files(ref.name):
                client.log_artifact(ref.parent_run_id, str(file), ARTIFACT_FOLDER)
        else:  # MLflow would write where the folder was when the sweep began
            (own / ARTIFACT_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(file, own / ARTIFACT_FOLDER / file.name)
    client.set_tag(ref.parent_run_id, Tag.NOTE, markdown[:8000])
    client.log_metric(ref.parent_run_id, FRONT_HYPERVOLUME, hypervolume, step=finished)
