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
    blocks = "\n".join(text for language, text in fenced if language == "bash").replace("\\\n", " ")
    lines = [line[line.index("gcp-sweep ") :] for line in blocks.splitlines() if "gcp-sweep " in line]
    return [_rayjob()["entrypoint"], *(line.split("   #")[0] for line in lines)]


def test_the_cluster_file_keeps_to_rays_schema() -> None:
    import jsonschema
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(_cluster(), schema)


#: KubeRay's names and types for what the manifest says, from the API types ``ray.io/v1`` (``RayJobSpec``,
#: ``RayClusterSpec``, ``HeadGroupSpec``, ``WorkerGroupSpec``): the operator drops fields that it does not know.
_WORDS = {"type": "object", "additionalProperties": {"type": "string"}}
_KUBERAY = {
    "RayJobSpec": {
        "entrypoint": {"type": "string"},
        "backoffLimit": {"type": "integer"},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": {"type": "integer"},
        "rayClusterSpec": {"type": "object"},
    },
    "RayClusterSpec": {
        "rayVersion": {"type": "string"},
        "authOptions": {"type": "object", "properties": {"mode": {"enum": ["disabled", "token"]}}},
        "headGroupSpec": {"type": "object"},
        "workerGroupSpecs": {"type": "array"},
    },
    "HeadGroupSpec": {"rayStartParams": _WORDS, "template": {"type": "object", "required": ["spec"]}},
    "WorkerGroupSpec": {
        "groupName": {"type": "string"},
        "replicas": {"type": "integer"},
        "minReplicas": {"type": "integer"},
        "maxReplicas": {"type": "integer"},
        "rayStartParams": _WORDS,
        "template": {"type": "object", "required": ["spec"]},
    },
}


def test_the_manifest_has_no_field_that_kuberay_would_drop_and_none_of_another_type() -> None:
    import jsonschema

    job = next(yaml.safe_load_all((DEPLOY / "rayjob.yaml").read_text()))
    assert (job["apiVersion"], set(job)) == ("ray.io/v1", {"apiVersion", "kind", "metadata", "spec"})
    cluster = job["spec"]["rayClusterSpec"]
    parts = [
        ("RayJobSpec", job["spec"]),
        ("RayClusterSpec", cluster),
        ("HeadGroupSpec", cluster["headGroupSpec"]),
    ]
    for name, part in [*parts, *(("WorkerGroupSpec", group) for group in cluster["workerGroupSpecs"])]:
        closed = {"type": "object", "properties": _KUBERAY[name], "additionalProperties": False}
        jsonschema.validate(part, closed)


def test_no_trial_runs_on_the_head_and_the_dashboard_stays_on_loopback() -> None:
    (start,) = [line for line in _cluster()["head_start_ray_commands"] if "ray start" in line]
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert _rayjob()["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_submitted_job_finds_our_command_on_the_head_and_a_stopped_one_has_time_to_end() -> None:
    (start,) = [line for line in _cluster()["head_start_ray_commands"] if "ray start" in line]
    ray = re.search(r"(\S+)/ray start", start).group(1)
    assert f" PATH={ray}:$PATH " in start, (
        "a job has the PATH of the head's processes, and gcp-sweep is beside ray"
    )
    (seconds,) = re.findall(r" RAY_JOB_STOP_WAIT_TIME_S=(\d+) ", start)
    (container,) = _rayjob()["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": seconds} in container["env"]
    assert int(seconds) > 30 + 60, "for so long a driver that ends may wait for MLflow alone"


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
        assert {"RAY_USAGE_STATS_ENABLED=0", "MLFLOW_DISABLE_TELEMETRY=true"} <= set(start.split())
    spec = _rayjob()["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        assert {"name": "MLFLOW_DISABLE_TELEMETRY", "value": "true"} in container["env"]
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
    for name in ("ray-cluster.yaml", "Dockerfile"):
        assert f"ray[default]=={locked}" in (DEPLOY / name).read_text()
    named = [
        pin for name in _files() for pin in re.findall(r"([\w\[\]-]+)==([\d.]+)", (DEPLOY / name).read_text())
    ]
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), flags=re.M))
    assert named
    for package, version in named:
        assert pins[package.partition("[")[0]] == version


def _files() -> list[str]:
    return sorted(path.name for path in DEPLOY.iterdir())


def _dockerfile() -> list[str]:
    """Its instructions, continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_the_image_is_slim_not_root_and_takes_its_versions_from_the_lock_file() -> None:
    steps = _dockerfile()
    bases = [step.split()[1] for step in steps if step.startswith("FROM ")]
    python = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)
    assert len(bases) == 2
    assert all(base.startswith(f"python:{python}-slim") for base in bases)
    (user,) = [step.split()[1] for step in steps if step.startswith("USER ")]
    assert user == "1000", "a number, so that runAsNonRoot can be checked"
    assert any(f"--uid {user}" in step for step in steps)
    (install,) = [step for step in steps if "pip install" in step]
    assert "--constraint requirements.lock" in install


def test_the_image_copies_what_exists_and_the_ignore_file_lets_it_through() -> None:
    copied = [
        word
        for step in _dockerfile()
        if step.startswith("COPY ") and "--from" not in step
        for word in step.split()[1:-1]
    ]
    assert {"gcp_core", "sweeps", "analysis", "requirements.lock"} <= set(copied)
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in allowed


def test_extras_of_the_image_exist() -> None:
    import tomllib

    (install,) = [step for step in _dockerfile() if "pip install" in step]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.search(r'"\.\[([\w,]+)\]"', install).group(1).split(",")
    assert {"sweep"} <= set(asked) <= set(extras)


def test_the_manifest_runs_the_image_that_the_page_builds_as_its_user() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.M).group(1)
    spec = _rayjob()["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"].endswith(f"/gcp-sweep:{version}")
        assert f"--tag {container['image']}" in (ROOT / "docs" / "cluster.md").read_text()
        assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}


def test_the_workers_have_a_cpu_for_every_trial_that_runs_at_a_time_and_no_more() -> None:
    from sweeps.config.reading import parse_overrides

    overrides = [
        word for word in shlex.split(_rayjob()["entrypoint"]) if "=" in word and not word.startswith("--")
    ]
    config = load_config(ROOT / "configs" / "cifar10_quick.yaml", parse_overrides(overrides))
    (group,) = _rayjob()["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    slots = group["replicas"] * int(container["resources"]["limits"]["cpu"]) // config.resources.cpus
    assert slots == config.search.concurrency
    assert slots < config.search.trials, "or the sampler would learn from nothing"
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"], "nothing here scales by itself"


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


def test_the_overrides_of_the_manifest_are_accepted() -> None:
    from sweeps.config.reading import parse_overrides

    words = shlex.split(_rayjob()["entrypoint"])
    overrides = [word for word in words if "=" in word and not word.startswith("--")]
    config = load_config(ROOT / "configs" / "cifar10_quick.yaml", parse_overrides(overrides))
    assert config.folder.startswith("/shared/sweeps/")
