"""The model to look at first if no rule was given: a default choice, named as such, with what to do next.

The rule: of the models that cost less than their baseline, the cheapest that loses at most one point of validation
accuracy to it. Where none keeps that limit, the one that comes nearest to it; or, where the validation images cannot tell
cheaper models from that one, the cheapest of them that loses at most one point more. Test accuracy takes no part.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from analysis import text
from analysis.choose import constraints as hard
from analysis.choose import recipe, select
from analysis.choose.ties import words_against
from analysis.errors import NothingFeasible
from analysis.evidence import noise
from analysis.evidence.assurance import fresh_words
from analysis.front import pareto
from analysis.front.objectives import Objectives
from analysis.runs.artifacts import polish_of, sweep_of
from analysis.runs.models import word
from gcp_core.errors import ConfigError
from gcp_core.redaction import redact

if TYPE_CHECKING:
    import pandas as pd

    from analysis.choose.constraints import Constraint
    from analysis.choose.select import Choice

#: Points of validation accuracy that the default choice may lose to its baseline.
WITHIN = 1.0
#: Costs that the default choice may be the cheapest in, if the sweep minimises them.
_COSTS = ("macs", "params", "latency_ms")
_FALLBACK: Objectives = {"val_accuracy": "max", "macs": "min"}
_POLISH_EPOCHS = 30
#: The step for a model whose latency is not known.
MEASURE = "Measure its latency on your machine"

#: How a recommendation came about: somebody asked for it; it keeps the limit; it comes nearest to the limit; there is no
#: baseline, so it is measured against the most accurate model; no model costs less than its baseline; there is none.
Basis = Literal["asked", "within", "nearest", "no baseline", "nothing smaller", "nothing"]

#: Whether it may go out. Proven: fresh seeds keep the limit, or its whole interval does. Miss: it or its fresh seeds do
#: not keep the limit. Open: one measurement cannot tell, or a fresh seed ended without a model.
Standing = Literal["proven", "open", "miss"]


@dataclass(frozen=True)
class Step:
    """Something to do next: in words, and the command for it ("" where there is none)."""

    words: str
    command: str = ""


@dataclass(frozen=True)
class Recommendation:
    """One model and why, or why there is none.

    Attributes:
        choice: the model with its runners-up; None if there is none.
        basis: how it came about.
        rule: what the choice is, in a few words: "the cheapest model within 1 point of its baseline".
        why: the reason in sentences.
        sure: how sure its accuracy is, one sentence each.
        export: the command that exports it ("" for a table without runs).
        steps: what to do next. The export comes first only if the model is proven.
        limit: the accuracy that the rule asks for, per cent (NaN where the rule has none).
        standing: whether it may go out.
        confirmed: fresh seeds have been trained of it.
        compared: the model that ``sure`` compares it with; "" if there is none.
    """

    choice: Choice | None
    basis: Basis
    rule: str
    why: str
    sure: tuple[str, ...] = ()
    export: str = ""
    steps: tuple[Step, ...] = ()
    limit: float = float("nan")
    standing: Standing = "open"
    confirmed: bool = False
    compared: str = ""

    @property
    def model(self) -> str:
        """The model's name, "" if there is none."""
        return self.choice.model if self.choice is not None else ""


@dataclass(frozen=True)
class _Task:
    """What is looked for, and where.

    Attributes:
        df: the whole table. ``kept``: its candidates that keep what limits there are.
        within: points of validation accuracy that a model may lose to its baseline (inf: as many as it likes).
    """

    df: pd.DataFrame
    kept: pd.DataFrame
    within: float


