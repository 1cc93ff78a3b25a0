"""Looking at a sweep that somebody else writes: what is seen, what it costs, and that nothing is touched."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import optuna
import pytest

from gcp_core.errors import ConfigError
from sweeps.records import spool
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.records.job import Outcome, write_outcome
from sweeps.records.layout import JOURNAL
from sweeps.records.ledger import Ledger
from sweeps.storage.following import FolderSource, Following
from sweeps.storage.lock import trial_lock
from tests.sweeps.inline import config


def begun(tmp_path: Path, **overrides: object) -> tuple[Path, Ledger]:
    """A sweep whose driver has just begun."""
    checked = config(tmp_path, overrides)
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    write_entry(folder, Entry("aaaa", checked.name, None, checked.name, "r", checked.digest()))
    return folder, Ledger(folder, checked.name, checked.search.objectives)


def add(folder: Path, ledger: Ledger):
    space = config(folder.parent).space
    return ledger.add("trial", space.resolve(space.first()), space.first(), {})


def records(following: Following):
    entry = following.entry()
    return following.ledger(entry, following.config()).records("trial")


def files(folder: Path) -> dict[str, tuple[int, float]]:
    return {
        str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in folder.rglob("*")
    }


def test_a_look_sees_what_the_ledger_and_a_running_trial_tell_and_touches_nothing(tmp_path: Path) -> None:
    folder, ledger = begun(tmp_path)
    job = add(folder, ledger)
    Path(job.folder).mkdir(parents=True)
    with Following(folder) as following, trial_lock(Path(job.folder)):
        for epoch in range(1, 200):
            row = {"epoch": epoch, "val/accuracy": 90.0 + epoch / 100, "cost/macs": 1e6}
            spool.append(Path(job.folder), spool.stamp(row))
        before = files(folder)
        (record,) = records(following)
        seen = following.sighting(job.trial_id)
        assert files(folder) == before
    assert record.status == "running"
    assert (seen.row["epoch"], seen.row["val/accuracy"]) == (199, 91.99)
    assert (seen.host, seen.begun, seen.ended) == (socket.gethostname(), True, False)


def test_a_trial_that_nobody_has_taken_up_is_not_begun_and_one_that_left_its_end_has_ended(
    tmp_path: Path,
) -> None:
    folder, ledger = begun(tmp_path)
    job = add(folder, ledger)
    with Following(folder) as following:
        assert not following.sighting(job.trial_id).begun
        Path(job.folder).mkdir(parents=True)
        spool.append(Path(job.folder), {"epoch": 1, "val/accuracy": 1.0})
        (Path(job.folder) / "outcome.json").write_text("{}")
        assert following.sighting(job.trial_id).ended


def test_a_path_that_goes_on_after_its_end_has_not_ended_before_it_leaves_another_end(tmp_path: Path) -> None:
    folder, ledger = begun(tmp_path)
    job = add(folder, ledger)
    Path(job.folder).mkdir(parents=True)
    write_outcome(job.folder, Outcome("complete", ended="target"))
    with Following(folder) as following:
        assert following.sighting(job.trial_id).ended
        assert not following.sighting(job.trial_id, part=1).ended
        write_outcome(job.folder, Outcome("complete", ended="target", part=1, error="another size"))
        assert following.sighting(job.trial_id, part=1).ended


def test_only_new_lines_of_the_journal_are_read_and_none_if_there_are_none(
    tmp_path: Path, monkeypatch
) -> None:
    folder, ledger = begun(tmp_path)
    read: list[int] = []
    honest = FolderSource.read

    def counted(self: FolderSource, path: str, start: int = 0) -> bytes | None:
        found = honest(self, path, start)
        if path == JOURNAL:
            read.append(len(found or b""))
        return found

    monkeypatch.setattr(FolderSource, "read", counted)
    with Following(folder) as following:
        for _ in range(5):
            add(folder, ledger)
        assert len(records(following)) == 5
        assert len(records(following)) == 5
        assert len(read) == 1, "nothing is read twice"
        size = (folder / JOURNAL).stat().st_size
        job = add(folder, ledger)
        ledger.close(job, Outcome("failed", error="no"))
        assert [r.status for r in records(following)] == ["running"] * 5 + ["failed"]
        assert read[-1] <= (folder / JOURNAL).stat().st_size - size + 512


def test_half_a_line_waits_and_another_journal_is_read_from_its_beginning(tmp_path: Path) -> None:
    folder, ledger = begun(tmp_path)
    for _ in range(3):
        add(folder, ledger)
    whole = (folder / JOURNAL).read_bytes()
    with Following(folder) as following:
        cut = whole[: whole.rfind(b"\n", 0, -1) + 20]
        (folder / JOURNAL).write_bytes(cut)
        assert len(records(following)) == 2
        (folder / JOURNAL).write_bytes(whole)
        assert len(records(following)) == 3
        elsewhere, other = begun(tmp_path / "other")
        for _ in range(9):
            add(elsewhere, other)
        (folder / JOURNAL).write_bytes((elsewhere / JOURNAL).read_bytes())
        assert len(records(following)) == 9


def test_a_trial_that_says_nothing_for_long_is_silent(tmp_path: Path) -> None:
    folder, ledger = begun(tmp_path)
    job = add(folder, ledger)
    Path(job.folder).mkdir(parents=True)
    spool.append(Path(job.folder), {"epoch": 1, "val/accuracy": 1.0})
    clock = [0.0]
    with Following(folder, now=lambda: clock[0]) as following:
        for clock[0] in (0.0, 50.0, 100.0):
            seen = following.sighting(job.trial_id)
        assert seen.silent_s == 100.0
        spool.append(Path(job.folder), {"epoch": 2, "val/accuracy": 2.0})
        assert following.sighting(job.trial_id).silent_s == 0.0


def test_a_driver_of_this_machine_that_is_gone_is_noticed_without_its_lock_being_tried(
    tmp_path: Path,
) -> None:
    folder, _ = begun(tmp_path)
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    with Following(folder) as following:
        assert following.lost_driver() == ""
        (folder / "run.lock").write_text(f"process {gone} on {socket.gethostname()}")
        assert following.lost_driver() == f"process {gone}"
        (folder / "run.lock").write_text(f"process {os.getpid()} on {socket.gethostname()}")
        assert following.lost_driver() == ""
        (folder / "run.lock").write_text(f"process {gone} on another-machine")
        assert following.lost_driver() == ""


def test_a_sweep_that_is_about_to_begin_has_no_entry_and_a_place_without_one_is_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "soon").mkdir()
    (tmp_path / "soon" / "run.lock").write_text("")
    with Following(tmp_path / "soon") as following:
        assert following.entry() is None
    with pytest.raises(ConfigError, match="there is no sweep"):
        Following(tmp_path)
    with pytest.raises(ConfigError, match="there is no such folder"):
        Following(tmp_path / "nowhere")


def test_a_ledger_that_is_read_makes_no_study(tmp_path: Path) -> None:
    checked = config(tmp_path)
    url = f"sqlite:///{tmp_path}/ledger.db"
    reader = Ledger(tmp_path, checked.name, checked.search.objectives, url=url, sweep_id="x", reading=True)
    assert [reader.records(kind) for kind in ("trial", "baseline", "confirm")] == [[], [], []]
    assert optuna.get_all_study_names(url) == []
    writer = Ledger(tmp_path, checked.name, checked.search.objectives, url=url, sweep_id="x")
    writer.add("trial", checked.space.resolve(checked.space.first()), {}, {})
    assert len(reader.records("trial")) == 1
