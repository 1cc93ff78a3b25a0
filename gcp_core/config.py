"""What one trial is made of: frozen dataclasses that check themselves.

``sweeps.config.sweep_config`` builds these from YAML; a notebook builds them by hand. A path such as ``prune.interval``
in an error message is the path in the YAML file too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from gcp_core.errors import ConfigError, did_you_mean

OPTIMIZERS = ("sgd", "adamw")
CYCLES = "cycles"
LR_SCHEDULES = ("one_cycle", "step", "cosine", "constant", CYCLES)
PRECISIONS = ("fp32", "bf16")
AUGMENTATIONS = ("auto", "none", "crop", "crop_flip")
RESIDUAL_MODES = ("coupled", "scatter", "inner")
COST_KINDS = ("macs", "params")
RATIO_KINDS = ("units", "cost")
NORMALISATIONS = ("auto", "none", "unit_l2", "mean", "max")
ALLOCATORS = ("global", "uniform")

#: Metadata of fields that say how the work is done and not what comes out of it: no part of a trial's identity.
_HANDLING = {"identity": "never"}
#: Metadata of fields that came later, with a default that means "as before": part of the identity only where they are
#: set, so that every older configuration keeps its key.
_LATER = {"identity": "where set"}


def _number(where: str, value: Any, low: float, high: float, *, open_low: bool = False) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if ok and low <= value <= high and not (open_low and value == low):
        return
    left = "(" if open_low else "["
    right = ")" if math.isinf(high) else "]"
    raise ConfigError(f"{value!r} is not a number in {left}{low}, {high}{right}", where)


def _integer(where: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{value!r} is not a whole number >= {low}", where)


def _milestone(where: str, value: Any) -> float:
    """An epoch as an int (YAML readers may have made 100.0 of it), a share below 1 as it is."""
    _number(where, value, 0.0, math.inf)
    if value >= 1 and value != int(value):
        raise ConfigError(f"{value!r} is neither an epoch nor a share", where, "a whole number, or below 1")
    return int(value) if value >= 1 else value


def _one_of(where: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{value!r} is unknown", where, did_you_mean(value, allowed))


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split.

    Attributes:
        name: ``digits``, ``parquet``, ... or ``package.module:factory``.
        path: folder of the files; required by all but ``digits``, no default.
        download: ``cifar10`` and ``cifar100`` may fetch their files into ``path``.
        image_size: ``imagefolder``: shorter side resized to this, then the centre is cut out (None = all images
            have one size already).
        channels: ``imagefolder`` and ``parquet``: 3 = RGB, 1 = grey; None = RGB unless all images are grey.
        val_share: share of the training images held out for validation (stratified).
        val_images: a number of images instead of the share.
        train_images: train on a stratified subset of this many images (None = all that are left).
        split_seed: seeds split and subset; deliberately apart from the trial's seed, so that trials with
            different seeds are judged on the same images.
        augment: ``auto`` is ``crop`` for digits (a mirrored 2 is no digit) and ``crop_flip`` otherwise.
        crop_padding: pixels of zero padding before the random crop (None = an eighth of the image's side).
        streaming: read images from disk batch by batch. ``auto`` does so where the decoded set is larger than
            ``memory_gib`` (None = a quarter of the machine's memory, half of a GPU's). The batches are the same.
        workers: processes that read ahead while streaming (0 = none); no influence on the batches.
    """

    name: str = "digits"
    path: str | None = None
    download: bool = field(default=False, metadata=_HANDLING)
    image_size: int | None = None
    channels: int | None = field(default=None, metadata=_LATER)
    val_share: float = 0.1
    val_images: int | None = None
    train_images: int | None = None
    split_seed: int = 0
    augment: str = "auto"
    crop_padding: int | None = None
    streaming: bool | str = field(default="auto", metadata=_HANDLING)
    memory_gib: float | None = field(default=None, metadata=_HANDLING)
    workers: int = field(default=2, metadata=_HANDLING)

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ConfigError(f"{self.name!r} is not a data set's name", "data.name")
        _number("data.val_share", self.val_share, 0.0, 0.9, open_low=True)
        if self.val_images is not None:
            _integer("data.val_images", self.val_images, 1)
        if self.train_images is not None:
            _integer("data.train_images", self.train_images, 1)
        if self.image_size is not None:
            _integer("data.image_size", self.image_size, 1)
        if self.channels not in (None, 1, 3) or isinstance(self.channels, bool):
            raise ConfigError(
                f"{self.channels!r} is not a number of channels", "data.channels", "1, 3 or null"
            )
        _integer("data.split_seed", self.split_seed, 0)
        _one_of("data.augment", self.augment, AUGMENTATIONS)
        if self.crop_padding is not None:
            _integer("data.crop_padding", self.crop_padding, 0)
        if not isinstance(self.streaming, bool) and self.streaming != "auto":
            raise ConfigError(f"{self.streaming!r} is unknown", "data.streaming", "auto, true or false")
        if self.memory_gib is not None:
            _number("data.memory_gib", self.memory_gib, 0.0, math.inf)
        _integer("data.workers", self.workers, 0)


