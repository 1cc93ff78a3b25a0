"""A ledger in a database. SQLite stands in for PostgreSQL: the same path through Optuna, without a server."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy.exc import OperationalError

from gcp_core.errors import ConfigError
from sweeps.cli import main
from sweeps.commands.status import sweep_status
from sweeps.conduct.conductor import Conductor
from sweeps.config.places import check_url
from sweeps.config.sweep_config import SweepConfig, load_config
from sweeps.driver.preflight import check_ledger
from sweeps.records import database
from sweeps.records.database import driver_lock, open_storage
from sweeps.records.folder import Entry, check_unchanged, write_config, write_entry
from sweeps.records.job import Outcome
from sweeps.records.layout import JOURNAL
from sweeps.records.ledger import Ledger, read_records
from sweeps.storage.lock import run_lock
from tests.sweeps.inline import Silent, config, drive


def _sweep(storage: Path, url: str, sweep_id: str) -> tuple[SweepConfig, Ledger]:
    """A sweep whose folder and ledger exist."""
    checked = config(storage, {"ledger": url, "search.trials": 3})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    write_entry(folder, Entry(sweep_id, checked.name, None, checked.name, "r", checked.digest()))
    return checked, Ledger(folder, checked.name, checked.search.objectives, url=url, sweep_id=sweep_id)


def test_sweeps_of_one_name_share_a_database_and_do_not_meet(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/team.db"
    first, ledger = _sweep(tmp_path / "a", url, "aaaa")
    drive(Conductor(first, ledger, Silent(), Silent()))
    second, other = _sweep(tmp_path / "b", url, "bbbb")
    assert other.records("trial") == []
    trials, baselines = read_records(Path(first.folder), first.name, first.search.objectives, url=url)
    assert [record.status for record in [*baselines, *trials]] == ["complete"] * 4
    assert trials == ledger.records("trial")
    assert not list(tmp_path.rglob(JOURNAL))
    assert sweep_status(Path(first.folder)).statuses == {"complete": 3}
    assert sweep_status(Path(second.folder)).statuses == {}


def test_a_sweep_goes_on_from_a_database(tmp_path: Path) -> None:
    checked, ledger = _sweep(tmp_path, f"sqlite:///{tmp_path}/team.db", "aaaa")
    conductor = Conductor(checked, ledger, Silent(), Silent())
    baseline, waiting = (
        conductor.next_job(),
        next(iter(conductor._agenda)),
    )  # handed out and entered when the driver dies
    again = Ledger(
        Path(checked.folder), checked.name, checked.search.objectives, url=checked.ledger, sweep_id="aaaa"
    )
    drive(Conductor(checked, again, Silent(), Silent()))
    assert [record.job for record in again.records("baseline")] == [baseline]
    records = again.records("trial")
    assert records[0].job == waiting
    assert [record.status for record in records] == ["complete"] * 3
    assert all(record.ended_ms >= record.started_ms > 0 for record in records)


def test_constraints_and_choices_survive_a_database(tmp_path: Path) -> None:
    checked, ledger = _sweep(tmp_path, f"sqlite:///{tmp_path}/team.db", "aaaa")
    job = Conductor(checked, ledger, Silent(), Silent())
    job.next_job()
    (trial,) = ledger.records("trial")
    ledger.close(
        trial.job, Outcome("infeasible", {"macs": 5.0}, error="why"), (90.0, 5.0), {"macs <= 4": 1.0}
    )
    (record,) = ledger.records("trial")
    assert (record.status, record.values, record.violations) == (
        "infeasible",
        (90.0, 5.0),
        {"macs <= 4": 1.0},
    )
    assert record.job == trial.job


REFUSED = [
    ("team.db", "ledger: 'team.db' is not a database URL (null (a journal in the sweep's folder) or"),
    ("mongodb://host/db", "ledger: 'mongodb://host/db' is not a database URL"),
    ("", "ledger: '' is not a database URL"),
    (
        "postgresql://me:secret@host/db",
        "ledger: holds a password, which would be copied to the sweep's folder and to MLflow (leave it out;",
    ),
]


@pytest.mark.parametrize(("url", "message"), REFUSED)
def test_what_is_no_database_or_holds_a_secret_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"name": "x", "ledger": url})
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value).replace("a secret", "")


def test_postgresql_with_and_without_a_driver_name_is_allowed() -> None:
    for url in ("postgresql://me@host/db", "postgresql+psycopg2:///db?host=/run"):
        assert check_url(url) == url


def test_a_database_that_cannot_be_opened_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ledger: the database cannot be used: .*unable to open"):
        check_ledger(f"sqlite:///{tmp_path}/missing/team.db")


def test_tables_of_another_version_of_optuna_are_a_config_error_that_says_what_to_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/team.db"
    check_ledger(url)
    with contextlib.closing(sqlite3.connect(tmp_path / "team.db")) as there, there:
        there.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    with pytest.raises(ConfigError) as caught:
        check_ledger(url)
    text = str(caught.value)
    assert text.startswith("ledger: the database cannot be used: The runtime optuna version")
    assert "compatible with the table schema" in text
    assert text.endswith("(or give this sweep a database of its own)")


def test_a_missing_driver_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna.storages

    def missing(*args: object, **kwargs: object) -> None:
        raise ImportError("No module named 'psycopg'")

    monkeypatch.setattr(optuna.storages, "RDBStorage", missing)
    with pytest.raises(
        ConfigError, match=r"ledger: the database driver is not installed: .*psycopg.*pip install"
    ):
        open_storage("postgresql://me@host/db")


def test_a_folder_without_a_sweep_has_no_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no sweep in this folder"):
        read_records(tmp_path, "x", {"val_accuracy": "max"}, url=f"sqlite:///{tmp_path}/team.db")


def test_the_ledger_of_a_sweep_may_not_be_moved(tmp_path: Path) -> None:
    checked, _ = _sweep(tmp_path, f"sqlite:///{tmp_path}/team.db", "aaaa")
    check_unchanged(checked)
    with pytest.raises(ConfigError, match=r"ledger: sqlite.* -> None"):
        check_unchanged(config(tmp_path, {"search.trials": 3}))


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_without_postgresql_the_folders_lock_keeps_a_second_driver_out(tmp_path: Path, kind: str) -> None:
    """A real server's lock: ``test_postgresql``."""
    url = None if kind == "journal" else f"sqlite:///{tmp_path}/team.db"
    with run_lock(tmp_path), driver_lock(url, "aaaa"):
        with (
            pytest.raises(ConfigError, match="another driver is running the sweep: process"),
            run_lock(tmp_path),
        ):
            pass
        assert not (tmp_path / "team.db").exists(), "nobody asks a database that knows no such lock"
    with run_lock(tmp_path), driver_lock(url, "aaaa"):
        pass


