"""How far the front can be trusted: noise between seeds, the robust front, what is surely not
on it, and what fresh seeds confirmed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis import text
from analysis.evidence import noise
from analysis.front.objectives import Objectives
from analysis.front.pareto import front
from analysis.plain import plain
from analysis.runs.models import of_the_search
from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

#: What is said where no configuration was run twice.
WARNING = (
    "a front of single-seed trials overstates accuracy, because the best of many noisy numbers is partly luck"
)


@dataclass(frozen=True)
class Assurance:
    """What replicates tell about a sweep's front.

    Attributes:
        reason: why the noise is not known ("" if it is).
        std: column -> spread between seeds, pooled over the ``replicated`` configurations that have several.
        groups: one row per configuration as :func:`analysis.evidence.noise.ruled_out` returns it, with
            ``robust``; None if the noise is not known.
        confirmed: what fresh seeds say about the configurations that were run again.
    """

    reason: str
    std: dict[str, float]
    replicated: int
    groups: pd.DataFrame | None
    confirmed: tuple[noise.Confirmation, ...]

    def lines(self) -> list[str]:
        """The same in words, one sentence per line."""
        if self.groups is None:
            return [f"how sure: not known ({self.reason}); {WARNING}"]
        spread = ", ".join(f"{text.spread(name, value)} ({name})" for name, value in self.std.items())
        said = [
            f"noise: runs that differ only by their seed spread by {spread}, pooled over "
            f"{text.plural(self.replicated, 'configuration')}"
        ]
        # The groups hold the objectives alone, and MACs need not be one.
        cost = next((c for c in ("macs", *self.std) if c in self.std and c != "val_accuracy"), "model")
        robust = self.groups[self.groups["robust"]].sort_values(cost)
        names = ", ".join(f"{trial} (n = {n})" for trial, n in zip(robust["model"], robust["n"]))
        said.append(f"robust front, means less one standard error: {names}")
        out, n = int(self.groups["ruled_out"].sum()), len(self.groups)
        said.append(
            f"surely not on the front: {out} of {noise.extent(self.groups)} (each wrong with at most 5 %); these "
            f"seeds cannot tell which of the other {n - out} are"
        )
        return said + [confirmation_words(c) for c in self.confirmed]

    def plain(self) -> dict[str, Any]:
        """For ``--json``."""
        rows = [] if self.groups is None else self.groups.drop(columns="candidate").to_dict("records")
        return {
            "known": self.groups is not None,
            "reason": self.reason or None,
            "std": {name: plain(value) for name, value in self.std.items()},
            "replicated": self.replicated,
            "configurations": [{k: plain(v) for k, v in row.items()} for row in rows],
            "confirmed": [{k: plain(v) for k, v in vars(c).items()} for c in self.confirmed],
        }


def assurance(df: pd.DataFrame, goals: Objectives) -> Assurance:
    """Everything that replicates tell about the front of ``goals``; without replicates it says so."""
    columns = list(dict.fromkeys([*goals, "val_accuracy", "macs"]))
    # Confirm runs of a path have all of its levels; those that were off the front were not selected.
    search = of_the_search(df)
    selected = search[search["level"].isna() | search.index.isin(front(search, goals).index)]
    confirmed = tuple(noise.confirmations(df, among=selected))
    try:
        groups = noise.ruled_out(df, goals)
        apart = noise.replicates(df, columns)
        std = {column: noise.pooled_std(apart, column) for column in goals}
        robust = noise.robust_front(groups, goals, noise=apart).index
    except ConfigError as error:
        return Assurance(error.message, {}, 0, None, confirmed)
    groups["robust"] = groups.index.isin(robust)
    replicated = apart[apart["n"] > 1].drop_duplicates(["sweep", "config_id"])
    return Assurance("", std, len(replicated), groups, confirmed)


def confirmation_words(found: noise.Confirmation) -> str:
    """``t0003 was selected at 71.9 %; 3 fresh seeds give 71.2 % (80 % interval 70.8 to 71.6 %): 0.70 points less``."""
    selected = f"{found.model} was selected at {found.selected:.2f} %; {fresh_words(found)}"
    if not found.n:
        return selected
    return f"{selected}: {abs(found.drop):.2f} points {'less' if found.drop >= 0 else 'more'}"


def fresh_words(found: noise.Confirmation) -> str:
    """``3 fresh seeds give 71.20 % (80 % interval 70.80 to 71.60 %), 1 more ended without a model``."""
    if not found.n:
        return f"{text.plural(found.failed, 'fresh seed')} ended without a model"
    said = f"{text.plural(found.n, 'fresh seed')} {'gives' if found.n == 1 else 'give'} {found.mean:.2f} %"
    if math.isfinite(found.low):
        said += f" ({100 * found.level:.0f} % interval {found.low:.2f} to {found.high:.2f} %)"
    return f"{said}, {found.failed} more ended without a model" if found.failed else said
