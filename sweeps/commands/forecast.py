"""What a sweep would cost, without running it: points, baselines, epochs, time, disk, and which targets are missed."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import random
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from analysis.show.terminal import as_text, facts
from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError
from gcp_core.records.stages import MAX_BYTES
from gcp_core.schedule.clock import last_event_epoch
from sweeps.commands.calibration import Calibration, calibrate, slots_of
from sweeps.commands.pauses import Pauses, pauses
from sweeps.commands.rehearsal import Played, Rehearsal, could_be_path, distinct_states, stopped_early
from sweeps.config.equal_cost import too_dear
from sweeps.config.space import Point
from sweeps.config.sweep_config import SweepConfig
from sweeps.driver.preflight import check_space, check_storage, check_tracking, continued
from sweeps.driver.progress import duration
from sweeps.strategy.feasibility import Feasibility
from sweeps.worker.gpu import check_for, in_place_of_trials, to_look_at

_SAMPLE = 64
_MAX_COUNTED = 20_000
#: After so many draws in a row that were there before, a space is taken to have no more points.
_SEEN_ENOUGH = 1000
#: Seconds that do not depend on the trials: Ray and MLflow start side by side; the first trial of a worker process
#: waits for torch; Tune takes a moment between two trials; at the end the front is drawn and everything closed.
START_S, COLD_S, BETWEEN_S, CLOSE_S = 9.0, 4.0, 0.3, 5.0
#: Bytes of a trial besides its weights: logs, config, plans, its share of the journal and of MLflow's database.
_TRIAL_BYTES, _SWEEP_BYTES = 200_000, 3_000_000


@dataclass(frozen=True)
class Forecast:
    """Numbers of ``gcp-sweep plan``.

    Attributes:
        points: distinct points of the space, None = no end to them.
        trials: trials that will be run besides the baselines.
        baselines: unpruned runs; an upper bound where the space is continuous.
        epochs: epochs of all trials and baselines together if each trained alone, to its end.
        epochs_trained: epochs to be trained with shared training and early stopping, as far as they are on.
        short_share: estimated share (0..1) of the space whose trials end short of their target, from ``sampled``
            points whose events were played through with random scores.
        impossible_share: share of the sampled points whose target is out of reach even when the costliest units go
            first; they are never proposed.
        too_dear_share: share of the sampled points whose path is foreseen to cost more than ``search.max_path_cost``;
            neither are they.
        mean_events: events until the target or the end of the schedule, mean of the sampled points.
        stopped_share: share of the trials that would be stopped early, with imagined accuracies.
        device_hours: of all trials and baselines together, one device (slot) each; None = not measured.
        wall_hours: on this machine with ``slots`` trials at a time; None = not measured. Steps are timed as they are
            written, also where they will be ``compiled``.
        slots: trials at the same time, as far as this machine's CPUs and GPUs allow.
        disk_bytes: the most the sweep's folder will hold while the sweep runs.
        disk_free: bytes free there now.
        confirm_seeds: runs on fresh seeds per member of the front after the search; not in the other numbers.
    """

    name: str
    folder: str
    points: int | None
    trials: int
    baselines: int
    epochs: int
    epochs_trained: int
    sampled: int
    short_share: float
    impossible_share: float
    mean_events: float
    stopped_share: float
    device_hours: float | None
    wall_hours: float | None
    slots: int
    disk_bytes: int
    disk_free: int
    confirm_seeds: int = 0
    snapshots: int = 0
    path_epochs: list[int] | None = None
    path_cost: list[float] | None = None
    levels: list[list[float]] = field(default_factory=list)
    too_dear_share: float = 0.0
    baseline_epochs: int | None = None
    pauses: Pauses | None = None
    compiled: bool = False
    could_be_paths: bool = True

    def text(self) -> str:
        """For people."""
        points = "no end (a range without a step)" if self.points is None else f"{self.points}"
        saved = 1 - self.epochs_trained / self.epochs
        lines: list[tuple[str, str]] = [
            ("distinct points", points),
            ("trials", f"{self.trials}"),
            ("baselines", f"{self.baselines}"),
            ("epochs in all", f"{self.epochs}"),
            (
                "epochs to train",
                f"{self.epochs_trained} ({100 * saved:.0f} % saved by shared training and early stopping)",
            ),
            ("stopped early", f"about {100 * self.stopped_share:.0f} % of the trials"),
            (
                "short of target",
                f"about {100 * self.short_share:.0f} % of the space"
                f" ({self.sampled} points played through with random scores)",
            ),
            ("impossible", f"{100 * self.impossible_share:.0f} % of the space (never proposed)"),
            ("events per trial", f"{self.mean_events:.1f}"),
        ]
        if self.wall_hours is not None and self.device_hours is not None:
            at_a_time = f"{self.slots} trial{'s' if self.slots > 1 else ''} at a time"
            at_a_time += ", without train.compile" * self.compiled
            lines += [
                ("time", f"about {duration(3600 * self.wall_hours)} on this machine ({at_a_time})"),
                ("device-hours", f"{self.device_hours:.3g}"),
            ]
        lines += self._lines_of_paths()
        if self.confirm_seeds:
            lines.append(
                ("on top", f"{self.confirm_seeds} runs per member of the front, to confirm it"),
            )
        lines.append(("disk", f"{self.disk_bytes / 1e6:,.0f} MB of {self.disk_free / 1e6:,.0f} MB free"))
        if self.disk_bytes > self.disk_free:
            lines.append(("!", "the disk is too small: storage=FOLDER chooses another place"))
        return f"{self.name} -> {self.folder}\n{as_text(facts(lines))}"

    def _lines_of_paths(self) -> list[tuple[str, str]]:
        """What is special about paths; of single trials, how they would be paths."""
        too_dear = ("too dear", f"{100 * self.too_dear_share:.0f} % of the space (never proposed)")
        if self.path_epochs is not None and self.path_cost is not None:
            return [
                ("models", f"about {self.snapshots}, one per phase of every path"),
                (
                    "epochs of a path",
                    f"{_range(self.path_epochs)}, costing {_range(self.path_cost)} dense epochs",
                ),
                too_dear,
                ("baseline", f"{self.baseline_epochs} epochs, unpruned, for comparisons at equal cost"),
                *(
                    ("MACs left", f"{', '.join(f'{100 * share:.0f}' for share in levels)} %")
                    for levels in self.levels
                ),
                *(self.pauses.lines() if self.pauses is not None else ()),
            ]
        if self.too_dear_share:  # paths, none of which was affordable among the sampled ones
            return [too_dear]
        if self.snapshots or not self.could_be_paths:
            return []
        how = "train.schedule=cycles train.epochs=null prune.start=4 prune.until=null"
        return [("as paths", f"{how}: every trial then leaves a model per step (docs/paths.md)")]


def _range(ends: Sequence[float]) -> str:
    low, high = ends[0], ends[-1]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def forecast(config: SweepConfig, timed: bool = True, rule: bool = True) -> Forecast:
    """Check everything ``run`` would check before it starts, then estimate; writes nothing.

    ``timed`` measures a few training steps and scoring passes; without, times are None. ``rule`` plays what a sweep of
    paths is expected to spend.
    """
    start = time.process_time()
    config = continued(config)
    check_storage(config.folder)
    check_tracking(config.tracking.uri)
    check_space(config, check_for(config.resources.gpus))
    checked_s = time.process_time() - start
    feasibility = Feasibility(usual=config.search.sampler != "grid")
    points = sample_points(config, max(_SAMPLE, config.num_trials()))
    trials = _trials_at(config, points)
    cheap = [trial for trial in trials if not too_dear(trial, config.search.max_path_cost)]
    possible = [trial for trial in cheap if not feasibility.impossible(trial)]
    rehearsal = Rehearsal(feasibility)
    played = [rehearsal.play(trial) for trial in possible]
    likely = likely_trials(config, played, rehearsal)
    run = stopped_early(config.search, likely, feasibility)
    baselines = [rehearsal.play(trial) for trial in _distinct_baselines(run)]
    everything = [*baselines, *run]
    slots = _slots(config)
    paths = [trial for trial in run if trial.config.is_path]
    changed = ("auto", "inductor") if config.resources.gpus else ("inductor",)  # on a CPU auto does nothing
    times = _times(config, everything, possible) if timed and possible else []
    wall = START_S + checked_s + COLD_S + makespan(times, slots) + CLOSE_S
    spare = max(0, num_baselines(config) - len(baselines))  # of seeds, say, that the sample does not hold
    more = round(spare * sum(trial.baseline().train.num_epochs for trial in trials) / len(trials))
    trained = distinct_states(everything) if config.search.share else sum(t.epochs for t in everything)
    return Forecast(
        name=config.name,
        folder=config.folder,
        points=config.space.size(),
        trials=config.num_trials(),
        baselines=len(baselines) + spare,
        epochs=sum(_planned(trial) for trial in everything) + more,
        epochs_trained=trained + more,
        sampled=len(points),
        short_share=sum(not trial.reached for trial in played) / len(trials),
        impossible_share=(len(cheap) - len(possible)) / len(trials),
        too_dear_share=1 - len(cheap) / len(trials),
        baseline_epochs=config.baseline.epochs,
        pauses=pauses(config, paths) if rule else None,
        mean_events=sum(len(trial.events) for trial in played) / max(1, len(played)),
        stopped_share=sum(a.epochs < b.epochs for a, b in zip(run, likely, strict=True)) / max(1, len(run)),
        device_hours=sum(times) / 3600 if times else None,
        wall_hours=wall / 3600 if times else None,
        slots=slots,
        disk_bytes=_disk(config, everything, slots),
        disk_free=_free(config.folder),
        confirm_seeds=config.confirm.seeds,
        snapshots=sum(1 + len(trial.plans) for trial in paths),
        path_epochs=[min(t.epochs for t in paths), max(t.epochs for t in paths)] if paths else None,
        path_cost=[min(map(_cost, paths)), max(map(_cost, paths))] if paths else None,
        levels=_levels(paths),
        compiled=any(trial.train.compile in changed for trial in possible),
        could_be_paths=any(not trial.is_path and could_be_path(trial) for trial in possible),
    )


def _planned(trial: Played) -> int:
    """Epochs of a trial that nobody stops."""
    return trial.epochs if trial.config.is_path else trial.config.train.num_epochs


def _cost(trial: Played) -> float:
    """Training multiply-adds in epochs of the unpruned model, without scoring."""
    return round(sum(trial.macs) / trial.macs[0], 2)


def _levels(paths: Sequence[Played]) -> list[list[float]]:
    """The shares of MACs left at the snapshots of each kind of path, as played; every kind once."""
    found = {
        (run.config.pruning.levels, run.config.pruning.ratio, run.config.pruning.ratio_of): run
        for run in paths
    }
    return [
        [round(run.macs[epoch - 1] / run.macs[0], 3) for epoch in (*run.events, run.epochs)]
        for run in found.values()
    ]


def likely_trials(config: SweepConfig, played: Sequence[Played], rehearsal: Rehearsal) -> list[Played]:
    """As many of the played trials as will be run: the points given first, then the sample in its (random) order."""
    first = [
        config.space.resolve(config.space.canonical(point), config.resources.cpus)
        for point in config.search.points
    ]
    given = {trial.key() for trial in first}
    rest = [trial for trial in played if trial.config.key() not in given]
    return [*(rehearsal.play(trial) for trial in first), *rest][: config.num_trials()]


def _distinct_baselines(trials: Sequence[Played]) -> list[TrialConfig]:
    return list({trial.config.baseline().key(): trial.config.baseline() for trial in trials}.values())


# --- time ---------------------------------------------------------------------------------------------------------


def _times(config: SweepConfig, trials: Sequence[Played], possible: Sequence[TrialConfig]) -> list[float]:
    """Seconds of every trial in the order in which they start; what an earlier one trained is not trained again."""
    criteria: dict[str, dict[str, Any]] = {}
    for config_ in possible:
        criteria.setdefault(config_.pruning.criterion, config_.pruning.options)
    gpus = config.resources.gpus
    with in_place_of_trials(gpus):
        first = to_look_at(possible[0], gpus)
        measured = calibrate(first, criteria, [each.pruning for each in possible])
    known: set[str] = set()
    times = []
    for trial in trials:
        new = [e for e, state in enumerate(trial.states, start=1) if state not in known]
        times.append(trial_seconds(trial, new, measured))
        if config.search.share:
            known |= set(trial.states)
    return times


def trial_seconds(trial: Played, new: Sequence[int], measured: Calibration) -> float:
    """Seconds of one trial that trains the epochs ``new`` (1 = the first) and takes the others over."""
    train, prune = trial.config.train, trial.config.prune
    per_step = train.batch_size / measured.batch_size
    steps = measured.steps / per_step
    dense = trial.macs[0]
    last_macs = trial.final[0]
    taken_over = trial.epochs > len(new)  # one more epoch is evaluated: that of the state taken over
    seconds = measured.setup_s + measured.latency_s + BETWEEN_S + measured.save_s
    for epoch in new:
        macs = trial.macs[epoch - 1]
        seconds += steps * per_step * measured.step(macs)
        # It saves checkpoint and shared state.
        seconds += measured.epoch_val * measured.image(macs) + 2 * measured.save_s
    if taken_over:
        seconds += measured.epoch_val * measured.image(dense) + measured.save_s
    known = {} if prune is None else slots_of(prune)
    slots = {slot: measured.slot_s.get(known.get(slot, ""), 0.0) for slot in ("allocator", "repair", "clock")}
    for epoch in trial.events:
        score = measured.score_s.get(prune.criterion, 0.0) if prune is not None else 0.0
        # An event at initialisation looks at the unpruned model.
        share = trial.macs[epoch - 1] / dense if epoch else 1.0
        seconds += (score + slots["allocator"] + slots["repair"]) * share + measured.surgery_s
    if slots["clock"] and prune is not None and trial.events:
        last = min(last_event_epoch(prune, train.num_epochs), trial.epochs)
        seconds += sum(slots["clock"] * trial.macs[e - 1] / dense for e in range(trial.events[0], last + 1))
    return seconds + measured.final * measured.image(last_macs)


def makespan(times: Sequence[float], slots: int) -> float:
    """Seconds until all are done, each started in its turn on the first free of ``slots``.

    >>> makespan([3, 1, 1, 2], 2)
    4.0
    """
    free = [0.0] * max(1, slots)
    for seconds in times:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return float(max(free))


def _slots(config: SweepConfig) -> int:
    """Trials at the same time on this machine."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    room = [config.search.concurrency, cpus // config.resources.cpus]
    each = config.resources.gpus
    gpus = torch.cuda.device_count() if each else 0
    if gpus:  # a part of a GPU lies on one of them; without any, the sweep is for another machine
        room.append(gpus * math.floor(1 / each + 1e-9) if each < 1 else math.floor(gpus / each))
    return max(1, min(room))


