"""Joining a Ray cluster that refuses, and what Tune says when it gives up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import OutOfMemoryError

from gcp_core.errors import ConfigError
from sweeps.driver.cluster import WorkersLost, _start_private, ray_cluster, run_on_ray
from tests.sweeps.inline import RUNNER, config, new_conductor

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[3]
JOIN = """
import sys
from pathlib import Path
from gcp_core.errors import ConfigError
from sweeps.driver.cluster import ray_cluster
from tests.sweeps.inline import config
try:
    with ray_cluster(config(Path(sys.argv[1])), "127.0.0.1:6399"):
        pass
except ConfigError as exc:
    print(exc)
"""


def test_a_missing_token_is_one_line_that_says_where_ray_looks_for_it(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    said = subprocess.run(
        [sys.executable, "-c", JOIN, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert said.stdout == (
        "--address: cannot connect to a Ray cluster: 127.0.0.1:6399: Token authentication is enabled but no "
        "authentication token was found (~/.ray/auth_token or RAY_AUTH_TOKEN is where Ray looks for it)\n"
    ), said.stderr


@pytest.mark.parametrize("stopped", [False, True])
def test_workers_that_are_lost_while_the_user_ends_the_sweep_begin_no_other_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    conductor, _, _ = new_conductor(config(tmp_path))

    class GivesUp:
        def __init__(self, *_: object, **__: object) -> None:
            """What is to be run does not matter."""

        def fit(self) -> None:
            conductor.next_job()
            if stopped:
                conductor.interrupt("interrupted")
            raise RuntimeError("Tune failed") from OutOfMemoryError("low on memory")

    monkeypatch.setattr("ray.tune.Tuner", GivesUp)
    if stopped:
        run_on_ray(conductor, tmp_path, RUNNER)
    else:
        with pytest.raises(WorkersLost, match="low on memory"):
            run_on_ray(conductor, tmp_path, RUNNER)
    assert [job.trial_id for job in conductor.active] == ["b0000"]


def test_ray_client_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    """Tune would run in a process of the cluster, with a copy of the searcher that has no conductor."""
    with (
        pytest.raises(
            ConfigError, match=r"--address: ray://head:10001: the driver has to run on a machine of the"
        ),
        ray_cluster(config(tmp_path), "ray://head:10001"),
    ):
        pass


def test_a_cluster_that_is_not_there_says_how_to_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def refuse(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance. Please specify")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigError) as caught, ray_cluster(config(tmp_path), "auto"):
        pass
    assert caught.value.message.startswith(
        "cannot connect to a Ray cluster: auto: Could not find any running"
    )
    assert "`ray start --head`" in caught.value.hint


def test_a_relative_cache_folder_is_that_of_the_command_in_trials_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune lets every trial work in a folder of its own, where each would decode all images anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GCP_CACHE_DIR", "cache")
    inherited = []
    monkeypatch.setattr("ray.init", lambda **_: inherited.append(os.environ["GCP_CACHE_DIR"]))
    _start_private(1, {}, {})
    assert inherited == [f"{tmp_path}/cache"]
    assert os.environ["GCP_CACHE_DIR"] == "cache"
