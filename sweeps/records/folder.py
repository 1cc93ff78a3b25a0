"""A sweep on disk: which files its folder holds, and whether it may be continued with a given config."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gcp_core.errors import ConfigError
from gcp_core.redaction import clean
from gcp_core.schema import LATENCIES
from sweeps.config.paths import GOES_ON_BEYOND, is_of_paths
from sweeps.config.reading import merge, to_yaml
from sweeps.config.sweep_config import SweepConfig, check_tree, differences
from sweeps.records.disk import write_whole
from sweeps.records.layout import CONFIG, ENTRY


@dataclass(frozen=True)
class Entry:
    """``sweep.json``: how to find the sweep in MLflow, and whether it has ended.

    ``state`` is ``running``, ``complete`` (every trial ended and is written), ``interrupted`` or ``failed``; ``running``
    is also what a killed driver leaves behind. ``trials`` and ``confirm_seeds`` say how much was asked for by then, and
    ``asked`` names the config in every detail. ``message`` says why it ended, ``seconds`` for how long drivers ran
    trials, ``trial_seconds`` how long the trials took, added up (lost and unfinished attempts included),
    ``device_seconds`` the same, each times the devices that it had (None = an earlier version wrote it). ``views``: title
    -> address below the MLflow UI's own, of the views that were kept with the experiment. ``address`` is that of the Ray
    cluster on which the last driver ran it; None = a private Ray, or not known.
    """

    id: str
    name: str
    tracking_uri: str | None
    experiment: str
    parent_run_id: str | None
    config_digest: str
    state: str = "running"
    trials: int = 0
    confirm_seeds: int = 0
    message: str = ""
    seconds: float = 0.0
    trial_seconds: float = 0.0
    device_seconds: float | None = None
    asked: str = ""
    views: dict[str, str] = field(default_factory=dict)
    address: str | None = None


def read_entry(folder: Path) -> Entry | None:
    """The sweep's entry, None if there is no sweep in this folder."""
    path = folder / ENTRY
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Entry(**{f.name: values[f.name] for f in dataclasses.fields(Entry) if f.name in values})
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"is not a valid sweep entry: {exc}", str(path)) from exc


def existing_entry(folder: Path) -> Entry:
    """The sweep's entry; raises ConfigError if there is no sweep in this folder."""
    entry = read_entry(folder)
    if entry is None:
        raise ConfigError("there is no sweep in this folder", str(folder), "a sweep's folder is STORAGE/NAME")
    return entry


def write_entry(folder: Path, entry: Entry) -> None:
    """Replace ``sweep.json`` in one step."""
    write_whole(folder / ENTRY, json.dumps(clean(dataclasses.asdict(entry)), indent=1) + "\n")


def write_config(folder: Path, config: SweepConfig) -> None:
    """Replace ``config.yaml`` (everything filled in, ranges as written) in one step."""
    write_whole(folder / CONFIG, to_yaml(clean(config.tree)))


def read_config(folder: Path) -> SweepConfig:
    """The config a sweep was last run with."""
    path = folder / CONFIG
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as exc:
        raise ConfigError(
            "there is no sweep in this folder", str(folder), "a sweep's folder is STORAGE/NAME"
        ) from exc
    return check_tree(tree)


def check_unchanged(config: SweepConfig) -> None:
    """Refuse to continue a sweep with another config; names every difference."""
    folder = Path(config.folder)
    if not (folder / CONFIG).is_file():
        return
    before = read_config(folder)
    times = _measured_otherwise(before, config)
    changed = [*differences(before.tree, config.tree), *times]
    if changed:
        of_paths = (*GOES_ON_BEYOND, "baseline") if is_of_paths(config.tree) else ()
        resources = (
            "resources (but not on what times are measured that the search goes by)" if times else "resources"
        )
        free = ", ".join([*of_paths, "confirm", resources, "tracking", "storage"])
        raise ConfigError(
            f"the sweep exists with a different config: {'; '.join(changed)}",
            str(folder),
            "--new starts a new sweep beside it; what may change: search (but not its sampler, objectives, constraints, "
            f"points), {free}",
        )


def _measured_otherwise(before: SweepConfig, now: SweepConfig) -> list[str]:
    """What differs of that on which times are measured, where the search compares them: a model would win by its trial's
    number of threads.
    """
    if not any(map(before.search.needs, (*LATENCIES, "device_hours"))):
        return []
    old, new = before.resources, now.resources
    pairs = {"resources.gpus": (old.gpus, new.gpus)}
    if not (old.gpus and new.gpus):  # on a GPU threads do not matter
        pairs["resources.cpus"] = (old.cpus, new.cpus)
    return [f"{path}: {was:g} -> {wanted:g}" for path, (was, wanted) in pairs.items() if was != wanted]


def as_begun(config: SweepConfig) -> SweepConfig:
    """The config with what was fixed when its sweep was created: for how long the baseline of paths is trained, and the
    order of the objectives, by which the ledger holds their values.

    A target, cap or ``search.max_path_cost`` that is raised later moves nothing that accuracies are compared with;
    only ``baseline.epochs`` itself does.
    """
    folder = Path(config.folder)
    if not (folder / CONFIG).is_file():
        return config
    begun, fixed = read_config(folder), dict[str, Any]()
    goals, wanted = begun.search.objectives, config.search.objectives
    if goals == wanted and list(goals) != list(wanted):
        fixed["search.objectives"] = goals
    if is_of_paths(config.tree) and not config.baseline_given:
        fixed["baseline.epochs"] = begun.baseline.epochs
    return check_tree(merge(config.tree, fixed)) if fixed else config