def recommend(
    df: pd.DataFrame,
    *,
    within: float = WITHIN,
    constraints: Sequence[Constraint] = (),
    choice: Choice | None = None,
) -> Recommendation:
    """The default choice of a table as ``analysis.load`` returns it. A table without models is not an error.

    Args:
        within: points of validation accuracy that it may lose to its baseline.
        constraints: limits that it keeps as well, and whatever it is compared with; one on ``accuracy_drop`` may be
            tighter than ``within``.
        choice: a choice that somebody made instead, within these limits; it is only described.
    """
    rows = df[df["candidate"]]
    kept = rows[hard.feasible(rows, constraints)] if constraints and len(rows) else rows
    asked = min(map(_points, constraints), default=np.inf)
    if choice is not None:
        task = _Task(df, kept, asked)
        return _described(task, choice, "asked", "the requested choice", choice.reason)
    within = min(within, asked)
    task = _Task(df, kept, within)
    if rows.empty:
        return _nothing("no model is finished", _why_nothing(df), "nothing")
    if kept.empty:
        alone = "; ".join(hard.describe(hard.removal(rows, c)) for c in constraints)
        return _nothing("no finished model keeps the limits", f"{alone}.", "nothing")
    cost, points = _cost(df, kept), text.plural(within, "point")
    based = kept[["baseline_val_accuracy", f"baseline_{cost}"]].to_numpy(dtype=float, na_value=np.nan)
    if not np.isfinite(based).all(axis=1).any():
        return _without_baseline(task, constraints, cost)
    smaller = [*constraints, hard.Constraint(cost, "<", 1.0, relative=True)]
    near = hard.Constraint("accuracy_drop", "<=", within)
    try:
        found = select.choose(df, [*smaller, near], select.cheapest(cost))
        why = (
            f"{text.plural(found.feasible, word(df))} of {found.considered} lose at most {points} of validation accuracy "
            f"and cost less than the baseline; {found.model} {_lowest(cost)} of them."
        )
        rule = f"the cheapest {word(df)} within {points} of its baseline"
        return _described(task, found, "within", rule, why)
    except NothingFeasible:
        pass
    try:
        first = select.choose(df, smaller, select.best("accuracy_drop"))
    except NothingFeasible:
        why = f"None of {text.plural(len(kept), 'finished ' + word(df))} costs less than the baseline."
        return _nothing("nothing is smaller than the baseline yet", why, "nothing smaller")
    return _nearest(task, first, smaller, cost)


def _nearest(task: _Task, first: Choice, smaller: Sequence[Constraint], cost: str) -> Recommendation:
    """If no model keeps the limit: the nearest one, or the cheapest one that the images cannot tell from it."""
    df, within = task.df, task.within
    near, points, one = first.rows.iloc[0], text.plural(within, "point"), word(df)
    low = near.get("val_accuracy_low", np.nan)
    rule = f"no smaller {one} is within {points} of its baseline; this one "
    why = (
        f"None of {text.plural(first.feasible, one)} that cost less than the baseline is within {points} of it; "
        f"{first.model} comes nearest, {_away(near['accuracy_drop'], within)} too far."
    )
    found = first
    if np.isfinite(low):
        most = hard.Constraint("accuracy_drop", "<=", float(near["accuracy_drop"]) + within)
        alike = hard.Constraint("val_accuracy", ">=", float(low))
        found = select.choose(df, [*smaller, most, alike], select.cheapest(cost))
    if found.model == first.model:
        return _described(task, first, "nearest", f"{rule}comes nearest", why)
    row = found.rows.iloc[0]
    why += (
        f" The validation images cannot tell {text.plural(found.feasible - 1, 'other ' + one)} from it that "
        f"{'loses' if found.feasible == 2 else 'lose'} at most {points} more. {found.model} {_lowest(cost)} of them, "
        f"{_away(row['accuracy_drop'], within)} too far."
    )
    rule += "is the cheapest of those that come nearest"
    return _described(task, found, "nearest", rule, why, against=near)


def export_command(df: pd.DataFrame, row: pd.Series) -> str:
    """The command that exports exactly this model; "" for a table without runs.

    A tracking address with a secret in it is left to be filled in.
    """
    where = _sweep(df, row)
    model = shlex.quote(str(row["model"]))
    return (
        f"gcp-analyze export {where} --id {model} --out {shlex.quote('exported/' + str(row['model']))}"
        if where
        else ""
    )


def _sweep(df: pd.DataFrame, row: pd.Series) -> str:
    """The sweep of a row as one types it in the folder where the page is made; "" if it is a table only."""
    entry = sweep_of(df, row)
    if entry.get("folder"):
        return shlex.quote(recipe.as_typed(entry["folder"]))
    uri = str(entry.get("tracking_uri") or "")
    if not uri:
        return ""
    return f"{shlex.quote(str(entry['name']))} --tracking-uri {shlex.quote(redact(uri))}"


