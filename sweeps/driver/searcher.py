"""Ray Tune's view of the sweep: a Searcher that asks the conductor for jobs and returns the results.

``Tuner()`` pickles its searcher, but the pickle is never used: a sweep continues from its ledger. So the conductor,
with its locks and threads, stays out of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Stopper
from ray.tune.search import Searcher

from gcp_core.schema import LATENCIES
from sweeps.conduct.conductor import Conductor
from sweeps.driver.losses import loss_reason, without_code
from sweeps.records import spool
from sweeps.records.database import database_away, database_errors
from sweeps.records.disk import advice, is_away, is_full
from sweeps.records.job import Job, Outcome, Snap
from sweeps.records.layout import trial_path
from sweeps.records.tenure import Displaced
from sweeps.storage.lock import Superseded, stop_requested
from sweeps.storage.objects import StoreError
from sweeps.storage.place import bring_trial
from sweeps.worker.trial import PAYLOAD

TAKEN_OVER = "another driver has taken over"


class ConductorSearcher(Searcher):
    """Hands Tune one job per trial; FINISHED once there is nothing more to start.

    Args:
        demands: what a node must have before it trains (``sweeps.worker.node.Demands``, JSON); empty = nothing is asked.
    """

    def __init__(self, conductor: Conductor, runner: str, demands: str = "") -> None:
        super().__init__(metric=None, mode=None)
        self._conductor: Conductor | None = conductor
        self._runner, self._demands = runner, demands
        self._names: dict[str, str] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._losses: dict[str, tuple[str, int]] = {}
        self._epochs: dict[str, int] = {}

    # Ray's annotation leaves out Ray's own FINISHED.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        conductor = self._live()
        try:
            job: Job | None = conductor.next_job()
        except Exception as exc:  # not a trial's: of the ledger, or of what jobs are handed out with
            self._end_in_order(exc)
            return None
        if job is None:
            return None if conductor.has_work else Searcher.FINISHED
        self._names[trial_id] = job.trial_id
        minutes = conductor.config.resources.hang_minutes
        return {
            "trial_id": job.trial_id,
            "job": job.to_json(),
            "runner": self._runner,
            "demands": self._demands,
            "share": conductor.config.search.share,
            "stage_bytes": conductor.config.search.stage_bytes,
            "hang_s": None if minutes is None else 60 * minutes,
            "gpus": conductor.config.resources.gpus,
            "store": conductor.exchange.url,
            "generation": conductor.exchange.generation,
            "latency": any(map(conductor.config.search.needs, LATENCIES)),
        }

    def lost(self, trial_id: str, said: str, attempts: int) -> None:
        """What Ray says about a process that is gone; comes before :meth:`on_trial_complete`."""
        self._losses[trial_id] = (said, attempts)

    def has_ended(self, trial_id: str) -> bool:
        """Whether the trial's outcome has come: what becomes of its process is of no concern."""
        return self._names[trial_id] in self._outcomes

    def never_runs(self, said: str) -> bool:
        """Whether Ray says that no process of ours can be made on that node; the sweep is then interrupted."""
        why = without_code(said)
        if why:
            self._live().interrupt(why)
        return bool(why)

    def loss(self, trial_id: str, said: str) -> str:
        """``t0003 lost after epoch 4 because its node died``: one loss of a trial that goes on."""
        epoch = self._epochs.get(trial_id, 0)
        since = f" after epoch {epoch}" if epoch else ""
        reason = loss_reason(said, 1, self._folder(trial_id), epoch).removeprefix("lost")
        return f"{self._names[trial_id]} lost{since}{reason}"

    def _reason(self, trial_id: str) -> str:
        said, attempts = self._losses.pop(trial_id, ("", 1))
        return loss_reason(said, attempts, self._folder(trial_id), self._epochs.get(trial_id, 0))

    def _folder(self, trial_id: str) -> Path:
        return Path(self._live().config.folder) / trial_path(self._names[trial_id])

    def progressed(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a report is of an epoch that was not reported before."""
        epoch = json.loads(result.get(PAYLOAD, "{}")).get("epoch", {}).get("epoch", 0)
        before = self._epochs.get(trial_id, 0)
        self._epochs[trial_id] = max(epoch, before)
        return epoch > before

    def went_on(self, trial_id: str) -> bool:
        """Whether the trial's folder has an epoch that was not reported before: its process is gone, its word is not."""
        bring_trial(self._live().exchange, trial_path(self._names[trial_id]))
        rows = spool.rows(self._folder(trial_id))
        before = self._epochs.get(trial_id, 0)
        self._epochs[trial_id] = max([before, *(int(row["epoch"]) for row in rows)])
        return self._epochs[trial_id] > before

    def waits(self, trial_id: str) -> None:
        """The trial's process is gone, and there is no other yet."""
        self._live().lost(self._names[trial_id])

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        try:
            self._receive(trial_id, result)
        except Exception as exc:  # a snapshot that is not entered is told again by the path that continues
            self._end_in_order(exc)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        name, conductor = self._names[trial_id], self._live()
        try:
            if result is not None and name not in self._outcomes:
                self._receive(trial_id, result)
            outcome = self._outcomes.pop(name, None)
            if outcome is None and (error or not conductor.interrupted):
                bring_trial(conductor.exchange, trial_path(name))  # did it hang?
                outcome = Outcome("lost", error=self._reason(trial_id))
            if outcome is not None:
                conductor.finish(name, outcome)
        except Exception as exc:
            # The next driver enters the outcome that is in the trial's folder, or starts again what was lost.
            self._end_in_order(exc)

    def _receive(self, trial_id: str, result: dict[str, Any]) -> None:
        payload = json.loads(result.get(PAYLOAD, "{}"))
        name = self._names[trial_id]
        if "outcome" in payload:
            self._outcomes[name] = Outcome.from_json(payload["outcome"])
        elif "epoch" in payload and name not in self._outcomes:
            self._live().epoch(name, payload["epoch"])
        elif "snapshot" in payload and name not in self._outcomes:
            self._live().snapshot(name, Snap.from_dict(payload["snapshot"]))
        elif "full" in payload:
            self._live().interrupt(advice(payload["full"]))
        elif "unfit" in payload:
            self._live().interrupt(payload["unfit"])

    def _end_in_order(self, exc: Exception) -> None:
        """Interrupt the sweep for what is nobody's mistake and the next driver goes on from; raise everything else."""
        conductor = self._live()
        if isinstance(exc, (Superseded, Displaced)):
            conductor.interrupt(TAKEN_OVER)
        elif isinstance(exc, StoreError):
            conductor.interrupt(f"the object store is away ({exc})")
        elif isinstance(exc, OSError) and is_full(exc):
            conductor.interrupt(advice(conductor.config.folder))
        elif isinstance(exc, OSError) and is_away(exc):
            where = conductor.config.folder
            conductor.interrupt(
                f"the disk or file server of {where} did not answer ({exc}); run again to continue"
            )
        elif isinstance(exc, database_errors()):
            conductor.interrupt(database_away(exc))
        else:
            raise exc

    def _live(self) -> Conductor:
        if self._conductor is None:
            raise RuntimeError("this is a pickled copy; a sweep continues from its ledger")
        return self._conductor

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_conductor": None}

    def save(self, checkpoint_path: str) -> None:
        """Tune wants a file; the state is in the ledger."""
        Path(checkpoint_path).write_text("see the sweep's ledger\n", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; see :meth:`save`."""


class ConductorStopper(Stopper):
    """Ends all running trials once the conductor says so (Ctrl-C, or the first trials all failed alike).

    Tune asks it all the time, so ``look`` watches the cluster from here.

    ``gcp-sweep stop`` (and a driver that has taken over, ``sweeps.storage.presence``) leaves a file in the sweep's
    folder; whoever runs the sweep finds it here.
    """

    def __init__(self, conductor: Conductor, look: Callable[[], None] = lambda: None) -> None:
        self._conductor: Conductor | None = conductor
        self._look = look

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._conductor is None:
            return False
        self._look()
        if self._conductor.superseded and not self._conductor.interrupted:
            self._conductor.interrupt(TAKEN_OVER)
        reason = "" if self._conductor.interrupted else stop_requested(Path(self._conductor.config.folder))
        if reason:
            self._conductor.interrupt(reason)
        return self._conductor.interrupted

    def __getstate__(self) -> dict[str, Any]:
        return {"_conductor": None, "_look": None}
