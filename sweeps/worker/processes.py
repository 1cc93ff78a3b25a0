"""The other processes of a trial in a Ray cluster: actors in the trial's own placement group, one in each bundle.

Tune runs the trial in the first bundle and keeps the group for it. So the processes stand where their GPUs are, on one
node or on several, and go with the trial.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from gcp_core.config import TrialConfig
from gcp_core.errors import first_line, required

if TYPE_CHECKING:
    from gcp_core.training.team.member import Started


def start_on_ray(config: TrialConfig) -> Started:
    """Start the other processes of the trial that this process runs; see
    :data:`gcp_core.training.team.member.Start`.
    """
    import ray
    import torch
    from ray.util import get_current_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from gcp_core.training.team.group import check_possible
    from gcp_core.training.team.member import Started

    device = config.train.device
    check_possible("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    members: list[RayMember] = []
    group = required(get_current_placement_group(), "placement group")
    for rank in range(1, config.train.processes):
        bundle = group.bundle_specs[rank]
        process = ray.remote(_Process).options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        )
        members.append(RayMember(rank, device, process.remote()))
    return Started(members, host=ray.util.get_node_ip_address())


class _Process:
    """One of them; an actor."""

    def __init__(self) -> None:
        self._follower: Any = None

    def do(self, message: bytes) -> tuple[bytes, bool]:
        """See :meth:`gcp_core.training.team.follower.Follower.do`."""
        if self._follower is None:
            from gcp_core.training.team.follower import Follower  # brings torch

            self._follower = Follower()
        return self._follower.do(message)


class RayMember:
    """An actor as a :class:`gcp_core.training.team.member.Member`."""

    def __init__(self, rank: int, device: str, actor: Any) -> None:
        self.rank, self.device, self._actor = rank, device, actor
        self._said: list[Any] = []
        self._how = "ended"

    def tell(self, message: bytes) -> None:
        """See :class:`gcp_core.training.team.member.Member`."""
        self._said.append(self._actor.do.remote(message))

    def answer(self) -> bytes:
        """See :class:`gcp_core.training.team.member.Member`."""
        import ray
        from ray.exceptions import RayError

        try:
            answer, goes_on = ray.get(self._said.pop(0))
        except RayError as exc:
            self._how = first_line(exc)
            raise EOFError from exc
        if not goes_on:
            self._kill()  # the others may wait for it in the middle of a step
        return answer

    def end(self, timeout_s: float) -> str:
        """See :class:`gcp_core.training.team.member.Member`; Ray does not wait for an actor to be gone."""
        self._kill()
        return self._how

    def _kill(self) -> None:
        import ray

        with contextlib.suppress(Exception):  # it is gone already, or Ray itself is
            ray.kill(self._actor)
