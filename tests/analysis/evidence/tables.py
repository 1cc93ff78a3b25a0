"""Small tables as ``analysis.load`` returns them, with values that a test chooses."""

from __future__ import annotations

import numpy as np
import pandas as pd

GOALS = {"val_accuracy": "max", "macs": "min"}


def runs(rows: list[tuple[str, int, float, float]], kind: str = "trial") -> pd.DataFrame:
    """(config id, seed, accuracy, MACs) as a table."""
    df = pd.DataFrame(rows, columns=["config_id", "seed", "val_accuracy", "macs"])
    df.insert(0, "trial", [f"t{i:04d}" for i in range(len(df))])
    df["model"], df["level"] = df["trial"], pd.array([None] * len(df), dtype="Int64")
    df["sweep"], df["kind"], df["left_out"], df["candidate"] = "s", kind, "", True
    df["ended"] = pd.to_datetime(60 * np.arange(len(df)), unit="s", utc=True)
    df["device_hours"], df["epochs"] = 1.0, 10.0
    df.attrs.update(objectives=GOALS, chance=10.0, sweeps=[{"name": "s"}], left_out={})
    return df


def two_methods(gap: float, seeds: int = 5) -> pd.DataFrame:
    """``good`` is ``gap`` points better than ``poor`` at three targets, noise 0.1; with a baseline per seed."""
    rng = np.random.default_rng(4)
    rows = [
        (f"{m}{kept}", s, 90 + 5 * kept + (gap if m == "good" else 0) + rng.normal(0, 0.1), 100 * kept)
        for s in range(seeds)
        for kept in (0.2, 0.5, 0.8)
        for m in ("good", "poor")
    ]
    df = runs(rows)
    df["prune.criterion"] = [c[:4] for c in df["config_id"]]
    df["prune.target"] = [c[4:] for c in df["config_id"]]
    return with_baselines(df, 96.0, 100.0)


def with_baselines(df: pd.DataFrame, accuracy: float, macs: float) -> pd.DataFrame:
    """The table with a baseline per seed, which ended before the trials."""
    seeds = sorted(df["seed"].unique())
    base = runs([("base", s, accuracy, macs) for s in seeds], kind="baseline").assign(candidate=False)
    base["trial"] = base["model"] = [f"b{s:04d}" for s in seeds]
    base["ended"] = pd.Timestamp(-100, unit="s", tz="UTC")
    both = pd.concat([df, base], ignore_index=True)
    both.attrs = df.attrs
    return both