# --- disk ---------------------------------------------------------------------------------------------------------


def _disk(config: SweepConfig, trials: Sequence[Played], slots: int) -> int:
    """Weights of every model twice (trial and MLflow), two checkpoints per running trial and per path that may continue,
    bounded shared states. With ``search.keep: front`` it is less: how much nobody knows before.
    """
    weights = sum(8 * params for trial in trials for params in _models(trial))
    # Weights and momenta, float32.
    factor = 12 if trials and trials[0].config.train.optimizer == "adamw" else 8
    running = slots * 2 * factor * max((trial.params[0] for trial in trials), default=0)
    resting = 2 * factor * sum(trial.params[-1] for trial in trials if trial.config.is_path)
    states = {
        state: params for trial in trials for state, params in zip(trial.states, trial.params, strict=True)
    }
    bound = config.search.stage_bytes or MAX_BYTES
    shared = min(bound, factor * sum(states.values())) if config.search.share else 0
    return round(weights + running + resting + shared + _TRIAL_BYTES * len(trials) + _SWEEP_BYTES)


def _models(trial: Played) -> list[float]:
    """Parameters of the models that a trial leaves."""
    if not trial.config.is_path:
        return [trial.final[1]]
    return [trial.params[epoch - 1] for epoch in (*trial.events, trial.epochs)]


