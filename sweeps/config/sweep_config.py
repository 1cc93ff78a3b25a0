"""The sweep's configuration: YAML in, checked dataclasses out, every mistake reported with path, value and remedy.

The trial's part (``seed``, ``data``, ``model``, ``train``, ``prune``) has the fields of ``gcp_core.config``; any of its
leaves may be a search range. The rest configures the search itself. Types are checked leaf by leaf with pydantic in
strict mode, so ``true`` is not a number and ``"2"`` is not a whole number.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig, digest
from gcp_core.errors import ConfigError, did_you_mean
from sweeps.config.equal_cost import check_costs, with_baseline
from sweeps.config.files import with_whole_paths
from sweeps.config.leaf import default_of, hints_of, is_mapping_type, members, typed
from sweeps.config.methods import open_slots, with_slots
from sweeps.config.paths import GOES_ON_BEYOND, check_given, deep_as_searched, is_of_paths, without_rungs
from sweeps.config.places import check_store_url, check_url, is_object_store, is_url, join, working_folder
from sweeps.config.processes import with_processes
from sweeps.config.reading import flatten, merge, plain, read_tree
from sweeps.config.search import SearchConfig
from sweeps.config.secrets import refuse_secrets
from sweeps.config.space import RANGE_KEYS, Dimension, Space, read_range, same

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class ResourcesConfig:
    """What one trial gets. ``cpus`` is its number of threads, of all its processes together; ``gpus`` may be a fraction.
    Several train it together, see ``train.processes``; with ``spread`` they may be on several nodes.

    ``retries``: how often a trial is started again, from its last checkpoint, after its process or node was lost; every
    further epoch starts the count again.
    ``hang_minutes``: a trial whose epoch takes longer counts as lost; null = never.
    """

    cpus: int = 1
    gpus: float = 0.0
    retries: int = 2
    hang_minutes: float | None = None
    spread: bool = False

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise ConfigError(f"{self.cpus!r} is not a whole number >= 1", "resources.cpus")
        if not 0 <= self.gpus <= 64:
            raise ConfigError(f"{self.gpus!r} is not a number in [0, 64]", "resources.gpus")
        if self.retries < 0:
            raise ConfigError(f"{self.retries!r} is not a whole number >= 0", "resources.retries")
        if self.hang_minutes is not None and not 0 < self.hang_minutes < float("inf"):
            hint = "longer than the slowest epoch, loading the data included; null = never"
            raise ConfigError(f"{self.hang_minutes!r} is not a number > 0", "resources.hang_minutes", hint)


@dataclass(frozen=True)
class ConfirmConfig:
    """After the search: the front's members are trained again on this many fresh ``seeds`` (0 = not at all)."""

    seeds: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seeds <= 1000:
            raise ConfigError(f"{self.seeds!r} is not a whole number in [0, 1000]", "confirm.seeds")


@dataclass(frozen=True)
class BaselineConfig:
    """The unpruned twin of paths: trained one-cycle for ``epochs``; null = equal compute, see
    :func:`sweeps.config.equal_cost.with_baseline`.

    The number is fixed when a sweep of paths is created. Single trials have a baseline of their own length.
    """

    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(
                f"{self.epochs!r} is not a whole number >= 1",
                "baseline.epochs",
                "null = as many as search.max_path_cost allows, or as the most expensive path costs",
            )


@dataclass(frozen=True)
class TrackingConfig:
    """Where MLflow is. ``uri: null`` is an SQLite file in the sweep's folder."""

    uri: str | None = None


