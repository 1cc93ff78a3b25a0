"""The private Ray of a sweep: who can reach it, what it says to whom, and what its processes see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
DRIVER = """
import json, os, sys
from pathlib import Path
from ray._private import ray_constants
from sweeps.driver.cluster import ray_cluster
from tests.sweeps.inline import config

def private():
    return ray_constants.ENABLE_RAY_CLUSTER, os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")

before = private()
with ray_cluster(config(Path(sys.argv[1])), None):
    import psutil, ray
    ray.get(ray.remote(lambda: None).remote())  # a worker listens too

    @ray.remote(num_gpus=0)
    class Trial:
        def gpus(self):
            return os.environ.get("CUDA_VISIBLE_DEVICES")

    in_task = ray.remote(num_gpus=0)(lambda: os.environ.get("CUDA_VISIBLE_DEVICES")).remote()
    gpus = ray.get([in_task, Trial.remote().gpus.remote()])
    me = psutil.Process()
    found = []
    family = (me, *me.children(recursive=True))
    for process in family:
        for it in process.net_connections("inet"):
            if it.status == "LISTEN":
                found.append([process.name(), it.laddr.ip, it.laddr.port])
    gcs = ray.get_runtime_context().gcs_address
    commands = [" ".join(process.cmdline()) for process in family]
    raylets = [process for process in family if process.name() == "raylet"]
    in_advance = [process.environ().get("RAY_prestart_worker_first_driver") for process in raylets]
    found = {"gcs": gcs, "listening": found, "commands": commands, "in_advance": in_advance, "gpus": gpus}
    print(json.dumps(found), flush=True)
    sys.stdin.read()
print(json.dumps(private() == before))
"""
JOIN = """
import sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
except Exception as exc:
    print(type(exc).__name__, flush=True)
    raise SystemExit(3)
print(ray.get(ray.remote(lambda: "ran").remote()))
"""


def _join(address: str, **more: str | None) -> subprocess.Popen[str]:
    # Like the private Ray: otherwise Ray makes the machine's outer address of a loopback one, where nobody listens.
    more |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment = {**os.environ, **{name: value for name, value in more.items() if value is not None}}
    for name in (name for name, value in more.items() if value is None):
        environment.pop(name, None)
    command = [sys.executable, "-c", JOIN, address]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)."""
    try:
        output, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    return process.returncode, output, errors


Driver = tuple[subprocess.Popen[str], Path, dict[str, Any]]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver of a user who has GPU 0, its home, and what it says of its Ray; both are there until it is spoken to."""
    home = tmp_path_factory.mktemp("home")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(home), "CUDA_VISIBLE_DEVICES": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(home)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, home, json.loads(process.stdout.readline())
    finally:
        if process.poll() is None:
            process.communicate("")


def test_a_trial_without_a_gpu_sees_none_of_the_machines(driver: Driver) -> None:
    """Ray hides nothing from it by itself, and all such trials would share the first one. A task, then an actor."""
    assert driver[2]["gpus"] == ["", ""]


def test_a_private_ray_listens_on_loopback_alone_runs_nothing_without_its_token_and_leaves_no_trace(
    driver: Driver, tmp_path: Path
) -> None:
    """What makes it private is undone when it ends: the next Ray of the same process may be another one."""
    process, at_home, said = driver
    try:
        kinds = {name for name, _, _ in said["listening"]}
        assert {"gcs_server", "raylet"} <= kinds
        needless = (
            "dashboard/dashboard.py",
            "monitor.py",
        )  # the autoscaler's, and the one of the workers' output
        assert not [command for command in said["commands"] if any(file in command for file in needless)]
        # How many workers there are by now is Ray's to say: it may have started one for the next task already.
        assert said["in_advance"] == ["0"]
        addresses = {address.removeprefix("::ffff:") for _, address, _ in said["listening"]}
        assert addresses == {"127.0.0.1"}, said["listening"]

        token = (at_home / ".ray" / "auth_token").read_text().strip()
        home = {"HOME": str(tmp_path / "another user"), "RAY_AUTH_TOKEN_PATH": None}
        none = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": None}
        wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * len(token)}
        right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        # Whoever is refused tries again for a while: side by side.
        joining = [_join(said["gcs"], **home, **others) for others in (none, wrong, right)]
        *refused, (_, output, errors) = [_end_of(process) for process in joining]
        for code, words, reason in refused:
            assert (code, "ran" in words) == (3, False)
            assert "Authentication token is missing or incorrect" in reason
        assert output.split() == ["ran"], errors
    finally:
        output, _ = process.communicate("")
    assert json.loads(output) is True
