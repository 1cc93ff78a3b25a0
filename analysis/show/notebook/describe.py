"""A sweep, a model or a choice in a few sentences, for the end of a notebook's cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis import text
from analysis.choose.select import Choice
from analysis.evidence.assurance import assurance
from analysis.front import pareto
from analysis.front.anchors import anchors_for
from analysis.runs import table
from analysis.runs.models import row_of, word

if TYPE_CHECKING:
    import pandas as pd


def describe(what: pd.DataFrame | Choice, model: str | None = None) -> str:
    """A sweep, one of its models, or a choice, described in a few lines of plain text.

    Args:
        what: the table of ``analysis.load``, or what ``analysis.select.choose`` has chosen.
        model: describe this model of the table instead of the whole sweep.

    Raises:
        ConfigError: the table has no such model.
        NothingFeasible: the table has no finished model.
    """
    if isinstance(what, Choice):
        return _of_choice(what)
    return _of_sweep(what) if model is None else _of_model(what, model)


def _of_sweep(df: pd.DataFrame) -> str:
    """How many models there are, what the unpruned one reaches, how far the front goes, how sure that is."""
    from analysis.errors import NothingFeasible

    counts, goals = table.counts(df), df.attrs["objectives"]
    if not counts["candidates"]:
        reasons = "; ".join(f"{len(models)} {reason}" for reason, models in df.attrs["left_out"].items())
        raise NothingFeasible("there is no finished model to describe", "analysis.describe", reasons)
    best = pareto.distinct(df, goals).sort_values("macs", ascending=False)
    name = ", ".join(str(entry["name"]) for entry in df.attrs["sweeps"])
    aims = " and ".join(f"{column} ({direction})" for column, direction in goals.items())
    made = f"{text.plural(counts['candidates'], f'finished {word(df)}')}"
    trials = f" of {text.plural(counts['trials'], 'trial')}" if word(df) == "model" else ""
    lines = [f"{name}: {made}{trials}; {len(best)} on the front of {aims}."]
    base = df[(df["kind"] == "baseline") & df["val_accuracy"].notna()]
    if len(base):
        mean = "" if len(base) == 1 else f" (mean of {len(base)})"
        lines.append(
            f"The unpruned baseline has {base['val_accuracy'].mean():.2f} % validation accuracy{mean} at "
            f"{text.quantity('macs', base['macs'].max())}."
        )
    first, last = best.iloc[0], best.iloc[-1]
    if len(best) > 1:
        lines.append(f"The front goes from {_point(first)} down to {_point(last)}.")
    volume = pareto.hypervolume(df, goals, anchors_for(df, goals))
    lines.append(f"Its hypervolume is {volume.value:.3f} (1 = the baseline's accuracy at no cost).")
    lines += [f"{line[0].upper()}{line[1:]}." for line in assurance(df, goals).lines()]
    return "\n".join(lines)


def _of_model(df: pd.DataFrame, model: str) -> str:
    row = row_of(df, model)
    if row["left_out"]:
        return f"{model} is not a candidate: {row['left_out']}."
    on = model in set(pareto.front(df, df.attrs["objectives"])["model"])
    return f"{_facts(row)}\nIt is {'on' if on else 'not on'} the front."


def _of_choice(choice: Choice) -> str:
    lines = [choice.reason]
    if len(choice.runners_up):
        lines.append("Next best by the same rule:")
        lines += [f"  {_facts(row)}" for _, row in choice.runners_up.iterrows()]
    return "\n".join(lines)


def _facts(row: pd.Series) -> str:
    """Accuracy with its interval, what is lost and what is saved."""
    interval = "-"
    if "val_accuracy_low" in row.index:
        interval = text.interval(row["val_accuracy_low"], row["val_accuracy_high"])
    sure = f" (95 % interval {interval} %)" if interval != "-" else ""
    said = f"{row['model']}: {text.quantity('val_accuracy', row['val_accuracy'])} validation accuracy{sure}"
    drop = row.get("accuracy_drop")
    if drop is not None and drop == drop:
        said += f", {abs(drop):.2f} points {'below' if drop >= 0 else 'above'} the baseline"
    saved = [
        f"{text.quantity(f'{name}_kept', row[f'{name}_kept'])} of the {word}"
        for name, word in (("macs", "MACs"), ("params", "parameters"))
        if row.get(f"{name}_kept") == row.get(f"{name}_kept") and row.get(f"{name}_kept") is not None
    ]
    return f"{said}. It keeps {' and '.join(saved)}." if saved else f"{said}."


def _point(row: pd.Series) -> str:
    kept = text.quantity("macs_kept", row.get("macs_kept"))
    share = f" ({kept} of the baseline's)" if kept != "-" else ""
    return f"{row['val_accuracy']:.2f} % at {text.quantity('macs', row['macs'])}{share}"
