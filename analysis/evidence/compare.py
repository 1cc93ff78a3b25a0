"""Which of several sweeps, criteria or samplers found the better front, and whether the data can tell.

The unit of evidence is a seed (or, in a sweep of paths, whatever column is named): trials of one seed share their first
weights and the order of their images, snapshots of one path share a training, so neither is evidence by itself. Every
unit gives one hypervolume, with the same fixed anchors and at equal cost (:mod:`analysis.evidence.spending`), or one mean
difference; then an exact permutation test over units (:mod:`analysis.evidence.permutation`). Polished models are left
out: whoever chose them was no part of the search. A trial that made the same model as another counts on its own side.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from analysis import text
from analysis.errors import Unreachable
from analysis.evidence.permutation import Question, Test, paired_test, permutation_test
from analysis.evidence.spending import spending
from analysis.front import pareto
from analysis.front.anchors import Anchors, anchors_for
from analysis.front.objectives import Objectives, costs, usable
from analysis.front.progress import running_hypervolume
from analysis.runs.models import broke_a_limit, of_the_search, unfinished_paths
from analysis.runs.table import NULL, TWIN, as_words, config_columns
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import FINALS

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
#: What says where images are and how they are read, not which they are.
_PLACED = ("data.path", "data.download", "data.streaming", "data.workers", "data.memory_gib")


@dataclass(frozen=True)
class Comparison:
    """Hypervolume per label and unit, the tests between all pairs of labels, and what was held equal.

    Attributes:
        volumes: see :func:`compare`. ``limit``: the cost that every label and unit may spend (inf for ``nothing``).
        partly_charged: paths that failed or were stopped within a cycle: what that cycle cost is not known.
    """

    volumes: pd.DataFrame
    tests: tuple[Test, ...]
    anchors: str
    equal: str
    limit: float
    partly_charged: int = 0

    def basis(self) -> str:
        """What was held equal, in words: ``at equal epochs: 60 a side and seed, ... included``."""
        if self.equal == "nothing":
            return "at unequal cost: all that ran counts"
        spent = (
            f"{self.limit:.3g} h"
            if self.equal == "device_hours"
            else f"{self.limit:.3g} dense epochs of training"
            if self.equal == "train_cost"
            else text.plural(round(self.limit), self.equal[:-1])
        )
        unit = self.volumes.columns[1]
        included = "" if self.equal == "trials" else " and baseline"
        return (
            f"at equal {self.equal.replace('_', ' ')}: what {spent} bought each {unit} of each side, "
            f"stopped, failed{included} runs included{self._partly()}"
        )

    def _partly(self) -> str:
        """Whom the sum favours, if it is of cycles and some path has ended within one."""
        n = self.partly_charged
        if not n or self.equal == "trials":
            return ""
        return f" ({text.plural(n, 'path')} that ended within a cycle {'is' if n == 1 else 'are'} charged without it)"


def entrants(df: pd.DataFrame) -> pd.DataFrame:
    """The rows of the search, in which a model that an earlier trial has too is a candidate like that one.

    A list shows equal models once; of two sides that both made a model, and paid for it, both have it.
    """
    rows = of_the_search(df)
    if "left_out" not in rows.columns:
        return rows
    twin = (rows["kind"] == "trial") & (rows["left_out"] == TWIN)
    return rows.assign(candidate=rows["candidate"] | twin)


def split(df: pd.DataFrame, by: str) -> dict[str, pd.DataFrame]:
    """The candidates (:func:`entrants`) of a table by the values of one column (``sweep``, ``prune.criterion``, ...);
    those without a value are ``null``, the last one.

    Raises:
        ConfigError: no such column, or it has a single value.
    """
    if by not in df.columns:
        raise ConfigError("no such column", by, did_you_mean(by, df.columns))
    rows = entrants(df)
    rows = rows[rows["candidate"]]
    parts = {str(value): part for value, part in rows.groupby(by, sort=True)}
    if rows[by].isna().any():
        parts[NULL] = rows[rows[by].isna()]
    if len(parts) < 2:
        raise ConfigError(f"has a single value ({', '.join(parts) or 'none'}): nothing to compare", by)
    return parts


def check_comparable(df: pd.DataFrame) -> None:
    """Refuse sweeps with different data or different baselines (their model, training or MACs).

    The images may be in different places if their digests, which every trial's manifest holds, are equal.

    Raises:
        ConfigError: names what differs.
    """
    if df["sweep"].nunique() < 2:
        return
    digests = _data_digests(df)
    known = all(digests.values())
    columns = [c for c in df.columns if c.startswith("data.") and not (known and c in _PLACED)]
    different = [said for column in columns if (said := _difference(df, column))]
    if known and len(set(digests.values())) > 1:
        different.append("data digest: " + " / ".join(f"{v} ({k})" for k, v in digests.items()))
    base = df[df["kind"] == "baseline"]
    columns = [c for c in df.columns if c.startswith(("model.", "train."))]
    different += [f"baseline {said}" for column in columns if (said := _difference(base, column))]
    macs = base.groupby("sweep")["macs"].max()
    if macs.nunique() > 1:
        different.append("baseline MACs: " + " / ".join(f"{v:g} ({k})" for k, v in macs.items()))
    if different:
        raise ConfigError(
            "the sweeps do not answer the same question: " + "; ".join(different),
            "compare",
            "--force compares anyway",
        )


def _difference(df: pd.DataFrame, column: str) -> str:
    """``column: value (sweep) / value (sweep)`` if the sweeps differ in it, else ""."""
    values = df.groupby("sweep")[column].agg(lambda v: ", ".join(sorted(set(v.map(str)))))
    return f"{column}: " + " / ".join(f"{v} ({k})" for k, v in values.items()) if values.nunique() > 1 else ""


def _only_places(df: pd.DataFrame) -> list[str]:
    """The columns that only say where the same images lie: in several sweeps, each with one place, and equal digests."""
    columns = [c for c in _PLACED if c in df.columns and df[c].nunique(dropna=False) > 1]
    if df["sweep"].nunique() < 2 or not columns:
        return []
    digests = set(_data_digests(df).values())
    if len(digests) > 1 or "" in digests:
        return []
    places = df.groupby("sweep")[columns].nunique(dropna=False)
    return [c for c in columns if (places[c] == 1).all()]


def _data_digests(df: pd.DataFrame) -> dict[str, str]:
    """Sweep -> digest of its images, from the manifest of its first finished run; "" if it has none."""
    from analysis.runs.widths import manifest_of

    found = {}
    for name, rows in df[df["status"] == "complete"].groupby("sweep") if "status" in df.columns else ():
        try:
            manifest = manifest_of(df, rows.iloc[0]) or {}
        except Unreachable as exc:
            log.warning("whether the images of %s are those of the others is not known: %s", name, exc)
            manifest = {}
        found[str(name)] = str(manifest.get("data_digest") or "")
    return found or {"": ""}


def compare(
    df: pd.DataFrame,
    by: str = "sweep",
    *,
    equal: str = "device_hours",
    objectives: Objectives | None = None,
    unit: str = "seed",
) -> Comparison:
    """Compare the fronts of the groups of ``by``, unit by unit, at equal cost.

    Units that both groups ran (the same seeds) are paired; groups that do not share all units of the smaller one are
    compared by dealing units.

    Args:
        equal: what is held equal: each group and unit only counts the trials that ended before it had spent the
            ``device_hours``, ``epochs``, ``train_cost`` or ``trials`` that the cheapest of all spent on all its runs;
            ``nothing`` takes all.
        unit: the column that names the unit of evidence.

    Returns:
        ``volumes`` has one row per label and unit: ``label``, the unit under its column's name, ``trials`` (rows that
        count: of paths their snapshots),
        ``spent`` (by all runs up to the last that counts), ``hypervolume``. One that could afford no finished trial
        has 0; one that neither finished a trial nor spent the limit is left out.
    """
    df = entrants(df)
    goals = objectives or df.attrs["objectives"]
    scales = anchors_for(df, goals)
    labels = list(split(df, by))
    spent = spending(df, by, labels, equal, unit)
    counts = df["candidate"].reindex(spent["row"]).to_numpy(dtype=bool)
    able = spent[counts].groupby(["label", "unit"]).size().index
    totals = spent.groupby(["label", "unit"])["spent"].last()
    limit = math.inf if equal == "nothing" else float(totals[able].min())
    affordable = spent[spent["spent"] <= limit * (1 + 1e-9)]
    volumes = _volumes(df, totals[totals.index.isin(able) | (totals >= limit)], affordable, goals, scales)
    volumes = volumes.rename(columns={"unit": unit})
    values = {str(label): rows.set_index(unit)["hypervolume"] for label, rows in volumes.groupby("label")}
    pairs = list(combinations(values, 2))
    tests = [
        _volume_test(values[a], values[b], Question(a, b, unit=unit, comparisons=len(pairs)))
        for a, b in pairs
    ]
    partly = sum(map(len, unfinished_paths(df).values()))
    return Comparison(volumes, tuple(tests), scales.describe(), equal, limit, partly)


def _volumes(
    df: pd.DataFrame, totals: pd.Series, affordable: pd.DataFrame, goals: Objectives, scales: Anchors
) -> pd.DataFrame:
    import pandas as pd

    paid = dict(iter(affordable.groupby(["label", "unit"])))
    rows = []
    for label, unit in totals.index:
        runs = paid.get((label, unit))
        found = df.iloc[:0] if runs is None else df.loc[runs["row"]]
        found = found[found["candidate"].astype(bool)]
        value = pareto.hypervolume(found, goals, scales).value if len(found) else 0.0
        spent = 0.0 if runs is None else float(runs["spent"].iloc[-1])
        rows.append(
            {"label": label, "unit": unit, "trials": len(found), "spent": spent, "hypervolume": value}
        )
    return pd.DataFrame(rows)


def _volume_test(a: pd.Series, b: pd.Series, ask: Question) -> Test:
    both = a.index.intersection(b.index)
    if len(both) == min(len(a), len(b)):
        return paired_test((a[both] - b[both]).to_numpy(dtype=float), ask)
    return permutation_test(a.to_numpy(dtype=float), b.to_numpy(dtype=float), ask)


def paired_differences(
    df: pd.DataFrame, by: str, first: str, second: str, column: str, unit: str = "seed"
) -> pd.DataFrame:
    """One row per configuration (of paths: and level) and seed that both ran, all other parameters equal: ``seed``, the
    two values (``first``, ``second``), ``difference`` of ``column``, first - second, and ``unit``: which unit of evidence
    the pair belongs to (``3`` if both sides are of unit 3, else ``t0001/t0007``). Where equal images lie is no parameter.

    What broke a limit counts as well: without it a side would be judged by what it did well.
    """
    return differences(by_setting(df, by, column, unit), first, second)


def by_setting(df: pd.DataFrame, by: str, column: str, unit: str = "seed") -> pd.DataFrame:
    """Mean of ``column`` (``value``) and ``unit`` of every label of ``by`` and of all that a pair has in common: rows are
    named (label, configuration and seed).
    """
    rows = entrants(df)
    broke = (rows["kind"] == "trial") & broke_a_limit(rows)
    rows = rows[rows["candidate"] | (broke & usable(rows[[column]].to_numpy(dtype=float, na_value=np.nan)))]
    places = _only_places(df)
    same = [c for c in config_columns(df) if c != by and c not in places]
    words = [as_words(rows[c]) for c in (*same, "level", "seed")]
    keys = np.array(["|".join(parts) for parts in zip(*words)], dtype=object)
    groups = rows.groupby([as_words(rows[by]).to_numpy(), keys])
    return groups.agg(value=(column, "mean"), unit=(unit, "first"))


def differences(settings: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """The pairs of two labels, of :func:`by_setting` rows."""
    import pandas as pd

    known = settings.index.get_level_values(0)
    sides = [settings.loc[known == label].droplevel(0) for label in (first, second)]
    both = sides[0].index.intersection(sides[1].index)
    a, b = (side.loc[both] for side in sides)
    units = [str(x) if x == y else f"{x}/{y}" for x, y in zip(a["unit"], b["unit"])]
    values = [side["value"].to_numpy(dtype=float) for side in (a, b)]
    seeds = [key.rsplit("|", 1)[1] for key in both]
    return pd.DataFrame(
        {
            "seed": seeds,
            "first": values[0],
            "second": values[1],
            "difference": values[0] - values[1],
            "unit": units,
        }
    )


def paired_tests(df: pd.DataFrame, by: str, column: str = "val_accuracy", unit: str = "seed") -> list[Test]:
    """``column`` of every two labels of ``by`` at equal configuration and seed, where both ran the same ones.

    All pairs of one unit (a seed) are averaged first: the unit is the evidence, however many configurations it holds.
    """
    found = []
    settings = by_setting(df, by, column, unit)  # once: there may be many labels, and many more pairs of them
    for first, second in combinations(split(df, by), 2):
        pairs = differences(settings, first, second)
        if len(pairs):
            found.append((first, second, pairs.groupby("unit", sort=False)["difference"].mean()))
    measure = {"%": "points"}.get(FINALS[column].unit, FINALS[column].unit)
    what = f"{column} ({measure}) at equal configuration and seed"
    goal = FINALS[column].better or "max"
    return [
        paired_test(means.to_numpy(), Question(first, second, what, unit, len(found), goal))
        for first, second, means in found
    ]


def growth(
    df: pd.DataFrame, by: str, equal: str, objectives: Objectives | None = None, unit: str = "seed"
) -> pd.DataFrame:
    """Hypervolume so far against the cost so far, per label of ``by`` and unit: who is ahead at which cost.

    Columns: ``label``, the unit under its column's name, ``cost`` (device hours, epochs or trials spent so far on
    everything), ``hypervolume``; one row per finished trial.
    """
    import pandas as pd

    df = entrants(df)
    goals = objectives or df.attrs["objectives"]
    scales = anchors_for(df, goals)
    frames = []
    for (label, value), runs in spending(df, by, list(split(df, by)), equal, unit).groupby(["label", "unit"]):
        rows = df.loc[runs["row"]]
        sound = rows["candidate"].to_numpy(dtype=bool)
        values, known = costs(rows[sound], goals)
        frames.append(
            pd.DataFrame(
                {
                    "label": label,
                    unit: value,
                    "cost": runs["spent"].to_numpy(dtype=float)[sound][known],
                    "hypervolume": running_hypervolume(scales.losses(values, goals)),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
