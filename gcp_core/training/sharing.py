"""A trial's side of shared training: it goes on from what others have trained, and leaves what it has trained."""

from __future__ import annotations

import logging
import time

from gcp_core.errors import CheckpointError
from gcp_core.records.checkpoint import Written
from gcp_core.records.results import EpochReport, history_from, rows_of
from gcp_core.records.stages import StageStore, course_after_events, repair_of, stage_key, trunk_key
from gcp_core.training.epoch import train_epoch
from gcp_core.training.state import State
from gcp_core.training.team.team import Team

log = logging.getLogger(__name__)


class Sharing:
    """What one trial passes on through a store; without a store, nothing."""

    def __init__(self, state: State, stages: StageStore | None, team: Team | None = None) -> None:
        setup = state.setup
        self._state, self._stages, self._team = state, stages, team
        self._trunk = "" if stages is None else trunk_key(setup.config, setup.splits.key, setup.device)
        self._course = course_after_events(setup.config)
        self._repair = repair_of(setup.config)

    def advance(self, until: int) -> tuple[float, float]:
        """Train one epoch, or take over as many as others have trained up to ``until``: training loss and seconds of the
        epoch that ends then. The epochs before that one are in the history; it is not yet.

        Raises:
            Diverged: the training loss is not finite.
        """
        found = self._skip_ahead(until)
        if found is not None:
            return found
        state, started = self._state, time.perf_counter()
        if self._team is not None:
            loss = self._team.train(state)
        else:
            loss = train_epoch(
                state.model,
                state.optimizer,
                state.setup,
                state.epoch + 1,
                penalty=state.penalty,
                steps=state.steps,
            )
        seconds = time.perf_counter() - started
        state.trained += 1
        self._leave(loss, seconds)
        return loss, seconds

    def _skip_ahead(self, until: int) -> tuple[float, float] | None:
        """Take over the furthest state up to ``until``; as :meth:`advance`, None = there is none."""
        state, stages = self._state, self._stages
        if stages is None:
            return None
        first = state.epoch + 1
        for epoch in range(until, state.epoch, -1):
            found = stages.load(self._key(epoch))
            if found is None:
                continue
            manifest, tensors = found
            try:
                known = float(manifest["loss"]), float(manifest["seconds"])
                rows = history_from(manifest)[state.epoch : epoch - 1]
                state.load(tensors, str(stages.root))
            except (CheckpointError, KeyError, TypeError, ValueError) as exc:
                log.warning("shared state passed over: %s", exc)
                continue
            # Which units count as prunable is this trial's own matter (``exclude``, ``residual``), not the other's.
            own = {"prune/channels_left": state.channels_left}
            state.history += [EpochReport(row.epoch, {**row.metrics, **own}) for row in rows]
            log.info("epochs %d..%d taken over from another trial", first, epoch)
            return known
        return None

    def _leave(self, loss: float, seconds: float) -> None:
        """Keep the state after training the current epoch, before its event, for others."""
        if self._stages is not None:
            state = self._state
            manifest = {"loss": loss, "seconds": seconds, "history": rows_of(state.history)}
            self._stages.save(self._key(state.epoch + 1), state.tensors(), manifest)

    def written(self) -> Written | None:
        """The file that holds what :meth:`State.checkpoint` gives now, if this trial has just left that as a stage.

        Not where an event has changed the state since (no stage has an event of its own last epoch), or where a clock
        remembers more than a stage does.
        """
        state = self._state
        if self._stages is None or state.clock_state():
            return None
        return self._stages.written(self._key(state.epoch))

    def _key(self, epoch: int) -> str:
        return stage_key(self._trunk, self._state.plans, epoch, self._course, self._repair)
