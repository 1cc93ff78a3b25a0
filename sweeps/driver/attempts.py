"""How often a trial is started again after its process or its node was lost."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import FIFOScheduler

from sweeps.driver.searcher import ConductorSearcher

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_log = logging.getLogger(__name__)

#: Tune counts failures without end; :class:`Attempts` counts attempts.
NO_LIMIT = -1
#: So many failures in a row that were no attempt end a trial too: nothing of it can be started on this cluster.
PATIENCE = 20
#: What Ray says of a process that was asked for on a node that was already gone.
_NEVER_RAN = "never ran"
_ACTOR = re.compile(r"\bactor (?:with name \S+ )?([0-9a-f]{32})\b|actor_id: ([0-9a-f]{32})")


@dataclass
class _Losses:
    """Since the trial's last epoch: attempts that were lost, the process of the last one, failures that were none."""

    attempts: int = 0
    process: str = ""
    idle: int = 0

    def add(self, said: str) -> bool:
        """One failure, in Ray's words; whether an attempt was lost by it."""
        found = _ACTOR.search(said)
        process = "" if found is None else found.group(1) or found.group(2)
        if _NEVER_RAN in said or (process and process == self.process):
            self.idle += 1
            return False
        self.attempts, self.process = self.attempts + 1, process
        return True


class Attempts(FIFOScheduler):
    """Schedules first come, first served, and ends a trial that was lost once more than ``retries`` allows.

    Tune's own count is of failures. A process that is to be reused on a node that has just died fails twice, as a
    process and by the call; one that is asked for there fails without ever having run. With ``retries: 1`` the loss of
    one node then ended trials for good. Here a process that is lost counts once, and not at all if it never ran.

    A trial that has trained a further epoch since its last loss has all its attempts again, also if the driver has not
    heard of that epoch yet: machines that are taken away every few hours should cost the epochs that ran there, not the
    trial.
    """

    def __init__(self, searcher: ConductorSearcher, retries: int) -> None:
        super().__init__()
        self._searcher, self._retries = searcher, retries
        self._losses: dict[str, _Losses] = {}
        self._over: list[Trial] = []

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if self._searcher.progressed(trial.trial_id, result):
            self._losses.pop(trial.trial_id, None)
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Tune is about to start the trial again."""
        if self._searcher.has_ended(trial.trial_id):
            self._over.append(trial)
            return
        self._searcher.waits(trial.trial_id)
        if self._searcher.went_on(trial.trial_id):
            self._losses.pop(trial.trial_id, None)
        file = trial.error_file
        said = (
            Path(file).read_text(encoding="utf-8", errors="replace") if file and Path(file).exists() else ""
        )
        last = said.rpartition("Failure # ")[2].partition("\n")[2]  # after its number and its time
        if self._searcher.never_runs(last):
            return
        losses = self._losses.setdefault(trial.trial_id, _Losses())
        counts = losses.add(last)
        if losses.attempts > self._retries or losses.idle > PATIENCE:
            self._searcher.lost(trial.trial_id, last, max(1, losses.attempts))
            self._over.append(trial)
        elif counts:
            _log.warning("%s: starting it again", self._searcher.loss(trial.trial_id, last))

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        while self._over:
            tune_controller.stop_trial(self._over.pop())
        return super().choose_trial_to_run(tune_controller)
