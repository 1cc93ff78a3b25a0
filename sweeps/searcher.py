"""Ray Tune's view of the sweep: a Searcher that asks the conductor for jobs and brings it the answers.

``Tuner()`` pickles its searcher, but the pickle is never used: a sweep continues from its ledger. So the conductor,
with its locks and threads, stays out of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune import Stopper
from ray.tune.search import Searcher

from sweeps.conductor import Conductor
from sweeps.job import Job, Outcome
from sweeps.trial import PAYLOAD


class ConductorSearcher(Searcher):
    """Hands Tune one job per trial; FINISHED once there is nothing more to start."""

    def __init__(self, conductor: Conductor, runner: str) -> None:
        super().__init__(metric=None, mode=None)
        self._conductor: Conductor | None = conductor
        self._runner = runner
        self._names: dict[str, str] = {}
        self._outcomes: dict[str, Outcome] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        conductor = self._live()
        job: Job | None = conductor.next_job()
        if job is None:
            return None if conductor.has_work else Searcher.FINISHED
        self._names[trial_id] = job.trial_id
        share = conductor.config.search.share
        return {"trial_id": job.trial_id, "job": job.to_json(), "runner": self._runner, "share": share}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._receive(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        name = self._names[trial_id]
        if result is not None and name not in self._outcomes:
            self._receive(trial_id, result)
        outcome = self._outcomes.pop(name, None)
        conductor = self._live()
        if outcome is not None:
            conductor.finish(name, outcome)
        elif error or not conductor.interrupted:
            conductor.finish(name, Outcome("lost", error="its process or node was lost, retries included"))

    def _receive(self, trial_id: str, result: dict[str, Any]) -> None:
        payload = json.loads(result.get(PAYLOAD, "{}"))
        name = self._names[trial_id]
        if "outcome" in payload:
            self._outcomes[name] = Outcome.from_json(payload["outcome"])
        elif "epoch" in payload and name not in self._outcomes:
            self._live().epoch(name, payload["epoch"])

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
    """Ends all running trials once the conductor says so (Ctrl-C, or the first trials all failed alike)."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor: Conductor | None = conductor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._conductor is not None and self._conductor.interrupted

    def __getstate__(self) -> dict[str, Any]:
        return {"_conductor": None}
