"""What MLflow refuses for good is told once and holds up nothing: a real SQLite store, and a place for files on HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from requests import HTTPError, Response

from gcp_core.schema import ARTIFACT_MANIFEST, ARTIFACT_WEIGHTS, Tag
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.job import Job, Outcome, Snap
from sweeps.records.ledger import Ledger
from sweeps.tracking.refusals import Refusals, is_refusal
from sweeps.tracking.store import tracking_uri
from tests.sweeps.fake_paths import finals_at
from tests.sweeps.inline import OF_PATHS, config
from tests.sweeps.tracking.stored import ledger_of, open_, runs, stored

#: The server takes no longer files; the config of a sweep is far below.
LIMIT = 100_000


@pytest.fixture
def files() -> Iterator[tuple[str, list[str]]]:
    """(address, paths that were asked for) of a server that answers 413, as nginx does in front of a tracking server."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(413 if len(body) > LIMIT else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/files", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def checked(tmp_path: Path, files: tuple[str, list[str]]) -> SweepConfig:
    """Of a sweep of paths whose experiment keeps its files at that server."""
    from mlflow.tracking import MlflowClient

    made = stored(config(tmp_path, {**OF_PATHS, "search.trials": 1, "prune.interval": 1}))
    MlflowClient(tracking_uri(None, Path(made.folder))).create_experiment(
        made.name, artifact_location=files[0]
    )
    return made


def _job(checked: SweepConfig) -> tuple[Ledger, Job]:
    ledger = ledger_of(checked)
    job = ledger.add("trial", checked.space.resolve({}), {}, {})
    Path(job.folder).mkdir(parents=True)
    return ledger, job


def _leave(folder: Path, size: int) -> None:
    """A model with weights of ``size`` bytes."""
    (folder / ARTIFACT_WEIGHTS).parent.mkdir(parents=True)
    (folder / ARTIFACT_WEIGHTS).write_bytes(b"w" * size)
    (folder / ARTIFACT_MANIFEST).write_text(json.dumps({}))


def _runs(checked: SweepConfig) -> dict[str, Any]:
    return {run.info.run_name: run for run in runs(checked)[1]}


def _ends(asked: list[str], run: Any) -> list[str]:
    """The names of the files of a run that the server was asked to take, in order."""
    return [path.rpartition("/")[2] for path in asked if f"/{run.info.run_id}/" in path]


def test_a_file_that_is_too_large_for_the_server_is_told_once_and_the_run_ends_all_the_same(
    checked, files, caplog
):
    ledger, job = _job(checked)
    _leave(Path(job.folder), LIMIT + 1)
    outcome = Outcome("complete", finals_at(job.config, 0.875, 5), ended="target")
    ledger.close(job, outcome, (1.0, 1.0))
    writer = open_(checked)
    writer.started(job)
    writer.finished(job, outcome)
    assert writer.close("FINISHED") == 1
    runs = _runs(checked)
    run = runs["t0000"]
    assert (run.info.status, run.data.tags[Tag.STATUS]) == ("FINISHED", "complete")
    assert runs["inline"].info.status == "FINISHED"
    assert _ends(files[1], run) == ["weights.pt", "manifest.json"], "once, and what comes behind it too"
    (said,) = [message for message in caplog.messages if "not written to MLflow" in message]
    assert "413 Client Error" in said
    assert "weights.pt" in said
    writer = open_(checked)
    writer.reconcile(ledger.records("trial"), {})
    assert writer.close("FINISHED") == 0


def test_a_snapshot_whose_weights_are_too_large_is_finished_without_them(checked, files):
    ledger, job = _job(checked)
    for level, size in ((0, LIMIT + 1), (1, LIMIT)):
        place = Path(job.folder) / "snapshots" / f"{level:02d}"
        place.mkdir(parents=True)
        (place / "weights.pt").write_bytes(b"w" * size)
        (place / "manifest.json").write_text("{}")
    snaps = [Snap(level, 2 + level, finals_at(job.config, level / 2, 2 + level)) for level in (0, 1)]
    writer = open_(checked)
    for snap in snaps:
        writer.snapshot(job, snap)
    assert writer.close(None) == 1
    runs = _runs(checked)
    for name in ("t0000@0", "t0000@1"):
        assert runs[name].info.status == "FINISHED"
        assert _ends(files[1], runs[name]) == ["weights.pt", "manifest.json"]
    (record,) = ledger.records("trial")
    writer = open_(checked)
    writer.reconcile_snapshots([(record, snap) for snap in snaps])
    assert writer.close(None) == 0


def test_values_that_are_refused_do_not_keep_a_run_from_ending(checked, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    _, job = _job(checked)
    writer = open_(checked)
    real = writer._client.log_batch

    def refuse(run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        if metrics or params:
            raise MlflowException("too long", INVALID_PARAMETER_VALUE)
        real(run_id, tags=tags)

    monkeypatch.setattr(writer._client, "log_batch", refuse)
    writer.started(job)  # its parameters are refused, once
    writer.finished(job, Outcome("failed", {"macs": 1.0}, error="ValueError: no"))
    writer.snapshot(job, Snap(0, 2, finals_at(job.config, 0.0, 2)))
    assert writer.close("FINISHED") == 3
    runs = _runs(checked)
    assert (runs["t0000"].info.status, runs["t0000"].data.tags[Tag.STATUS]) == ("FAILED", "failed")
    assert runs["t0000@0"].info.status == "FINISHED"


def _answered(status: int) -> HTTPError:
    """What MLflow's client raises after an upload that was answered with this status."""
    response = Response()
    response.status_code = status
    return HTTPError(f"{status} Client Error", response=response)


@pytest.mark.parametrize(
    ("status", "for_good"),
    [(400, True), (405, True), (411, True), (413, True), (415, True), (422, True)]
    + [(status, False) for status in (401, 403, 404, 408, 409, 429, 500, 502, 503, 504)],
)
def test_only_answers_that_time_does_not_mend_are_refusals(status: int, for_good: bool) -> None:
    assert is_refusal(_answered(status)) is for_good


@pytest.mark.parametrize(
    ("status", "for_good"), [(405, True), (413, True), (415, True), (403, False), (404, False), (502, False)]
)
def test_the_page_of_a_proxy_is_a_refusal_by_its_status(status: int, for_good: bool) -> None:
    """MLflow's own client reads the answer to a call of its API, as it comes from nginx in front of a server."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.rest_utils import verify_rest_response

    answer = Response()
    answer.status_code = status
    answer._content = b"<html><head><title>A proxy</title></head></html>"
    with pytest.raises(MlflowException, match=f"error code {status}") as caught:
        verify_rest_response(answer, "/api/2.0/mlflow/runs/log-batch")
    assert is_refusal(caught.value) is for_good


def test_refusals_let_what_follows_be_done_and_nothing_else_pass() -> None:
    refusals, done = Refusals(), []
    for status in (413, 400):
        with refusals:
            raise _answered(status)
        done.append(status)
    with pytest.raises(ConnectionError), refusals:
        raise ConnectionError("away")
    assert done == [413, 400]
    assert str(refusals.take()) == "413 Client Error"
    assert refusals.take() is None
