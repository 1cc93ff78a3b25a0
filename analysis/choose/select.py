"""From the trials that satisfy the constraints to one choice, with the reason in a sentence.

Hard constraints come first, then exactly one verb. Each verb is a function ``(survivors, objectives,
anchors) -> Choice``; ``analysis.choose.verbs`` turns the words of the command line into one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from analysis import text
from analysis.choose import constraints as hard
from analysis.choose.ties import NEXT, tied, words_of, words_of_ties
from analysis.errors import NothingFeasible
from analysis.front import pareto
from analysis.front.anchors import Anchors, anchors_for
from analysis.front.objectives import Objectives, costs, settled_latency
from analysis.runs.models import word
from gcp_core.errors import ConfigError, did_you_mean, required
from gcp_core.schema import FINALS, LATENCIES, Direction

if TYPE_CHECKING:
    import pandas as pd

#: Costs ``--cheapest`` understands.
COSTS = ("macs", "params", "latency_ms", "device_hours")
#: Latencies with those that cannot be told apart made equal, while rows are put in order.
_SETTLED = "_settled_latency"


@dataclass(frozen=True)
class Choice:
    """What a verb chose.

    Attributes:
        rows: the chosen model; several for ``--top``, the most accurate first.
        runners_up: the next best by the same verb, best first (at most three).
        reason: one or two sentences: what was chosen from how many and why.
        feasible: models that satisfied the constraints.
        considered: models before the constraints.
        ties: feasible models whose accuracy lies in the chosen one's interval, the cheapest first: the validation images
            do not tell them apart.
        constraints: as understood.
    """

    rows: pd.DataFrame
    runners_up: pd.DataFrame
    reason: str
    feasible: int = 0
    considered: int = 0
    ties: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Name of the (first) chosen model: ``t0007@3``, or ``t0008`` of a single trial."""
        return str(self.rows["model"].iloc[0])

    @property
    def trial(self) -> str:
        """Id of its trial."""
        return str(self.rows["trial"].iloc[0])


Verb = Callable[["pd.DataFrame", Objectives, Anchors], Choice]


def choose(
    df: pd.DataFrame,
    constraints: Sequence[hard.Constraint],
    verb: Verb,
    objectives: Objectives | None = None,
) -> Choice:
    """Apply ``constraints`` to the candidates of ``df``, then let ``verb`` choose.

    Raises:
        NothingFeasible: there is no candidate, or none satisfies the constraints.
        ConfigError: a constraint or verb asks for what the table does not have.
    """
    objectives = objectives or df.attrs.get("objectives") or {"val_accuracy": "max", "macs": "min"}
    candidates = df[df["candidate"]] if "candidate" in df.columns else df
    if candidates.empty:
        reasons = "; ".join(f"{len(t)} {r}" for r, t in df.attrs.get("left_out", {}).items())
        raise NothingFeasible("no finished trial to choose from", "select", reasons)
    survivors = hard.apply(candidates, constraints)
    choice = verb(survivors, objectives, anchors_for(df, _scales(df, objectives)))
    said = " and ".join(str(c) for c in constraints)
    scope = f" with {said}" if said else ""
    among = f"of {text.plural(len(survivors), word(df))}{scope}"
    ties = tied(survivors, choice.rows.iloc[0])
    return replace(
        choice,
        reason=f"{choice.reason.replace('{among}', among)} {words_of(choice.rows.iloc[0])}"
        + words_of_ties(choice.rows.iloc[0], ties),
        ties=tuple(ties["model"]),
        feasible=len(survivors),
        considered=len(candidates),
        constraints=tuple(str(c) for c in constraints),
    )


