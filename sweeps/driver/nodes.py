"""What a cluster must have for a sweep: room for a trial, storage on every node, what ``sweeps.worker.node`` asks."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gcp_core.errors import ConfigError
from gcp_core.factory import is_factory_name
from sweeps.config.sweep_config import SweepConfig
from sweeps.driver.capacity import bundles, fits, places, processes, wanted
from sweeps.worker.node import Demands, Node, describe

_KEEP_ONE = (
    "where an autoscaler starts nodes, let it keep one that has room for a trial (min_workers, minReplicas)"
)
#: Clocks further apart than this are worth a word, in seconds. Stores refuse signatures from about 900 s on.
_APART_S = 30.0


def data_paths(config: SweepConfig) -> list[str]:
    """Every path at which the sweep's trials will look for data, or for weights to begin with."""
    trials = [config.space.resolve(point) for point in config.space.corners()]
    found = {path for trial in trials for path in (trial.data.path, trial.model.weights)}
    return sorted(os.path.abspath(os.path.expanduser(path)) for path in found if path)


def own_packages(config: SweepConfig) -> list[str]:
    """The packages (or single modules) of the user's own that the config names as ``package.module:factory``."""

    def words(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            for one in value.values():
                yield from words(one)
        elif isinstance(value, Sequence):
            for one in value:
                yield from words(one)

    return sorted(
        {word.partition(":")[0].split(".")[0] for word in words(config.tree) if is_factory_name(word)}
    )


def demands(config: SweepConfig) -> Demands:
    """What every node that trains is asked for; this machine, the driver's, is the measure."""
    paths, packages = data_paths(config), own_packages(config)
    return Demands(describe(os.uname().nodename, paths, packages), tuple(paths), tuple(packages))


def wrong_clocks(asked: float, nodes: Iterable[Node], answered: float) -> list[str]:
    """A sentence for each node whose clock is far from the driver's, which was ``asked`` when the question went out and
    ``answered`` when the last answer came (seconds since 1970).

    Nothing is decided by a node's clock: how old a sign or a lock is, the file server or the store says.
    """
    found = []
    for node in nodes:
        ahead = max(0.0, node.clock - answered) - max(0.0, asked - node.clock)
        if not node.error and abs(ahead) > _APART_S:
            where = "ahead of" if ahead > 0 else "behind"
            found.append(
                f"the clock of {node.name} is {abs(ahead):,.0f} s {where} the driver's: MLflow's time axis will be as"
                " wrong for its trials, and a store may refuse what it signs (NTP or chrony keeps clocks together)"
            )
    return found


def check_resources(config: SweepConfig, nodes: Sequence[Mapping[str, Any]]) -> None:
    """One node, or with ``resources.spread`` all together, has everything that one trial asks for.

    ``nodes`` are Ray's own records.
    """
    if config.resources.spread:
        wanted_places, there = processes(config), places(config, nodes)
        if there < wanted_places:
            each = ", ".join(f"{kind} {value:g}" for kind, value in bundles(config)["bundles"][0].items())
            message = f"{wanted_places} processes per trial ({each} each), but all nodes together have places for {there}"
            raise ConfigError(message, "resources")
        return
    for kind, number in wanted(config).items():
        most = max((node["Resources"].get(kind, 0.0) for node in nodes), default=0.0)
        if number > most:
            unit = kind if number == 1 else f"{kind}s"
            raise ConfigError(
                f"{number:g} {unit} per trial, but no node has more than {most:g}",
                f"resources.{kind.lower()}s",
                _less(config, kind, most),
            )
    if not fits(config, nodes):
        raise ConfigError(
            f"no node has {config.resources.cpus} CPUs and {config.resources.gpus:g} GPUs at once",
            "resources",
            "lower resources.cpus or resources.gpus: both are for one trial",
        )


def _less(config: SweepConfig, kind: str, most: float) -> str:
    """What to try where no node has as many as a trial asks for."""
    if kind == "GPU" and not most:
        return f"0 trains on the CPU; if there is a GPU, does `nvidia-smi` show it here? {_KEEP_ONE}"
    if not most:
        return f"a cluster's head may keep its CPUs for the driver, so start a worker; {_KEEP_ONE}"
    if processes(config) > 1:
        return "resources.spread: true lets a trial's processes be on several nodes"
    return f"resources.{kind.lower()}s is for one trial; search.concurrency says how many run at a time"


def idle_gpus(config: SweepConfig, nodes: Sequence[Mapping[str, Any]]) -> str:
    """A sentence if there are GPUs of which no trial gets any, else empty. ``nodes`` are Ray's own records."""
    number = sum(node["Resources"].get("GPU", 0.0) for node in nodes)
    if not number or config.resources.gpus or config.tree["train"].get("device") == "cpu":
        return ""
    return (
        f"{number:g} GPUs are not used: resources.gpus is 0, so trials run on CPUs. resources.gpus=1 gives each trial"
        " a GPU, 0.25 a quarter of one; train.device=cpu silences this"
    )


def check_shared(storage: str, see: Callable[[str], Iterable[tuple[str, bool]]]) -> None:
    """Every node sees the same storage: a file written here exists there.

    Args:
        see: a path -> (node's name, whether it exists on that node).
    """
    folder = Path(os.path.abspath(os.path.expanduser(storage)))
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".shared-{uuid.uuid4().hex}"
    try:
        marker.write_text("x", encoding="utf-8")
        blind = [name for name, sees in see(str(marker)) if not sees]
    finally:
        marker.unlink(missing_ok=True)
        for parent in created:
            parent.rmdir()
    if blind:
        raise ConfigError(
            f"{folder} is local: {len(blind)} node(s) of the cluster cannot see it ({', '.join(blind)})",
            "storage",
            "give a folder that all nodes share (NFS, Lustre, a ReadWriteMany volume) or an object store (s3://, gs://)",
        )


def check_reach(url: str, problems: Iterable[tuple[str, str]]) -> None:
    """Every node may write to the object store.

    Args:
        problems: (node's name, what is wrong there; empty = nothing).
    """
    found = [f"{name}: {problem}" for name, problem in problems if problem]
    if found:
        raise ConfigError(
            f"{len(found)} node(s) cannot use {url} ({'; '.join(found)})",
            "storage",
            "every node needs credentials (environment, profile or the machine's role) and a way to the store",
        )
