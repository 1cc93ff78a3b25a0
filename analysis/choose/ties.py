"""A sentence about what a choice reaches, and one about the models that its validation images cannot tell from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis import text
from analysis.runs.models import word

if TYPE_CHECKING:
    import pandas as pd

#: Models that are named or shown beside a choice.
NEXT = 3


def tied(survivors: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """The other rows whose accuracy lies in the interval of ``row``, the cheapest first."""
    low, high = (row.get(f"val_accuracy_{end}", np.nan) for end in ("low", "high"))
    inside = survivors["val_accuracy"].between(low, high) & (survivors.index != row.name)
    return survivors[inside].sort_values(["macs", "model"], kind="stable")


def words_of_ties(row: pd.Series, ties: pd.DataFrame) -> str:
    """Which models cannot be told apart from the choice, and what the cheapest would cost; "" if none or unknown."""
    if ties.empty:
        return ""
    first = ties.iloc[0]
    images = round((row["val_accuracy"] - first["val_accuracy"]) / 100 * row["val_images"])
    apart = (
        f"{text.plural(abs(images), 'image')} {'fewer' if images > 0 else 'more'} right"
        if images
        else "as many right"
    )
    names = ", ".join(ties["model"].head(NEXT)) + (", ..." if len(ties) > NEXT else "")
    one = len(ties) == 1
    return (
        f" Within that interval, so not told apart by {row['val_images']:.0f} images: "
        f"{text.plural(len(ties), word(ties))} ({names}); "
        f"{'it' if one else 'the cheapest'} has {apart} at {first['macs'] / row['macs']:.2g} x the MACs."
    )


def words_of(row: pd.Series) -> str:
    """What a model reaches, how sure its validation images make that, and what it costs, as a sentence."""
    parts = [f"It reaches {row['val_accuracy']:.2f} % validation accuracy"]
    notes = []
    if np.isfinite(row.get("val_accuracy_low", np.nan)):
        ends = text.interval(row["val_accuracy_low"], row["val_accuracy_high"])
        notes.append(f"95 % interval {ends} % on {row['val_images']:.0f} images")
    if np.isfinite(row.get("accuracy_drop", np.nan)):
        drop = row["accuracy_drop"]
        notes.append(f"{abs(drop):.2f} points {'below' if drop >= 0 else 'above'} its baseline")
    if notes:
        parts[0] += f" ({'; '.join(notes)})"
    cost = f"{text.quantity('macs', row['macs'])}"
    if np.isfinite(row.get("macs_kept", np.nan)):
        cost += f" ({100 * row['macs_kept']:.1f} % of the baseline's)"
    return f"{parts[0]} at {cost} and {text.quantity('params', row['params'])}."


def words_against(row: pd.Series, other: pd.Series) -> str:
    """How another model compares, in MACs and images; the images do not tell the two apart."""
    images = round((row["val_accuracy"] - other["val_accuracy"]) / 100 * row["val_images"])
    times = other["macs"] / row["macs"]
    has = f"{text.quantity('macs_kept', times)} of its MACs" if times < 1 else f"{times:.2f} times its MACs"
    if images == 0:
        return f"{other['model']} has as many images right with {has}."
    few = text.plural(abs(images), "image")
    return (
        f"{other['model']} has {has} and only {few} {'fewer' if images > 0 else 'more'} right: "
        "too few to tell them apart."
    )
