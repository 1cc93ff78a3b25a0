"""The report: one self-contained HTML page that says which model to take, what it saves, and what that rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import text
from analysis.choose import constraints as hard
from analysis.choose.recommend import recommend
from analysis.evidence.assurance import Assurance, assurance
from analysis.front import pareto
from analysis.front.anchors import USABLE, Anchors, anchors_for, from_chance
from analysis.front.progress import progress
from analysis.plain import plain
from analysis.runs import table
from analysis.runs.models import finished_baselines, unfinished_paths, word
from analysis.show import figures, first, page, sections, speed
from analysis.show.confirmed import confirmed_table, draw_confirmed
from analysis.show.payload import cost_axes, max_drop, payload
from analysis.show.publish import write_figures
from gcp_core.schema import STATUSES

if TYPE_CHECKING:
    import pandas as pd

    from analysis.choose.constraints import Constraint
    from analysis.choose.select import Choice


#: What the number at the head of the page is.
_VOLUME = (
    "How much of the box between the anchors the front covers, 1 = all of it. A larger number is a better front. "
    "The anchors are listed under How to read this."
)


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
    benches: Sequence[Path] = (),
) -> Written:
    """Write ``report.html``, the figures (PNG, SVG, CSV), ``front.csv`` and ``trials.csv`` into ``folder``.

    A table without a finished model gives a page that says so, and ``trials.csv``.

    Args:
        choice: a choice that somebody made; without one the page shows the default choice and says so.
        band: costs that differ by at most this share count as equal on the front that is shown (``pareto.distinct``).
        usable: where the accuracy scale of the hypervolume begins (``anchors_for``).
        benches: files that ``bench`` wrote elsewhere than into the sweep's folder.

    Raises:
        ConfigError: one of ``benches`` cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    if df["candidate"].any():
        files += _figures(df, folder, choice, constraints, band, usable)
    df.to_csv(folder / "trials.csv", index=False)
    files.append(folder / "trials.csv")
    target = folder / "report.html"
    said = html(
        df, choice=choice, constraints=constraints, band=band, usable=usable, files=files, benches=benches
    )
    target.write_text(said, encoding="utf-8")
    return Written(target, tuple(files))


def _figures(
    df: pd.DataFrame,
    folder: Path,
    choice: Choice | None,
    constraints: Sequence[Constraint],
    band: float,
    usable: float | None,
) -> list[Path]:
    goals = df.attrs["objectives"]
    chosen = figures.keys_of(choice.rows)[0] if choice is not None else None
    files = write_figures(df, folder, chosen=chosen, constraints=tuple(constraints), band=band)
    history = progress(df, goals, anchors_for(df, goals, usable=usable))
    for by in ("trials", "device_hours"):
        files += figures.save(figures.draw_progress(history, by), history, folder, f"hypervolume_{by}")
    best = pareto.distinct(df, goals, band).sort_values("macs")
    best.to_csv(folder / "front.csv", index=False)
    files.append(folder / "front.csv")
    sure = assurance(df, goals)
    if sure.confirmed:
        fresh = confirmed_table(sure.confirmed)
        files += figures.save(draw_confirmed(fresh), fresh, folder, "confirmed")
    return files


def html(
    df: pd.DataFrame,
    *,
    choice: Choice | None = None,
    constraints: Sequence[Constraint] = (),
    band: float = pareto.BAND,
    usable: float | None = USABLE,
    files: Sequence[Path] = (),
    benches: Sequence[Path] = (),
) -> str:
    """The whole page as text: one HTML file that fetches nothing. Writes nothing, so a live page can ask for it again.

    A table without a finished model, without a baseline or with a single trial gives a page that says so.

    Args:
        files: what is beside the page, named at its end.
        benches: as :func:`write` has them.
    """
    goals = df.attrs["objectives"]
    some = bool(df["candidate"].any())
    scales = anchors_for(df, goals, usable=usable) if some else None
    best = pareto.distinct(df, goals, band).sort_values("macs") if some else df.head(0)
    found = recommend(df, constraints=constraints, choice=choice)
    history = progress(df, goals, scales) if scales is not None else None
    sweep = str(found.choice.rows["sweep"].iloc[0]) if found.choice is not None else ""
    fast = speed.speeds(df, found.model, benches, sweep=sweep)
    sure = assurance(df, goals) if some else Assurance("no model is finished", {}, 0, None, ())
    return page.interactive(
        "report.html",
        f"Report: {_name(df)}",
        payload(df, found, history, constraints, band),
        head=_head(df, best, scales),
        first=first.first_screen(df, found, fast.chosen),
        limits=_limits(df, constraints) if choice is None and constraints else None,
        word=word(df),
        explorer=_explorer(df),
        mattered=sections.what_mattered(df),
        sure=sections.sureness(df, sure),
        confirmed=sections.confirmed(sure),
        advice=sections.what_next(df, scales) if scales else sections.Advice("no model is finished"),
        paths=sections.paths(df),
        fast=fast,
        health=_health(df),
        reading=_reading(df, scales, files),
    )


