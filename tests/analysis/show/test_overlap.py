"""No words of a figure lie on other words, and no legend hides what it explains."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.text import Text

from analysis.choose import constraints as hard
from analysis.evidence import compare
from analysis.front.attainment import attainment, attainment_difference
from analysis.show import attainment_figures, compare_page, figures
from tests.analysis.evidence.tables import GOALS, two_methods


def overlaps(figure) -> list[str]:
    """Pairs of words that lie on each other, and points under a legend."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    axes = figure.axes[0]
    inside = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    ticks = {*axes.get_xticklabels(), *axes.get_yticklabels()}
    low, high = axes.get_xlim(), axes.get_ylim()
    shown = [t for t in inside if t not in ticks or _in_view(t, low, high, axes)]
    # The words of an annotation, without its line.
    boxes = [(t.get_text(), Text.get_window_extent(t, renderer).shrunk(0.98, 0.9)) for t in shown]
    found = [f"{a!r} on {b!r}" for (a, x), (b, y) in combinations(boxes, 2) if x.overlaps(y)]
    legend = axes.get_legend()
    if legend is not None:
        frame = legend.get_window_extent(renderer)
        points = [
            axes.transData.transform(p)
            for c in axes.collections if isinstance(c, PathCollection)
            for p in c.get_offsets() if np.isfinite(p).all()
        ]  # fmt: skip
        hidden = sum(frame.contains(*p) and axes.bbox.contains(*p) for p in points)
        found += [f"legend on {hidden} points"] if hidden else []
    return found


def _in_view(label, x, y, axes) -> bool:
    at = label.get_position()
    limits, value = (x, at[0]) if label in axes.get_xticklabels() else (y, at[1])
    return min(limits) <= value <= max(limits)


def with_labels(names: list[str], seeds: int = 6) -> pd.DataFrame:
    """As many methods as names, a point apart."""
    parts = []
    for i in range(0, len(names), 2):
        df = two_methods(1.0, seeds)
        df["val_accuracy"] -= i
        named = dict(zip(("good", "poor"), names[i : i + 2]))
        parts.append(
            df[df["kind"] == "trial"].assign(**{"prune.criterion": df["prune.criterion"].map(named)})
        )
    base = df[df["kind"] == "baseline"]
    both = pd.concat([*parts, base], ignore_index=True)
    both["trial"] = [f"t{i:04d}" for i in range(len(both))]
    both.attrs = df.attrs
    return both


NAMES = [["frs", "l1"], ["frs", "l1", "random", "shuffled:frs"],
         ["shuffled:feature_relevance", "geometric_median", "taylor_expansion", "random"]]  # fmt: skip


@pytest.mark.parametrize("names", NAMES, ids=["two", "four", "long"])
def test_no_words_of_a_comparisons_figures_lie_on_others(names):
    df = with_labels(names)
    by = "prune.criterion"
    found = compare.compare(df, by, equal="epochs")
    colours = compare_page.colours_of(found.volumes["label"])
    parts = compare.split(df, by)
    pairs = compare_page._all_pairs(df, by, compare.paired_tests(df, by))
    a, b = sorted(parts)[:2]
    boxes = attainment_difference(parts[a], parts[b], GOALS)
    drawn = {
        "volumes": compare_page.draw_volumes(found.volumes, colours),
        "pairs": compare_page.draw_pairs(pairs),
        "growth": compare_page.draw_growth(compare.growth(df, by, "epochs"), "epochs", colours),
        "attainment": attainment_figures.draw_attainment(
            attainment(parts, GOALS), "macs", "val_accuracy", colours
        ),
        "difference": attainment_figures.draw_difference(
            boxes, "macs", "val_accuracy", (a, colours[a]), (b, colours[b])
        ),
    }
    assert {name: overlaps(figure) for name, figure in drawn.items()} == {name: [] for name in drawn}


@pytest.mark.parametrize("limits", [[], ["macs <= 50%"], ["macs <= 50%", "accuracy_drop <= 2"]], ids=len)
@pytest.mark.parametrize("cost", ["macs", "latency_ms"])
def test_no_words_of_a_front_lie_on_others(df, cost, limits):
    view = figures.front_view(df, cost, chosen="t0015", constraints=[hard.parse(one) for one in limits])
    assert overlaps(figures.draw_front(view)) == []
