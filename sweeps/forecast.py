"""What a sweep would cost, without running it: points, baselines, epochs, and which targets are likely to be missed."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from gcp_core.setup import check_config
from sweeps.config import SweepConfig
from sweeps.feasibility import Feasibility
from sweeps.folder import check_unchanged
from sweeps.preflight import check_space, check_storage, check_tracking
from sweeps.space import Point

_SAMPLE = 64
_MAX_COUNTED = 20_000


@dataclass(frozen=True)
class Forecast:
    """Numbers of ``gcp-sweep plan``.

    Attributes:
        points: distinct points of the space, None = no end to them.
        trials: trials that will be run besides the baselines.
        baselines: unpruned runs; an upper bound where the space is continuous.
        epochs: epochs of all trials and baselines together (a mean per trial where ``train.epochs`` is searched).
        short_share: estimated share (0..1) of the space whose trials end short of their target, from ``sampled``
            points whose events were played through with random scores.
        impossible_share: share of the sampled points whose target is out of reach even when the costliest units go
            first; they are never proposed.
        mean_events: events until the target or the end of the schedule, mean of the sampled points.
    """

    name: str
    folder: str
    points: int | None
    trials: int
    baselines: int
    epochs: int
    sampled: int
    short_share: float
    impossible_share: float
    mean_events: float

    def text(self) -> str:
        """For people."""
        points = "no end (a range without a step)" if self.points is None else f"{self.points}"
        return "\n".join(
            [
                f"{self.name} -> {self.folder}",
                f"  distinct points   {points}",
                f"  trials            {self.trials}",
                f"  baselines         {self.baselines}",
                f"  epochs in all     {self.epochs}",
                f"  short of target   about {100 * self.short_share:.0f} % of the space"
                f" ({self.sampled} points played through with random scores)",
                f"  impossible        {100 * self.impossible_share:.0f} % of the space (never proposed)",
                f"  events per trial  {self.mean_events:.1f}",
            ]
        )


def forecast(config: SweepConfig) -> Forecast:
    """Check everything ``run`` would check before it starts, then estimate; writes nothing."""
    check_unchanged(config)
    check_storage(config.folder)
    check_tracking(config.tracking.uri)
    check_space(config, check_config)
    points = sample_points(config, _SAMPLE)
    trials = [config.space.resolve(point) for point in points]
    feasibility = Feasibility()
    possible = [trial for trial in trials if not feasibility.impossible(trial)]
    played = [feasibility.play(trial) for trial in possible]
    epochs = sum(trial.train.epochs for trial in trials) / len(trials)
    baselines = num_baselines(config)
    number = config.num_trials()
    return Forecast(
        name=config.name,
        folder=config.folder,
        points=config.space.size(),
        trials=number,
        baselines=baselines,
        epochs=round(epochs * (number + baselines)),
        sampled=len(points),
        short_share=sum(not reached for reached, _ in played) / len(trials),
        impossible_share=1 - len(possible) / len(trials),
        mean_events=sum(events for _, events in played) / max(1, len(played)),
    )


def num_baselines(config: SweepConfig) -> int:
    """Distinct combinations of everything but the pruning, at most one per trial."""
    outside = [d for d in config.space.dimensions if not d.path.startswith("prune.")]
    sizes = [dimension.size() for dimension in outside]
    if None in sizes:
        return config.num_trials()
    values = itertools.islice(itertools.product(*(d.values() for d in outside)), _MAX_COUNTED)
    inside = {d.path: d.extremes()[0] for d in config.space.dimensions if d.path.startswith("prune.")}
    names = [dimension.path for dimension in outside]
    keys = {
        config.space.resolve({**inside, **dict(zip(names, v, strict=True))}).baseline().key() for v in values
    }
    return min(len(keys), config.num_trials())


def sample_points(config: SweepConfig, number: int, seed: int = 0) -> list[Point]:
    """All points of a small space, else ``number`` random ones."""
    size = config.space.size()
    if size is not None and size <= number:
        return list(config.space.grid())
    rng = random.Random(seed)
    return [{d.path: d.draw(rng) for d in config.space.dimensions} for _ in range(number)]