def _free(folder: str) -> int:
    place = Path(folder)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


# --- the space ----------------------------------------------------------------------------------------------------


def num_baselines(config: SweepConfig) -> int:
    """Distinct combinations of everything but the pruning, at most one per trial."""
    outside = [d for d in config.space.dimensions if not d.path.startswith("prune.")]
    sizes = [dimension.size() for dimension in outside]
    if None in sizes:
        return config.num_trials()
    values = itertools.islice(itertools.product(*(d.values() for d in outside)), _MAX_COUNTED)
    inside = {d.path: d.extremes()[0] for d in config.space.dimensions if d.path.startswith("prune.")}
    names = [dimension.path for dimension in outside]
    trials = _trials_at(config, ({**inside, **dict(zip(names, v, strict=True))} for v in values))
    keys = {trial.baseline().key() for trial in trials}
    return min(len(keys), config.num_trials())


def _trials_at(config: SweepConfig, points: Iterable[Point]) -> list[TrialConfig]:
    """The trials at these points, without those whose values cannot be together: a sweep does not propose them either."""
    found = []
    for point in points:
        with contextlib.suppress(ConfigError):
            found.append(config.space.resolve(point, config.resources.cpus))
    return found


def sample_points(config: SweepConfig, number: int) -> list[Point]:
    """All points of a small space in random order, else ``number`` random ones, all different."""
    size, rng = config.space.size(), random.Random(0)
    if size is not None and size <= number:
        points = list(config.space.grid())
        if config.search.sampler != "grid":
            rng.shuffle(points)
        return points
    found: dict[str, Point] = {}
    known = 0
    # A range may hold fewer values than it seems to: they are drawn with six digits.
    while len(found) < number and known < _SEEN_ENOUGH:
        point = {d.path: d.draw(rng) for d in config.space.dimensions}
        known = known + 1 if repr(point) in found else 0
        found[repr(point)] = point
    return list(found.values())