@dataclass(frozen=True)
class SweepConfig:
    """A whole sweep, checked. ``tree`` is the merged config with every default filled in (ranges as written).

    ``ledger`` is a database's URL, or with an object store as ``storage`` a folder on the driver's machine; None = a
    journal in the sweep's folder. ``baseline_given``: the user sets how long the baseline of paths is trained; otherwise
    an existing sweep keeps the number it has (``sweeps.records.folder.as_begun``).
    """

    name: str
    space: Space
    search: SearchConfig
    confirm: ConfirmConfig
    baseline: BaselineConfig
    resources: ResourcesConfig
    tracking: TrackingConfig
    storage: str
    ledger: str | None
    tree: dict[str, Any]
    baseline_given: bool = False

    @property
    def folder(self) -> str:
        """Absolute path of the sweep's folder on the driver's machine: ``storage/name``, unless that is remote."""
        return working_folder(self.storage, self.name, self.ledger)

    @property
    def store(self) -> str | None:
        """The sweep's URL in an object store, None if its folder is used directly."""
        return join(self.storage, self.name) if is_object_store(self.storage) else None

    @property
    def of_paths(self) -> bool:
        """Whether the sweep's trials are paths."""
        return is_of_paths(self.tree)

    @property
    def database(self) -> str | None:
        """The URL of the database that holds the ledger, None = a journal file."""
        return self.ledger if self.ledger is not None and is_url(self.ledger) else None

    def num_trials(self) -> int:
        """Trials besides the baselines; never more than there are distinct points."""
        size = self.space.size()
        if self.search.trials is None:
            return size or 0
        return self.search.trials if size is None else min(self.search.trials, size)

    def digest(self) -> str:
        """Twelve hex digits over everything that may not change when the sweep is continued."""
        return digest(comparable(self.tree))


#: What may change between two runs of the same sweep; of paths also how far they go.
_MAY_CHANGE = (
    "search.trials",
    "search.concurrency",
    "search.share",
    "search.stage_gb",
    "search.stopping",
    "search.rung",
    "search.hours",
    "search.device_hours",
    "search.plateau",
    "search.min_gain",
    "search.max_path_cost",
    "search.keep",
    "resources.",
    "tracking.",
    "storage",
    "confirm.",
    "baseline.",
)


