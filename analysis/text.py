"""How numbers look as text: one place for units, digits and signs (tables: ``analysis.show.terminal``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gcp_core.schema import FINALS

if TYPE_CHECKING:
    import pandas as pd


def count(value: float) -> str:
    """A large count with three digits and a decimal prefix: 1234567 -> "1.23 M"."""
    if not math.isfinite(value):
        return "-"
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled)) + 1e-9))}f} {prefix}"
    return f"{value:g}"


def quantity(name: str, value: float | None) -> str:
    """``value`` of a ``final/*`` quantity with its unit: ``quantity("macs", 6e7)`` -> "60.0 M MACs"."""
    if value is None or not math.isfinite(value):
        return "-"
    unit = FINALS[name].unit if name in FINALS else ""
    if name in ("macs", "params"):
        return f"{count(value)} {'MACs' if name == 'macs' else 'params'}"
    if unit == "%":
        return f"{value:.2f} %"
    if unit == "dense epochs":
        return f"{value:.1f} {unit}"
    if unit == "points":
        return f"{value:.2f} points"
    if unit == "share" or name in ("macs_kept", "params_kept"):
        return f"{100 * value:.1f} %"
    if unit in ("ms", "h"):
        return f"{value:.3g} {unit}"
    if unit == "x":
        return f"{value:.2f}x"
    return f"{value:g} {unit}".strip()


def digits(value: float) -> str:
    """A number to compare with another one: whole numbers with all their digits, others with ten."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.10g}"


def spread(name: str, value: float) -> str:
    """A standard deviation of a quantity: accuracies spread by points, not by per cent."""
    if name in FINALS and FINALS[name].unit == "%":
        return f"{value:.2f} points"
    return quantity(name, value)


def plural(n: float, word: str) -> str:
    """``plural(1, "trial")`` -> "1 trial", ``plural(0.5, "trial")`` -> "0.5 trials"."""
    return f"{int(n) if n == int(n) else format(n, 'g')} {word}{'' if n == 1 else 's'}"


def parameter(value: Any) -> str:
    """A configuration value, short."""
    if value is None or str(value) == "<NA>" or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def interval(low: float, high: float) -> str:
    """A range of accuracies, per cent: "97.9-99.8"."""
    return f"{low:.1f}-{high:.1f}" if low == low and high == high else "-"


def _with_interval(df: pd.DataFrame) -> pd.DataFrame:
    if "val_accuracy_low" not in df.columns or not df["val_accuracy_low"].notna().any():
        return df
    return df.assign(
        _interval=[interval(*ends) for ends in df[["val_accuracy_low", "val_accuracy_high"]].to_numpy()]
    )


def _several(df: pd.DataFrame) -> bool:
    """Whether the table, or the one that it is a part of, holds several sweeps."""
    return "sweep" in df.columns and (len(df.attrs.get("sweeps", ())) > 1 or df["sweep"].nunique() > 1)


def trials_cells(df: pd.DataFrame, config: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a table of models, for the terminal, the HTML report and the Markdown note. Models of several
    sweeps have the sweep beside their name.
    """
    columns: list[tuple[str, str, Any]] = [
        ("model" if "level" in df.columns and df["level"].notna().any() else "trial", "model", str),
        *([("sweep", "sweep", str)] if _several(df) else []),
        ("val acc %", "val_accuracy", lambda v: f"{v:.2f}"),
        ("95 % interval", "_interval", str),
        ("drop", "accuracy_drop", lambda v: f"{v:+.2f}"),
        ("MACs", "macs", count),
        ("kept %", "macs_kept", lambda v: f"{100 * v:.1f}"),
        ("params", "params", count),
        ("kept %", "params_kept", lambda v: f"{100 * v:.1f}"),
        ("ms", "latency_ms", lambda v: f"{v:.3g}"),
    ]
    df = _with_interval(df)
    columns = [c for c in columns if c[1] in df.columns and df[c[1]].notna().any()]
    short = [name.split(".")[-1] for name in config]
    header = [c[0] for c in columns]
    header += [s if short.count(s) == 1 else name for s, name in zip(short, config)]
    rows = []
    for row in df.to_dict("records"):
        cells = [show(row[name]) if row[name] == row[name] else "-" for _, name, show in columns]
        rows.append(cells + [parameter(row.get(name)) for name in config])
    return header, rows
