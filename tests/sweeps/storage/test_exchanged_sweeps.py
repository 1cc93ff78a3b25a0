"""A whole sweep in an object store (a real S3 server on loopback), its driver and trials in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.commands import clean as cleaning
from sweeps.commands.status import sweep_status
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.records.job import read_outcome
from sweeps.records.layout import CONFIG, ENTRY, JOURNAL
from sweeps.storage.exchange import ObjectExchange, trial_exchange
from sweeps.storage.lock import Superseded
from sweeps.storage.objects import StoreError
from sweeps.storage.place import bring_home, open_sweep
from sweeps.worker.trial import DEFAULT_RUNNER, run_job
from tests.sweeps.inline import RUNNER, config, drive, new_conductor

pytestmark = pytest.mark.integration


def _sweep(s3: str, tmp_path: Path, **overrides):
    checked = config(tmp_path, {"storage": s3, "ledger": str(tmp_path / "driver"), **overrides})
    exchange = ObjectExchange(Path(checked.folder), checked.store)
    conductor, recorder, ledger = new_conductor(checked, exchange)
    return checked, exchange, conductor, recorder, ledger


def _finished(s3: str, tmp_path: Path):
    checked, exchange, conductor, _recorder, ledger = _sweep(s3, tmp_path)
    drive(conductor)
    write_config(exchange.root, checked)
    write_entry(exchange.root, Entry("1", "inline", None, "inline", None, checked.digest(), "complete", 6))
    exchange.send(CONFIG, ENTRY, JOURNAL)
    return checked, exchange, ledger


def test_the_driver_has_every_outcome_log_and_no_weights(s3: str, tmp_path: Path) -> None:
    checked, _exchange, ledger = _finished(s3, tmp_path)
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 6
    assert checked.folder == str(tmp_path / "driver" / "inline")
    for record in ledger.records("trial"):
        assert read_outcome(record.job.folder).status == "complete"
        assert (Path(record.job.folder) / "trial.log").exists()


def test_another_machine_sees_the_sweep_and_continues_it_once_the_first_is_gone(
    s3: str, tmp_path: Path, monkeypatch
) -> None:
    checked, first, ledger = _finished(s3, tmp_path)
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    with first.present(lambda reason: None):
        (tmp_path / "driver").rename(tmp_path / "lost")
        status = sweep_status(checked.store)
        assert (status.trials, status.statuses) == (6, {"complete": 6})
        assert status.folder.startswith(str(tmp_path / "cache"))

        overrides = {"search.trials": 8, "ledger": str(tmp_path / "elsewhere")}
        checked = config(tmp_path, {"storage": s3, **overrides})
        second = ObjectExchange(Path(checked.folder), checked.store)
        with (
            pytest.raises(ConfigError, match="another driver is running the sweep:"),
            second.present(lambda reason: None),
        ):
            pass
        monkeypatch.setattr("sweeps.storage.presence.GONE_S", 0.0)
        with second.present(lambda reason: None):
            bring_home(second)
            conductor, recorder, ledger = new_conductor(checked, second)
            drive(conductor)
            assert recorder.named("started") == ["t0006", "t0007"]
            assert len({record.key for record in ledger.records("trial")}) == 8
            with pytest.raises(Superseded):
                first.remove(JOURNAL)


def test_a_trial_whose_end_the_driver_did_not_live_to_see_is_not_trained_again(
    s3: str, tmp_path: Path
) -> None:
    checked, exchange, conductor, *_ = _sweep(s3, tmp_path)
    conductor.next_job()  # the baseline
    job = conductor.next_job() or conductor.active[0]
    with trial_exchange(exchange.root, checked.store) as there:
        run_job(job, RUNNER, lambda row: None, exchange=there)
    bring_home(exchange)
    again, _recorder, ledger = new_conductor(checked, exchange)
    assert job.trial_id not in [queued.trial_id for queued in again._agenda]
    statuses = {record.job.trial_id: record.status for record in ledger.records(job.kind)}
    assert statuses[job.trial_id] == "complete"


def test_what_is_known_to_have_ended_is_not_fetched_again(s3: str, tmp_path: Path, monkeypatch) -> None:
    checked, *_ = _finished(s3, tmp_path)
    other = ObjectExchange(tmp_path / "other", checked.store)
    bring_home(other)
    files = sorted(path.relative_to(other.root) for path in other.root.glob("trials/*/*"))
    assert Path("trials/t0005/outcome.json") in files
    assert Path("trials/t0005/trial.log") in files
    asked, real = [], other.store.get
    monkeypatch.setattr(other.store, "get", lambda path, file: asked.append(path) or real(path, file))
    bring_home(other)
    assert asked == [ENTRY, CONFIG, "trials"]


def test_what_tells_that_the_rest_is_whole_comes_last(s3: str, tmp_path: Path, monkeypatch) -> None:
    exchange, sent = ObjectExchange(tmp_path, s3), []
    for name in ("outcome.json", "model/manifest.json", "model/weights.pt", "trial.log", ".lock"):
        (tmp_path / "trials/t0000" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "trials/t0000" / name).write_text("x")
    monkeypatch.setattr(
        exchange.store, "put", lambda file, path: sent.append(path.removeprefix("trials/t0000/"))
    )
    exchange.send("trials/t0000")
    assert sorted(sent[:2]) == ["model/weights.pt", "trial.log"]
    assert sent[2:] == ["model/manifest.json", "outcome.json"]


def test_a_copy_of_the_ledger_that_contradicts_it_is_refused(s3: str, tmp_path: Path) -> None:
    exchange = ObjectExchange(tmp_path, s3)
    journal = tmp_path / JOURNAL
    for ours, theirs, left in [
        (b"1\n2\n", b"1\n", b"1\n2\n"),
        (b"1\n", b"1\n2\n", b"1\n2\n"),
        (b"1\n2", b"1\n2\n3\n", b"1\n2\n3\n"),
        (b"1\n2", b"1\n", b"1\n2"),
    ]:
        journal.write_bytes(ours)
        exchange.store.write(JOURNAL, theirs)
        bring_home(exchange)
        assert journal.read_bytes() == left
    journal.write_bytes(b"1\n2\n3\n")
    exchange.store.write(JOURNAL, b"1\n2\n4\n5\n")
    with pytest.raises(ConfigError, match="have diverged"):
        bring_home(exchange)
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


def test_a_store_that_goes_away_ends_the_driver_in_order_and_the_sweep_goes_on_later(
    s3: str, tmp_path: Path, monkeypatch
) -> None:
    from sweeps.driver.searcher import ConductorSearcher

    checked, exchange, conductor, *_ = _sweep(s3, tmp_path)
    searcher = ConductorSearcher(conductor, DEFAULT_RUNNER)
    with monkeypatch.context() as patch:

        def away(*args):
            raise StoreError(f"{s3}: no answer")

        patch.setattr(exchange.store, "write", away)  # of the journal
        assert searcher.suggest("1") is None
        exchange.offer(JOURNAL)  # what can be done without raises nothing
    assert conductor.interrupted
    assert conductor.stop_reason == f"the object store is away ({s3}: no answer)"
    again, recorder, ledger = new_conductor(checked, exchange)
    drive(again)
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 6
    assert len(recorder.named("started")) == 7


def test_the_driver_says_of_a_lost_trial_that_it_hung_on_its_node(s3: str, tmp_path: Path) -> None:
    from sweeps.driver.searcher import ConductorSearcher

    _checked, exchange, conductor, recorder, ledger = _sweep(s3, tmp_path)
    searcher = ConductorSearcher(conductor, DEFAULT_RUNNER)
    name = searcher.suggest("1")["trial_id"]
    exchange.store.write(f"trials/{name}/hang.txt", b"Timeout!")
    searcher.lost("1", "", 2)
    searcher.on_trial_complete("1", error=True)
    assert recorder.statuses == {name: "lost"}
    errors = [record.error for record in ledger.records("baseline")]
    assert "at least once because it hung" in errors[0]


def test_clean_frees_what_lies_in_the_store(s3: str, tmp_path: Path) -> None:
    checked, exchange, _ledger = _finished(s3, tmp_path)
    for path in (
        "stages/s/state.pt",
        "trials/t0000/epochs/epoch_0001/state.pt",
        "trials/t0001/model/weights.pt",
    ):
        exchange.store.write(path, b"12345")
    dry = cleaning.clean(checked.store, "none", dry_run=True)
    assert dry.bytes == 15
    assert exchange.has("stages/s/state.pt")
    assert cleaning.clean(exchange.root, "all").removed == {
        f"{checked.store}/stages": 5,
        f"{checked.store}/trials/t0000/epochs": 5,
    }
    assert exchange.has("trials/t0001/model/weights.pt")
    assert cleaning.clean(exchange.root, "none").bytes == 5
    assert not exchange.has("trials/t0001/model/weights.pt")
    assert exchange.has("trials/t0001/outcome.json")


def test_a_place_without_a_sweep_is_one_clear_error(s3: str) -> None:
    with pytest.raises(ConfigError, match=f"{s3}/inline: there is no sweep"):
        open_sweep(f"{s3}/inline")
