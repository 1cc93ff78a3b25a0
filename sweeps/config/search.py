"""The ``search`` section of a config: what is searched for, how, and how long."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.schema import FINALS, Direction
from sweeps.config.limits import WITHOUT_SCALE, Limit, parse_limit, parse_plateau

SAMPLERS = ("tpe", "random", "grid", "nsga2", "gp", "qmc")
STOPPING = ("rungs", "none")
KEEP = ("front", "all")
#: These look where it is promising; the others make tables, of which every cell counts.
LEARNING_SAMPLERS = ("tpe", "nsga2", "gp")
#: ``search.min_gain: null`` means this many per cent points of hypervolume per dense epoch of training.
DEFAULT_MIN_GAIN = 0.02


@dataclass(frozen=True)
class SearchConfig:
    """What is searched for, how, and how long.

    Attributes:
        sampler: ``tpe`` (multivariate, knows what is still running), ``random``, ``grid``, ``nsga2``, ``gp``, ``qmc``.
        trials: how many trials besides the baselines; None = every point (``grid`` only).
        concurrency: trials at the same time, as far as the resources allow.
        objectives: short name of a final value -> ``max`` or ``min``.
        constraints: such as ``"accuracy_drop <= 1"``, ``"macs <= 50%"`` (of the baseline).
        hours: no new trial or confirmation run starts after this many hours from the first trial on, all drivers of the
            sweep together; waiting for nodes counts.
        device_hours: the same for the wall time of all trials times their GPUs (their CPUs where they have none).
        plateau: no new trial starts once the hypervolume has grown too little, such as ``"1% over 20 trials"``.
        points: points to try first, each a mapping of searched paths to values; what one leaves out has its first value.
        share: trials pass training on that they have in common (the results are the same, bit by bit, on CPU).
        stage_gb: how much of that training is kept, in GB (10^9 bytes); the oldest goes first. None = a quarter of what
            is free where the sweep's folder is, 4.3 GB at most.
        stopping: ``rungs`` (unpromising trials end early, see ``sweeps.strategy.stopping``) or ``none``; None =
            ``rungs`` with a sampler that learns (tpe, nsga2, gp), ``none`` with one that does not.
        rungs: where trials are compared, as shares of their epochs.
        rung_share: share of the trials at a rung that continues.
        min_gain: of paths: a step that promises less is not taken, in per cent points of hypervolume per dense epoch of
            training; None = :data:`DEFAULT_MIN_GAIN` with a sampler that learns, 0 with one that makes a table.
        max_path_cost: of paths: those foreseen to cost more dense epochs of training are not proposed; None = no limit.
        keep: of paths: whose weights stay while the sweep runs and afterwards. ``front`` = those of models within the
            front's noise band; the others come back with ``gcp-sweep replay``; ``all``. None = ``front`` for paths.
    """

    sampler: str = "tpe"
    trials: int | None = 24
    concurrency: int = 1
    objectives: dict[str, Direction] = field(default_factory=lambda: {"val_accuracy": "max", "macs": "min"})
    constraints: tuple[str, ...] = ()
    points: tuple[dict[str, Any], ...] = ()
    share: bool = True
    stage_gb: float | None = None
    stopping: str | None = None
    rungs: tuple[float, ...] = (0.25, 0.5)
    rung_share: float = 0.5
    hours: float | None = None
    device_hours: float | None = None
    plateau: str | None = None
    min_gain: float | None = None
    max_path_cost: float | None = None
    keep: str | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ConfigError(
                f"{self.sampler!r} is unknown", "search.sampler", did_you_mean(self.sampler, SAMPLERS)
            )
        if self.trials is None and self.sampler != "grid":
            raise ConfigError("null means every point, which only the grid sampler supports", "search.trials")
        if self.trials is not None and self.trials < 1:
            raise ConfigError(
                f"{self.trials!r} is not a whole number >= 1",
                "search.trials",
                "a sweep needs at least one trial",
            )
        if self.concurrency < 1:
            raise ConfigError(f"{self.concurrency!r} is not a whole number >= 1", "search.concurrency")
        if not self.objectives:
            raise ConfigError("is empty", "search.objectives", "for instance {val_accuracy: max, macs: min}")
        for name, direction in self.objectives.items():
            where = f"search.objectives.{name}"
            if name == "test_accuracy":
                raise ConfigError("the search must not use the test split", where, "use val_accuracy")
            if name not in FINALS:
                raise ConfigError(f"{name!r} is unknown", where, did_you_mean(name, _steerable()))
            if direction not in ("max", "min"):
                raise ConfigError(f"{direction!r} is unknown", where, "allowed: max, min")
        if self.keep not in (None, *KEEP):
            raise ConfigError(f"{self.keep!r} is unknown", "search.keep", did_you_mean(str(self.keep), KEEP))
        self._check_stopping()
        self._check_budgets()
        self.limits()

    def _check_budgets(self) -> None:
        for name in ("hours", "device_hours", "max_path_cost", "stage_gb"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                null = "a quarter of the free disk, 4.3 GB at most" if name == "stage_gb" else "no limit"
                raise ConfigError(f"{value!r} is not a number > 0", f"search.{name}", f"null = {null}")
        if self.min_gain is not None and not (self.min_gain >= 0 and math.isfinite(self.min_gain)):
            raise ConfigError(
                f"{self.min_gain!r} is not a number >= 0",
                "search.min_gain",
                f"percentage points of hypervolume per dense epoch; null = {DEFAULT_MIN_GAIN:g}; "
                "0 = every path runs to its end",
            )
        if self.plateau is not None:
            parse_plateau(self.plateau)
            for name in sorted(WITHOUT_SCALE & set(self.objectives)):
                raise ConfigError(
                    f"the objective {name} has no fixed scale, so there is no hypervolume to watch",
                    "search.plateau",
                    "search.hours or search.device_hours end a sweep too",
                )

    def _check_stopping(self) -> None:
        if self.stopping is None:
            object.__setattr__(self, "stopping", "rungs" if self.sampler in LEARNING_SAMPLERS else "none")
        elif self.stopping not in STOPPING:
            raise ConfigError(
                f"{self.stopping!r} is unknown", "search.stopping", did_you_mean(self.stopping, STOPPING)
            )
        for i, rung in enumerate(self.rungs):
            if not 0 < rung < 1:
                hint = "a share of the epochs; 0.25 = after a quarter of them"
                raise ConfigError(f"{rung!r} is not a number between 0 and 1", f"search.rungs.{i}", hint)
        if not 0 < self.rung_share <= 1:
            raise ConfigError(
                f"{self.rung_share!r} is not a number in (0, 1]",
                "search.rung_share",
                "0.5 = the better half continues",
            )

    def limits(self) -> tuple[Limit, ...]:
        """The constraints, parsed."""
        return tuple(parse_limit(text, f"search.constraints.{i}") for i, text in enumerate(self.constraints))

    @property
    def least_gain(self) -> float:
        """``min_gain``, or what it is by default."""
        if self.min_gain is not None:
            return self.min_gain
        return DEFAULT_MIN_GAIN if self.sampler in LEARNING_SAMPLERS else 0.0

    @property
    def stage_bytes(self) -> int | None:
        """``stage_gb`` in bytes."""
        return None if self.stage_gb is None else round(1e9 * self.stage_gb)

    def needs(self, name: str) -> bool:
        """Whether an objective or a constraint asks for that final value."""
        return name in self.objectives or any(limit.name == name for limit in self.limits())

    def needs_baseline(self) -> bool:
        """Whether an answer to the sampler needs the baseline to have been trained."""
        return "accuracy_drop" in self.objectives or any(limit.needs_baseline() for limit in self.limits())


def _steerable() -> list[str]:
    return [name for name in FINALS if name not in ("test_accuracy", "latency_noise")]
