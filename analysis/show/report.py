"""The report: one self-contained HTML page with an interactive front, tables, progress, widths and health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import text
from analysis.choose.constraints import Constraint
from analysis.evidence.assurance import Assurance, assurance
from analysis.front import pareto
from analysis.front.anchors import Anchors, anchors_for
from analysis.front.progress import progress
from analysis.plain import plain, plain_trial
from analysis.runs import table
from analysis.runs.widths import layer_widths, manifest_of
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
) -> Written:
    """Write ``report.html``, the figures (PNG, SVG, CSV), ``front.csv`` and ``trials.csv`` into ``folder``.

    Raises:
        NothingFeasible: the table has no finished trial.
    """
    from analysis.errors import NothingFeasible

    if not df["candidate"].any():
        reasons = "; ".join(f"{len(t)} {r}" for r, t in df.attrs["left_out"].items())
        raise NothingFeasible("there is no finished trial to report", "report", reasons)
    folder.mkdir(parents=True, exist_ok=True)
    goals = df.attrs["objectives"]
    scales = anchors_for(df, goals)
    chosen = choice.trial if choice is not None else None
    files = write_figures(df, folder, chosen=chosen, constraints=tuple(constraints))
    history = progress(df, goals, scales)
    for by in ("trials", "device_hours"):
        files += figures.save(figures.draw_progress(history, by), history, folder, f"hypervolume_{by}")
    best = pareto.front(df, goals).sort_values("macs")
    best.to_csv(folder / "front.csv", index=False)
    df.to_csv(folder / "trials.csv", index=False)
    files += [folder / "front.csv", folder / "trials.csv"]
    target = folder / "report.html"
    sure = assurance(df, goals)
    if sure.confirmed:
        fresh = confirmed_table(sure.confirmed)
        files += figures.save(draw_confirmed(fresh), fresh, folder, "confirmed")
    body = _body(df, best, choice, scales, files, sure)
    target.write_text(
        page.document(f"Report: {_name(df)}", body, _data(df, choice, history)), encoding="utf-8"
    )
    return Written(target, tuple(files))


def _name(df: pd.DataFrame) -> str:
    return ", ".join(str(entry["name"]) for entry in df.attrs["sweeps"])


def _body(
    df: pd.DataFrame,
    best: pd.DataFrame,
    choice: Choice | None,
    scales: Anchors,
    files: Sequence[Path],
    sure: Assurance,
) -> str:
    goals = df.attrs["objectives"]
    parts = [_head(df, best, scales)]
    if choice is not None:
        parts.append(_choice(df, choice))
    parts.append(_explorer(df))
    parts.append(
        "<h2>How the front grew</h2>"
        '<p class="soft">Share of the anchored box that the front covers, after every finished trial.</p>'
        '<div class="filters"><label>over<select id="p-by"><option value="trials">finished trials</option>'
        '<option value="device_hours">device hours</option></select></label></div>'
        '<div id="plot-progress" class="plot"></div>'
    )
    parts.append(sections.what_mattered(df))
    parts.append(sections.sureness(df, sure))
    parts.append(sections.confirmed(sure))
    parts.append(sections.what_next(df, scales))
    parts.append(_health(df))
    parts.append(_reading(goals, scales, files))
    return "\n".join(parts)


def _head(df: pd.DataFrame, best: pd.DataFrame, scales: Anchors) -> str:
    goals = df.attrs["objectives"]
    counts = table.counts(df)
    volume = pareto.hypervolume(df, goals, scales)
    last = df["ended"].max()
    when = f"last trial ended {last:%Y-%m-%d %H:%M} UTC" if last == last else ""
    running = any(entry.get("running") for entry in df.attrs["sweeps"])
    state = " - <b>still running</b>, this is the state of now" if running else ""
    numbers = [
        (str(counts["candidates"]), f"finished of {text.plural(counts['trials'], 'trial')}"),
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
    return (
        f'<h1>{page.escape(_name(df))}</h1><p class="soft">From the runs of a pruning sweep to one model; '
        f"{page.escape(when)}{state}</p>{page.tiles(numbers)}"
    )


def _choice(df: pd.DataFrame, choice: Choice) -> str:
    said = "".join(f"<code>{page.escape(c)}</code> " for c in choice.constraints)
    html = f'<h2>The choice</h2><div class="choice"><p>{page.escape(choice.reason)}</p>'
    if said:
        html += f'<p class="soft">{said}- {choice.feasible} of {choice.considered} finished trials satisfy them.</p>'
    html += "</div>"
    if len(choice.runners_up):
        header, rows = text.trials_cells(choice.runners_up, table.varying(df)[:_SHOWN_PARAMS])
        html += f'<p class="soft">Runners-up:</p>{page.grid(header, rows)}'
    return html + _widths(df, choice)


def _widths(df: pd.DataFrame, choice: Choice) -> str:
    row = choice.rows.iloc[0]
    try:
        manifest = manifest_of(df, row)
        widths = layer_widths(manifest) if manifest else []
    except GcpError as error:
        return f'<p class="soft">Layer widths are not available: {page.escape(error)}</p>'
    if not widths:
        return '<p class="soft">Layer widths are not available: no manifest, or nothing was removed.</p>'
    rows = [(w.layer, w.after, w.before) for w in widths]
    return f"<h2>What is left of each layer of {page.escape(choice.trial)}</h2>{page.bars(rows)}"


def _explorer(df: pd.DataFrame) -> str:
    axes = page.options([(name, figures.axis_label(name)) for name in _cost_axes(df)])
    names = page.options([(name, name) for name in table.varying(df)])
    return f"""
