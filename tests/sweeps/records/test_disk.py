"""A disk that runs full, for real: the kernel refuses to let files grow, and writes come out short."""

from __future__ import annotations

import contextlib
import errno
import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from sweeps.conduct.conductor import Conductor
from sweeps.driver.searcher import ConductorSearcher
from sweeps.records.disk import advice, is_full
from sweeps.records.job import Job, Outcome, read_outcome
from sweeps.records.layout import JOURNAL
from sweeps.records.ledger import Ledger
from sweeps.worker.trial import DEFAULT_RUNNER, PAYLOAD, run_job
from tests.sweeps.inline import RUNNER, Silent, config, drive, new_conductor

TRIAL = TrialConfig(
    data=DataConfig("digits", val_share=0.25, train_images=200),
    model=ModelConfig("vgg_tiny", 0.25),
    train=TrainConfig(epochs=3, batch_size=50),
    prune=PruneConfig(criterion="l1", interval=1, ratio=0.2, target=0.4, until=1.0),
)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Meanwhile no file of this process grows past ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_trial_that_cannot_write_its_checkpoint_is_not_over_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    job = Job("t0000", "trial", 0, TRIAL, {}, str(tmp_path / "s" / "trials" / "t0000"))
    rows: list[dict[str, float]] = []
    with largest_file(20_000), pytest.raises(OSError) as caught:
        run_job(job, DEFAULT_RUNNER, rows.append)
    assert is_full(caught.value)
    assert read_outcome(job.folder) is None
    assert not (Path(job.folder) / "traceback.txt").exists()
    outcome = run_job(job, DEFAULT_RUNNER, rows.append)
    undisturbed = Job("t0001", "trial", 1, TRIAL, {}, str(tmp_path / "u" / "trials" / "t0001"))
    assert outcome.status == "complete"
    assert outcome.weights_sha256 == run_job(undisturbed, DEFAULT_RUNNER, rows.append).weights_sha256


def test_a_line_that_does_not_fit_is_taken_back_and_the_sweep_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    checked = config(tmp_path)
    conductor, _, _ = new_conductor(checked)
    conductor._enter_next()
    journal = Path(checked.folder) / JOURNAL
    before = journal.read_bytes()
    with largest_file(len(before) + 40), pytest.raises(OSError):
        drive(conductor)
    assert journal.read_bytes()[: len(before)] == before
    for line in journal.read_text().splitlines():
        json.loads(line)
    again = Ledger(Path(checked.folder), checked.name, checked.search.objectives)
    drive(Conductor(checked, again, Silent(), Silent()))
    assert [record.status for record in again.records("trial")] == ["complete"] * 6


def _searcher(tmp_path: Path) -> tuple[Conductor, Ledger, ConductorSearcher]:
    conductor, _, ledger = new_conductor(config(tmp_path, {"search.concurrency": 2}))
    return conductor, ledger, ConductorSearcher(conductor, RUNNER)


def test_a_trial_on_a_full_disk_ends_the_sweep_in_good_order_and_stays_unfinished(tmp_path: Path) -> None:
    conductor, ledger, searcher = _searcher(tmp_path)
    name = searcher.suggest("tune-1")["trial_id"]
    searcher.on_trial_result("tune-1", {PAYLOAD: json.dumps({"full": "/shared/x"})})
    searcher.on_trial_complete("tune-1", {PAYLOAD: json.dumps({"full": "/shared/x"})})
    assert conductor.interrupted
    assert conductor.stop_reason == advice("/shared/x")
    assert [job.trial_id for job in conductor.active] == [name]
    assert [record.status for record in ledger.records("baseline")] == ["running"]


def test_a_ledger_on_a_full_disk_ends_the_sweep_and_the_outcome_is_entered_by_the_next_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor, ledger, searcher = _searcher(tmp_path)
    job = Job.from_json(searcher.suggest("tune-1")["job"])
    outcome = run_job(job, RUNNER, lambda row: None)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "close", full)
        patch.setattr(ledger, "add", full)
        searcher.on_trial_complete("tune-1", {PAYLOAD: json.dumps({"outcome": outcome.to_json()})})
        assert conductor.interrupted
        assert searcher.suggest("tune-2") == "FINISHED" or searcher.suggest("tune-2") is None
    assert conductor.stop_reason.startswith(f"the disk of {conductor.config.folder} is full")
    Conductor(conductor.config, ledger, Silent(), Silent())
    assert [record.status for record in ledger.records("baseline")] == ["complete"]


def test_only_a_full_disk_counts_as_one() -> None:
    assert not is_full(OSError(errno.EACCES, "no"))
    assert not is_full(ValueError("no"))
    wrapped = RuntimeError("unexpected pos 640 vs 598")
    wrapped.__cause__ = OSError(errno.ENOSPC, "full")
    assert is_full(wrapped)


def test_the_program_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from click.testing import CliRunner

    import sweeps.commands.status
    from sweeps.cli import main

    def full(folder: Path) -> Outcome:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(sweeps.commands.status, "sweep_status", full)
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: the disk of {tmp_path} is full; make room and run again: the sweep continues\n"
    )
