"""A sweep's folder that an older version left elsewhere: it is read, continued and exported from where it lies now.

``tests/data/old_sweep.tar.xz`` was made by version 0.1.0 (commit eaf1938): four trials of six epochs on digits
(vgg_tiny, width 0.25). Its MLflow database names files below /srv/sweeps, where nothing is. Left out are caches, locks,
figures and the report.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result

from analysis.runs.fetch import fetch_artifact
from analysis.runs.load import load
from analysis.runs.store import find
from analysis.runs.widths import manifest_of
from analysis.ship.export import export
from analysis.show.publish import publish
from gcp_core.schema import ARTIFACT_WEIGHTS
from tests.integration import drivers
from tests.integration.programs import invoke
from tests.proofs import proven_here

ROOT = Path(__file__).resolve().parents[2]
OLD_PLACE = "/srv/sweeps"
#: What `gcp-analyze front --json` of version 0.1.0 answered: trial -> (validation accuracy, MACs).
FRONT = {
    "t0001": (84.56973293768546, 76074),
    "t0000": (89.31750741839762, 76998),
    "t0003": (91.0979228486647, 115692),
}

pytestmark = pytest.mark.integration


@pytest.fixture
def here(tmp_path) -> Path:
    """A folder with the old sweep in ``runs/small``, as its config says."""
    with tarfile.open(ROOT / "tests" / "data" / "old_sweep.tar.xz") as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    return tmp_path


def sweep(here: Path, *arguments: str) -> Result:
    """The command in this process, called where the folder ``runs`` is."""
    with contextlib.chdir(here):
        return invoke("gcp-sweep", *arguments)


def analyze(here: Path, *arguments: str) -> Result:
    with contextlib.chdir(here):
        return invoke("gcp-analyze", *arguments)


def sweep_process(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program in a fresh process; the last line of stderr says whether Ray was loaded."""
    code = f"""
import sys
from sweeps.cli import main
try:
    main({list(arguments)!r})
finally:
    print("ray" if "ray" in sys.modules else "no ray", file=sys.stderr)
"""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def locations(folder: Path) -> set[str]:
    """Every place for files that the sweep's MLflow database names."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as db:
        query = """select artifact_uri from runs union
                   select artifact_location from experiments where name = 'small'"""
        found = {place for (place,) in db.execute(query)}
    assert len(found) > 1
    return found


# --- read ---------------------------------------------------------------------------------------------------------


def test_an_old_folder_has_its_status(here):
    done = sweep(here, "status", "runs/small", "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["state"], answer["trials"]) == ("complete", 4)


def test_an_old_folder_run_with_its_own_config_has_nothing_to_do(here):
    before = (here / "runs" / "small" / "journal.log").read_bytes()
    done = sweep_process(here, "run", "runs/small/config.yaml")
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "no ray"
    assert (here / "runs" / "small" / "journal.log").read_bytes() == before


def test_an_old_folder_has_the_front_it_had(here):
    done = analyze(here, "front", "runs/small", "--json")
    assert done.exit_code == 0, done.stderr
    found = {t["trial"]: (t["val_accuracy"], t["macs"]) for t in json.loads(done.stdout)["front"]}
    assert found == FRONT


def test_a_model_of_an_old_folder_is_proven_and_exported(here):
    out = here / "model"
    done = analyze(here, "export", "runs/small", "--best", "accuracy", "--out", str(out), "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["trial"] == "t0003"
    assert all(check["passed"] for check in answer["checks"])
    assert (out / "model.pt2").is_file()


def test_an_old_folder_has_one_model_per_trial_and_no_snapshots(here):
    df = load(here / "runs" / "small")
    assert list(df["model"]) == list(df["trial"])
    assert df["level"].isna().all()


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        (sweep, ["replay", "runs/small", "t0003@1"], "t0003@1: is not a path, so it has no snapshots"),
        (
            analyze,
            ["select", "runs/small", "--id", "t0003@1"],
            "t0003@1: is not a path, or has no snapshot yet",
        ),
        (analyze, ["export", "runs/small", "--id", "t0003@1", "--out", "x"], "its name is t0003"),
        (analyze, ["register", "runs/small", "--id", "t0003@1"], "its name is t0003"),
    ],
    ids=["replay", "select", "export", "register"],
)
def test_a_snapshot_of_an_old_folder_is_refused(here, program, words, said):
    done = program(here, *words)
    assert done.exit_code == 2, done.stderr
    assert said in done.stderr
    assert not (here / "x").exists()


# --- the folder wins over the place that MLflow recorded ----------------------------------------------------------


@pytest.mark.parametrize("by_name", [False, True])
def test_files_that_mlflow_kept_are_found_beside_the_moved_database(here, by_name):
    """By the folder, and by the sweep's name in the folder's database."""
    folder = here / "runs" / "small"
    uri = f"sqlite:///{folder / 'mlflow.db'}" if by_name else None
    ref = find("small" if by_name else folder, tracking_uri=uri)
    run_id = load(folder).set_index("trial").loc["t0003", "run_id"]
    where = (ref.tracking_uri, ref.folder, run_id)
    file = fetch_artifact(*where, ARTIFACT_WEIGHTS)
    assert file is not None
    assert file.read_bytes() == (folder / "trials" / "t0003" / ARTIFACT_WEIGHTS).read_bytes()
    assert fetch_artifact(*where, "model/not_there.pt") is None
    assert all(OLD_PLACE in place for place in locations(folder)), "reading changes nothing"


def test_a_cleaned_moved_folder_is_exported_from_what_mlflow_kept(here):
    folder = here / "runs" / "small"
    shutil.rmtree(folder / "trials")
    df = load(folder)
    row = df.set_index("trial", drop=False).loc["t0003"]
    assert manifest_of(df, row)["num_classes"] == 10
    with proven_here():
        done = export(df, "t0003", here / "model")
    assert all(check.passed for check in done.checks)


def test_the_front_of_a_moved_sweep_is_published_into_its_folder(here):
    folder = here / "runs" / "small"
    published = publish(folder)
    assert set(published.front) == set(FRONT)
    kept = folder / "mlartifacts" / find(folder).parent_run_id / "artifacts" / "front"
    assert (kept / "front.csv").read_text() == (folder / "report" / "front.csv").read_text()
    assert not Path(OLD_PLACE, "runs").exists()


def test_a_moved_sweep_is_not_registered_at_its_old_place(here):
    done = analyze(here, "register", "runs/small", "--id", "t0003", "--name", "digits")
    assert done.exit_code == 2
    assert f"MLflow names another folder for its files, {OLD_PLACE}" in done.stderr
    assert "gcp-sweep run" in done.stderr
    assert not Path(OLD_PLACE, "runs").exists()


def test_a_moved_sweep_that_is_complete_gets_its_new_place_written(here):
    """MLflow's own pages read the places from the database."""
    folder = here / "runs" / "small"
    assert all(OLD_PLACE in place for place in locations(folder))
    assert sweep(here, "run", "runs/small/config.yaml").exit_code == 0
    assert all(place.startswith((folder / "mlartifacts").as_uri()) for place in locations(folder))


def test_a_moved_sweep_goes_on_where_it_lies_now(here):
    """One more trial: its files go to the folder, and nothing is written where the sweep once was."""
    folder = here / "runs" / "small"
    words = ["run", "runs/small/config.yaml", "search.trials=5"]
    done = drivers.run(drivers.PROGRAM, words, cwd=here, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    df = load(folder).set_index("trial")
    assert set(df.index) == {"b0000", "t0000", "t0001", "t0002", "t0003", "t0004"}
    kept = folder / "mlartifacts" / df.loc["t0004", "run_id"] / "artifacts"
    assert (kept / ARTIFACT_WEIGHTS).is_file() or df.loc["t0004", "status"] == "stopped"
    assert (kept / "trial.log").is_file()
    assert all(place.startswith((folder / "mlartifacts").as_uri()) for place in locations(folder))
    assert not Path(OLD_PLACE, "runs").exists()