def best(column: str) -> Verb:
    """The best value of ``column`` in its own direction; ties go to fewer MACs, then fewer parameters."""
    column, direction = _directed(column)

    def verb(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> Choice:
        ordered = _order(df, column, direction, objectives)
        if column in LATENCIES and (alike := _as_fast(ordered, column)) > 1:
            fastest = text.quantity(column, ordered[column].head(alike).min())
            return _first(
                ordered,
                f"{{trial}} has the fewest MACs of the {alike} {word(df)}s whose latency cannot be told from the lowest "
                f"({fastest}) {{among}}.",
            )
        end = "highest" if direction == "max" else "lowest"
        value = text.quantity(column, ordered[column].iloc[0])
        return _first(ordered, f"{{trial}} has the {end} {_words(column)} ({value}) {{among}}.")

    return verb


def cheapest(column: str) -> Verb:
    """The smallest cost; ties go to the higher validation accuracy, of latencies to fewer MACs."""
    column = hard.ALIASES.get(column, column)
    if column not in COSTS:
        raise ConfigError(f"{column!r} is not a cost", "--cheapest", did_you_mean(column, COSTS))
    return best(column)


def knee() -> Verb:
    """Where the feasible front of accuracy and cost bends most; the sentence names the trade-off on either side."""

    def verb(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> Choice:
        benefit, cost = "val_accuracy", _cost_of(objectives)
        found = pareto.knee(df, benefit, cost)
        if found is None:
            raise NothingFeasible(
                "the feasible front has no knee (fewer than three points, or no bend toward the ideal)",
                "--knee",
                "use --best or --cheapest",
            )
        sides = [
            f"one step {name} changes {_words(benefit)} by {side[1]:+.2f} points and {cost} by {100 * side[2]:+.0f} %"
            for name, side in (("cheaper", found.cheaper), ("dearer", found.dearer))
            if side is not None
        ]
        reason = f"{{trial}} is where the front {{among}} bends most: {'; '.join(sides)}."
        return _first(df.loc[list(found.order)], reason)

    return verb


def weighted(weights: Mapping[str, float]) -> Verb:
    """The highest weighted sum of anchored gains (1 = baseline accuracy or zero cost, 0 = ten points below
    it or the baseline's cost).
    """
    if not weights:
        raise ConfigError("no weight given", "--weighted", 'for instance "accuracy=3 macs=1"')
    named = {_directed(column)[0]: weight for column, weight in weights.items()}
    for column, weight in named.items():
        if not (np.isfinite(weight) and weight >= 0):
            raise ConfigError(f"{weight!r} is not a weight >= 0", f"--weighted {column}")
    if not any(named.values()):
        raise ConfigError(
            "no weight is above 0, so nothing is asked for", "--weighted", "for instance accuracy=3"
        )

    def verb(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> Choice:
        directions: dict[str, Direction] = {column: _directed(column)[1] for column in named}
        for column in directions:
            _need(df, column)
        scales = Anchors({column: anchors.of[column] for column in directions})
        score = sum(w * scales.gain(c, _values(df, c)) for c, w in named.items())
        ordered = _order(df.assign(_score=score), "_score", "max", objectives)
        said = " + ".join(f"{w:g} x {c}" for c, w in named.items())
        reason = f"{{trial}} has the highest weighted gain {{among}} ({said}; {scales.describe()})."
        if len(directions) == 2:
            reach = pareto.supported(df, directions, scales)
            dents = int((~reach).sum())
            reason += (
                f" No weights could pick {dents} of the {len(reach)} front {word(df)}s: they lie in dents."
                if dents
                else ""
            )
        return _first(ordered.drop(columns="_score"), reason)

    return verb


def lexicographic(levels: Sequence[tuple[str, float]]) -> Verb:
    """Level by level keep what is within the tolerance of the best; the last level decides."""
    if not levels:
        raise ConfigError("no level given", "--lexicographic", 'for instance "accuracy:0.2 macs"')
    checked = [(*_directed(column), tolerance) for column, tolerance in levels]
    for column, _, tolerance in checked:
        if not tolerance >= 0:
            raise ConfigError(f"{tolerance:g} is not a tolerance >= 0", f"--lexicographic {column}")

    def kept_of(df: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
        """(column, tolerance, rows that are left) of each level in turn."""
        for column, direction, tolerance in checked:
            _need(df, column)
            sign = -1.0 if direction == "max" else 1.0
            cost = sign * _values(df, column)
            limit = np.nanmin(cost) + tolerance
            df = df[(cost <= limit) | hard.equals(cost, limit)]
            yield column, tolerance, df

    def verb(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> Choice:
        story = [
            f"{text.plural(len(kept), word(df))} within {tolerance:g} of the best {_words(column)}"
            for column, tolerance, kept in kept_of(df)
        ]
        last, direction, _ = checked[-1]
        places: list[Hashable] = []
        left = df
        # A runner-up is what the same levels would choose without the better ones.
        while (
            len(left) and len(places) <= NEXT and left[[column for column, *_ in checked]].notna().any().all()
        ):
            *_, (_, _, kept) = kept_of(left)
            places.append(_order(kept, last, direction, objectives).index[0])
            left = left.drop(index=places[-1])
        reason = f"{{trial}} wins level by level {{among}}: {', then '.join(story)}."
        return _first(df.loc[places], reason)

    return verb


def nearest(targets: Mapping[str, tuple[float, bool]]) -> Verb:
    """The front trial closest to the wished values: column -> (value, relative to the baseline)."""
    if not targets:
        raise ConfigError("no target given", "--nearest", 'for instance "macs=40%"')

    def verb(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> Choice:
        rows = pareto.front(df, objectives)
        distance = np.zeros(len(rows))
        for column, (value, relative) in targets.items():
            column, _ = _directed(column)
            _need(rows, column)
            scale, wish = anchors.of[column], hard.Constraint(column, "==", value, relative)
            distance += ((wish.values(rows) - wish.bounds(rows)) / (scale.best - scale.worst)) ** 2
        if not np.isfinite(distance).any():
            raise ConfigError("a share of the baseline needs a finished baseline; there is none", "--nearest")
        rows = rows.assign(_distance=np.sqrt(distance)).sort_values(
            ["_distance", "val_accuracy", "params", "model"],
            ascending=[True, False, True, True],
            kind="stable",
        )
        said = ", ".join(
            f"{c} = {100 * v:g} % of the baseline" if r else f"{c} = {v:g}" for c, (v, r) in targets.items()
        )
        return _first(
            rows.drop(columns="_distance"), f"{{trial}} is nearest to {said} on the front {{among}}."
        )

    return verb


def top(k: int) -> Verb:
    """``k`` trials that represent the front: those whose loss would cost the most hypervolume."""
    if k < 1:
        raise ConfigError(f"{k!r} is not a whole number >= 1", "--top")

    def verb(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> Choice:
        chosen = pareto.spread(df, objectives, anchors, k).sort_values("macs", ascending=False)
        rest = pareto.front(df, objectives).drop(index=chosen.index, errors="ignore")
        names = ", ".join(chosen["model"])
        reason = (
            f"{names} represent the front {{among}}: taking any of them away would lose the most hypervolume."
            if len(chosen) == k
            else f"{names} are the whole front {{among}}: it has only {text.plural(len(chosen), 'point')}, not {k}."
        )
        return Choice(chosen, rest.head(NEXT), f"{reason} The first is {chosen['model'].iloc[0]}.")

    return verb


def by_id(model: str) -> Verb:
    """The model of this name (``t0007@3``, or ``t0008`` of a single trial), if it satisfies the constraints."""

    def verb(df: pd.DataFrame, objectives: Objectives, anchors: Anchors) -> Choice:
        rows = df[df["model"] == model]
        if rows.empty:
            hint = did_you_mean(model, df["model"])
            raise NothingFeasible(f"{model} is not among the {len(df)} feasible {word(df)}s", "--id", hint)
        if len(rows) > 1:
            raise ConfigError("several sweeps have a model of this name", model, "load one sweep at a time")
        unknown = [c for c in objectives if not costs(rows, {c: objectives[c]})[1].any()]
        better = df.head(0) if unknown else _dominating(df, rows.index[0], objectives)
        state = "on the front {among}"
        if unknown:
            state = f"on no front, as its {' and '.join(map(_words, unknown))} is not known"
        if len(better):
            verb = "is" if len(better) == 1 else "are"
            state = (
                f"dominated: {{among}} {len(better)} {verb} at least as good in every objective and better in one "
                f"({', '.join(better['model'].head(NEXT))}{', ...' if len(better) > NEXT else ''})"
            )
        return Choice(rows.head(1), df.head(0), f"{model} was chosen by id; it is {state}.")

    return verb


def _dominating(df: pd.DataFrame, row: Hashable, objectives: Objectives) -> pd.DataFrame:
    """The rows of ``df`` that dominate ``row``, the most accurate first."""
    values, keep = costs(df, objectives)
    at = values[df.index[keep].get_loc(row)]
    mask = keep.copy()
    mask[keep] = (values <= at).all(axis=1) & (values < at).any(axis=1)
    return df[mask].sort_values("val_accuracy", ascending=False, kind="stable")


def _directed(column: str) -> tuple[str, Direction]:
    """The column a word means and its better direction; refuses test accuracy and columns without a
    direction.
    """
    name = hard.ALIASES.get(column, column)
    if name in hard.HELD_BACK:
        raise ConfigError("a choice must not use test accuracy", column, "use accuracy (validation)")
    good = {n for n, q in FINALS.items() if q.better is not None and n not in hard.HELD_BACK}
    if name not in good:
        raise ConfigError(
            "is not a quantity to choose by", column, did_you_mean(column, {*good, "accuracy", "latency"})
        )
    return name, required(FINALS[name].better, name)


def _cost_of(objectives: Objectives) -> str:
    """The first cost among the objectives; what is lost in accuracy is none."""
    return next((c for c, d in objectives.items() if d == "min" and c != "accuracy_drop"), "macs")


def _scales(df: pd.DataFrame, objectives: Objectives) -> dict[str, Direction]:
    """Every quantity of the table that has a direction and some value: what a verb may need a scale for."""
    directed = {n: q.better for n, q in FINALS.items() if q.better is not None and n not in hard.HELD_BACK}
    present = {n: d for n, d in directed.items() if n in df.columns and costs(df, {n: d})[1].any()}
    return {**present, **objectives}


def _need(df: pd.DataFrame, column: str) -> None:
    if column not in df.columns or not df[column].notna().any():
        raise ConfigError("no trial has a value", column, "was it measured in this sweep?")


def _order(
    df: pd.DataFrame, column: str, direction: Direction, objectives: Objectives | None = None
) -> pd.DataFrame:
    """Best first; ties by higher accuracy, fewer MACs, fewer parameters, then the other ``objectives``, so that no
    dominated row comes first; at last by name. Rows without a value last.

    Latencies that cannot be told apart are ties; the MACs come first there, which foresee the time without noise.
    """
    _need(df, column)
    ties = {"val_accuracy": False, "macs": True, "params": True}
    if column in LATENCIES:
        ties = {"macs": True, "params": True, "val_accuracy": False}
        df = df.assign(**{_SETTLED: settled_latency(df, column)})
        column = _SETTLED
    ties |= {name: better == "min" for name, better in (objectives or {}).items()} | {"model": True}
    keys = {column: direction == "min", **{name: up for name, up in ties.items() if name != column}}
    ordered = df.sort_values(list(keys), ascending=list(keys.values()), na_position="last", kind="stable")
    return ordered.drop(columns=_SETTLED, errors="ignore")


def _values(df: pd.DataFrame, column: str) -> np.ndarray:
    """(n,) float64; latencies that cannot be told apart are equal."""
    return settled_latency(df, column) if column in LATENCIES else df[column].to_numpy(dtype=float)


def _as_fast(ordered: pd.DataFrame, column: str) -> int:
    """Rows of an order by latency whose latency cannot be told from the lowest."""
    settled = settled_latency(ordered, column)
    return int((settled == settled[0]).sum())


def _first(ordered: pd.DataFrame, reason: str) -> Choice:
    return Choice(
        ordered.head(1),
        ordered.iloc[1 : 1 + NEXT],
        reason.replace("{trial}", str(ordered["model"].iloc[0])),
    )


@functools.cache
def _words(column: str) -> str:
    return {
        "val_accuracy": "validation accuracy",
        "macs": "MACs",
        "params": "parameter count",
        "latency_ms": "latency",
        "device_hours": "device hours",
        "accuracy_drop": "accuracy drop",
    }.get(column, column.replace("_", " "))