<h2>The front</h2>
<p class="soft">Filter, hover, click a point or a row for its values and its run. The front is that of the
trials shown.</p> <div class="filters">
<label>cost<select id="f-x">{axes}</select></label>
<label><span>MACs at most, of the baseline: <output id="o-macs"></output></span>
<input id="f-macs" type="range" min="1" max="100" value="100"></label>
<label><span>points lost at most: <output id="o-drop"></output></span>
<input id="f-drop" type="range" min="0" max="{_max_drop(df):g}" step="0.1" value="{_max_drop(df):g}"></label>
<label>parameter<select id="f-name">{names}</select></label>
<label>equals<select id="f-value"></select></label>
<label>table<span><input id="f-only" type="checkbox" checked> front only</span></label>
</div>
<div class="split"><div id="plot-front" class="plot"></div><div id="detail" class="soft">Click a
point.</div></div> <p id="shown" class="soft"></p>
<div class="scroll" id="rows"></div>
<h2>What was searched</h2>
<p class="soft">One line per trial that passes the filters. Drag along an axis to pick a range; colour:
validation accuracy.</p>
<div id="plot-parallel" class="plot"></div>"""


def _cost_axes(df: pd.DataFrame) -> list[str]:
    rows = df[df["candidate"]]
    return [n for n in ("macs", "params", "latency_ms") if n in df.columns and rows[n].notna().any()]


def _max_drop(df: pd.DataFrame) -> float:
    worst = df.loc[df["candidate"], "accuracy_drop"].max()
    return float(int(worst) + 1) if worst == worst and worst > 0 else 1.0


def _health(df: pd.DataFrame) -> str:
    counts = table.counts(df)
    rows = [(name, counts[name], STATUSES[name].text) for name in STATUSES if name in counts]
    html = f"<h2>Health of the sweep</h2>{page.grid(['status of trials', 'number', 'meaning'], rows)}"
    if not counts["baselines"]:
        html += "<p><b>No baseline finished</b>: drops and shares of the baseline are unknown.</p>"
    left = [
        (trial, reason, errors)
        for reason, trials in df.attrs["left_out"].items()
        for trial, errors in df.loc[
            df["trial"].isin(trials) & (df["left_out"] == reason), ["trial", "error"]
        ].values
    ]
    if left:
        html += f"<p>Left out of the front:</p>{page.grid(['trial', 'reason', 'error'], left)}"
    return html


def _reading(goals: dict[str, str], scales: Anchors, files: Sequence[Path]) -> str:
    said = ", ".join(f"<code>{page.escape(n)}</code> ({d})" for n, d in goals.items())
    links = ", ".join(f'<a href="{page.escape(f.name)}">{page.escape(f.name)}</a>' for f in files)
    return f"""
<h2>How to read this</h2>
<p>Objectives: {said}. A trial is on the front if no other finished trial is at least as good in all of them
and better in one. Hypervolume anchors: {page.escape(scales.describe())}.</p>
<p>MACs are multiply-adds of one image (one MAC = two FLOPs). Accuracy is in per cent, drops in points
against the baseline with the same data, model, training and seed. Choices use validation accuracy only; the
front of single-seed trials is optimistic, so confirm finalists on fresh seeds. Links lead to the MLflow UI;
for a local store start it with <code>mlflow ui --backend-store-uri sqlite:///.../mlflow.db</code>.</p>
<p>Files beside this page: {links}</p>"""


def _data(df: pd.DataFrame, choice: Choice | None, history: pd.DataFrame) -> dict[str, Any]:
    """Everything the page's script needs."""
    config = table.config_columns(df)
    varying = table.varying(df)
    picked = set(choice.rows.index) if choice is not None else set()
    trials = _entries(df[df["candidate"]], df, config, picked)
    return {
        "sweeps": len(df.attrs["sweeps"]),
        "trials": trials,
        "baselines": _entries(df[(df["kind"] == "baseline") & df["macs"].notna()], df, config, set()),
        "varying": varying,
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
    entries = []
    for index, row in zip(rows.index, rows.to_dict("records")):
        entry = {name: plain(row.get(name)) for name in columns} | plain_trial(row, config)
        entry["key"] = f"{index}"
        entry["chosen"] = index in picked
        entry["link"] = run_link(df, row)
        entries.append(entry)
    return entries


def run_link(df: pd.DataFrame, row: dict[str, Any]) -> str:
    """The run's page in the MLflow UI ("" for a table without runs)."""
    entry = next((e for e in df.attrs["sweeps"] if e.get("name") == row["sweep"]), {})
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