@dataclass(frozen=True)
class ModelConfig:
    """Which network. ``width`` multiplies every channel count; ``weights`` starts from a state dict file.

    Output layers that the file has for another number of classes start from random weights.
    """

    name: str = "vgg_tiny"
    width: float = 1.0
    weights: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ConfigError(f"{self.name!r} is not a model's name", "model.name")
        _number("model.width", self.width, 0.0, 64.0, open_low=True)


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained.

    Attributes:
        lr: the peak learning rate.
        epochs: None = 20; with ``cycles`` None = as many as the path takes, a number = no cycle that would end later.
        schedule: ``one_cycle`` (linear up over ``warmup``, linear down to zero), ``step`` (times ``gamma`` at each
            of ``milestones``), ``cosine``, ``constant``: none of them depends on the pruning. ``cycles``: the trial is a
            path, one-cycle until ``prune.start``, then one cycle after every event.
        restart: ``cycles``: the share of ``lr`` at which a cycle starts.
        pace: ``cycles``: the shape of a cycle, ``linear`` (down to zero), ``slow_start``, or ``package.module:pace``.
        milestones: epochs (whole numbers) or shares of all epochs (below 1).
        precision: ``bf16`` trains under autocast; the final evaluation is always float32.
        eval_images: validation images looked at after each epoch (None = all); the final evaluation uses all.
        device: ``auto`` takes a GPU if the process sees one.
    """

    epochs: int | None = None
    batch_size: int = 128
    lr: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5.0e-4
    schedule: str = "one_cycle"
    warmup: float = 0.25
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    label_smoothing: float = 0.0
    precision: str = "fp32"
    channels_last: bool = True
    eval_images: int | None = None
    device: str = "auto"
    restart: float = field(default=1.0, metadata=_LATER)
    pace: str = field(default="linear", metadata=_LATER)

    def __post_init__(self) -> None:
        if self.epochs is None and self.schedule != CYCLES:
            object.__setattr__(self, "epochs", 20)
        if self.epochs is not None:
            _integer("train.epochs", self.epochs, 1)
        _number("train.restart", self.restart, 0.0, 1.0, open_low=True)
        if not self.pace or not isinstance(self.pace, str):
            raise ConfigError(f"{self.pace!r} is not a pace's name", "train.pace")
        if self.schedule != CYCLES:
            for name, default in (("restart", 1.0), ("pace", "linear")):
                if getattr(self, name) != default:
                    raise ConfigError("only cycles have it", f"train.{name}", "train.schedule: cycles")
        _integer("train.batch_size", self.batch_size, 2)
        _number("train.lr", self.lr, 0.0, math.inf, open_low=True)
        _one_of("train.optimizer", self.optimizer, OPTIMIZERS)
        _number("train.momentum", self.momentum, 0.0, 1.0)
        _number("train.weight_decay", self.weight_decay, 0.0, math.inf)
        _one_of("train.schedule", self.schedule, LR_SCHEDULES)
        _number("train.warmup", self.warmup, 0.0, 1.0)
        object.__setattr__(
            self,
            "milestones",
            tuple(_milestone(f"train.milestones.{i}", m) for i, m in enumerate(self.milestones)),
        )
        _number("train.gamma", self.gamma, 0.0, 1.0, open_low=True)
        _number("train.label_smoothing", self.label_smoothing, 0.0, 1.0)
        _one_of("train.precision", self.precision, PRECISIONS)
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov needs a momentum above 0", "train.nesterov")
        if self.eval_images is not None:
            _integer("train.eval_images", self.eval_images, 1)


@dataclass(frozen=True)
class PruneConfig:
    """When and what is removed (DESIGN: start, interval, until, ratio, count, target).

    Attributes:
        criterion: gives every unit a score, higher = keep.
        start: the first event comes after this epoch (None = ``interval``; required with cycles).
        interval: epochs between events; with cycles the length of a cycle.
        ratio: share of the units still alive that each event removes. Default 0.2 unless ``count`` or ``levels`` is
            given. With ``ratio_of: cost``: event k leaves (1 - ratio)^k of the dense cost.
        ratio_of: ``units`` or (paths only, their default) ``cost``.
        levels: paths: the shares of the dense cost removed after the first, second, ... event, rising; instead of
            ``ratio`` and ``target``.
        count: units each event removes.
        hidden_count: hidden linear layers are ranked on their own and lose this many units each event (the paper's VGG);
            ``ratio`` and ``count`` then mean the other units. None = ranked with the rest.
        target: share of ``of`` to remove; no events after it is reached. None = no target: every event until
            ``until`` takes place (the paper's schedule). A path ends with its first level at or beyond it.
        of: ``macs`` or ``params``.
        until: no event after this epoch (int), or after this share of all epochs (float).
        residual: ``coupled``, ``scatter`` or ``inner``.
        scoring_images: ``auto`` = min(2000, 4 % of the training images), at least 10 a class.
        min_channels, min_share: floors of every group: a number, and a share of its original units.
        exclude: module-name patterns (``fnmatch``) that are never pruned.
        round_to: layers that are cut are left with a multiple of this many channels; units go in whole steps, at least
            one per event.
        normalise: each layer's scores are divided by their ``unit_l2``, ``mean`` or ``max`` before layers are ranked
            together; ``auto`` = ``unit_l2`` unless the criterion's scores are comparable as they are.
        cost_power: divide a unit's score by (its marginal cost / the mean) ** this; 1 = score per MAC.
        allocator: ``global`` = one ranking over all groups; ``uniform`` = the same share from every group.
        options: further arguments of the criterion, for instance ``{"read": "branch"}`` for ``frs``.
    """

    criterion: str = "frs"
    start: int | None = None
    interval: int = 2
    ratio: float | None = None
    count: int | None = None
    hidden_count: int | None = field(default=None, metadata=_LATER)
    target: float | None = 0.5
    of: str = "macs"
    until: int | float | None = 0.75
    residual: str = "coupled"
    scoring_images: int | str = "auto"
    min_channels: int = 2
    min_share: float = 0.1
    exclude: tuple[str, ...] = ()
    round_to: int = 1
    normalise: str = "auto"
    cost_power: float = 0.0
    allocator: str = "global"
    options: dict[str, Any] = field(default_factory=dict)
    ratio_of: str | None = field(default=None, metadata=_LATER)
    levels: tuple[float, ...] | None = field(default=None, metadata=_LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude", tuple(self.exclude))
        if not self.criterion or not isinstance(self.criterion, str):
            raise ConfigError(f"{self.criterion!r} is not a criterion's name", "prune.criterion")
        if self.start is not None:
            _integer("prune.start", self.start, 1)
        _integer("prune.interval", self.interval, 1)
        if self.ratio is not None and self.count is not None:
            raise ConfigError("ratio and count cannot both be given", "prune", "set one of them to null")
        if self.ratio_of is not None:
            _one_of("prune.ratio_of", self.ratio_of, RATIO_KINDS)
        self._check_levels()
        if self.ratio is None and self.count is None and self.levels is None:
            object.__setattr__(self, "ratio", 0.2)
        if self.ratio is not None:
            _number("prune.ratio", self.ratio, 0.0, 1.0, open_low=True)
        if self.count is not None:
            _integer("prune.count", self.count, 1)
        if self.hidden_count is not None:
            _integer("prune.hidden_count", self.hidden_count, 1)
        if self.target is not None:
            _number("prune.target", self.target, 0.0, 1.0, open_low=True)
        if self.target == 1.0:
            raise ConfigError(f"{self.target!r} would remove everything", "prune.target", "below 1")
        _one_of("prune.of", self.of, COST_KINDS)
        if isinstance(self.until, int) and not isinstance(self.until, bool):
            _integer("prune.until", self.until, 1)
        elif self.until is not None:
            _number("prune.until", self.until, 0.0, 1.0, open_low=True)
        _one_of("prune.residual", self.residual, RESIDUAL_MODES)
        if self.scoring_images != "auto":
            _integer("prune.scoring_images", self.scoring_images, 1)
        _integer("prune.min_channels", self.min_channels, 1)
        _number("prune.min_share", self.min_share, 0.0, 1.0)
        _integer("prune.round_to", self.round_to, 1)
        _one_of("prune.normalise", self.normalise, NORMALISATIONS)
        _number("prune.cost_power", self.cost_power, 0.0, 4.0)
        _one_of("prune.allocator", self.allocator, ALLOCATORS)

    def _check_levels(self) -> None:
        if self.levels is None:
            return
        if self.ratio is not None or self.ratio_of is not None:
            raise ConfigError("levels and ratio cannot both be given", "prune.levels", "set ratio to null")
        if self.target not in (None, _DEFAULT_TARGET):
            raise ConfigError(
                "levels and target cannot both be given", "prune.levels", "the path ends at the last level"
            )
        object.__setattr__(self, "target", None)
        object.__setattr__(self, "levels", tuple(self.levels))
        example = "for instance [0.3, 0.5, 0.65, 0.8]"
        if not self.levels:
            raise ConfigError("is empty", "prune.levels", example)
        for i, level in enumerate(self.levels):
            where = f"prune.levels.{i}"
            _number(where, level, 0.0, 1.0, open_low=True)
            if level == 1.0:
                raise ConfigError(f"{level!r} would remove everything", where, "below 1")
            if i and level <= self.levels[i - 1]:
                raise ConfigError(f"{level!r} does not rise above {self.levels[i - 1]!r}", where, example)

    def depth(self) -> float | None:
        """The share of ``of`` at which a path ends; None = at the floors."""
        return self.target if self.levels is None else self.levels[-1]

    def next_level(self, removed: float) -> float | None:
        """The share that a path's next event brings the cost down to when ``removed`` is gone; levels that coarse units
        have passed already are skipped. None: there is no next one, or with ``ratio_of: units`` it is not known.

        >>> PruneConfig(ratio=0.5, ratio_of="cost").next_level(0.6)
        0.75
        """
        if self.levels is not None:
            return next((level for level in self.levels if level > removed + _NO_MORE), None)
        if self.ratio_of != "cost" or not self.ratio or removed >= 1:
            return None
        if self.ratio == 1.0:
            return 1.0
        passed = math.log1p(-min(max(removed, 0.0), 1.0)) / math.log1p(-self.ratio)
        event = math.floor(passed + _NO_MORE) + 1
        return 1 - (1 - self.ratio) ** event


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
        _integer("seed", self.seed, 0)
        _integer("threads", self.threads, 1)
        if self.baseline_epochs is not None:
            _integer("baseline.epochs", self.baseline_epochs, 1)
        if self.is_path:
            object.__setattr__(self, "prune", _prune_of_path(self))
        elif self.prune is not None:
            _refuse_path_keys(self.prune)

    @property
    def is_path(self) -> bool:
        """Whether the trial ends every cycle with a finished model (``train.schedule: cycles``)."""
        return self.train.schedule == CYCLES

    def baseline(self) -> TrialConfig:
        """The unpruned twin: same data, model, training and seed.

        A path's is trained one-cycle for ``baseline_epochs`` (None = as many as its dense phase): meant for about the
        same compute as the path.
        """
        if not self.is_path:
            return dataclasses.replace(self, prune=None)
        return self._dense(self.baseline_epochs or self.prune.start)

    def dense_phase(self) -> TrialConfig:
        """The unpruned trial that trains, epoch by epoch, what this one trains until its first event."""
        return self._dense(self.prune.start) if self.is_path else self.baseline()

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
            if isinstance(parts.get(name), dict):
                parts[name] = _build(part, parts[name], f"{name}.")
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
                elif kind == "where set" and values[name].get(item.name) == item.default:
                    values[name].pop(item.name, None)
        return values

    def config_id(self) -> str:
        """Twelve hex digits that name the :meth:`identity` without the seed (replicates share it)."""
        return digest({k: v for k, v in self.identity().items() if k != "seed"})

    def key(self) -> str:
        """Twelve hex digits that name the :meth:`identity`: equal keys are the same trial."""
        return digest(self.identity())


#: Shares this close are the same share.
_NO_MORE = 1e-9
_DEFAULT_TARGET, _DEFAULT_UNTIL = 0.5, 0.75


def _prune_of_path(config: TrialConfig) -> PruneConfig:
    """A path's pruning, checked and with what follows from its being a path filled in."""
    prune = config.prune
    if prune is None:
        raise ConfigError("a path prunes", "prune", "train.schedule: one_cycle trains without pruning")
    if prune.start is None:
        hint = "epochs of the dense phase, for instance 4"
        raise ConfigError("is required with train.schedule: cycles", "prune.start", hint)
    for name in ("count", "hidden_count"):
        if getattr(prune, name) is not None:
            raise ConfigError(
                "has no meaning with train.schedule: cycles", f"prune.{name}", "ratio or levels say how much"
            )
    if prune.until not in (None, _DEFAULT_UNTIL):
        raise ConfigError(
            "has no meaning with train.schedule: cycles", "prune.until", "target says how deep a path goes"
        )
    cap = config.train.epochs
    if cap is not None and cap < prune.start:
        hint = f"at least prune.start ({prune.start}); null = no cap"
        raise ConfigError(f"{cap} epochs are shorter than the dense phase", "train.epochs", hint)
    kind = None if prune.levels is not None else prune.ratio_of or "cost"
    return dataclasses.replace(prune, until=None, ratio_of=kind)


def _refuse_path_keys(prune: PruneConfig) -> None:
    for name, given in (("levels", prune.levels is not None), ("ratio_of", prune.ratio_of == "cost")):
        if given:
            raise ConfigError("only paths have it", f"prune.{name}", "train.schedule: cycles")
    if prune.until is None:
        object.__setattr__(prune, "until", _DEFAULT_UNTIL)


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
