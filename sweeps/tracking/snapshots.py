"""A path's snapshots in MLflow: one run each, nested below the path's, with its final values and its model.

Runs rather than logged models: the UI's table, filters, parallel coordinates and comparison work on runs, and a run's
parameters stand beside its values, so that a snapshot is found, sorted and opened as any other model of the sweep. The
run of one that was polished has the curve of its polish too: no other run has it.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcp_core import schema
from gcp_core.errors import first_line
from gcp_core.schema import (
    FINALS,
    PER_EPOCH,
    STATUSES,
    ModelName,
    Tag,
    model_id,
    polish_place,
    snapshot_artifact,
)
from sweeps.records import spool
from sweeps.records.job import Job, Snap
from sweeps.records.layout import trial_path
from sweeps.records.provenance import tags as provenance_tags
from sweeps.storage.exchange import Exchange
from sweeps.storage.weights import how_to_have_them
from sweeps.tracking.children import Child, SweepRun, describe, runs_by
from sweeps.tracking.refusals import Refusals

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)
_FILES = (schema.ARTIFACT_WEIGHTS, schema.ARTIFACT_MANIFEST)
#: After a store has not removed weights, it is left alone for so long.
DROPS_PAUSE_S = 300.0
#: MLflow refuses a batch of more metrics.
_MOST_AT_ONCE = 1000


class SnapshotRuns:
    """Writes snapshots, all in the writer's thread; what MLflow holds already is not written again.

    ``refusals`` is told what MLflow refuses; the rest of a snapshot is written all the same.
    """

    def __init__(
        self, client: MlflowClient, run: SweepRun, exchange: Exchange | None, refusals: Refusals
    ) -> None:
        self._client, self._run, self._exchange, self._refusals = client, run, exchange, refusals
        self._runs: dict[str, Child] | None = None
        self._doubtful = False
        self._owed: dict[str, tuple[str, int, str]] = {}
        self._drops_after = -math.inf
        self._said = False

    def write(self, path_run: str, job: Job, snap: Snap, tags: dict[str, str], now: int) -> None:
        """The snapshot's run below ``path_run``, from its creation to its end.

        Args:
            tags: what the path's own run says about the sweep.
            now: milliseconds since 1970.
        """
        from mlflow.entities import Metric, RunTag

        child = self._known().get(snap.name(job.trial_id)) or self._create(path_run, job, snap, tags, now)
        describe(self._client, child, job, self._refusals)
        metrics = [
            Metric(FINALS[final].key, float(value), now, snap.epoch)
            for final, value in snap.finals.items()
            if final not in child.finals and math.isfinite(value)
        ]
        known = {Tag.STATUS: snap.status, Tag.WEIGHTS: snap.weights_sha256}
        known |= provenance_tags(snap.weights_sha256, snap.provenance)
        about = [RunTag(name, value) for name, value in known.items()]
        with self._refusals:
            self._client.log_batch(child.run_id, metrics=metrics, tags=about)
        child.finals |= snap.finals
        if child.status == "FINISHED":
            return
        with self._refusals:
            self._log_curve(child.run_id, job, snap, now)
        for file in _FILES:
            place = snapshot_artifact(snap.level, file, snap.polish)
            with self._refusals:
                self._log_file(child.run_id, job, place, str(Path(file).parent))
        self._client.set_terminated(child.run_id, status=STATUSES[snap.status].mlflow, end_time=now)
        child.status = "FINISHED"

    def compare(self, trial_id: str, baseline_accuracy: float, now: int) -> None:
        """Write what the path's snapshots lost against its baseline, in points, where that is not there yet."""
        from mlflow.entities import Metric

        drop = FINALS["accuracy_drop"]
        for name, child in self._known().items():
            accuracy = child.finals.get("val_accuracy")
            if ModelName.parse(name).trial != trial_id or accuracy is None or drop.name in child.finals:
                continue
            # Nine digits: a difference of two sums of per cents has no more.
            lost = round(baseline_accuracy - accuracy, 9)
            with self._refusals:
                self._client.log_batch(child.run_id, metrics=[Metric(drop.key, lost, now, 0)])
            child.finals[drop.name] = lost

    def has(self, job: Job, snap: Snap) -> bool:
        """Whether MLflow holds all of it."""
        child = self._known().get(snap.name(job.trial_id))
        if child is None or not child.described:
            return False
        return child.status == "FINISHED" and set(snap.finals) <= set(child.finals)

    def drop(self, trial_id: str, level: int, why: str) -> None:
        """Remove MLflow's copy of weights that were dropped, and say so on the snapshot's run.

        What the store does not remove now is asked for again after a while, and when the driver ends: it may be away, or
        never remove anything. Nobody waits for it.
        """
        self._owed[model_id(trial_id, level)] = trial_id, level, why
        if time.monotonic() >= self._drops_after:
            self._drop_owed()

    def _drop_owed(self, until: float = math.inf) -> None:
        for name, (trial_id, level, why) in list(self._owed.items()):
            if time.monotonic() > until:
                return
            gone = True
            with self._refusals:
                gone = self._drop(trial_id, level, why)
            if not gone:
                self._drops_after = time.monotonic() + DROPS_PAUSE_S
                return
            del self._owed[name]

    def _drop(self, trial_id: str, level: int, why: str) -> bool:
        """Whether nothing is left to do."""
        child = self._known().get(model_id(trial_id, level))
        if child is None or child.dropped:
            return True
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        place = self._client.get_run(child.run_id).info.artifact_uri
        try:
            get_artifact_repository(place, tracking_uri=self._run.uri).delete_artifacts(
                schema.ARTIFACT_WEIGHTS
            )
        except Exception as exc:  # whatever a store's client raises; it is about disk, not about results
            if not self._said:
                _log.warning("MLflow keeps its copies of dropped weights: %s", first_line(exc))
            self._said = True
            return False
        self._client.set_tag(child.run_id, Tag.DROPPED, f"{why}; {how_to_have_them(trial_id, level)}")
        child.dropped = True
        return True

    def lacks_drop(self, trial_id: str, level: int) -> bool:
        """Whether MLflow may still hold weights that were dropped."""
        child = self._known().get(model_id(trial_id, level))
        return child is not None and not child.dropped

    def settle(self, until: float) -> None:
        """The driver ends: remove what a creation that was not answered has made twice, and weights that are still owed.

        Args:
            until: of ``time.monotonic``; nothing more is asked for after it.
        """
        if self._doubtful:
            self._runs = None
            self._known()  # of two, one is removed as it is found
        self._drop_owed(until)

    def _known(self) -> dict[str, Child]:
        if self._runs is None:
            query = (
                f"tags.`{Tag.KIND}` = '{schema.SNAPSHOT}' and tags.`{Tag.SWEEP_ID}` = '{self._run.sweep_id}'"
            )
            self._runs = runs_by(self._client, self._run.experiment_id, query, Tag.MODEL_ID)
        return self._runs

    def _create(self, path_run: str, job: Job, snap: Snap, tags: dict[str, str], now: int) -> Child:
        name = snap.name(job.trial_id)
        about: dict[str, Any] = {
            **tags,
            Tag.KIND: schema.SNAPSHOT,
            Tag.MODEL_ID: name,
            Tag.LEVEL: str(snap.level),
            Tag.EPOCH: str(snap.epoch),
            Tag.PARENT: path_run,
            **({Tag.POLISH: str(snap.polish)} if snap.polish else {}),
        }
        known = self._known()
        try:
            run = self._client.create_run(self._run.experiment_id, start_time=now, tags=about, run_name=name)
        except Exception:
            self._runs, self._doubtful = None, True  # it may have been made all the same: then it is found
            raise
        child = known[name] = Child(run.info.run_id, "RUNNING")
        return child

    def _log_curve(self, run_id: str, job: Job, snap: Snap, now: int) -> None:
        """The epochs of a polish, each at its own time; a snapshot's own are those of its path's run."""
        from mlflow.entities import Metric

        if not snap.polish:
            return
        place = polish_place(snap.level, snap.polish)
        if self._exchange is not None:
            self._exchange.fetch(f"{trial_path(job.trial_id)}/{place}/{spool.SPOOL}")
        points = [
            Metric(key, float(row[key]), int(row.get(spool.AT, now)), int(row["epoch"]))
            for row in spool.rows(Path(job.folder) / place)
            for key in PER_EPOCH
            if key in row and math.isfinite(row[key])
        ]
        for first in range(0, len(points), _MOST_AT_ONCE):
            self._client.log_batch(run_id, metrics=points[first : first + _MOST_AT_ONCE])

    def _log_file(self, run_id: str, job: Job, path: str, into: str) -> None:
        file = Path(job.folder) / path
        if self._exchange is not None and not file.exists():
            self._exchange.fetch(f"{trial_path(job.trial_id)}/{path}")
        if file.is_file():
            self._client.log_artifact(run_id, str(file), into)
