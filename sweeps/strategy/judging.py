"""What an outcome is worth: objective values, constraint excesses, and the last word on its status."""

from __future__ import annotations

import dataclasses
import math

from gcp_core.schema import FINALS
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.job import Outcome


def accuracy_drop(outcome: Outcome, baseline: Outcome) -> float | None:
    """Baseline minus pruned validation accuracy in points; None if either is not known."""
    if "val_accuracy" not in outcome.finals or "val_accuracy" not in baseline.finals:
        return None
    return baseline.finals["val_accuracy"] - outcome.finals["val_accuracy"]


def judge(
    config: SweepConfig, outcome: Outcome, baseline: Outcome | None
) -> tuple[Outcome, tuple[float, ...] | None, dict[str, float]]:
    """(outcome with its last word on the status, objective values, constraint excesses) of a trial."""
    if outcome.status != "complete":
        return outcome, None, {}
    search = config.search
    if search.needs_baseline() and (baseline is None or baseline.status != "complete"):
        reason = baseline.error if baseline is not None else "it was not run"
        return dataclasses.replace(outcome, status="failed", error=f"its baseline failed: {reason}"), None, {}
    limits = search.limits()
    needed = [*search.objectives, *(limit.name for limit in limits)]
    unusable = [name for name in needed if not math.isfinite(outcome.finals.get(name, math.nan))]
    if unusable:
        error = f"final {unusable[0]} is {outcome.finals.get(unusable[0], 'missing')}"
        return dataclasses.replace(outcome, status="failed", error=error), None, {}
    known = baseline.finals if baseline is not None else None
    violations = {limit.text: limit.excess(outcome.finals, known) for limit in limits}
    values = tuple(outcome.finals[name] for name in search.objectives)
    broken = [text for text, excess in violations.items() if excess > 0]
    if broken:
        outcome = dataclasses.replace(outcome, status="infeasible", error=f"violates {', '.join(broken)}")
    return outcome, values, violations


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
