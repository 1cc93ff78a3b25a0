"""``given``: layers are left as wide as it is said, whatever the scores are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gcp_core.allocators.base import Scores
from gcp_core.allocators.budget import Budget
from gcp_core.config.checks import integer
from gcp_core.errors import ConfigError, did_you_mean
from gcp_core.groups import Group, Groups, Member

#: Layer -> the groups that it has units of.
Owners = defaultdict[str, list[tuple[Group, Member]]]
WHERE = "prune.allocator_options.widths"


@dataclass(frozen=True)
class Given:
    """Layers that are not named keep what those with which they share units do not take from them."""

    widths: Mapping[str, int]
    per_unit: bool = False
    exact: bool = True

    def check(self, groups: Groups) -> None:
        """Whether these layers are there and can be left that wide.

        Raises:
            ConfigError: so it is not.
        """
        owners = _owners(groups)
        keep = self._left(groups, owners)
        for layer, width in self.widths.items():
            if layer not in groups.layout.layers:
                raise ConfigError(
                    f"there is no layer {layer!r}", WHERE, did_you_mean(layer, list(groups.layout.layers))
                )
            fixed, total = _fixed(layer, groups), len(groups.layout.layers[layer])
            left = fixed + sum(keep[group.name] * _each(member) for group, member in owners[layer])
            if left != width:
                message = f"{width}: layer {layer!r} would be left with {left} of its {total} channels"
                raise ConfigError(message, WHERE, "; ".join(_reasons(layer, groups, owners, fixed)))

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> dict[str, int]:
        """As many units of each group as its named layers have."""
        return self._left(groups, _owners(groups))

    def _left(self, groups: Groups, owners: Owners) -> dict[str, int]:
        """Group -> units that stay, by its first named layer; one with units of several groups says nothing."""
        keep: dict[str, int] = {}
        for layer, width in self.widths.items():
            if len(owners[layer]) == 1:
                ((group, member),) = owners[layer]
                own = max(0, width - _fixed(layer, groups))
                keep.setdefault(group.name, min(own // _each(member), group.size))
        return {group.name: keep.get(group.name, group.size) for group in groups.groups}


def _owners(groups: Groups) -> Owners:
    found: Owners = defaultdict(list)
    for group in groups.groups:
        for member in group.members:
            found[member.layer].append((group, member))
    return found


def _fixed(layer: str, groups: Groups) -> int:
    """Channels of the layer that belong to no unit: they never go."""
    return int(np.count_nonzero(np.asarray(groups.layout.layers[layer]) < 0))


def _each(member: Member) -> int:
    """Channels of the layer that go with a unit."""
    return len(member.channels[0])


def _reasons(layer: str, groups: Groups, owners: Owners, fixed: int) -> list[str]:
    """Why a layer may not be left as wide as somebody wants."""
    found = []
    if fixed:
        found.append(groups.frozen.get(layer, f"{fixed} of them never go"))
    for group, member in owners[layer]:
        if _each(member) > 1:
            found.append(f"they go {_each(member)} at a time")
        others = [one.layer for one in group.members if one.layer != layer]
        if others:
            found.append(f"it shares units with {', '.join(others)}")
    return found or ["no more than there are"]


def given(widths: Mapping[str, int]) -> Given:
    """Layers are left with the output channels that they are given; an event's criterion says which.

    With one event before the first epoch (``prune.start: 0``, ``prune.until: 0``) that is a training of these widths
    from scratch. The event's budget is a limit as for every allocator: ``prune.ratio: 1.0`` and the share that the
    widths remove as ``prune.target`` let them be.

    Args:
        widths: module name of a convolution or linear layer -> its output channels (features). Layers that share units
            may be named all or only one.

    Raises:
        ConfigError: not whole numbers >= 1 by name.
    """
    if not isinstance(widths, Mapping) or not widths:
        raise ConfigError(f"{widths!r} is no mapping from layers to widths", WHERE, "{features.0: 24}")
    for layer, width in widths.items():
        integer(f"{WHERE}.{layer}", width, 1)
    return Given(dict(widths))
