"""The report: one self-contained HTML page with an interactive front, tables, progress, widths and health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import text
from analysis.choose import constraints as hard
from analysis.choose.constraints import Constraint
from analysis.evidence.assurance import assurance
from analysis.front import pareto
from analysis.front.anchors import USABLE, Anchors, anchors_for, from_chance
from analysis.front.progress import progress
from analysis.plain import plain, plain_trial, rows_of
from analysis.runs import table
from analysis.runs.models import unfinished_paths, word
from analysis.runs.widths import LayerWidth, layer_widths, manifest_of
from analysis.show import figures, page, sections
from analysis.show.confirmed import confirmed_table, draw_confirmed
from analysis.show.publish import write_figures
from gcp_core.errors import GcpError
from gcp_core.schema import FINALS, STATUSES

if TYPE_CHECKING:
    import pandas as pd

    from analysis.choose.select import Choice

#: Where ``mlflow ui`` listens by default; links of a SQLite store lead there.
LOCAL_UI = "http://127.0.0.1:5000"

_SHOWN_PARAMS = 8


@dataclass(frozen=True)
class Written:
    """The page and every figure and table beside it."""

    page: Path
    files: tuple[Path, ...]


def write(
    df: pd.DataFrame,
    folder: Path,
    *,
    choice: Choice | None = None,
    constraints: Sequence[Constraint] = (),
    band: float = pareto.BAND,
    usable: float | None = USABLE,
) -> Written:
    """Write ``report.html``, the figures (PNG, SVG, CSV), ``front.csv`` and ``trials.csv`` into ``folder``.

    ``band``: costs that differ by at most this share count as equal on the front that is shown (``pareto.distinct``).
    ``usable``: where the accuracy scale of the hypervolume begins (``anchors_for``).

    Raises:
        NothingFeasible: the table has no finished trial.
    """
    from analysis.errors import NothingFeasible

    if not df["candidate"].any():
        reasons = "; ".join(f"{len(t)} {r}" for r, t in df.attrs["left_out"].items())
        raise NothingFeasible("there is no finished trial to report", "report", reasons)
    folder.mkdir(parents=True, exist_ok=True)
    goals = df.attrs["objectives"]
    chosen = choice.model if choice is not None else None
    files = write_figures(df, folder, chosen=chosen, constraints=tuple(constraints), band=band)
    history = progress(df, goals, anchors_for(df, goals, usable=usable))
    for by in ("trials", "device_hours"):
        files += figures.save(figures.draw_progress(history, by), history, folder, f"hypervolume_{by}")
    best = pareto.distinct(df, goals, band).sort_values("macs")
    best.to_csv(folder / "front.csv", index=False)
    df.to_csv(folder / "trials.csv", index=False)
    files += [folder / "front.csv", folder / "trials.csv"]
    sure = assurance(df, goals)
    if sure.confirmed:
        fresh = confirmed_table(sure.confirmed)
        files += figures.save(draw_confirmed(fresh), fresh, folder, "confirmed")
    target = folder / "report.html"
    said = html(df, choice=choice, constraints=constraints, band=band, usable=usable, files=files)
    target.write_text(said, encoding="utf-8")
    return Written(target, tuple(files))


def html(
    df: pd.DataFrame,
    *,
    choice: Choice | None = None,
    constraints: Sequence[Constraint] = (),
    band: float = pareto.BAND,
    usable: float | None = USABLE,
    files: Sequence[Path] = (),
) -> str:
    """The whole page as text: one HTML file that fetches nothing. Writes nothing, so a live page can ask for it again.

    Args:
        files: what lies beside the page, named at its end.
    """
    goals = df.attrs["objectives"]
    scales = anchors_for(df, goals, usable=usable)
    history = progress(df, goals, scales)
    best = pareto.distinct(df, goals, band).sort_values("macs")
    sure = assurance(df, goals)
    return page.interactive(
        "report.html",
        f"Report: {_name(df)}",
        {**_data(df, choice, history, constraints), "band": band},
        head=_head(df, best, scales),
        choice=_choice(df, choice) if choice is not None else None,
        limits=_limits(df, constraints) if choice is None and constraints else None,
        word=word(df),
        explorer=_explorer(df),
        mattered=sections.what_mattered(df),
        sure=sections.sureness(df, sure),
        confirmed=sections.confirmed(sure),
        advice=sections.what_next(df, scales),
        paths=sections.paths(df),
        health=_health(df),
        reading=_reading(df, scales, files),
    )


def _name(df: pd.DataFrame) -> str:
    return ", ".join(str(entry["name"]) for entry in df.attrs["sweeps"])


def _head(df: pd.DataFrame, best: pd.DataFrame, scales: Anchors) -> dict[str, Any]:
    counts = table.counts(df)
    volume = pareto.hypervolume(df, df.attrs["objectives"], scales)
    numbers = [
        _finished(df, counts),
        (str(len(best)), "on the front"),
        (f"{volume.value:.3f}", "hypervolume (anchors below)"),
    ]
    base = df[df["kind"] == "baseline"]
    base = base[base["val_accuracy"].notna()]
    if len(base):
        numbers.append(
            (f"{base['val_accuracy'].mean():.2f} %", f"baseline accuracy ({text.plural(len(base), 'run')})")
        )
        numbers.append((text.count(base["macs"].max()), "baseline MACs"))
    smallest = best["macs_kept"].min()
    if smallest == smallest:
        numbers.append((f"{1 / smallest:.1f}x", "fewest MACs on the front, against the baseline"))
    last = df["ended"].max()
    return {
        "name": _name(df),
        "ended": f"last trial ended {last:%Y-%m-%d %H:%M} UTC" if last == last else "",
        "running": any(entry.get("running") for entry in df.attrs["sweeps"]),
        "tiles": numbers,
        "near_ties": ", ".join(f"{trial} ({by})" for trial, by in best.attrs["near_ties"].items()),
    }


def _finished(df: pd.DataFrame, counts: dict[str, int]) -> tuple[str, str]:
    trials = text.plural(counts["trials"], "trial")
    if word(df) == "trial":
        return str(counts["candidates"]), f"finished of {trials}"
    return str(
        counts["candidates"]
    ), f"finished {'model' if counts['candidates'] == 1 else 'models'} of {trials}"


def _choice(df: pd.DataFrame, choice: Choice) -> dict[str, Any]:
    runners_up = None
    if len(choice.runners_up):
        runners_up = page.Table(*text.trials_cells(choice.runners_up, table.varying(df)[:_SHOWN_PARAMS]))
    widths, missing = _widths(df, choice)
    return {
        "model": choice.model,
        "reason": choice.reason,
        "constraints": [str(c) for c in choice.constraints],
        "feasible": choice.feasible,
        "considered": choice.considered,
        "runners_up": runners_up,
        "widths": widths,
        "no_widths": missing,
    }


def _limits(df: pd.DataFrame, constraints: Sequence[Constraint]) -> dict[str, Any]:
    """Limits without a verb: how many trials keep them, and if none does, what each alone removes."""
    rows = df[df["candidate"]]
    kept = hard.feasible(rows, constraints)
    alone = [] if kept.any() else [hard.describe(hard.removal(rows, c)) for c in constraints]
    return {
        "constraints": [str(c) for c in constraints],
        "feasible": int(kept.sum()),
        "considered": len(rows),
        "alone": alone,
    }


def _widths(df: pd.DataFrame, choice: Choice) -> tuple[list[LayerWidth], str]:
    """The layers of the chosen model, or why they are not known."""
    try:
        manifest = manifest_of(df, choice.rows.iloc[0])
        return layer_widths(manifest) if manifest else [], "no manifest, or nothing was removed."
    except GcpError as error:
        return [], str(error)


def _explorer(df: pd.DataFrame) -> dict[str, Any]:
    return {
        "axes": [(name, figures.axis_label(name)) for name in _cost_axes(df)],
        "parameters": [(name, name) for name in table.varying(df)],
        "max_drop": f"{_max_drop(df):g}",
    }


def _cost_axes(df: pd.DataFrame) -> list[str]:
    rows = df[df["candidate"]]
    return [n for n in ("macs", "params", "latency_ms") if n in df.columns and rows[n].notna().any()]


def _max_drop(df: pd.DataFrame) -> float:
    worst = df.loc[df["candidate"], "accuracy_drop"].max()
    return float(int(worst) + 1) if worst == worst and worst > 0 else 1.0


def _health(df: pd.DataFrame) -> dict[str, Any]:
    counts = table.counts(df)
    left = [
        (trial, reason, errors)
        for reason, trials in df.attrs["left_out"].items()
        for trial, errors in df.loc[
            df["model"].isin(trials) & (df["left_out"] == reason), ["model", "error"]
        ].values
    ]
    rows = [(name, counts[name], STATUSES[name].text) for name in STATUSES if name in counts]
    broken = [
        f"{text.plural(len(paths), 'path')} {status} after snapshots, which stay: {', '.join(paths)}"
        for status, paths in unfinished_paths(df).items()
    ]
    return {
        "broken": broken,
        "statuses": page.Table(["status of trials", "number", "meaning"], rows),
        "baselines": counts["baselines"],
        "left_out": page.Table([word(df), "reason", "error"], left),
    }


def _reading(df: pd.DataFrame, scales: Anchors, files: Sequence[Path]) -> dict[str, Any]:
    goals = df.attrs["objectives"]
    chance = from_chance(scales, df, goals)
    return {
        "from_chance": f"{pareto.hypervolume(df, goals, chance).value:.3f}" if chance else "",
        "objectives": list(goals.items()),
        "anchors": scales.describe(),
        "files": [(file.name, file.name) for file in files],
    }


def _data(
    df: pd.DataFrame, choice: Choice | None, history: pd.DataFrame, constraints: Sequence[Constraint]
) -> dict[str, Any]:
    """Everything the page's script needs."""
    config = table.config_columns(df)
    varying = table.varying(df)
    picked = set(choice.rows.index) if choice is not None else set()
    trials = _entries(df[df["candidate"]], df, config, picked)
    return {
        "sweeps": len(df.attrs["sweeps"]),
        "word": word(df),
        "trials": trials,
        "baselines": _entries(df[(df["kind"] == "baseline") & df["macs"].notna()], df, config, set()),
        "varying": varying,
        "views": {
            axis: [
                {"name": n, "better": d} for n, d in figures.goals_of_view(df, axis, "val_accuracy").items()
            ]
            for axis in _cost_axes(df)
        },
        "limits": [
            {"column": column, "value": value, "words": words}
            for column, value, words in figures.limit_lines(
                df[df["candidate"]], constraints, (*_cost_axes(df), "val_accuracy")
            )
        ],
        "finals": [name for name in FINALS if name in df.columns],
        "axes": [{"name": name, "label": figures.axis_label(name)} for name in _cost_axes(df)],
        "parallel": _parallel(df, varying),
        "progress": {name: [plain(v) for v in history[name]] for name in history.columns},
        "maxDrop": _max_drop(df),
        "sort": {"name": "macs", "sign": 1},
    }


