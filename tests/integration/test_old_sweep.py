"""A sweep's folder that an older version left elsewhere: it is read, continued and exported from where it lies now.

``tests/data/old_sweep.tar.xz`` was made by version 0.1.0 (commit eaf1938): four trials of six epochs on digits
(vgg_tiny, width 0.25). Its MLflow database names files below /srv/sweeps, where nothing is. Left out are caches, locks,
figures and the report.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

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


def sweep(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _program("sweeps.cli", here, arguments)


def analyze(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _program("analysis.cli.program", here, arguments)


def _program(module: str, here: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own; the last line of stderr says whether Ray was loaded."""
    code = f"""
import sys
from {module} import main
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


# --- read ---------------------------------------------------------------------------------------------------------


def test_an_old_folder_has_its_status(here):
    done = sweep(here, "status", "runs/small", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["state"], answer["trials"]) == ("complete", 4)


def test_an_old_folder_run_with_its_own_config_has_nothing_to_do(here):
    before = (here / "runs" / "small" / "journal.log").read_bytes()
    done = sweep(here, "run", "runs/small/config.yaml")
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "no ray"
    assert (here / "runs" / "small" / "journal.log").read_bytes() == before


def test_an_old_folder_has_the_front_it_had(here):
    done = analyze(here, "front", "runs/small", "--json")
    assert done.returncode == 0, done.stderr
    found = {t["trial"]: (t["val_accuracy"], t["macs"]) for t in json.loads(done.stdout)["front"]}
    assert found == FRONT


def test_a_model_of_an_old_folder_is_proven_and_exported(here):
    out = here / "model"
    done = analyze(here, "export", "runs/small", "--best", "accuracy", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["trial"] == "t0003"
    assert all(check["passed"] for check in answer["checks"])
    assert (out / "model.pt2").is_file()
