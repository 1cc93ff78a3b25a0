"""Which of several sweeps, criteria or samplers found the better front, and whether the data can tell.

The unit of evidence is a seed: one hypervolume per seed with the same fixed anchors, then an exact
permutation test (:mod:`analysis.evidence.permutation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from analysis.evidence.permutation import Test, holm, paired_test, permutation_test
from analysis.front import pareto
from analysis.front.anchors import Anchors, anchors_for
from analysis.front.objectives import Objectives, costs
from analysis.front.progress import running_hypervolume
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import FINALS

if TYPE_CHECKING:
    import pandas as pd

#: Seeds from which on paired differences are judged seed by seed; fewer could not decide anything.
_ENOUGH = 6


@dataclass(frozen=True)
class Comparison:
    """Hypervolume per label and seed, the tests between all pairs of labels, and what was held equal."""

    volumes: pd.DataFrame
    tests: tuple[Test, ...]
    anchors: str
    equal: str


def split(df: pd.DataFrame, by: str) -> dict[str, pd.DataFrame]:
    """The candidates of a table by the values of one column (``sweep``, ``prune.criterion``, ...).

    Raises:
        ConfigError: no such column, or it has a single value.
    """
    if by not in df.columns:
        raise ConfigError("no such column", by, did_you_mean(by, df.columns))
    rows = df[df["candidate"]]
    parts = {str(value): part for value, part in rows.groupby(by, sort=True)}
    if len(parts) < 2:
        raise ConfigError(f"has a single value ({', '.join(parts) or 'none'}): nothing to compare", by)
    return parts


def check_comparable(df: pd.DataFrame) -> None:
    """Refuse sweeps on different data or with different baselines (their model, their training, their MACs).

    Where the images lie may differ if their digests, which every trial's manifest holds, are the same.

    Raises:
        ConfigError: names what differs.
    """
    if df["sweep"].nunique() < 2:
        return
    digests = _data_digests(df)
    known = all(digests.values())
    placed = ("data.path", "data.download", "data.streaming", "data.workers", "data.memory_gib")
    columns = [c for c in df.columns if c.startswith("data.") and not (known and c in placed)]
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


def _data_digests(df: pd.DataFrame) -> dict[str, str]:
    """Sweep -> digest of its images, from the manifest of its first finished run; "" if it has none."""
    from analysis.runs.widths import manifest_of

    found = {}
    for name, rows in df[df["status"] == "complete"].groupby("sweep") if "status" in df.columns else ():
        manifest = manifest_of(df, rows.iloc[0]) or {}
        found[str(name)] = str(manifest.get("data_digest") or "")
    return found or {"": ""}


def compare(
    df: pd.DataFrame,
    by: str = "sweep",
    *,
    equal: str = "device_hours",
    objectives: Objectives | None = None,
) -> Comparison:
    """Compare the fronts of the groups of ``by``, seed by seed, at equal cost.

    Args:
        equal: what is held equal: each group and seed only counts the trials that ended before the cheapest
            of all had spent its ``device_hours``, ``epochs`` or ``trials``; ``nothing`` takes all.
    """
    goals = objectives or df.attrs["objectives"]
    scales = anchors_for(df, goals)
    parts = {label: _at_equal_cost(df, part, by, equal) for label, part in split(df, by).items()}
    volumes = seed_volumes(parts, goals, scales)
    values = {label: rows["hypervolume"].to_numpy() for label, rows in volumes.groupby("label", sort=True)}
    tests = holm([permutation_test(values[a], values[b], a, b) for a, b in combinations(values, 2)])
    return Comparison(volumes, tuple(tests), scales.describe(), equal)


def _at_equal_cost(df: pd.DataFrame, part: pd.DataFrame, by: str, equal: str) -> pd.DataFrame:
    if equal == "nothing":
        return part
    if equal not in ("device_hours", "epochs", "trials"):
        raise ConfigError(
            f"{equal!r} cannot be held equal", "--equal", "device_hours, epochs, trials or nothing"
        )
    rows = df[df["candidate"]]
    totals = [_cost(g, equal).iloc[-1] for _, g in rows.groupby([by, "seed"]) if len(g)]
    limit = min(totals) * (1 + 1e-9)
    kept = [g[(_cost(g, equal) <= limit).reindex(g.index)] for _, g in part.groupby("seed")]
    import pandas as pd

    return pd.concat(kept)


def _cost(rows: pd.DataFrame, equal: str) -> pd.Series:
    """Running cost of trials in the order they ended."""
    import pandas as pd

    ordered = rows.sort_values(["ended", "trial"], kind="stable")
    each = pd.Series(1.0, index=ordered.index) if equal == "trials" else ordered[equal].fillna(0.0)
    return each.cumsum()


def seed_volumes(parts: Mapping[str, pd.DataFrame], goals: Objectives, scales: Anchors) -> pd.DataFrame:
    """One row per label and seed: ``label, seed, trials, hypervolume``."""
    import pandas as pd

    rows = [
        {
            "label": label,
            "seed": seed,
            "trials": len(g),
            "hypervolume": pareto.hypervolume(g, goals, scales).value,
        }
        for label, part in parts.items()
        for seed, g in part.groupby("seed")
    ]
    return pd.DataFrame(rows)


def paired_differences(df: pd.DataFrame, by: str, first: str, second: str, column: str) -> pd.DataFrame:
    """One row per configuration and seed that both ran, all other parameters equal: ``seed``, the two values
    (``first``, ``second``) and ``difference`` of ``column``, first - second.
    """
    import pandas as pd

    from analysis.runs.table import config_columns

    rows = df[df["candidate"]]
    same = [c for c in config_columns(df) if c != by]
    # map, not astype: pandas keeps missing values missing when it turns a column into text
    keys = rows[[*same, "seed"]].map(str).agg("|".join, axis=1)
    values = {
        label: rows[rows[by].astype(str) == label].groupby(keys)[column].mean() for label in (first, second)
    }
    both = values[first].index.intersection(values[second].index)
    a, b = (values[label][both].to_numpy(dtype=float) for label in (first, second))
    seeds = [key.rsplit("|", 1)[1] for key in both]
    return pd.DataFrame({"seed": seeds, "first": a, "second": b, "difference": a - b})


def paired_tests(df: pd.DataFrame, by: str, column: str = "val_accuracy") -> list[Test]:
    """``column`` of every two labels of ``by`` at equal configuration and seed, where both ran the same ones.

    From six seeds on a seed is the unit of evidence. Fewer could never reach 5 %; then every pair counts by itself,
    and the answer holds for these seeds only, which ``what`` says.
    """
    tests = []
    for first, second in combinations(split(df, by), 2):
        pairs = paired_differences(df, by, first, second, column)
        if len(pairs) < 2:
            continue
        enough = pairs["seed"].nunique() >= _ENOUGH
        unit = {"%": "points"}.get(FINALS[column].unit, FINALS[column].unit)
        what = f"{column} ({unit}) at equal configuration and seed"
        if not enough:
            what = f"{column} ({unit}) over {len(pairs)} equal configurations (for these seeds only)"
        clusters = list(pairs["seed"]) if enough else None
        tests.append(paired_test(pairs["difference"].to_numpy(), first, second, what, clusters))
    return holm(tests)


def growth(df: pd.DataFrame, by: str, equal: str, objectives: Objectives | None = None) -> pd.DataFrame:
    """Hypervolume so far against the cost so far, per label of ``by`` and seed: who is ahead at which cost.

    Columns: ``label, seed, cost`` (device hours, epochs or trials, running sum), ``hypervolume``.
    """
    import pandas as pd

    goals = objectives or df.attrs["objectives"]
    scales = anchors_for(df, goals)
    frames = []
    for label, part in split(df, by).items():
        for seed, rows in part.groupby("seed"):
            spent = _cost(rows, "trials" if equal == "nothing" else equal)
            values, known = costs(rows.loc[spent.index], goals)
            losses = scales.losses(values, goals)
            frames.append(
                pd.DataFrame(
                    {
                        "label": label,
                        "seed": seed,
                        "cost": spent.to_numpy(dtype=float)[known],
                        "hypervolume": running_hypervolume(losses),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)
