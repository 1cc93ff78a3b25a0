"""The comparison as one self-contained HTML page with its figures (PNG, SVG, CSV): verdicts first, pictures after."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis import text
from analysis.evidence import compare
from analysis.evidence.permutation import Test
from analysis.front import attainment
from analysis.runs.models import word
from analysis.show import attainment_figures, figures, page
from gcp_core.schema import Direction

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COST_WORDS = {
    "device_hours": "device hours spent (wall time of the trials; other work on the machine counts too)",
    "epochs": "epochs trained, by all runs",
    "train_cost": "training cost, in epochs of the unpruned model, of all runs",
    "trials": "trials run, stopped and failed ones included",
    "nothing": "trials run",
}
_GOALS: dict[str, Direction] = {"macs": "min", "val_accuracy": "max"}


@dataclass(frozen=True)
class ComparedFiles:
    """The page and every figure and table beside it."""

    page: Path
    files: tuple[Path, ...]


def write(
    df: pd.DataFrame, by: str, found: compare.Comparison, paired: Sequence[Test], folder: Path
) -> ComparedFiles:
    """Write ``compare.html``, its figures and ``tests.csv`` into ``folder``."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    colours = colours_of(found.volumes["label"].tolist())
    shown = _figures(df, by, found, paired, folder, colours)
    files = [file for _, _, names in shown for file in names]
    tests = pd.DataFrame([vars(t) for t in (*found.tests, *paired)])
    tests.to_csv(folder / "tests.csv", index=False)
    files.append(folder / "tests.csv")
    target = folder / "compare.html"
    everything = [*found.tests, *paired]
    html = page.render(
        "compare.html",
        f"Comparison by {by}",
        names=", ".join(str(entry["name"]) for entry in df.attrs["sweeps"]),
        basis=found.basis(),
        anchors=found.anchors,
        real=[t.verdict for t in everything if t.decided],
        undecided=[t.verdict for t in everything if not t.decided],
        volumes=_table(found.volumes, word(df)),
        figures=[_shown(heading, words, names) for heading, words, names in shown],
    )
    target.write_text(html, encoding="utf-8")
    return ComparedFiles(target, tuple(files))


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """One colour per label, criteria in their own."""
    names = list(dict.fromkeys(labels))
    spare = [c for c in figures.SERIES if c not in {figures.CRITERION_COLOURS.get(n) for n in names}]
    others = [n for n in names if n not in figures.CRITERION_COLOURS]
    free = dict(zip(others, spare * (1 + len(others) // len(spare))))
    return {name: figures.CRITERION_COLOURS.get(name) or free[name] for name in names}


def _figures(
    df: pd.DataFrame,
    by: str,
    found: compare.Comparison,
    paired: Sequence[Test],
    folder: Path,
    colours: dict[str, str],
) -> list[tuple[str, str, list[Path]]]:
    """(heading, explanation, files) of every figure; the first file is the picture."""
    parts = compare.split(df, by)
    # A seed that could afford nothing would have no front to draw, so these figures show what is there, and say so.
    everything = "" if found.equal == "nothing" else " Not at equal cost: all models of each side count."
    grown = compare.growth(df, by, found.equal)
    surfaces = attainment.attainment(parts, _GOALS)
    shown = [
        (
            "Hypervolume per seed",
            "Each dot is one seed at equal cost; the bar is the mean.",
            figures.save(draw_volumes(found.volumes, colours), found.volumes, folder, "hypervolume_seeds"),
        ),
        (
            "At every cost, not only at the end",
            "Median over the seeds; the band goes from the worst to the best seed.",
            figures.save(draw_growth(grown, found.equal, colours), grown, folder, "growth"),
        ),
        (
            "What a typical seed reaches",
            "Attainment surfaces: the accuracy that half of the seeds reach at a cost; the band shows the quartiles, or "
            f"all seeds if fewer than five.{everything}",
            figures.save(
                attainment_figures.draw_attainment(surfaces, "macs", "val_accuracy", colours),
                surfaces,
                folder,
                "attainment",
            ),
        ),
    ]
    for a, b in combinations(parts, 2):
        boxes = attainment.attainment_difference(parts[a], parts[b], _GOALS)
        if boxes.empty:  # the same models: there is nothing to draw
            continue
        drawing = attainment_figures.draw_difference(
            boxes, "macs", "val_accuracy", (a, colours[a]), (b, colours[b])
        )
        shown.append(
            (
                f"Where {a} and {b} differ",
                f"Colour: which side reaches a point with more of its seeds, and by how many.{everything}",
                figures.save(drawing, boxes, folder, f"difference_{_file(a)}_{_file(b)}"),
            )
        )
    if paired:
        pairs = _all_pairs(df, by, paired)
        shown.insert(
            1,
            (
                "Accuracy at equal configuration and seed",
                "Each dot is one pair; above zero the first of the two is better. All pairs of one seed are one piece of "
                "evidence.",
                figures.save(draw_pairs(pairs), pairs, folder, "pairs"),
            ),
        )
    return shown


def _all_pairs(df: pd.DataFrame, by: str, paired: Sequence[Test]) -> pd.DataFrame:
    import pandas as pd

    frames, settings = [], compare.by_setting(df, by, "val_accuracy")
    for test in paired:
        rows = compare.differences(settings, test.first, test.second)
        frames.append(rows.assign(pair=f"{test.first} - {test.second}"))
    return pd.concat(frames, ignore_index=True)


def _file(label: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in label)


def draw_volumes(volumes: pd.DataFrame, colours: dict[str, str]) -> Figure:
    """A row of dots per label, its mean as a bar."""
    groups = {str(label): rows["hypervolume"] for label, rows in volumes.groupby("label", sort=True)}
    figure, axes = _rows(groups, colours)
    axes.set_xlabel("hypervolume   better →")
    return figure


def draw_pairs(pairs: pd.DataFrame) -> Figure:
    """Paired differences of validation accuracy, one row per pair of labels, around zero."""
    groups = {str(name): rows["difference"] for name, rows in pairs.groupby("pair", sort=False)}
    figure, axes = _rows(groups, dict.fromkeys(groups, figures.FRONT))
    axes.axvline(0.0, color=figures.INK, linewidth=0.9)
    axes.set_xlabel("difference in validation accuracy (points)")
    return figure


def _rows(groups: dict[str, pd.Series], colours: dict[str, str]) -> tuple[Figure, Axes]:
    """A figure with one row of dots per group: names of any length have room, and the figure grows with their number."""
    figure, axes = figures.new_figure(7.2, 1.2 + 0.55 * len(groups))
    for i, (name, values) in enumerate(groups.items()):
        _dots(axes, i, values.to_numpy(dtype=float), colours[name])
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(len(groups) - 0.5, -0.7)
    axes.margins(x=0.08)
    axes.grid(axis="y", visible=False)
    return figure, axes


def _dots(axes: Axes, at: int, values: np.ndarray, colour: str) -> None:
    # Spread by rank, not at random: the same data give the same picture.
    shift = (np.argsort(np.argsort(values)) % 5 - 2) * 0.05
    axes.scatter(values, at + shift, s=34, c=colour, alpha=0.75, linewidths=0)
    axes.plot([values.mean()] * 2, [at - 0.22, at + 0.22], color=colour, linewidth=2.4)
    mean = f"{values.mean():.3g}"
    axes.annotate(mean, (values.mean(), at - 0.25), fontsize=9, color=figures.INK, ha="center", va="bottom")


def draw_growth(grown: pd.DataFrame, equal: str, colours: dict[str, str]) -> Figure:
    """Median hypervolume over the cost spent, per label, with the band between the seeds."""
    figure, axes = figures.new_figure(7.2, 4.2)
    for label, rows in grown.groupby("label", sort=True):
        grid, curves = _on_one_grid(rows)
        colour = colours[str(label)]
        # The last value as a short level, or it would be a bare vertical line.
        grid, curves = np.append(grid, 1.04 * grid[-1]), np.column_stack([curves, curves[:, -1]])
        axes.fill_between(
            grid, curves.min(axis=0), curves.max(axis=0), step="post", color=colour, alpha=0.16, linewidth=0
        )
        axes.step(
            grid, np.median(curves, axis=0), where="post", color=colour, linewidth=1.9, label=str(label)
        )
    axes.set_xlim(left=0.0)
    axes.set_xlabel(_COST_WORDS[equal])
    axes.set_ylabel("hypervolume so far   better →")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    return figure


def _on_one_grid(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(g,) costs and (seeds, g) hypervolumes, from where all seeds have a first value to where the first one ends."""
    seeds = [group.sort_values("cost") for _, group in rows.groupby("seed")]
    first, last = max(s["cost"].iloc[0] for s in seeds), min(s["cost"].iloc[-1] for s in seeds)
    grid = np.unique(np.concatenate([[first, max(first, last)], *(s["cost"] for s in seeds)]))
    grid = grid[(grid >= first) & (grid <= max(first, last))]
    curves = [
        s["hypervolume"].to_numpy()[np.searchsorted(s["cost"].to_numpy(), grid, side="right") - 1]
        for s in seeds
    ]
    return grid, np.array(curves)


def _shown(heading: str, words: str, files: Sequence[Path]) -> dict[str, object]:
    """A figure as the page shows it: the picture inside the page, the files as links."""
    return {
        "heading": heading,
        "words": words,
        "links": [(file.name, file.suffix[1:]) for file in files],
        "picture": base64.b64encode(files[0].read_bytes()).decode(),
    }


def _table(volumes: pd.DataFrame, one: str) -> page.Table:
    groups = volumes.groupby("label", sort=True)
    rows = [
        (
            label,
            len(g),
            text.plural(int(g["trials"].sum()), one),
            f"{g['hypervolume'].mean():.4f}",
            f"{g['hypervolume'].std(ddof=1):.4f}" if len(g) > 1 else "-",
        )
        for label, g in groups
    ]
    return page.Table(["", "seeds", f"{one}s counted", "hypervolume, mean", "std"], rows)