def test_a_host_that_never_answers_is_an_error_soon_and_not_after_the_systems_minutes(monkeypatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setattr(database, "CONNECT_S", 2)  # libpq knows no less
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://me@127.0.0.1:{silent.getsockname()[1]}/db"
        with pytest.raises(ConfigError, match=r"ledger: the database cannot be used: .*timeout"):
            open_storage(url)


def test_what_the_url_or_libpqs_variable_says_about_waiting_is_left_to_them(monkeypatch) -> None:
    alive = database._KEEPALIVES
    assert database._waiting("postgresql+psycopg://me@host/db") == {
        **alive,
        "connect_timeout": database.CONNECT_S,
    }
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "40")
    assert database._waiting("postgresql+psycopg://me@host/db") == alive
    monkeypatch.delenv("PGCONNECT_TIMEOUT")
    assert database._waiting("postgresql+psycopg://me@host/db?connect_timeout=40") == alive
    others = {name: value for name, value in alive.items() if name != "keepalives_idle"}
    assert (
        database._waiting("postgresql+psycopg://me@host/db?connect_timeout=40&keepalives_idle=60") == others
    )
    assert database._waiting("sqlite:////tmp/some.db") == {}


def test_a_connection_without_a_sign_of_life_is_given_up_after_half_a_minute() -> None:
    told = database._waiting("postgresql://me@host/db")
    assert told["keepalives_idle"] + told["keepalives_interval"] * told["keepalives_count"] <= 30
    assert told["tcp_user_timeout"] <= 30_000, "what was sent and not confirmed, in milliseconds"


def test_a_command_that_loses_the_database_on_its_way_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A polish looks whether the sweep is still its own after every epoch."""
    import sweeps.commands.polish

    def away(*_: object, **__: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr(sweeps.commands.polish, "polish", away)
    result = CliRunner().invoke(main, ["polish", str(tmp_path), "t0000@1", "train.epochs=3"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the ledger's database is away, or takes no entry (")
    assert result.stderr.endswith("connection refused); run again to continue\n")