def _entries(
    rows: pd.DataFrame, df: pd.DataFrame, config: list[str], picked: set[Any]
) -> list[dict[str, Any]]:
    columns = ["val_accuracy", "macs", "params", "macs_kept", "params_kept", "latency_ms", "accuracy_drop"]
    columns += ["latency_low_ms", "latency_high_ms"]  # what the page's front holds for equally fast
    columns += [name for name in df.attrs["objectives"] if name not in columns]
    entries = []
    for index, row in zip(rows.index, rows_of(rows)):
        entry = {name: plain(row.get(name)) for name in columns} | plain_trial(row, config)
        entry["key"] = f"{index}"
        entry["chosen"] = index in picked
        entry["link"] = run_link(df, row)
        entries.append(entry)
    return entries


def run_link(df: pd.DataFrame, row: dict[str, Any]) -> str:
    """The run's page in the MLflow UI ("" for a table without runs)."""
    entry: dict[str, Any] = next((e for e in df.attrs["sweeps"] if e.get("name") == row["sweep"]), {})
    if not row.get("run_id") or not entry.get("tracking_uri"):
        return ""
    uri = str(entry["tracking_uri"])
    base = uri.rstrip("/") if uri.startswith("http") else LOCAL_UI
    return f"{base}/#/experiments/{entry['experiment_id']}/runs/{row['run_id']}"


def _parallel(df: pd.DataFrame, varying: list[str]) -> list[dict[str, Any]]:
    """Axes of the parallel coordinates: what was searched, then cost and accuracy."""
    import pandas as pd

    rows = df[df["candidate"]]
    axes: list[dict[str, Any]] = []
    for name in varying[:_SHOWN_PARAMS]:
        numeric = pd.api.types.is_numeric_dtype(rows[name]) and not pd.api.types.is_bool_dtype(rows[name])
        values = None if numeric else sorted(rows[name].astype(str).unique())
        axes.append({"name": name, "label": name.split(".", 1)[-1], "values": values})
    axes.append({"name": "macs", "label": "MACs", "values": None})
    axes.append({"name": "val_accuracy", "label": "val acc %", "values": None})
    return axes
