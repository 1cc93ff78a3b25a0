"""What was selected beside what fresh seeds confirmed: as a table and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.evidence import noise
from analysis.show import figures

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def confirmed_table(found: tuple[noise.Confirmation, ...]) -> pd.DataFrame:
    """One row per confirmed configuration: what it was chosen by and what fresh seeds gave."""
    import pandas as pd

    return pd.DataFrame([vars(c) for c in found])


def draw_confirmed(table: pd.DataFrame) -> Figure:
    """Selected value (ring) and mean of the fresh seeds with its interval (dot, bar) over the MACs."""
    figure, axes = figures.new_figure(7.2, 4.2)
    scale, prefix = figures.cost_prefix("macs", table["macs"].max())
    x = table["macs"].to_numpy(dtype=float) / scale
    mean, low, high = (table[name].to_numpy(dtype=float) for name in ("mean", "low", "high"))
    for at, selected, confirmed in zip(x, table["selected"], mean):
        axes.plot([at, at], [selected, confirmed], color="#c3c9d0", linewidth=1.2, zorder=1)
    axes.errorbar(
        x, mean, yerr=np.array([mean - low, high - mean]), fmt="o", color=figures.FRONT, capsize=4, linewidth=1.8,
        label=f"fresh seeds: mean and {100 * table['level'].iloc[0]:.0f} % interval",
    )  # fmt: skip
    axes.scatter(
        x, table["selected"], s=58, facecolors="white", edgecolors=figures.BASELINE, linewidths=1.8, zorder=3,
        label="selected by the search",
    )  # fmt: skip
    axes.set_xlim(left=0.0)
    axes.margins(y=0.15)
    axes.set_xlabel(f"{figures.axis_label('macs', prefix)}   ← better")
    axes.set_ylabel(f"{figures.axis_label('val_accuracy')}   better →")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    return figure