def comparable(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The flat config without what may change between two runs of one sweep."""
    free = (*_MAY_CHANGE, *(GOES_ON_BEYOND if is_of_paths(tree) else ()))
    flat = {path: value for path, value in flatten(tree).items() if not path.startswith(free)}
    if not is_url(flat.get("ledger") or ""):
        flat["ledger"] = None  # a journal may lie anywhere
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per path that differs and may not: ``train.lr: 0.1 -> 0.2``."""
    before, after = comparable(old), comparable(new)
    missing = "(not there)"
    return [
        f"{path}: {before.get(path, missing)} -> {after.get(path, missing)}"
        for path in sorted({*before, *after})
        if not same(path, before.get(path, missing), after.get(path, missing))
    ]


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> SweepConfig:
    """Read, merge and check a config; ConfigError names the first mistake."""
    return check_tree(merge(read_tree(source), overrides or {}))


def load_trial(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> TrialConfig:
    """One trial out of a sweep's config: every range is replaced by its first value unless an override says more."""
    config = load_config(source, overrides)
    return config.space.resolve(config.space.first(), threads=config.resources.cpus)


# --- from the raw tree to dataclasses -----------------------------------------------------------------------------

_TRIAL_PARTS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "prune": PruneConfig,
}
_SWEEP_PARTS: dict[str, type] = {
    "search": SearchConfig,
    "confirm": ConfirmConfig,
    "baseline": BaselineConfig,
    "resources": ResourcesConfig,
    "tracking": TrackingConfig,
}
_TOP = ("name", "seed", *_TRIAL_PARTS, *_SWEEP_PARTS, "storage", "ledger")
_NOT_SET = object()


def check_tree(tree: Mapping[str, Any]) -> SweepConfig:
    """The checked sweep of a raw nested mapping."""
    refuse_secrets(tree)  # first of all: what is refused for another reason is shown
    _refuse_unknown(tree, _TOP, "")
    tree, given = with_slots(with_whole_paths(tree))
    check_given(tree)
    dimensions: list[Dimension] = []
    base: dict[str, Any] = {"seed": _leaf(tree.get("seed", 0), int, "seed", dimensions)}
    merged: dict[str, Any] = {"name": _name(tree), "seed": tree.get("seed", 0)}
    for part, cls in _TRIAL_PARTS.items():
        base[part], merged[part] = _trial_part(tree.get(part, _NOT_SET), cls, part, dimensions)
    sweep_parts: dict[str, Any] = {}
    for part, cls in _SWEEP_PARTS.items():
        values = _section(tree.get(part), cls, part)
        sweep_parts[part] = cls(**values)
        merged[part] = {f.name: plain(getattr(sweep_parts[part], f.name)) for f in dataclasses.fields(cls)}
    asked = (tree.get("train") or {}).get("processes")
    for parts in (base, merged):
        parts["train"] = with_processes(parts["train"], sweep_parts["resources"], asked, dimensions)
    given_epochs = sweep_parts["baseline"].epochs
    merged["storage"] = storage = _storage(tree.get("storage", "runs"))
    merged["ledger"] = ledger = _ledger(tree.get("ledger"), storage)
    if is_of_paths(merged):
        merged["prune"] |= {"until": None} | (
            {"target": None} if merged["prune"]["levels"] is not None else {}
        )
        base["prune"] |= {"until": None} | ({"target": None} if merged["prune"]["levels"] is not None else {})
        dimensions = deep_as_searched(base, dimensions)
    elif merged["train"]["epochs"] is None:
        merged["train"]["epochs"] = base["train"]["epochs"] = TrainConfig().epochs
    space = Space(base, tuple(dimensions), given)
    for path in open_slots(merged, given):
        part, _, name = path.partition(".")
        del merged[part][name]  # each point has its own
    if is_of_paths(merged):
        sweep_parts["search"] = without_rungs(sweep_parts["search"], tree)
        merged["search"] |= {"stopping": "none", "keep": sweep_parts["search"].keep}
        check_costs(space, sweep_parts["search"])
        space, epochs = with_baseline(space, given_epochs, sweep_parts["search"].max_path_cost)
        sweep_parts["baseline"], merged["baseline"] = BaselineConfig(epochs), {"epochs": epochs}
    config = SweepConfig(
        merged["name"],
        space,
        **sweep_parts,
        storage=storage,
        ledger=ledger,
        tree=merged,
        baseline_given=given_epochs is not None,
    )
    _check_whole(config)
    return config


def _check_whole(config: SweepConfig) -> None:
    """What no single leaf can tell: the trial's own checks at the corners and at the points that the user gave, the
    sampler's demands on the space."""
    given = map(config.space.canonical, config.search.points)
    for point in itertools.chain(config.space.corners(), given):
        try:
            config.space.resolve(point, config.resources.cpus)
        except ConfigError as exc:
            varied = ", ".join(f"{path}={value}" for path, value in point.items())
            raise type(exc)(
                exc.message, exc.where, exc.hint or (f"at the point {varied}" if varied else "")
            ) from exc
    if config.search.sampler == "grid":
        for dimension in config.space.dimensions:
            dimension.values()


def _refuse_unknown(tree: Mapping[str, Any], allowed: typing.Iterable[str], prefix: str) -> None:
    names = list(allowed)
    for name, value in tree.items():
        if name in names:
            continue
        elsewhere = [path for path in all_paths() if path.rpartition(".")[2] == name]
        hint = f'did you mean "{elsewhere[0]}"?' if elsewhere else did_you_mean(str(name), names)
        raise ConfigError(f"unknown key (value {value!r})", f"{prefix}{name}", hint)


@functools.cache
def all_paths() -> tuple[str, ...]:
    """Every dotted path a config may hold."""
    parts = {**_TRIAL_PARTS, **_SWEEP_PARTS}
    nested = (f"{part}.{f.name}" for part, cls in parts.items() for f in dataclasses.fields(cls))
    return ("name", "seed", "storage", "ledger", *nested)


def _trial_part(value: Any, cls: type, part: str, dimensions: list[Dimension]) -> tuple[Any, Any]:
    """(plain values for TrialConfig.from_dict, the merged tree with ranges as written)."""
    if value is None and part == "prune":
        return None, None
    given = {} if value is _NOT_SET or value is None else value
    if not isinstance(given, Mapping):
        raise ConfigError(f"{given!r} is not a section", part, f"{part}: {{key: value}}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    _refuse_unknown(given, fields, f"{part}.")
    base: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for name, hint in hints_of(cls).items():
        raw = given.get(name, default_of(fields[name]))
        merged[name] = plain(raw)
        if is_mapping_type(hint) and isinstance(raw, Mapping):
            base[name] = {k: _leaf(v, Any, f"{part}.{name}.{k}", dimensions) for k, v in raw.items()}
        else:
            base[name] = _leaf(raw, hint, f"{part}.{name}", dimensions)
    return base, merged


def _section(value: Any, cls: type, part: str) -> dict[str, Any]:
    """Checked keyword arguments of a part that cannot be searched."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{value!r} is not a section", part, f"{part}: {{key: value}}")
    hints = hints_of(cls)
    _refuse_unknown(value, hints, f"{part}.")
    for name, raw in value.items():
        if (
            isinstance(raw, Mapping)
            and raw
            and set(raw) <= set(RANGE_KEYS)
            and not is_mapping_type(hints[name])
        ):
            raise ConfigError("cannot be searched", f"{part}.{name}", "give one value")
    return {name: typed(raw, hints[name], f"{part}.{name}") for name, raw in value.items()}


def _leaf(raw: Any, hint: Any, path: str, dimensions: list[Dimension]) -> Any:
    """The leaf's value; a range is added to ``dimensions`` and represented by its first value."""
    if isinstance(raw, Mapping) and (set(raw) & {"choice", "low", "high"} or hint is not Any):
        dimension = _range(raw, hint, path)
        dimensions.append(dimension)
        return plain(dimension.extremes()[0])
    return plain(typed(raw, hint, path))


def _range(raw: Mapping[str, Any], hint: Any, path: str) -> Dimension:
    if not raw:
        raise ConfigError("is an empty range", path, "{low: .., high: .., step: ..} or {choice: [..]}")
    if isinstance(raw.get("choice"), list):
        choices = [plain(typed(value, hint, f"{path}.choice.{i}")) for i, value in enumerate(raw["choice"])]
        return read_range(path, {**raw, "choice": choices}, numbers="")
    spec = dict(raw)
    ends = [raw[name] for name in ("low", "high", "step") if name in raw]
    allowed = members(hint)
    whole = all(isinstance(end, int) for end in ends) and (int in allowed or hint is Any)
    numbers = (
        "int" if whole else "float" if float in allowed or hint is Any else "int" if int in allowed else ""
    )
    if numbers and "choice" not in raw:
        kind: Any = int if numbers == "int" else float
        for name in ("low", "high"):
            if name in spec:
                spec[name] = typed(spec[name], kind, f"{path}.{name}")
        spec["step"] = typed(spec.get("step"), kind | None, f"{path}.step")
        spec["log"] = typed(spec.get("log", False), bool, f"{path}.log")
    return read_range(path, spec, numbers=numbers)


def _name(tree: Mapping[str, Any]) -> str:
    name = tree.get("name")
    if not isinstance(name, str) or not _FOLDER_NAME.fullmatch(name) or ".." in name:
        allowed = "letters, digits, dots, dashes, underscores; it names the sweep's folder"
        raise ConfigError(f"{name!r} is not a valid sweep name", "name", allowed)
    return name


def _storage(value: Any) -> str:
    storage = typed(value, str, "storage")
    if is_object_store(storage):
        return check_store_url(storage)
    if not storage:
        raise ConfigError("is empty", "storage", "a folder, for instance runs")
    return storage


def _ledger(value: Any, storage: str) -> str | None:
    """A database's URL, or a folder beside an object store; None = a journal in the sweep's folder."""
    ledger = typed(value, str | None, "ledger")
    remote = is_object_store(storage)
    if ledger is None and remote:
        hint = "a folder on this machine, for instance ledger=ledgers, or postgresql://USER@HOST/DATABASE"
        raise ConfigError("is required when storage is an object store", "ledger", hint)
    if ledger is None or (remote and ledger and not is_url(ledger)):
        return ledger
    return check_url(ledger)
