"""One trial, and what makes two trials the same."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from gcp_core.config.checks import default_of, integer
from gcp_core.config.data_model import DataConfig, ModelConfig
from gcp_core.config.prune import AUTO, DEFAULT_UNTIL, INTERVAL_CLOCK, PruneConfig
from gcp_core.config.train import CYCLES, TrainConfig
from gcp_core.errors import ConfigError, did_you_mean, required

#: Channels that tensor cores take at a time.
_BLOCK = 8


@dataclass(frozen=True)
class TrialConfig:
    """One trial. ``prune=None`` is the baseline: the same training, nothing removed.

    >>> TrialConfig(train=TrainConfig(epochs=4)).prune.criterion
    'frs'
    """

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    prune: PruneConfig | None = field(default_factory=PruneConfig)
    threads: int = 1
    baseline_epochs: int | None = None

    def __post_init__(self) -> None:
        integer("seed", self.seed, 0)
        integer("threads", self.threads, 1)
        if self.baseline_epochs is not None:
            integer("baseline.epochs", self.baseline_epochs, 1)
        if self.prune is not None and self.prune.round_to == AUTO:
            # Said or worked out, it is the same trial: its key is computed where no GPU may be, and names what is done.
            object.__setattr__(self, "prune", dataclasses.replace(self.prune, round_to=_multiple(self.train)))
        if self.is_path:
            object.__setattr__(self, "prune", _prune_of_path(self))
        elif self.prune is not None:
            object.__setattr__(self, "prune", _prune_of_single(self.prune))

    @property
    def is_path(self) -> bool:
        """Whether the trial ends every cycle with a finished model (``train.schedule: cycles``)."""
        return self.train.schedule == CYCLES

    @property
    def pruning(self) -> PruneConfig:
        """``prune`` of a trial that prunes; ValueError for a baseline."""
        return required(self.prune, "prune of a baseline")

    def baseline(self) -> TrialConfig:
        """The unpruned twin: same data, model, training and seed.

        A path's is trained one-cycle for ``baseline_epochs`` (None = as many as its dense phase): meant for about the
        same compute as the path.
        """
        if not self.is_path:
            return dataclasses.replace(self, prune=None)
        return self._dense(self.baseline_epochs or self.pruning.dense_epochs)

    def dense_phase(self) -> TrialConfig:
        """The unpruned trial that trains, epoch by epoch, what this one trains until its first event."""
        return self._dense(self.pruning.dense_epochs) if self.is_path else self.baseline()

    def _dense(self, epochs: int) -> TrialConfig:
        train = dataclasses.replace(
            self.train, schedule="one_cycle", epochs=epochs, restart=1.0, pace="linear"
        )
        return dataclasses.replace(self, train=train, prune=None, baseline_epochs=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values; inverse of :meth:`from_dict`."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrialConfig:
        """Build from nested plain values; unknown keys are refused with their path."""
        parts: dict[str, Any] = dict(values)
        for name, part in _PARTS.items():
            given = parts.get(name)
            if isinstance(given, dict):
                parts[name] = _build(part, given, f"{name}.")
            elif name in parts and not isinstance(given, part) and not (name == "prune" and given is None):
                raise ConfigError(
                    f"{given!r} is not a mapping of keys", name, "leave it out for its defaults"
                )
        return _build(cls, parts, "")

    def identity(self) -> dict[str, Any]:
        """:meth:`to_dict` without what cannot change the result: ``threads``, and how the images are read.

        ``data.path`` stays: a key is computed without looking at the images, and the path is what tells two data sets
        of one kind apart. Nor does what a path may go on beyond: its target, its cap on the epochs.
        """
        values = self.to_dict()
        del values["threads"], values["baseline_epochs"]
        if self.is_path:
            del values["train"]["epochs"], values["prune"]["target"], values["prune"]["until"]
        for name, part in _PARTS.items():
            for item in dataclasses.fields(part) if values[name] is not None else ():
                kind = item.metadata.get("identity")
                if kind == "never":
                    values[name][item.name] = item.default
                elif kind == "none" or (
                    kind == "where set" and values[name].get(item.name) == default_of(item)
                ):
                    values[name].pop(item.name, None)
        return values

    def config_id(self) -> str:
        """Twelve hex digits that name the :meth:`identity` without the seed (replicates share it)."""
        return digest({k: v for k, v in self.identity().items() if k != "seed"})

    def key(self) -> str:
        """Twelve hex digits that name the :meth:`identity`: equal keys are the same trial."""
        return self._key

    @functools.cached_property
    def _key(self) -> str:
        # Asked for again and again while a trial runs, and as dear as all that is kept.
        return digest(self.identity())


def _multiple(train: TrainConfig) -> int:
    """``prune.round_to: auto``: 8 where the training's arithmetic is that of tensor cores, 1 elsewhere.

    Tensor cores take bf16, fp16 and TF32 in blocks of 8 channels (fewer are filled up with zeros); float32 has no blocks.
    """
    tensor_cores = train.precision != "fp32" or train.tf32
    return _BLOCK if tensor_cores and train.device != "cpu" else 1


def _prune_of_path(config: TrialConfig) -> PruneConfig:
    """A path's pruning, checked and with what follows from its being a path filled in."""
    prune = config.prune
    if prune is None:
        raise ConfigError("a path prunes", "prune", "train.schedule: one_cycle trains without pruning")
    if prune.start is None:
        hint = "epochs of the dense phase, for instance 4"
        raise ConfigError("is required with train.schedule: cycles", "prune.start", hint)
    if prune.start == 0:
        message = "0: a path has a dense phase, whose model is its first"
        raise ConfigError(
            message, "prune.start", "prune.start: 1, or a single trial (train.schedule: one_cycle)"
        )
    for name in ("count", "hidden_count", "finish"):
        if getattr(prune, name):
            raise _meaningless(name, getattr(prune, name), "ratio or levels say how much")
    if prune.clock != INTERVAL_CLOCK:
        raise _meaningless("clock", prune.clock, "start and interval say when a path is cut")
    if prune.until not in (None, DEFAULT_UNTIL):
        raise _meaningless("until", prune.until, "target says how deep a path goes")
    cap = config.train.epochs
    if cap is not None and cap < prune.start:
        hint = f"at least prune.start ({prune.start}); null = no cap"
        raise ConfigError(f"{cap} epochs are shorter than the dense phase", "train.epochs", hint)
    kind = None if prune.levels is not None else prune.ratio_of or "cost"
    return dataclasses.replace(prune, until=None, ratio_of=kind)


def _meaningless(name: str, value: Any, hint: str) -> ConfigError:
    return ConfigError(f"{value!r} has no meaning with train.schedule: cycles", f"prune.{name}", hint)


def _prune_of_single(prune: PruneConfig) -> PruneConfig:
    """A single trial's pruning, without what only paths have."""
    for name, given in (("levels", prune.levels is not None), ("ratio_of", prune.ratio_of == "cost")):
        if given:
            value = getattr(prune, name)
            raise ConfigError(f"{value!r}: only paths have it", f"prune.{name}", "train.schedule: cycles")
    if prune.until is None:
        raise ConfigError("None: only paths have it", "prune.until", "1.0 = until the last epoch")
    # What it means anyway: said or not, it is the same trial.
    return dataclasses.replace(prune, ratio_of=None)


_PARTS = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "prune": PruneConfig}


def _build(cls: type, values: dict[str, Any], prefix: str) -> Any:
    allowed = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in allowed:
            raise ConfigError(
                f"unknown key (value {values[name]!r})", f"{prefix}{name}", did_you_mean(name, allowed)
            )
    return cls(**values)


def digest(values: Any) -> str:
    """First twelve hex digits of the SHA-256 of canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
