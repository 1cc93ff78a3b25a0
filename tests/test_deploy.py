"""The files in ``deploy/`` parse, keep to Ray's own schema, and name commands, options and config keys that exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.config.sweep_config import all_paths, load_config

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"


def _rayjob() -> dict[str, Any]:
    job, claim = yaml.safe_load_all((DEPLOY / "rayjob.yaml").read_text())
    assert (job["kind"], claim["kind"]) == ("RayJob", "PersistentVolumeClaim")
    return job["spec"]


def _cluster() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())


def _gcp_sweep_lines() -> list[str]:
    """Every ``gcp-sweep`` command of the manifest and of the page, continuation lines joined."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.S | re.M)
    blocks = "\n".join(text for language, text in fenced if not language).replace("\\\n", " ")
    lines = [line[line.index("gcp-sweep ") :] for line in blocks.splitlines() if "gcp-sweep " in line]
    return [_rayjob()["entrypoint"], *(line.split("   #")[0] for line in lines)]


def test_the_cluster_file_keeps_to_rays_schema() -> None:
    import jsonschema
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(_cluster(), schema)


def test_no_trial_runs_on_the_head_and_the_dashboard_stays_on_loopback() -> None:
    (start,) = [line for line in _cluster()["head_start_ray_commands"] if "ray start" in line]
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert _rayjob()["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_options_of_ray_start_exist() -> None:
    from click.testing import CliRunner
    from ray.scripts.scripts import start

    known = set(re.findall(r"--[a-z-]+", CliRunner().invoke(start, ["--help"]).output))
    for line in [*_cluster()["head_start_ray_commands"], *_cluster()["worker_start_ray_commands"]]:
        if "ray start" in line:
            assert set(re.findall(r"--[a-z-]+", line)) <= known, line


def test_both_files_ask_for_a_token_and_send_no_statistics() -> None:
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [line for line in _cluster()[commands] if "ray start" in line]
        assert "RAY_AUTH_MODE=token" in start
        assert "RAY_USAGE_STATS_ENABLED=0" in start
    spec = _rayjob()["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/shared", "/config"}


def test_a_worker_reserves_a_gpu_only_if_the_config_of_the_manifest_asks_for_one() -> None:
    named = re.search(r"--from-file=sweep.yaml=(\S+)", (DEPLOY / "rayjob.yaml").read_text()).group(1)
    config = load_config(ROOT / named)
    (group,) = _rayjob()["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    asked = {"nvidia.com/gpu"} if config.resources.gpus else set()
    assert set(container["resources"]["limits"]) - {"cpu", "memory"} == asked


def test_versions_are_those_of_the_lock_file() -> None:
    locked = re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(), flags=re.M).group(1)
    assert _rayjob()["rayClusterSpec"]["rayVersion"] == locked
    for name in ("ray-cluster.yaml", "rayjob.yaml"):
        assert f"ray[default]=={locked}" in (DEPLOY / name).read_text()


@pytest.mark.parametrize("line", _gcp_sweep_lines())
def test_commands_of_the_page_and_the_manifest_name_real_options_and_keys(line: str) -> None:
    from sweeps.cli import main

    words = [word for word in shlex.split(line)[1:] if word not in ("...", "[...]")]
    command = main.commands[words[0]]
    options = {name for parameter in command.params for name in parameter.opts}
    for word in words[1:]:
        if word.startswith("--"):
            assert word.split("=")[0] in options, line
        elif "=" in word:
            key = word.split("=")[0]
            assert key in all_paths(), line


def test_the_overrides_of_the_manifest_are_accepted(tmp_path: Path) -> None:
    from sweeps.config.reading import parse_overrides

    words = shlex.split(_rayjob()["entrypoint"])
    overrides = [word for word in words if "=" in word and not word.startswith("--")]
    config = load_config(ROOT / "configs" / "cifar10_quick.yaml", parse_overrides(overrides))
    assert config.folder.startswith("/shared/sweeps/")
