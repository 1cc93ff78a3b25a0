"""One trial: train, and every few epochs remove what matters least, until the target is met.

    event at initialisation, where prune.start is 0
    for every epoch:
        train
        if an event is due: criterion -> selection -> plan -> surgery, statistics of the norms for what follows
        evaluate, measure cost, report, checkpoint
    final evaluation (float32) on validation and test; weights, plans and configuration on disk

A path (``train.schedule: cycles``) has a loop of its own, :mod:`gcp_core.training.path`.

All randomness is derived from (seed, purpose, epoch), so a resumed trial is bit-equal to an uninterrupted one on the
same CPU with the same thread count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from gcp_core.config import TrialConfig
from gcp_core.cost.latency import threads
from gcp_core.errors import Diverged
from gcp_core.records.checkpoint import EpochCheckpoints
from gcp_core.records.results import TrialResult, read_result, write_result
from gcp_core.records.stages import StageStore
from gcp_core.schedule.clocks import may_ask
from gcp_core.seeds import generator
from gcp_core.training.event import prune_event
from gcp_core.training.finals import finish
from gcp_core.training.observe import Hooks, Report, SnapshotSink, check_finite, measure, report_of, tell
from gcp_core.training.path import goes_on, run_path
from gcp_core.training.setup import Setup, build_setup
from gcp_core.training.sharing import Sharing
from gcp_core.training.state import State
from gcp_core.training.statistics import recomputed
from gcp_core.training.team.member import Start
from gcp_core.training.team.team import assembled


def run_trial(
    config: TrialConfig,
    *,
    report: Report | None = None,
    checkpoint_dir: str | Path | None = None,
    stages: StageStore | None = None,
    saved: Callable[[Path], None] | None = None,
    snapshot: SnapshotSink | None = None,
    devices: float | None = None,
    latency: bool | None = None,
    start: Start | None = None,
) -> TrialResult:
    """Run one trial from start to end, or go on from where ``checkpoint_dir`` says it was.

    Args:
        report: called after every epoch; returning True stops the trial.
        checkpoint_dir: where epochs, the final model (of a path: its snapshots) and ``result.json`` are kept. A finished
            trial found there is returned as it is, unless it is a path whose target or cap was raised; an unfinished one
            continues from its newest whole epoch.
        stages: training shared with other trials: states found there are not trained again, states reached are left
            there. The result is bit-equal to one without (CPU, same thread count).
        saved: called with the folder of every epoch's checkpoint once that is whole, to copy it elsewhere, say.
        snapshot: paths: called with every snapshot that this call takes, once it is kept; and once more with the last
            one kept where a path goes on from there, because a killed process may have kept it and not told.
            Returning True pauses the path there, unless it is over: a later call with this ``checkpoint_dir`` goes on,
            bit-equal to a path that was never paused.
        devices: what the trial has of the machine, for ``device_hours``: GPUs where it has any (0.25 = a quarter of
            one), else CPU cores. None = one GPU, or ``config.threads`` cores, per process.
        latency: whether forward passes are timed; None = for single trials only.
        start: starts the other processes of a trial with ``train.processes`` above 1; None = on this machine.

    Raises:
        ConfigError, DataError, ModelError: the configuration cannot be run (``InfeasibleTarget`` among them).
        CheckpointError: ``checkpoint_dir`` holds the trial of another configuration, data set or file of initial weights.
        ProcessLost: one of the other processes is gone. A later call with this ``checkpoint_dir`` goes on.

    >>> from gcp_core.config import *
    >>> small = TrialConfig(train=TrainConfig(epochs=2), model=ModelConfig("vgg_tiny", 0.125),
    ...                     prune=PruneConfig(criterion="l1", interval=1, ratio=0.3, target=0.3, until=1.0))
    >>> run_trial(small).finals["macs_removed"] >= 0.3
    True
    """
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    finished = None if folder is None else read_result(folder, config)
    if finished is not None and not (config.is_path and goes_on(config, finished)):
        return finished
    with threads(config.threads), assembled(config, start) as team:
        setup = build_setup(config)
        if team is not None:
            team.join(setup)
        timed = not config.is_path if latency is None else latency
        hooks = Hooks(report, snapshot, saved, devices or setup.devices, timed, team)
        with setup.surroundings():
            run = run_path if config.is_path else _run
            return run(setup, folder, stages, hooks)


def _run(setup: Setup, folder: Path | None, stages: StageStore | None, hooks: Hooks) -> TrialResult:
    config, last = setup.config, setup.config.train.num_epochs
    checkpoints = None if folder is None else EpochCheckpoints(folder / "epochs")
    state = State.fresh(setup)
    if checkpoints is not None:
        state.resume(checkpoints)
    sharing = Sharing(state, stages, hooks.team)
    status, error = "complete", ""
    while state.epoch < last and status == "complete":
        known = state.epoch
        try:
            _one_epoch(state, sharing)
        except Diverged as exc:
            status, error = "diverged", str(exc)
            tell(hooks.report, state.history[known:])
            break
        if tell(hooks.report, state.history[known:]) and state.epoch < last:
            status = "stopped"
        elif checkpoints is not None and state.epoch < last:
            whole = checkpoints.save(state.epoch, state.checkpoint(), state.manifest(), sharing.written())
            if hooks.saved is not None:
                hooks.saved(whole)
    result = finish(state, status, error, folder, hooks)
    if folder is not None and checkpoints is not None:
        write_result(folder, config, result, setup.initial)
        checkpoints.clear()
    return result


def _one_epoch(state: State, sharing: Sharing) -> None:
    """Train an epoch, or take over as many as others have trained; then its event and its report.

    Raises:
        Diverged: loss or weights are not finite. The epoch is then not reported.
    """
    last = state.setup.config.train.num_epochs
    started = time.perf_counter()
    first = prune_event(state, 0) if not state.history and not state.plans and _may_ask(state, 0) else None
    before = time.perf_counter() - started
    loss, seconds = sharing.advance(
        next((e for e in range(state.epoch + 1, last) if _may_ask(state, e)), last)
    )
    started = time.perf_counter()
    epoch = state.epoch + 1
    plan = prune_event(state, epoch) if _due(state, epoch) else None
    if plan is None:
        measured = measure(state)
    else:
        # Right after a cut the statistics of the norms are those of the larger model.
        model = state.plain()
        with recomputed(model, state.setup.statistics_batches(), keep=epoch == last):
            measured = measure(state, model)
    check_finite(state, measured, epoch)
    seconds += before + time.perf_counter() - started
    state.history.append(report_of(state, epoch, loss, measured, plan or first, seconds))


def _may_ask(state: State, epoch: int) -> bool:
    """Whether the clock is asked after this epoch, if no event comes before it."""
    config, events = state.setup.config, [plan.meta["epoch"] for plan in state.plans]
    return may_ask(config.prune, config.train.num_epochs, epoch, events)


def _due(state: State, epoch: int) -> bool:
    """Whether an event is due after this epoch. Once the target is reached nobody is asked any more."""
    setup = state.setup
    if state.clock is None or not _may_ask(state, epoch):
        return False
    if getattr(state.cost, setup.config.pruning.of) <= setup.limit:
        return False
    with torch.autocast(setup.device.type, enabled=False):
        rng = generator(setup.config.seed, "clock", epoch)
        return bool(state.clock.due(epoch, state.plain(), state.living, setup.scorer[1], rng))