def _cost(df: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The first cost that the sweep minimises and that was measured, with baselines to compare it to; else the MACs."""
    goals = df.attrs.get("objectives") or _FALLBACK
    for name, direction in goals.items():
        known = {name, f"baseline_{name}"} <= set(rows.columns)
        if (
            direction == "min"
            and name in _COSTS
            and known
            and rows[[name, f"baseline_{name}"]].notna().all(axis=1).any()
        ):
            return name
    return "macs"


def _lowest(cost: str) -> str:
    return {"macs": "has the fewest MACs", "params": "has the fewest parameters"}.get(cost, "is the fastest")


def _away(drop: float, within: float) -> str:
    return f"{drop - within:.2f} points"


def _without_baseline(task: _Task, constraints: Sequence[Constraint], cost: str) -> Recommendation:
    """Without a baseline, the most accurate model is used instead, and the page says so."""
    df, within = task.df, task.within
    limit = float(task.kept["val_accuracy"].max()) - within
    near = hard.Constraint("val_accuracy", ">=", limit)
    found = select.choose(df, [*constraints, near], select.cheapest(cost))
    points = text.plural(within, "point")
    why = (
        f"No baseline has finished, so nothing says what pruning costs in accuracy. {found.model} {_lowest(cost)} of "
        f"{text.plural(found.feasible, word(df))} within {points} of the most accurate one ({limit + within:.2f} %)."
    )
    rule = f"the cheapest {word(df)} within {points} of the most accurate one"
    return _described(task, found, "no baseline", rule, why, limit)


def _nothing(rule: str, why: str, basis: Basis) -> Recommendation:
    return Recommendation(None, basis, rule, why)


def _why_nothing(df: pd.DataFrame) -> str:
    reasons = "; ".join(f"{len(models)} {reason}" for reason, models in df.attrs["left_out"].items())
    return f"{reasons}." if reasons else "No trial has ended yet."


def _described(
    task: _Task,
    choice: Choice,
    basis: Basis,
    rule: str,
    why: str,
    limit: float = float("nan"),
    against: pd.Series | None = None,
) -> Recommendation:
    """``against``: the model that it is compared with; without one, a cheaper one that keeps the limits and that the
    images do not tell apart.
    """
    df, row = task.df, choice.rows.iloc[0]
    if basis in ("within", "nearest"):
        limit = float(row["baseline_val_accuracy"]) - task.within
    fresh = _confirmation(df, row)
    other = against if against is not None else _alternative(task.kept, row)
    standing = _standing(task, row, basis, limit, fresh)
    export = export_command(df, row)
    return Recommendation(
        choice,
        basis,
        rule,
        why,
        _sure(choice, limit, standing, fresh, other),
        export,
        tuple(_steps(df, row, standing, export, fresh)),
        limit,
        standing,
        fresh is not None,
        "" if other is None else str(other["model"]),
    )


def _points(limit: Constraint) -> float:
    """The points that a limit allows a model to lose to its baseline, inf where it is about something else."""
    return float(limit.bound) if limit.column == "accuracy_drop" and limit.op in ("<", "<=") else np.inf


def _standing(
    task: _Task, row: pd.Series, basis: Basis, limit: float, fresh: noise.Confirmation | None
) -> Standing:
    """Fresh seeds are judged by what they lose to the baselines of their own seeds, where these are known."""
    if basis == "nearest":
        return "miss"
    if fresh is None:
        return "proven" if row.get("val_accuracy_low", np.nan) > limit else "open"
    value, most = fresh.accuracy_drop, task.within
    if basis == "no baseline" or not np.isfinite(value):
        value, most = -fresh.mean, -limit
    # Without a limit, NaN, any fresh seeds will do.
    if value > most and not hard.equals(value, most):
        return "miss"
    return "open" if fresh.failed else "proven"


def _confirmation(df: pd.DataFrame, row: pd.Series) -> noise.Confirmation | None:
    """What fresh seeds say about a row's configuration and level, whichever of its seeds the row is."""
    if polish_of(row) or not (df["kind"] == "confirm").any():
        return None  # its setting does not say that it was polished
    return next(iter(noise.confirmations(df, among=df.loc[[row.name]])), None)


def _sure(
    choice: Choice,
    limit: float,
    standing: Standing,
    fresh: noise.Confirmation | None,
    other: pd.Series | None,
) -> tuple[str, ...]:
    """What the images, the selection and fresh seeds say about its accuracy."""
    row = choice.rows.iloc[0]
    low, high = (row.get(f"val_accuracy_{end}", np.nan) for end in ("low", "high"))
    said = []
    if not np.isfinite(low):
        said.append("How many validation images the accuracy rests on is not known, so it has no interval.")
    else:
        images = f"{row['val_images']:.0f} validation images"
        if not np.isfinite(limit):
            pass
        elif low > limit:
            said.append(
                f"The whole interval lies above the limit of {limit:.2f} %: {images} are enough to tell."
            )
        elif high < limit:
            said.append(
                f"The whole interval lies below the limit of {limit:.2f} %: more images would not mend that."
            )
        else:
            said.append(
                f"The limit of {limit:.2f} % lies inside the interval: {images} cannot tell whether the model keeps it."
            )
    if other is not None:
        said.append(words_against(row, other))
    if fresh is not None:
        judged = {"proven": "Confirmed: ", "miss": "Not confirmed: ", "open": ""}[standing]
        lost = fresh.accuracy_drop
        beside = f"; {lost:.2f} points lost to the baselines of their own seeds" if np.isfinite(lost) else ""
        said.append(f"{judged}{fresh_words(fresh)}{beside}.")
    else:
        of = (
            f", picked from {choice.considered} models by one measurement each"
            if choice.considered > 1
            else ""
        )
        said.append(f"One training run{of}: expect a little less when it is trained again.")
    return tuple(said)


def _alternative(kept: pd.DataFrame, row: pd.Series) -> pd.Series | None:
    """The most accurate cheaper model of the front of ``kept`` (candidates that keep what limits there are) that the
    images do not tell apart from this one, if there is one.
    """
    low, high = (row.get(f"val_accuracy_{end}", np.nan) for end in ("low", "high"))
    if not np.isfinite(low):
        return None
    front = pareto.front(kept, _FALLBACK)
    alike = front[front["val_accuracy"].between(low, high) & (front["macs"] < row["macs"])]
    return None if alike.empty else alike.sort_values("val_accuracy", kind="stable").iloc[-1]


def _steps(
    df: pd.DataFrame, row: pd.Series, standing: Standing, export: str, fresh: noise.Confirmation | None
) -> list[Step]:
    """What to do next, in order: a miss is trained further, and a model that is not proven is confirmed before export."""
    where = _sweep(df, row)
    if not where:
        return [Step("This page was made from a table file; to export the model, make it from the sweep.")]
    model, steps = shlex.quote(str(row["model"])), []
    if standing == "miss":
        steps.append(_more(df, row, where))
    if standing == "open" or (fresh is None and standing == "miss"):
        steps.append(_again(where, model))
    words = "If it is good enough anyway: export it" if standing == "miss" else "Export it"
    steps.append(Step(f"{words}, proven in a fresh process", export))
    if fresh is None and standing == "proven":
        steps.append(_again(where, model))
    if not np.isfinite(row.get("latency_ms", np.nan)):
        steps.append(Step(MEASURE, f"gcp-analyze bench {where} --id {model}"))
    return steps


def _more(df: pd.DataFrame, row: pd.Series, where: str) -> Step:
    """The step that may bring a miss within the limit."""
    try:
        command = recipe.command_for(df, row, _POLISH_EPOCHS)
    except ConfigError:
        return Step("Search where the front is thin", f"gcp-analyze advise {where} --write next.yaml")
    return Step(f"Train it for {_POLISH_EPOCHS} more epochs, which may win accuracy back", command)


def _again(where: str, model: str) -> Step:
    return Step(
        "Make sure: train it again on three fresh seeds",
        f"gcp-analyze select {where} --id {model} --write-config confirm.yaml && gcp-sweep run confirm.yaml",
    )
