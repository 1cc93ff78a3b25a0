"""The shell of ``deploy/slurm.sbatch``: what it refuses, what it starts, and that it ends everything it started.

Ray, Python and our own command are stand-ins here; ``tests/integration/test_slurm.py`` has the real ones.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "deploy" / "slurm.sbatch"
#: Command -> what its stand-in does. A step runs until it is told to end; `python -`, which waits for
#: Ray's nodes, waits for all steps. What shows that a stand-in has begun is written after its trap is set.
COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then echo "$3" | tr , "\\n"; else echo "$@" > "$SEEN/scontrol"; fi',
    "srun": 'trap "echo >> $SEEN/ended; exit 0" TERM; echo "$@" >> "$SEEN/steps"; while :; do sleep 0.05; done',
    "python": 'cat > /dev/null; if [ "$1" = - ]; then echo "$@" > "$SEEN/waited";'
    ' until [ "$(cat "$SEEN/steps" | wc -l)" = "$3" ]; do sleep 0.05; done; fi; echo 192.0.2.1',
    "ray": "exit 1",
    "gcp-sweep": 'trap "echo > $SEEN/told; exit 0" TERM; echo "$@" > "$SEEN/driver"; while [ -n "$STAY" ]; do sleep 0.05;'
    " done; exit 3",
}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on three nodes; what its commands have seen lies in ``$SEEN``."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, does in COMMANDS.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{does}\n")
        (commands / name).chmod(0o755)
    return {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "SEEN": str(tmp_path),
        "STAY": "",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "a,b,c",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }


def _start(job: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *words], env=job, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _wait_for(file: Path) -> None:
    until = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < until, f"{file.name} never came"
        time.sleep(0.02)


def test_the_first_node_is_the_head_the_others_join_it_and_the_driver_gets_the_words(
    job: dict[str, str], tmp_path: Path
) -> None:
    process = _start(job, "sweep.yaml", "storage=/shared/sweeps")
    process.communicate(timeout=60)
    assert process.returncode == 3, "the driver's exit code is the job's"
    head, *others = sorted(
        (tmp_path / "steps").read_text().splitlines(), key=lambda line: "--head" not in line
    )
    address = "192.0.2.1:24711"  # the port is the job's own
    assert "--nodelist=a ray start --head" in head
    assert "--port=24711" in head
    assert "--num-cpus=7" in head, "one CPU is the driver's"
    told = [line.split(" ray start ")[0].split(" bash ")[0] for line in (head, *others)]
    assert all(" --cpus-per-task=8 " in options for options in told), "else a step may be bound to one CPU"
    assert sorted("--nodelist=" + node in line for node in "bc" for line in others) == [
        False,
        False,
        True,
        True,
    ]
    assert all(f"{address} 8 " in line for line in others)
    assert (tmp_path / "waited").read_text().split()[1:] == [address, "3", "300"]
    assert (tmp_path / "driver").read_text() == f"run sweep.yaml storage=/shared/sweeps --address {address}\n"
    assert len((tmp_path / "ended").read_text()) == 3, "every step was told to end"


@pytest.mark.parametrize("requeue", ["", "1"])
def test_before_the_time_limit_the_driver_is_told_to_end_and_the_job_goes_back_if_it_is_to(
    job: dict[str, str], tmp_path: Path, requeue: str
) -> None:
    process = _start({**job, "STAY": "yes", "GCP_SWEEP_REQUEUE": requeue}, "sweep.yaml")
    _wait_for(tmp_path / "driver")
    process.terminate()  # what Slurm sends
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "told").exists()
    asked = tmp_path / "scontrol"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 4711\n" if requeue else "")


@pytest.mark.parametrize(
    ("without", "words", "says"),
    [
        ("SLURM_JOB_ID", ["sweep.yaml"], "submit it with sbatch"),
        ("", [], "no config: sbatch deploy/slurm.sbatch CONFIG.yaml"),
        ("gcp-sweep", ["sweep.yaml"], "activate the environment first"),
    ],
)
def test_a_job_that_cannot_work_is_refused_before_anything_is_started(
    job: dict[str, str], tmp_path: Path, without: str, words: list[str], says: str
) -> None:
    if (tmp_path / "bin" / without).is_file():
        (tmp_path / "bin" / without).unlink()
        job["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    job.pop(without, None)
    process = _start(job, *words)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert says in said
    assert not (tmp_path / "steps").exists()
