"""`gcp-sweep status --watch` of what is not there, goes away, or is in a store."""

from __future__ import annotations

import dataclasses
import shutil
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from gcp_core.errors import ConfigError
from sweeps.cli import main
from sweeps.commands import watch as watching
from sweeps.commands.scene import Scene, look
from sweeps.commands.watch import LineView, watch
from sweeps.records import spool
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.records.layout import CONFIG, ENTRY, JOURNAL
from sweeps.storage.exchange import ObjectExchange, trial_exchange
from sweeps.storage.following import Following, Sighting
from sweeps.worker.trial import run_job
from tests.sweeps.commands.played import Played
from tests.sweeps.inline import RUNNER, config, new_conductor

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("place", "message"),
    [("nowhere", "there is no such folder"), (".", "there is no sweep")],
)
def test_a_place_without_a_sweep_is_one_error_and_exit_code_2(
    tmp_path: Path, place: str, message: str
) -> None:
    done = CliRunner().invoke(main, ["status", str(tmp_path / place), "--watch"])
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_folder_that_goes_away_ends_the_view_with_an_error(tmp_path: Path) -> None:
    played = Played(tmp_path)
    played.begin()
    with pytest.raises(ConfigError, match="there is no such folder"):
        watch(played.folder, LineView(lambda line: None, lambda s: shutil.rmtree(played.folder)))


def _away_after(monkeypatch, looks: int, until: int) -> None:
    """``look`` fails from its ``looks``-th call on, until the ``until``-th."""
    calls = [0]

    def sometimes(following: Following) -> Scene:
        calls[0] += 1
        if looks <= calls[0] < until:
            raise OSError("no route to host")
        return look(following)

    monkeypatch.setattr(watching, "look", sometimes)


def test_a_store_that_is_away_for_a_moment_is_said_and_for_long_it_ends_the_view(
    tmp_path: Path, monkeypatch
) -> None:
    played = Played(tmp_path)
    played.begin()
    _away_after(monkeypatch, 2, 4)
    lines: list[str] = []
    assert watch(played.folder, LineView(lines.append, played.step)).over
    (note,) = [line for line in lines if "out of reach" in line]
    assert note.endswith("no route to host")
    _away_after(monkeypatch, 2, 10**9)
    clock = [0.0]

    def later(seconds: float) -> None:
        clock[0] += 50.0

    played.note("running")
    with pytest.raises(ConfigError, match=r"cannot be read for 1[25]\d s: no route to host"):
        watch(played.folder, LineView(lambda line: None, later), now=lambda: clock[0])


def test_a_store_that_does_not_answer_is_an_error_at_once(tmp_path: Path, monkeypatch) -> None:
    played = Played(tmp_path)
    played.begin()
    _away_after(monkeypatch, 1, 10**9)
    with pytest.raises(ConfigError, match="cannot be read: no route to host"):
        watch(played.folder, LineView(lambda line: None, played.step))


def test_a_sweep_in_a_store_is_watched_from_a_machine_that_has_nothing_of_it(
    s3: str, tmp_path: Path, monkeypatch
) -> None:
    checked = config(tmp_path, {"storage": s3, "ledger": str(tmp_path / "driver"), "search.trials": 2})
    exchange = ObjectExchange(Path(checked.folder), checked.store)
    conductor, _, _ = new_conductor(checked, exchange)
    write_config(exchange.root, checked)
    entry = Entry("aaaa", checked.name, None, "e", "r", checked.digest())
    write_entry(exchange.root, entry)
    exchange.send(CONFIG, ENTRY)
    seen: list[Sighting] = []

    def step(_seconds: float) -> None:
        job = conductor.next_job()
        if job is None:
            write_entry(exchange.root, dataclasses.replace(entry, state="complete"))
            exchange.send(JOURNAL, ENTRY)
            return

        def epoch(row: dict[str, float]) -> None:
            conductor.epoch(job.trial_id, row)
            with trial_exchange(exchange.root, checked.store) as there:
                (there.root / f"trials/{job.trial_id}").mkdir(parents=True)
                spool.append(there.root / f"trials/{job.trial_id}", row)
                there.send(f"trials/{job.trial_id}/reported.jsonl")
            before = objects()
            with Following(checked.store) as following:
                seen.append(look(following).sightings[job.trial_id])
            assert objects() == before, "nothing in the store is touched"

        with trial_exchange(exchange.root, checked.store) as there:
            outcome = run_job(job, RUNNER, epoch, exchange=there)
        conductor.finish(job.trial_id, outcome)
        exchange.send(JOURNAL)

    def objects() -> dict:
        return {path: exchange.store.stamp(path) for path in exchange.store.sizes()}

    lines: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scene = watch(checked.store, LineView(lines.append, step))
    assert lines[-1].startswith("inline: complete, 2 of 2 trials ended, hypervolume 0.")
    assert scene.hypervolume == conductor._front.hypervolume()
    assert {one.host for one in seen} == {socket.gethostname()}
    assert [one.row["epoch"] for one in seen[:2]] == [1, 2]
    assert not (tmp_path / "cache").exists()


def test_a_store_that_cannot_be_reached_is_one_error_and_exit_code_2(monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "no secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    done = CliRunner().invoke(main, ["status", "s3://sweeps/gone", "--watch"])
    assert done.exit_code == 2, done.output
    assert "the object store cannot be used" in done.stderr
    assert len(done.stderr.splitlines()) == 1
