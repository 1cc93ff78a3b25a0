"""The ledger and its lock in a real PostgreSQL server (Debian's package ``postgresql``), private to these tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.conduct.conductor import Conductor
from sweeps.driver.preflight import check_ledger
from sweeps.records.database import AdvisoryLock, driver_lock, open_storage
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.records.ledger import Ledger, read_records
from sweeps.records.tenure import Displaced, Tenure
from tests.sweeps.inline import Silent, config, drive

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'gcp-sweep[postgresql]'")


@dataclass(frozen=True)
class Server:
    """A server on a unix socket; ``url`` carries no secret because it trusts whoever reaches the socket."""

    url: str
    data: Path

    def control(self, *words: str) -> None:
        _as_postgres(_binary("pg_ctl"), "-D", str(self.data), "-w", "-t", "120", *words)


def _binary(name: str) -> str:
    found = shutil.which(name) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None
    )
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install postgresql)")
    return found


def _as_postgres(*command: str) -> None:
    """Run it as a user that PostgreSQL accepts: it refuses to run as root."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not run as root, and setpriv is not there to become another user")
        command = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    initdb = _binary("initdb")
    # A socket's path may have 107 characters, and pytest's folders are closed to other users.
    place = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    try:
        if os.geteuid() == 0:
            try:
                shutil.chown(place, "postgres", "postgres")
            except LookupError:
                pytest.skip("there is no user postgres to run the server as")
        _as_postgres(
            initdb, "-D", str(place / "data"), "-U", "sweeps", "-A", "trust", "--no-sync", "-E", "UTF8"
        )
        server = Server(f"postgresql+psycopg://sweeps@/postgres?host={place}", place / "data")
        options = f"-c listen_addresses= -k {place} -c fsync=off"
        server.control("-l", str(place / "log"), "-o", options, "start")
        try:
            yield server
        finally:
            server.control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _holders(server: Server, end: bool = False) -> int:
    """How many connections hold a driver's lock; ``end``: break them, as a network would."""
    from sqlalchemy import create_engine, text

    what = "pg_terminate_backend(pid)" if end else "pid"
    query = f"SELECT {what} FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
    engine = create_engine(server.url)
    with engine.connect() as connection:
        rows = connection.execute(text(query)).all()
    engine.dispose()
    return len(rows)


def test_a_whole_sweep_goes_through_a_real_server_and_can_be_read_by_others(
    tmp_path: Path, server: Server
) -> None:
    check_ledger(server.url)
    checked = config(tmp_path, {"ledger": server.url, "search.trials": 3})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    write_entry(folder, Entry("whole", checked.name, None, checked.name, "r", checked.digest()))
    ledger = Ledger(folder, checked.name, checked.search.objectives, url=server.url, sweep_id="whole")
    conductor = Conductor(checked, ledger, Silent(), Silent())
    conductor.next_job()  # handed out when the driver dies
    again = Ledger(folder, checked.name, checked.search.objectives, url=server.url, sweep_id="whole")
    drive(Conductor(checked, again, Silent(), Silent()))
    trials, baselines = read_records(folder, checked.name, checked.search.objectives, url=server.url)
    assert [record.status for record in [*baselines, *trials]] == ["complete"] * 4
    assert trials == ledger.records("trial")


def test_a_second_driver_is_refused_while_the_first_holds_the_lock_and_not_afterwards(server: Server) -> None:
    with driver_lock(server.url, "one"):
        with (
            pytest.raises(ConfigError, match="ledger: another driver runs this sweep"),
            driver_lock(server.url, "one"),
        ):
            pass
        with driver_lock(server.url, "another"):
            pass
    with driver_lock(server.url, "one"):
        pass
    assert _holders(server) == 0, "no lock stays behind"


def test_a_dropped_connection_is_noticed_and_the_lock_taken_again(server: Server) -> None:
    tenure = Tenure()
    with driver_lock(server.url, "dropped", tenure):
        assert _holders(server, end=True) == 1
        tenure.check()
        with pytest.raises(ConfigError, match="another driver"), driver_lock(server.url, "dropped"):
            pass
    assert not tenure.lost


def test_a_restart_of_the_server_is_waited_for(server: Server) -> None:
    tenure = Tenure()
    with driver_lock(server.url, "restarted", tenure):
        server.control("-m", "immediate", "restart")
        tenure.check()
        with pytest.raises(ConfigError), driver_lock(server.url, "restarted"):
            pass


@pytest.mark.parametrize("ended", [False, True])
def test_a_driver_whose_lock_somebody_else_took_meanwhile_enters_nothing_more(
    tmp_path: Path, server: Server, ended: bool
) -> None:
    """The driver was paused, its connection dropped; another one took over, and may have ended since."""
    checked = config(tmp_path, {"ledger": server.url})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    tenure, name = Tenure(), f"taken-{ended}"
    with driver_lock(server.url, name, tenure):
        ledger = Ledger(
            folder, checked.name, checked.search.objectives, url=server.url, sweep_id=name, tenure=tenure
        )
        trial = checked.space.resolve(checked.space.first())
        ledger.add("baseline", trial.baseline(), {}, {})
        _holders(server, end=True)
        storage = open_storage(server.url)
        other = AdvisoryLock(storage.engine, name)
        assert other.take()
        if ended:
            other.close()
        with pytest.raises(Displaced, match="another driver has taken over"):
            ledger.add("baseline", trial.baseline(), {}, {})
        assert tenure.lost
        assert len(ledger.records("baseline")) == 1
        assert not ended or other.take(), "the lock is left to others at once"
        other.close()
        storage.engine.dispose()


def test_the_beat_notices_a_lost_lock_without_any_write(server: Server) -> None:
    import time

    tenure = Tenure()
    with driver_lock(server.url, "beat", tenure, beat_s=0.05):
        storage = open_storage(server.url)
        other = AdvisoryLock(storage.engine, "beat")
        end = time.monotonic() + 60
        while (
            not tenure.lost
        ):  # whoever is first after the break has the lock; the driver may be it a few times
            _holders(server, end=True)
            other.close()
            other.take()
            assert time.monotonic() < end
        other.close()
        storage.engine.dispose()
