"""A trial's side of shared training: it goes on from what others have trained, and leaves what it has trained."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gcp_core.errors import CheckpointError
from gcp_core.training.results import EpochReport, history_from, rows_of
from gcp_core.training.stages import StageStore, stage_key, trunk_key
from gcp_core.training.state import State

log = logging.getLogger(__name__)


class Sharing:
    """What one trial passes on through a store; without a store, nothing."""

    def __init__(self, state: State, stages: StageStore | None) -> None:
        setup = state.setup
        self._state, self._stages = state, stages
        self._trunk = "" if stages is None else trunk_key(setup.config, setup.splits.digest, setup.device)

    def skip_ahead(self, due: Callable[[int], bool]) -> tuple[float, float] | None:
        """Take over the furthest state before the next event: training loss of the epoch it ends and the seconds that
        this epoch took; None = there is none. The epochs before that one are then in the history, as whoever trained
        them reported them.
        """
        state, stages = self._state, self._stages
        if stages is None:
            return None
        first, last = state.epoch + 1, state.setup.config.train.epochs
        next_event = next((epoch for epoch in range(first, last) if due(epoch)), last)
        for epoch in range(next_event, state.epoch, -1):
            found = stages.load(stage_key(self._trunk, state.plans, epoch))
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

    def leave(self, loss: float, seconds: float) -> None:
        """Keep the state after training the current epoch, before its event, for others."""
        state = self._state
        if self._stages is not None:
            key = stage_key(self._trunk, state.plans, state.epoch + 1)
            self._stages.save(
                key, state.tensors(), {"loss": loss, "seconds": seconds, "history": rows_of(state.history)}
            )