def _name(df: pd.DataFrame) -> str:
    return ", ".join(str(entry["name"]) for entry in df.attrs["sweeps"])


@dataclass(frozen=True)
class Fact:
    """A number or name at the head of the page; ``title`` explains it in a tooltip."""

    value: str
    words: str
    title: str = ""


def _head(df: pd.DataFrame, best: pd.DataFrame, scales: Anchors | None) -> dict[str, Any]:
    counts = table.counts(df)
    facts = [*_subject(df), Fact(*_finished(df, counts))]
    left = sum(len(models) for models in df.attrs["left_out"].values())
    if left:
        facts.append(Fact(str(left), "left out of the front (why: below)"))
    if scales is not None:
        volume = pareto.hypervolume(df, df.attrs["objectives"], scales)
        facts.append(Fact(str(len(best)), "on the front"))
        facts.append(Fact(f"{volume.value:.3f}", "of 1 hypervolume", _VOLUME))
    base = df[(df["kind"] == "baseline") & df["val_accuracy"].notna()]
    if len(base):
        mean = base["val_accuracy"].mean()
        facts.append(Fact(f"{mean:.2f} %", f"baseline accuracy ({text.plural(len(base), 'run')})"))
    else:
        facts.append(Fact("No baseline", "has finished"))
    last = df["ended"].max()
    return {
        "name": _name(df),
        "ended": f"last trial ended {last:%Y-%m-%d %H:%M} UTC" if last == last else "",
        "running": any(entry.get("running") for entry in df.attrs["sweeps"]),
        "facts": facts,
        "near_ties": ", ".join(f"{trial} ({by})" for trial, by in best.attrs.get("near_ties", {}).items()),
    }


def _subject(df: pd.DataFrame) -> list[Fact]:
    """The data set and the network, as far as the table names them; of a folder of images also the folder's name."""
    facts = []
    for column, words in (("data.name", "data"), ("model.name", "network")):
        names = _values(df, column)
        if column == "data.name" and len(names) == 1 and (paths := _values(df, "data.path")):
            folders = ", ".join(sorted({Path(path).name for path in paths}))
            names = [f"{folders} ({names[0]})" if folders != names[0] else folders]
        if names:
            facts.append(Fact(", ".join(names), words))
    return facts


def _values(df: pd.DataFrame, column: str) -> list[str]:
    return sorted({str(value) for value in df[column].dropna()}) if column in df.columns else []


def _finished(df: pd.DataFrame, counts: dict[str, int]) -> tuple[str, str]:
    trials = text.plural(counts["trials"], "trial")
    if word(df) == "trial":
        return str(counts["candidates"]), f"finished of {trials}"
    return str(
        counts["candidates"]
    ), f"finished {'model' if counts['candidates'] == 1 else 'models'} of {trials}"


def _limits(df: pd.DataFrame, constraints: Sequence[Constraint]) -> dict[str, Any]:
    """Limits without a verb: how many trials keep them, and if none does, what each alone removes."""
    rows = df[df["candidate"]]
    kept = hard.feasible(rows, constraints) if len(rows) else np.zeros(0, dtype=bool)
    alone = [] if kept.any() or not len(rows) else [hard.describe(hard.removal(rows, c)) for c in constraints]
    return {
        "constraints": [str(c) for c in constraints],
        "feasible": int(kept.sum()),
        "considered": len(rows),
        "alone": alone,
    }


def _explorer(df: pd.DataFrame) -> dict[str, Any]:
    return {
        "axes": [(name, figures.axis_label(name)) for name in cost_axes(df)],
        "parameters": [(name, name) for name in table.varying(df)],
        "sharp": _sharpness(df),
        "max_drop": f"{max_drop(df):g}",
    }


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
        "baselines": finished_baselines(df),
        "left_out": _left_out(word(df), left),
    }


def _left_out(first: str, rows: list[tuple[str, str, str]]) -> page.Table:
    """Which models are left out, and why; the column of errors only where there is one."""
    if any(error for *_, error in rows):
        return page.Table([first, "reason", "error"], rows)
    return page.Table([first, "reason"], [row[:2] for row in rows])


def _sharpness(df: pd.DataFrame) -> str:
    """How many images judge an epoch, where those are fewer than judge a finished model; "" if all do."""
    names = ("train.eval_images", "val_images")
    if not set(names) <= set(df.columns):
        return ""
    few, all_ = (plain(df[name].max()) for name in names)
    return f"{few:.0f} of {all_:.0f}" if few is not None and all_ is not None and few < all_ else ""


def _reading(df: pd.DataFrame, scales: Anchors | None, files: Sequence[Path]) -> dict[str, Any]:
    goals = df.attrs["objectives"]
    chance = from_chance(scales, df, goals) if scales is not None else None
    return {
        "from_chance": f"{pareto.hypervolume(df, goals, chance).value:.3f}" if chance else "",
        "objectives": list(goals.items()),
        "anchors": scales.describe() if scales is not None else "",
        "files": [(file.name, file.name) for file in files],
    }
