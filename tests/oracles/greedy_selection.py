"""Selection as one would do it by hand: look at every unit, take the lowest, start over."""

from __future__ import annotations

import math

from gcp_core.groups import Groups


def pick_one_by_one(
    scores, groups: Groups, count: int, min_channels: int, min_share: float
) -> list[tuple[str, int]]:
    """(group name, unit) in the order of removal; stops early when every group is at its floor."""
    gone: list[tuple[str, int]] = []
    while len(gone) < count:
        best = None
        for place, group in enumerate(groups.groups):
            floor = max(min_channels, math.ceil(round(min_share * group.original_size, 9)))
            left = group.size - sum(name == group.name for name, _ in gone)
            if left <= floor:
                continue
            for unit in range(group.size):
                members = [m for m in group.members if m.scored and m.layer in scores]
                if (group.name, unit) in gone or not members:
                    continue
                means = [
                    sum(float(scores[m.layer][c]) for c in m.channels[unit]) / len(m.channels[unit])
                    for m in members
                ]
                naming = next(m for m in group.members if m.scored)
                key = (math.fsum(means) / len(means), naming.channels[unit][0], -place)
                if best is None or key < best[0]:
                    best = (key, (group.name, unit))
        if best is None:
            break
        gone.append(best[1])
    return gone
