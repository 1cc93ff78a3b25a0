"""``given``: every layer is left as wide as it is said, whatever the scores are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gcp_core.allocators.base import Scores
from gcp_core.allocators.budget import Budget
from gcp_core.config.checks import integer
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.groups import Group, Groups

WHERE = "prune.allocator_options.widths"


@dataclass(frozen=True)
class Given:
    """Layers that share units must agree; those that are not named stay whole."""

    widths: Mapping[str, int] = field(default_factory=dict)
    per_unit: bool = False

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> dict[str, int]:
        """As many units of each group as its named layers need.

        Raises:
            ConfigError: a layer is not there, has units of several groups, or cannot be left that wide; or two layers
                that share units disagree.
        """
        number = Counter(member.layer for group in groups.groups for member in group.members)
        for layer in self.widths:
            if number[layer] != 1:
                problem = (
                    "has no units that can be removed" if not number[layer] else "has units of several groups"
                )
                raise ConfigError(f"layer {layer!r} {problem}", WHERE, did_you_mean(layer, sorted(number)))
        return {group.name: self._left(group) for group in groups.groups}

    def _left(self, group: Group) -> int:
        """Units of the group that stay."""
        left = {
            member.layer: _units(member.layer, self.widths[member.layer], [len(c) for c in member.channels])
            for member in group.members
            if member.layer in self.widths
        }
        if len(set(left.values())) > 1:
            raise ConfigError(f"layers {', '.join(left)} share their units, but not their widths", WHERE)
        return next(iter(left.values()), group.size)


def _units(layer: str, width: int, channels: list[int]) -> int:
    """How many units make ``width`` channels of a layer; ``channels``: of each of its units."""
    per_unit = channels[0]
    if width > sum(channels) or width % per_unit:
        allowed = (
            f"a multiple of {per_unit} up to {sum(channels)}" if per_unit > 1 else f"1 to {sum(channels)}"
        )
        raise ConfigError(f"{width}: layer {layer!r} has {sum(channels)} channels", WHERE, allowed)
    return width // per_unit


def given(widths: Mapping[str, int] | None = None) -> Given:
    """Every layer is left with the output channels that it is given; an event's criterion says which.

    With one event before the first epoch (``prune.start: 0``, ``prune.until: 0``) that is a training of these widths
    from scratch. The event's budget is a limit as for every allocator: ``prune.ratio: 1.0`` and the share that the
    widths remove as ``prune.target`` let them be.

    Args:
        widths: module name of a convolution or linear layer -> its output channels (features); others stay whole.

    Raises:
        ConfigError: not whole numbers >= 1 by name.
    """
    if widths is not None and not isinstance(widths, Mapping):
        raise ConfigError(f"{widths!r} is no mapping from layers to widths", WHERE, "{features.0: 24}")
    for layer, width in (widths or {}).items():
        integer(f"{WHERE}.{layer}", width, 1)
    return Given(dict(widths or {}))
