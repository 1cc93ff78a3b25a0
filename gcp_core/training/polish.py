"""Polishing: a chosen snapshot of a path is trained on with one long cycle and no event.

A path is there to choose from it; a polish is what is shipped. The snapshot's small model is rebuilt with its weights;
the optimiser is a new one (the old one's momentum is of a cycle that ran down to rate 0); the rate runs over all epochs
of the polish as it does over a cycle of the path, from ``train.restart`` times ``train.lr``. So is a penalty: it is told
about the path's plans, and begins with nothing learned.

Epochs are numbered on: after a snapshot of epoch e those of the polish are e + 1 .. e + N. Order and augmentation of the
images are drawn from (seed, epoch) alone. So a polish sees orders that the snapshot has not seen, a longer polish of it
sees the same ones first, and one that was interrupted goes on bit-equal to one that was not (CPU, same thread count).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gcp_core.config import TrialConfig
from gcp_core.cost.latency import threads
from gcp_core.data.pipeline import num_steps
from gcp_core.errors import CheckpointError, ConfigError
from gcp_core.records.checkpoint import (
    EpochCheckpoints,
    load_weights,
    plans_from,
    read_manifest,
    read_state,
    remove_leftovers,
    weights_digest,
)
from gcp_core.records.results import (
    EpochReport,
    Snapshot,
    check_same_trial,
    history_from,
    snapshot_folder,
    start_of,
)
from gcp_core.schedule.clock import polish_pace
from gcp_core.schema import polish_place
from gcp_core.training.epoch import build_optimizer, train_epoch
from gcp_core.training.finals import keep_model, latency_of
from gcp_core.training.observe import Report, check_finite, measure, report_of, tell
from gcp_core.training.setup import Setup, build_setup
from gcp_core.training.state import State
from gcp_core.training.team.member import Start
from gcp_core.training.team.team import Team, assembled

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Polished:
    """What came of a polish.

    Attributes:
        model: the finished model; None if ``report`` stopped the polish before its end.
        history: one report per epoch of the polish itself.
        trained_epochs: epochs trained by this call; the others were resumed.
    """

    model: Snapshot | None
    history: tuple[EpochReport, ...]
    trained_epochs: int = 0


@dataclass(frozen=True)
class _Source:
    """The snapshot that is polished; ``tensors`` are its weights."""

    folder: Path
    manifest: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    level: int
    epoch: int

    @property
    def digest(self) -> str:
        return str(self.manifest["weights_sha256"])


def polish(
    config: TrialConfig,
    source: str | Path,
    epochs: int,
    *,
    report: Report | None = None,
    checkpoint_dir: str | Path | None = None,
    saved: Callable[[Path], None] | None = None,
    devices: float | None = None,
    latency: bool = False,
    start: Start | None = None,
) -> Polished:
    """Train the snapshot in the model folder ``source`` of the path ``config`` on for ``epochs`` epochs.

    Its final values are those of a snapshot that ends after them: full validation, test, cost; ``train_cost`` is the
    snapshot's plus the epochs times its share of the multiply-adds.

    Args:
        report: called after every epoch; returning True stops the polish, which a later call goes on with.
        checkpoint_dir: the path's folder. The model is kept there in ``snapshots/LEVEL+EPOCHS``, what is needed to go on
            in ``polish/LEVEL+EPOCHS``. A finished polish of the same snapshot found there is returned as it is.
        saved, devices, latency, start: as of :func:`gcp_core.training.run_trial`.

    Raises:
        ConfigError: not a path, or not a number of epochs.
        CheckpointError: the snapshot's files are missing or were changed, are another trial's or of other data.
        Diverged: loss or weights are not finite.
        ProcessLost: one of the other processes is gone; a later call goes on.
    """
    if not config.is_path:
        raise ConfigError("is no path: only snapshots of paths are polished", str(source))
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"{epochs!r} is not a whole number >= 1", "train.epochs", "how long to polish")
    taken = _open(config, Path(source))
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    done = None if folder is None else _finished(config, taken, epochs, folder)
    if done is not None:
        return done
    # Its weights are the snapshot's: what the path began with is in its record, whatever the file is now.
    bare = replace(config, model=replace(config.model, weights=None))
    with threads(config.threads), assembled(bare, start) as team:
        setup = replace(build_setup(bare), config=config, initial=start_of(taken.manifest), begins=bare)
        changed = setup.splits.unlike(taken.manifest)
        if changed:
            where = str(taken.folder)
            raise CheckpointError(f"the data changed since the snapshot was trained: {changed}", where)
        with setup.surroundings():
            if team is not None:
                team.join(setup)
            run = _Polish(setup, taken, epochs, folder, team)
            return run.run(report, saved, devices or setup.devices, latency)


class _Polish:
    """One polish on its way."""

    def __init__(
        self, setup: Setup, source: _Source, epochs: int, folder: Path | None, team: Team | None
    ) -> None:
        train, self.team = setup.config.train, team
        self.setup, self.source, self.epochs, self.folder = setup, source, epochs, folder
        self.last = source.epoch + epochs
        steps = num_steps(setup.train_images, train.batch_size, train.processes)
        self.pace = polish_pace(train, steps, source.level, source.epoch + 1, epochs)
        for step in range(source.epoch * steps, self.last * steps):
            self.pace(step)  # one of the user's own may refuse: better now than after hours
        self.checkpoints: EpochCheckpoints | None = None
        if folder is not None:
            self.checkpoints = EpochCheckpoints(folder / polish_place(source.level, epochs) / "epochs")
            remove_leftovers(self.checkpoints.root)
        self.state = self._begin()

    def _begin(self) -> State:
        """Where an earlier call was, or at the snapshot."""
        # What is polished was folded: it is trained as it is.
        source, state = self.source, State.fresh(self.setup, rewritten=False)
        state.folded_from = source.epoch
        if self.checkpoints is not None:
            about, found = self._about(), self.checkpoints.newest()
            if found is not None and found[0].get("polish") == about["polish"]:
                state.take_up(*found, str(self.checkpoints.root))
                return state
        for plan in plans_from(source.manifest):
            state.cut(plan)
        load_weights(state.model, source.tensors, str(source.folder))
        state.optimizer = build_optimizer(state.model, self.setup.config.train)
        state.history = history_from(source.manifest)
        return state

    def run(
        self, report: Report | None, saved: Callable[[Path], None] | None, devices: float, latency: bool
    ) -> Polished:
        state, source = self.state, self.source
        while state.epoch < self.last:
            self._epoch()
            stop = tell(report, state.history[-1:])
            if self.checkpoints is not None:
                manifest = state.manifest() | self._about()
                whole = self.checkpoints.save(state.epoch, state.checkpoint(), manifest)
                if saved is not None:
                    saved(whole)
            if stop and state.epoch < self.last:
                return Polished(None, self._own(), state.trained)
        place = None if self.folder is None else snapshot_folder(self.folder, source.level, self.epochs)
        timed = latency_of(state) if latency else None
        finals, digest = keep_model(state, place, self._about(), latency=timed, devices=devices)
        if self.checkpoints is not None:
            self.checkpoints.clear()
        model = Snapshot(source.level, state.epoch, finals, place, digest, self.epochs)
        return Polished(model, self._own(), state.trained)

    def _epoch(self) -> None:
        state, started = self.state, time.perf_counter()
        epoch = state.epoch + 1
        if self.team is not None:
            loss = self.team.train(state, self.pace)
        else:
            loss = train_epoch(
                state.model, state.optimizer, self.setup, epoch, self.pace, state.penalty, state.steps
            )
        state.trained += 1
        measured = measure(state)
        check_finite(state, measured, epoch)
        state.history.append(report_of(state, epoch, loss, measured, None, time.perf_counter() - started))

    def _about(self) -> dict[str, Any]:
        """What a manifest says about the polish: of which snapshot, and how long."""
        source = self.source
        return {
            "snapshot": {"level": source.level, "epoch": source.epoch},
            "polish": polish_block(source.digest, self.epochs),
        }

    def _own(self) -> tuple[EpochReport, ...]:
        return tuple(self.state.history[self.source.epoch :])


def polish_block(digest: str, epochs: int) -> dict[str, Any]:
    """``polish`` in the manifest of a polished model: SHA-256 of the weights it began with, and its epochs."""
    return {"epochs": epochs, "from": digest}


def _open(config: TrialConfig, folder: Path) -> _Source:
    """The snapshot's files, both of their SHA-256 checked."""
    manifest = read_manifest(folder)
    if manifest.get("polish"):
        raise ConfigError("is polished already", str(folder), "polish the snapshot that it was made of")
    tensors = read_state(folder, manifest)
    if weights_digest(tensors) != manifest.get("weights_sha256"):
        raise CheckpointError(
            "the weights are not those that the manifest names (SHA-256 differs)", str(folder)
        )
    check_same_trial(manifest, config, str(folder))
    try:
        level, epoch = int(manifest["snapshot"]["level"]), int(manifest["snapshot"]["epoch"])
        history = manifest["history"]
    except (KeyError, TypeError, ValueError) as exc:
        raise CheckpointError(f"is no snapshot of a path: {exc!r} is missing", str(folder)) from exc
    if len(history) != epoch:
        raise CheckpointError(f"the manifest knows {len(history)} epochs, not {epoch}", str(folder))
    return _Source(folder, manifest, tensors, level, epoch)


def _finished(config: TrialConfig, source: _Source, epochs: int, folder: Path) -> Polished | None:
    """What an earlier call has left, if it is whole and of this very snapshot."""
    place = snapshot_folder(folder, source.level, epochs)
    remove_leftovers(place.parent)
    if not place.is_dir():
        return None
    try:
        manifest = read_manifest(place)
        check_same_trial(manifest, config, str(place))
        digest = weights_digest(read_state(place, manifest))
        history = tuple(history_from(manifest)[source.epoch :])
    except (CheckpointError, KeyError, TypeError) as exc:
        log.warning("polished again: %s", exc)
        return None
    if manifest.get("polish") != polish_block(source.digest, epochs) or digest != manifest["weights_sha256"]:
        log.warning("polished again: %s is of other weights", place)
        return None
    EpochCheckpoints(folder / polish_place(source.level, epochs) / "epochs").clear()
    model = Snapshot(source.level, source.epoch + epochs, manifest["finals"], place, digest, epochs)
    return Polished(model, history)
