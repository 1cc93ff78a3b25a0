"""What the picture of a running sweep counts."""

from __future__ import annotations

from analysis.show.terminal import as_text
from gcp_core.config import TrialConfig
from gcp_core.schema import Kind
from sweeps.commands.scene import Scene
from sweeps.commands.scene_view import picture
from sweeps.records.folder import Entry
from sweeps.records.job import Job, Record, trial_id
from sweeps.storage.following import Sighting


def record(kind: Kind, number: int, status: str = "running") -> Record:
    job = Job(trial_id(kind, number), kind, number, TrialConfig(), {}, "nowhere")
    return Record(job, job.trial_id, status, {}, "", 1.0, None, {})


def scene(records: list[Record], begun: set[str], planned: int) -> Scene:
    """A sweep with a driver; of what the ledger says is running, ``begun`` has been taken up."""
    entry = Entry("aaaa", "demo", None, "e", "r", "digest")
    seen = {
        one.job.trial_id: Sighting({}, "node-7", one.job.trial_id in begun)
        for one in records
        if one.status == "running"
    }
    return Scene("place", entry, tuple(records), sightings=seen, planned=planned)


def test_a_baseline_that_waits_for_a_worker_is_none_of_the_trials_that_are_still_to_begin() -> None:
    paths = [record("trial", number) for number in range(4)]
    begun = {one.job.trial_id for one in paths}
    said = as_text(picture(scene([record("baseline", 0), *paths], begun, planned=4), 40))
    assert "\n4 running, 1 waiting for a worker\n" in said
    # Of five trials the fifth is still to be drawn; of six one is drawn and waits beside the baseline: 6 - 4 - 1.
    said = as_text(picture(scene([record("baseline", 0), *paths], begun, planned=5), 40))
    assert "\n4 running, 1 waiting for a worker, 1 not begun\n" in said
    drawn = [record("baseline", 0), *paths, record("trial", 4)]
    said = as_text(picture(scene(drawn, begun, planned=6), 40))
    assert "\n4 running, 2 waiting for a worker, 1 not begun\n" in said


def test_confirmation_runs_that_wait_are_no_trials_that_are_still_to_begin() -> None:
    ended = [record("trial", number, "complete") for number in range(2)]
    runs = [record("confirm", number) for number in range(3)]
    said = as_text(picture(scene([*ended, *runs], {"c0000"}, planned=2), 40))
    assert "\n2 waiting for a worker\n" in said
    assert "not begun" not in said
