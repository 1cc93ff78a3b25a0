"""The course of a training, epoch by epoch: from the folder, else from the manifest."""

import json

import pytest

from analysis.runs.epochs import courses
from tests.analysis.show import tables


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "paths"


def test_a_course_has_accuracy_and_macs_of_every_epoch_and_ignores_half_a_line(folder):
    found = {course.trial: course for course in courses(tables.paths(folder))}
    assert set(found) == {"b0000", "t0000", "t0001", "t0002"}
    course = found["t0000"]
    assert course.epochs == tuple(range(1, 13)), "and not 99, which was cut off"
    assert course.accuracy[3] == 96.6, "at the end of the dense phase"
    assert (course.macs[3], course.macs[4]) == (4_000_000, 2_800_000), "the event lies between epochs 4 and 5"
    assert found["b0000"].kind == "baseline"


def test_an_epoch_that_was_trained_again_counts_as_it_was_the_last_time(folder):
    df = tables.paths(folder)
    with (folder / "trials" / "t0000" / "reported.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"epoch": 4, "val/accuracy": 12.5, "cost/macs": 7}))
    (course,) = (c for c in courses(df) if c.trial == "t0000")
    assert (course.accuracy[3], course.macs[3]) == (12.5, 7)
    assert len(course.epochs) == 12


def test_without_what_was_reported_the_manifest_of_the_last_snapshot_tells(folder):
    df = tables.paths(folder)
    (folder / "trials" / "t0001" / "reported.jsonl").unlink()
    (folder / "trials" / "t0002" / "reported.jsonl").unlink()
    manifest = folder / "trials" / "t0001" / "snapshots" / "04" / "manifest.json"
    metrics = {"val/accuracy": 50.0, "cost/macs": 9.0}
    manifest.write_text(json.dumps({"plans": [], "history": [{"epoch": 1, "metrics": metrics}]}))
    found = {course.trial: course for course in courses(df)}
    assert (found["t0001"].epochs, found["t0001"].accuracy, found["t0001"].macs) == ((1,), (50,), (9,))
    assert "t0002" not in found, "its manifest has no history"


def test_only_so_many_are_read(folder):
    assert len(courses(tables.paths(folder), most=2)) == 2
