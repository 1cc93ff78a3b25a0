"""Where MLflow keeps a sweep, and how its database learns that the folder was moved."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from sweeps.tracking.store import write_new_place

OLD = Path("/srv/old place/small/mlartifacts").as_uri()


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """A sweep's folder with MLflow's own tables and one experiment, whose files were at ``OLD``."""
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    with _open(tmp_path) as db:
        db.execute(
            "insert into experiments (experiment_id, name, artifact_location) values (7, 'small', ?)",
            (OLD,),
        )
        for run_id, place in (
            ("one", f"{OLD}/one/artifacts"),
            ("other", f"{OLD}2/other"),
        ):
            db.execute(
                "insert into runs (run_uuid, artifact_uri, experiment_id) values (?, ?, 7)", (run_id, place)
            )
    return tmp_path


@contextlib.contextmanager
def _open(folder: Path):
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as db, db:
        yield db


def _places(folder: Path) -> dict[str, str]:
    with _open(folder) as db:
        runs = dict(db.execute("select run_uuid, artifact_uri from runs"))
        return {**runs, **dict(db.execute("select name, artifact_location from experiments"))}


def test_a_moved_folder_is_named_in_the_experiment_and_in_its_runs(folder):
    before = _places(folder)
    write_new_place(folder, "small")
    here = (folder / "mlartifacts").as_uri()
    assert _places(folder) == {**before, "small": here, "one": f"{here}/one/artifacts"}, "and nothing else"


def test_a_folder_that_stayed_is_not_written(folder):
    write_new_place(folder, "small")
    known = (folder / "mlflow.db").read_bytes()
    write_new_place(folder, "small")
    assert (folder / "mlflow.db").read_bytes() == known


@pytest.mark.parametrize(
    "place", ["s3://bucket/small/mlartifacts", Path("/srv/team").as_uri(), "mlflow-artifacts:/7"]
)
def test_a_place_that_somebody_chose_is_left_alone(folder, place):
    with _open(folder) as db:
        db.execute("update experiments set artifact_location = ? where name = 'small'", (place,))
    before = _places(folder)
    write_new_place(folder, "small")
    assert _places(folder) == before


def test_a_folder_without_a_database_gets_none(tmp_path):
    write_new_place(tmp_path, "small")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_and_another_name_are_no_error(folder):
    before = _places(folder)
    write_new_place(folder, "large")
    assert _places(folder) == before
    (folder / "mlflow.db").write_bytes(b"")
    write_new_place(folder, "small")
