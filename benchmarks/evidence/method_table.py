"""The method against its controls, from a finished sweep with several seeds: a table, a CSV and a picture.

    gcp-sweep run configs/cifar10_methods.yaml data.path=FOLDER
    python -m benchmarks.evidence.method_table runs/cifar10-methods --out docs/results

Every method is compared with ``frs`` (coupled) seed by seed: trials of one seed share data order, augmentation and
initial weights, so most of the seed's luck cancels in the difference.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import analysis

#: Mean, then what the mean is of: (column, factor, digits).
SHOWN = {
    "test accuracy %": ("test_accuracy", 1, 2),
    "val accuracy %": ("val_accuracy", 1, 2),
    "points lost (val)": ("accuracy_drop", 1, 2),
    "MACs removed %": ("macs_removed", 100, 1),
    "params removed %": ("params_removed", 100, 1),
}
REFERENCE = "frs, coupled"


def methods(df: pd.DataFrame) -> pd.DataFrame:
    """The finished runs with a column ``method``; baselines are ``not pruned``."""
    done = df[df["left_out"] == ""].copy()
    pruned = done["prune.criterion"].astype(str) + ", " + done["prune.residual"].astype(str)
    done["method"] = np.where(done["kind"] == "baseline", "not pruned", pruned)
    return done


def table(done: pd.DataFrame) -> pd.DataFrame:
    """One row per method: number of seeds, mean and standard deviation of :data:`SHOWN`, difference to ``frs``."""
    by_seed = done.pivot_table(index="seed", columns="method", values="test_accuracy")
    rows = []
    for method, runs in done.groupby("method"):
        row: dict[str, object] = {"method": method, "seeds": len(runs)}
        for title, (column, factor, digits) in SHOWN.items():
            values = factor * runs[column].astype(float)
            row[title] = f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"
        row["test accuracy minus frs, paired"] = _difference(by_seed, str(method))
        row["order"] = runs["test_accuracy"].mean()
        rows.append(row)
    return pd.DataFrame(rows).sort_values("order", ascending=False).drop(columns="order")


def _difference(by_seed: pd.DataFrame, method: str) -> str:
    if REFERENCE not in by_seed or method == REFERENCE:
        return ""
    pairs = (by_seed[method] - by_seed[REFERENCE]).dropna()
    error = pairs.std() / np.sqrt(len(pairs))
    return f"{pairs.mean():+.2f} ± {error:.2f} (s.e., {len(pairs)} seeds)"


def markdown(rows: pd.DataFrame) -> str:
    """The table as Markdown."""
    lines = ["| " + " | ".join(rows.columns) + " |", "|" + "---|" * len(rows.columns)]
    lines += ["| " + " | ".join(str(value) for value in row) + " |" for row in rows.to_numpy()]
    return "\n".join(lines)


def picture(done: pd.DataFrame, target: Path) -> None:
    """Test accuracy of every run, a line per method, the mean as a bar; right: share of parameters removed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    order = done.groupby("method")["test_accuracy"].mean().sort_values().index
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 0.5 * len(order) + 1.4), sharey=True, width_ratios=(3, 1)
    )
    for height, method in enumerate(order):
        runs = done[done["method"] == method]
        left.plot(runs["test_accuracy"], [height] * len(runs), "o", color="#0072b2", alpha=0.7, markersize=6)
        left.plot(
            [runs["test_accuracy"].mean()], [height], "|", color="black", markersize=22, markeredgewidth=2
        )
        right.barh(height, 100 * runs["params_removed"].mean(), color="#999999", height=0.6)
    left.set_yticks(range(len(order)), order)
    macs = 100 * done.loc[done["kind"] == "trial", "macs_removed"].mean()
    left.set_title(
        f"dots: seeds, bars: means; the pruned nets have lost {macs:.0f} % of their MACs",
        fontsize=9,
        loc="left",
    )
    left.set_xlabel("test accuracy, %")
    right.set_xlabel("parameters removed, %")
    for axes in (left, right):
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="the sweep's folder")
    parser.add_argument("--out", type=Path, help="folder for NAME.csv and NAME.png")
    arguments = parser.parse_args()
    done = methods(analysis.load(arguments.sweep))
    print(markdown(table(done)))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        name = Path(arguments.sweep).name.replace("-", "_")
        columns = ["trial", "kind", "method", "seed", *(column for column, _, _ in SHOWN.values())]
        done[columns].to_csv(arguments.out / f"{name}.csv", index=False)
        picture(done, arguments.out / f"{name}.png")


if __name__ == "__main__":
    main()
