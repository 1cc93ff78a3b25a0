"""What an outcome is worth: objective values, constraint excesses, and the last word on its status."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from gcp_core import schema
from gcp_core.schema import FINALS
from sweeps.config.limits import DENSE, Limit
from sweeps.config.search import SearchConfig
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.job import Job, Outcome, Snap


def accuracy_drop(outcome: Outcome, baseline: Outcome) -> float | None:
    """Baseline minus pruned validation accuracy in points; None if either is not known."""
    if "val_accuracy" not in outcome.finals or "val_accuracy" not in baseline.finals:
        return None
    return baseline.finals["val_accuracy"] - outcome.finals["val_accuracy"]


def dense_costs(folder: str | Path, finals: Mapping[str, float]) -> dict[str, float]:
    """``macs`` and ``params`` of a trial's unpruned model, as far as the trial itself tells.

    The manifest in its folder records them; a runner of the user's own may leave only final values.
    """
    try:
        manifest = json.loads((Path(folder) / schema.ARTIFACT_MANIFEST).read_text(encoding="utf-8"))
        return {name: float(manifest["dense"][name]) for name in DENSE}
    except (OSError, ValueError, KeyError, TypeError):
        return _dense_costs_told_by(finals)


def _dense_costs_told_by(finals: Mapping[str, float]) -> dict[str, float]:
    dense = {}
    left = 1 - finals.get("macs_removed", math.nan)
    if left > 0 and math.isfinite(finals.get("macs", math.nan)):
        dense["macs"] = float(round(finals["macs"] / left))
    times = finals.get("compression", math.nan)
    if math.isfinite(times) and math.isfinite(finals.get("params", math.nan)):
        dense["params"] = float(round(finals["params"] * times))
    return dense


def waits_for_baseline(search: SearchConfig, outcome: Outcome, dense: Mapping[str, float]) -> str:
    """What of a trial's answer needs the values of its baseline, by name; empty = nothing.

    Args:
        dense: :func:`dense_costs` of the trial.
    """
    if outcome.status != "complete":
        return ""  # there are no values to judge
    if "accuracy_drop" in search.objectives:
        return "accuracy_drop"
    limits = search.limits()
    return next(
        (
            limit.text
            for limit in limits
            if limit.needs_baseline() or (limit.relative and limit.name not in dense)
        ),
        "",
    )


def baseline_needed_by(search: SearchConfig) -> str:
    """What of a complete trial's answer may need the values of its baseline, by name; empty = nothing."""
    ended = Outcome("complete")
    surely = waits_for_baseline(search, ended, dict.fromkeys(DENSE, 0.0))
    return surely or waits_for_baseline(search, ended, {})


def judge(
    config: SweepConfig, outcome: Outcome, baseline: Outcome | None, dense: Mapping[str, float] | None = None
) -> tuple[Outcome, tuple[float, ...] | None, dict[str, float]]:
    """(outcome with its last word on the status, objective values, constraint excesses) of a trial.

    Args:
        baseline: complete, or None where :func:`waits_for_baseline` names nothing.
        dense: :func:`dense_costs` of the trial.
    """
    if outcome.status != "complete":
        return outcome, None, {}
    search = config.search
    limits = search.limits()
    known = {**(baseline.finals if baseline is not None else {}), **(dense or {})}
    needed = [*search.objectives, *(limit.name for limit in limits)]
    unusable = [name for name in needed if not math.isfinite(outcome.finals.get(name, math.nan))]
    if unusable:
        error = f"final {unusable[0]} is {outcome.finals.get(unusable[0], 'missing')}"
        return dataclasses.replace(outcome, status="failed", error=error), None, {}
    unknown = [limit.text for limit in limits if limit.relative and limit.name not in known]
    if unknown:
        error = f"{unknown[0]} cannot be judged: its baseline does not say"
        return dataclasses.replace(outcome, status="failed", error=error), None, {}
    violations = {limit.text: limit.excess(outcome.finals, known) for limit in limits}
    values = tuple(outcome.finals[name] for name in search.objectives)
    broken = [text for text, excess in violations.items() if excess > 0]
    if broken:
        outcome = dataclasses.replace(outcome, status="infeasible", error=f"violates {', '.join(broken)}")
    return outcome, values, violations


def shares_of_limits(
    limits: Sequence[Limit], excesses: Mapping[str, float], finals: Mapping[str, float]
) -> dict[str, float]:
    """Limit -> how far it is exceeded as a share of the limit itself, so that those of several units can be added up.

    A sampler adds them up wherever nothing keeps all limits: with a million multiply-adds beside three points of
    accuracy, the multiply-adds alone would decide. A limit of 0 counts as 1 in its unit.

    Args:
        excesses: :meth:`Limit.excess` of each, in the value's unit.
        finals: of the model that was judged; of a stopped trial, those it has.
    """
    dense = _dense_costs_told_by(finals)
    shares = {}
    for limit in limits:
        if limit.text in excesses:
            excess = excesses[limit.text]
            shares[limit.text] = excess / _size(limit, excess, finals, dense)
    return shares


def _size(limit: Limit, excess: float, finals: Mapping[str, float], dense: Mapping[str, float]) -> float:
    """The limit in its value's unit, without its sign; never 0."""
    if not limit.relative:
        size = limit.bound
    elif limit.name in dense:
        size = limit.bound * dense[limit.name]
    else:
        size = limit.of(finals.get(limit.name, 0.0), excess)
    return abs(size) or 1.0


def judge_snapshot(
    config: SweepConfig, job: Job, snap: Snap, baseline: Outcome | None
) -> tuple[Snap, tuple[float, ...] | None, dict[str, float]]:
    """(snapshot with its accuracy drop and its last word, objective values, constraint excesses); as :func:`judge`."""
    outcome = Outcome("complete", snap.finals)
    drop = None if baseline is None else accuracy_drop(outcome, baseline)
    if drop is not None:
        outcome = with_finals(outcome, accuracy_drop=drop)
    dense = dense_costs(job.folder, outcome.finals)
    outcome, values, violations = judge(config, outcome, baseline, dense)
    return dataclasses.replace(snap, finals=outcome.finals, status=outcome.status), values, violations


def baseline_values(outcome: Outcome) -> tuple[float, ...] | None:
    """What the ledger keeps as a baseline's value: its validation accuracy, None if it has none."""
    value = outcome.finals.get("val_accuracy")
    return (value,) if outcome.status == "complete" and value is not None and math.isfinite(value) else None


def with_finals(outcome: Outcome, **more: float) -> Outcome:
    """The outcome with further final values."""
    unknown = set(more) - set(FINALS)
    if unknown:
        raise KeyError(f"not in the schema: {sorted(unknown)}")
    return dataclasses.replace(outcome, finals={**outcome.finals, **more})
