"""When and what is removed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from gcp_core.config.checks import LABEL, LATER, arguments, integer, number, one_of, plugin
from gcp_core.errors import ConfigError, required

RESIDUAL_MODES = ("coupled", "scatter", "inner")
COST_KINDS = ("macs", "params")
RATIO_KINDS = ("units", "cost")
NORMALISATIONS = ("auto", "none", "unit_l2", "mean", "max")
#: Shares this close are the same share.
_NO_MORE = 1e-9
AUTO = "auto"
#: What fills a slot where nothing else does.
NO_REPAIR = "none"
INTERVAL_CLOCK = "interval"
#: One event, after the last epoch.
END_CLOCK = "end"
#: With cycles and with levels these defaults mean that nothing was said.
DEFAULT_TARGET, DEFAULT_UNTIL = 0.5, 0.75


@dataclass(frozen=True)
class PruneConfig:
    """When and what is removed (DESIGN: start, interval, until, ratio, count, target).

    Attributes:
        criterion: gives every unit a score, higher = keep.
        start: the first event comes after this epoch (None = ``interval``; required with cycles); single trials: 0 = at
            initialisation, before anything is trained.
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
        exclude: module-name patterns (``fnmatch``) that are never pruned; ``layer1`` means all that is in it.
        round_to: layers that are cut are left with a multiple of this many channels; units go in whole steps, at least
            one per event. ``auto`` = 8 for a training in bf16, fp16 or TF32 (unless ``train.device`` is ``cpu``), else
            1; a trial knows it as that number.
        normalise: each layer's scores are divided by their ``unit_l2``, ``mean`` or ``max`` before layers are ranked
            together; ``auto`` = ``unit_l2`` unless the criterion's scores are comparable as they are.
        cost_power: divide a unit's score by (its marginal cost / the mean) ** this; 1 = score per MAC.
        allocator: spreads what an event takes over the groups: ``global`` = one ranking over all of them; ``uniform`` =
            the same share from every group; see :mod:`gcp_core.allocators`.
        allocator_options, repair_options, clock_options: arguments of what fills these slots.
        repair: patches the weights that stay, just before an event removes the others; see :mod:`gcp_core.repairs`.
        clock: single trials: when an event is due. ``interval`` = at ``start`` and every ``interval`` epochs;
            ``end`` = once, after the last epoch, whatever ``start``, ``interval`` and ``until`` say. Any other
            is asked after every epoch from ``start`` to ``until`` that is ``interval`` or more after the last event.
        method: the preset that slots were filled from (:mod:`gcp_core.methods`): a label, the slots say what is done.
        finish: the last event takes what is still missing to the target, whatever ``ratio`` and ``count`` say.
        options: further arguments of the criterion, for instance ``{"read": "branch"}`` for ``frs``.
    """

    criterion: str = "frs"
    start: int | None = None
    interval: int = 2
    ratio: float | None = None
    count: int | None = None
    hidden_count: int | None = field(default=None, metadata=LATER)
    target: float | None = DEFAULT_TARGET
    of: str = "macs"
    until: int | float | None = DEFAULT_UNTIL
    residual: str = "coupled"
    scoring_images: int | str = "auto"
    min_channels: int = 2
    min_share: float = 0.1
    exclude: tuple[str, ...] = ()
    round_to: int | str = 1
    normalise: str = "auto"
    cost_power: float = 0.0
    allocator: str = "global"
    options: dict[str, Any] = field(default_factory=dict)
    finish: bool = field(default=False, metadata=LATER)
    ratio_of: str | None = field(default=None, metadata=LATER)
    levels: tuple[float, ...] | None = field(default=None, metadata=LATER)
    allocator_options: dict[str, Any] = field(default_factory=dict, metadata=LATER)
    repair: str = field(default=NO_REPAIR, metadata=LATER)
    repair_options: dict[str, Any] = field(default_factory=dict, metadata=LATER)
    clock: str = field(default=INTERVAL_CLOCK, metadata=LATER)
    clock_options: dict[str, Any] = field(default_factory=dict, metadata=LATER)
    method: str | None = field(default=None, metadata=LABEL)

    def __post_init__(self) -> None:
        given: object = self.exclude
        if isinstance(given, str):  # each of its letters would be a pattern
            raise ConfigError(f"{given!r} is no list of patterns", "prune.exclude", f"[{given!r}]")
        object.__setattr__(self, "exclude", tuple(self.exclude))
        if not self.criterion or not isinstance(self.criterion, str):
            raise ConfigError(f"{self.criterion!r} is not a criterion's name", "prune.criterion")
        arguments("prune.options", self.options)
        if self.start is not None:
            integer("prune.start", self.start, 0)
        integer("prune.interval", self.interval, 1)
        if self.ratio is not None and self.count is not None:
            raise ConfigError("ratio and count cannot both be given", "prune", "set one of them to null")
        if self.ratio_of is not None:
            one_of("prune.ratio_of", self.ratio_of, RATIO_KINDS)
        self._check_levels()
        if self.ratio is None and self.count is None and self.levels is None:
            object.__setattr__(self, "ratio", 0.2)
        if self.ratio is not None:
            number("prune.ratio", self.ratio, 0.0, 1.0, open_low=True)
        if self.count is not None:
            integer("prune.count", self.count, 1)
        if self.hidden_count is not None:
            integer("prune.hidden_count", self.hidden_count, 1)
        if self.target is not None:
            number("prune.target", self.target, 0.0, 1.0, open_low=True)
        if self.target == 1.0:
            raise ConfigError(f"{self.target!r} would remove everything", "prune.target", "below 1")
        one_of("prune.of", self.of, COST_KINDS)
        if isinstance(self.until, int) and not isinstance(self.until, bool):
            integer("prune.until", self.until, 0 if self.start == 0 else 1)
        elif self.until is not None:
            number("prune.until", self.until, 0.0, 1.0, open_low=True)
        one_of("prune.residual", self.residual, RESIDUAL_MODES)
        if self.scoring_images != "auto":
            integer("prune.scoring_images", self.scoring_images, 1)
        integer("prune.min_channels", self.min_channels, 1)
        number("prune.min_share", self.min_share, 0.0, 1.0)
        if self.round_to != AUTO:
            integer("prune.round_to", self.round_to, 1)
        one_of("prune.normalise", self.normalise, NORMALISATIONS)
        number("prune.cost_power", self.cost_power, 0.0, 4.0)
        self._check_slots()

    def _check_slots(self) -> None:
        """The slots, and what not every clock can do."""
        for slot in ("allocator", "repair", "clock"):
            plugin(f"prune.{slot}", getattr(self, slot), getattr(self, f"{slot}_options"))
        if self.method is not None and (not self.method or not isinstance(self.method, str)):
            raise ConfigError(f"{self.method!r} is not a method's name", "prune.method")
        if not isinstance(self.finish, bool):
            raise ConfigError(f"{self.finish!r} is not true or false", "prune.finish")
        if self.finish and self.target is None:
            raise ConfigError("there is no target to finish at", "prune.finish", "give prune.target")
        if self.start == 0 and self.clock != INTERVAL_CLOCK:
            message = f"the clock {self.clock!r} is asked after epochs, none has been trained at epoch 0"
            raise ConfigError(message, "prune.start", f"prune.clock: {INTERVAL_CLOCK}, or prune.start: 1")
        if self.finish and self.clock not in (INTERVAL_CLOCK, END_CLOCK):
            hint = f"prune.clock: {INTERVAL_CLOCK}, or prune.finish: false"
            raise ConfigError(
                f"no event of the clock {self.clock!r} is known to be the last", "prune.finish", hint
            )

    def _check_levels(self) -> None:
        if self.levels is None:
            return
        for name in ("ratio", "ratio_of"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"levels and {name} cannot both be given", "prune.levels", f"set {name} to null"
                )
        if self.target not in (None, DEFAULT_TARGET):
            raise ConfigError(
                "levels and target cannot both be given", "prune.levels", "the path ends at the last level"
            )
        example = "for instance [0.3, 0.5, 0.65, 0.8]"
        if not isinstance(self.levels, (list, tuple)) or not self.levels:
            raise ConfigError(f"{self.levels!r} is no list of shares", "prune.levels", example)
        object.__setattr__(self, "target", None)
        object.__setattr__(self, "levels", tuple(self.levels))
        for i, level in enumerate(self.levels):
            where = f"prune.levels.{i}"
            number(where, level, 0.0, 1.0, open_low=True)
            if level == 1.0:
                raise ConfigError(f"{level!r} would remove everything", where, "below 1")
            if i and level <= self.levels[i - 1]:
                raise ConfigError(f"{level!r} does not rise above {self.levels[i - 1]!r}", where, example)

    @property
    def multiple(self) -> int:
        """``round_to`` as a number; ValueError outside of a trial where it is ``auto``."""
        return int(self.round_to)

    @property
    def dense_epochs(self) -> int:
        """``start`` of a path: how long its dense phase is; ValueError where it is not given."""
        return required(self.start, "prune.start")

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
