"""A path: a trial that ends its dense phase and every cycle with a finished model.

    dense phase:  epochs 1 .. start, one-cycle              -> snapshot 0
    repeat:       event k: cut to level k
                  cycle k: ``interval`` epochs              -> snapshot k
    until the target, the floors, or the cap

At the end of a phase the model is put away first, then evaluated as a snapshot, and only then cut: nothing is evaluated
between a cut and the training that follows it, and whoever goes on from the state at the end of a phase - after a kill,
or because the target was raised - does what an uninterrupted path does.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from gcp_core.config import TrialConfig
from gcp_core.criteria import is_comparable
from gcp_core.errors import Diverged
from gcp_core.plan import Plan
from gcp_core.pruning.selection import say_if_spent
from gcp_core.records.checkpoint import EpochCheckpoints, remove_leftovers
from gcp_core.records.results import Snapshot, TrialResult, read_snapshots, snapshot_folder, write_result
from gcp_core.records.stages import StageStore
from gcp_core.schedule.clock import phase_end, phase_of
from gcp_core.schema import SNAPSHOTS
from gcp_core.training.event import carry_out, event_allocator, event_scores
from gcp_core.training.finals import keep_model, latency_of, time_of
from gcp_core.training.levels import level_plan, why_over
from gcp_core.training.observe import Hooks, check_finite, measure, report_of, tell
from gcp_core.training.setup import Setup, budget_for
from gcp_core.training.sharing import Sharing
from gcp_core.training.state import State

log = logging.getLogger(__name__)


def run_path(setup: Setup, folder: Path | None, stages: StageStore | None, hooks: Hooks) -> TrialResult:
    """Run a path to its end, or go on from where ``folder`` says it was."""
    path = _Path(setup, folder, stages, hooks)
    status, ended, error = path.run()
    result = path.result(status, ended, error)
    if folder is not None and status != "paused":
        write_result(folder, setup.config, result, setup.initial)
    if path.checkpoints is not None:
        path.checkpoints.keep_newest(path.state.epoch)
    return result


def goes_on(config: TrialConfig, finished: TrialResult) -> bool:
    """Whether a path that came to its end goes on under this config: its target or its cap was raised."""
    train, prune = config.train, config.pruning
    if finished.status != "complete" or finished.ended not in ("target", "cap") or not finished.snapshots:
        return False
    last = finished.snapshots[-1]
    removed = last.finals["macs_removed" if prune.of == "macs" else "params_removed"]
    return not why_over(train, prune, removed, last.epoch, None)


class _Path:
    def __init__(self, setup: Setup, folder: Path | None, stages: StageStore | None, hooks: Hooks) -> None:
        self.setup, self.folder, self.hooks = setup, folder, hooks
        self.prune = setup.config.pruning
        self.state = State.fresh(setup)
        self.checkpoints: EpochCheckpoints | None = None
        if folder is not None:
            self.checkpoints = EpochCheckpoints(folder / "epochs")
            for place in (self.checkpoints.root, folder / SNAPSHOTS):
                remove_leftovers(place)
            self.state.resume(self.checkpoints)
        self.sharing = Sharing(self.state, stages, hooks.team)
        #: Those of later epochs than the state's will be written again, equal.
        self.snapshots = [s for s in read_snapshots(folder) if s.epoch <= self.state.epoch] if folder else []
        #: Seconds since the last report, of snapshots and events: they count with the next epoch.
        self.unreported_s = 0.0

    def run(self) -> tuple[str, str, str]:
        """(status, why it ended, error)."""
        while True:
            if self._at_phase_end():
                started = time.perf_counter()
                ended = self._phase_end()
                self.unreported_s += time.perf_counter() - started
                if ended:
                    return ("paused" if ended == "paused" else "complete"), ended, ""
            known = len(self.state.history)
            try:
                self._epoch()
            except Diverged as exc:
                tell(self.hooks.report, self.state.history[known:])
                return "diverged", "", str(exc)
            stop = tell(self.hooks.report, self.state.history[known:])
            if self.checkpoints is not None:
                state = self.state
                whole = self.checkpoints.save(
                    state.epoch, state.checkpoint(), state.manifest(), self.sharing.written()
                )
                if self.hooks.saved is not None:
                    self.hooks.saved(whole)
            if stop:
                # With the path's last epoch it comes too late.
                ended = self._finish_phase() if self._at_phase_end() else ""
                over = ended and ended != "paused"
                return ("complete", ended, "") if over else ("stopped", "stopped", "")

    def _at_phase_end(self) -> bool:
        """At the end of a phase, before its event."""
        return phase_end(self.prune, self.state.epoch) and not self.state.just_cut

    def _phase_end(self) -> str:
        """Snapshot, then event; why the path ends here, "" if it goes on."""
        return self._finish_phase() or ("" if self._event() is not None else "floors")

    def _finish_phase(self) -> str:
        """Snapshot; why the path ends or rests before another event is tried, "" if it may go on."""
        state, config = self.state, self.setup.config
        pause = self._take_snapshot()
        last_plan = state.plans[-1] if state.plans else None
        over = why_over(config.train, self.prune, state.removed, state.epoch, last_plan)
        return over or ("paused" if pause else "")

    def _event(self) -> Plan | None:
        state, setup, prune = self.state, self.setup, self.prune
        scores = event_scores(state, state.epoch)
        dense = float(getattr(setup.dense_cost, prune.of))
        comparable, allocator = is_comparable(setup.scorer[0]), event_allocator(state, state.epoch)
        plan = level_plan(scores, state.living, prune, dense, comparable, allocator)
        if plan is None:
            say_if_spent(scores, state.living, budget_for(prune, None, comparable))
        else:
            plan = carry_out(state, plan, state.epoch, allocator)
            log.info(
                "event %d after epoch %d: removed %d units, %.1f %% of the %s left",
                len(state.plans),
                state.epoch,
                plan.num_units,
                100 * (1 - state.removed),
                prune.of,
            )
        return plan

    def _epoch(self) -> None:
        """Train an epoch, or take over as many as others have trained of this phase; then look at it and report."""
        state = self.state
        _, first, epochs = phase_of(self.prune, state.epoch + 1)
        loss, seconds = self.sharing.advance(first + epochs - 1)
        started = time.perf_counter()
        epoch = state.epoch + 1
        measured = measure(state)
        check_finite(state, measured, epoch)
        seconds += time.perf_counter() - started + self.unreported_s
        self.unreported_s = 0.0
        state.history.append(report_of(state, epoch, loss, measured, None, seconds))

    def _take_snapshot(self) -> bool:
        """Evaluate the model as it is, keep it, and tell; if that was done before, only tell. Whether it shall rest.

        Who is told might not have heard: the process may have been killed between the keeping and the telling.
        """
        state, number = self.state, len(self.state.plans)
        known = next((snapshot for snapshot in self.snapshots if snapshot.level == number), None)
        if known is not None:
            return self._tell(known)
        latency = latency_of(state) if self.hooks.latency else None
        place = None if self.folder is None else snapshot_folder(self.folder, number)
        about = {"snapshot": {"level": number, "epoch": state.epoch}}
        finals, digest = keep_model(state, place, about, latency=latency, devices=self.hooks.devices)
        snapshot = Snapshot(number, state.epoch, finals, place, digest)
        self.snapshots.append(snapshot)
        log.info(
            "snapshot %d after epoch %d: %.2f %% validation accuracy, %.1f %% of the MACs, cost %.2f dense epochs",
            number,
            state.epoch,
            finals["val_accuracy"],
            100 * (1 - finals["macs_removed"]),
            finals["train_cost"],
        )
        return self._tell(snapshot)

    def _tell(self, snapshot: Snapshot) -> bool:
        return self.hooks.snapshot is not None and self.hooks.snapshot(snapshot) is True

    def result(self, status: str, ended: str, error: str) -> TrialResult:
        """What the path is worth: its own final values are those of its last snapshot."""
        state, last = self.state, self.snapshots[-1] if self.snapshots else None
        finals = time_of(state.history, self.hooks.devices) if last is None else dict(last.finals)
        return TrialResult(
            status, finals, tuple(state.plans), tuple(state.history), error,
            None if last is None else last.folder, "" if last is None else last.weights_sha256,
            state.trained, tuple(self.snapshots), ended,
        )  # fmt: skip
