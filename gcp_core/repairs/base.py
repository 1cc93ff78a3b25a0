"""What a repair is."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from gcp_core.criteria import Batches
from gcp_core.groups import Groups
from gcp_core.plan import Plan


class Repair(Protocol):
    """Patches weights just before an event.

    May also have:
        needs: ``data`` if :meth:`patch` looks at images, ``nothing`` if weights are enough (the default).
        forwards: what a patch costs per image, in forward passes (1 where data is needed, else 0).
    """

    def patch(
        self, model: nn.Module, groups: Groups, plan: Plan, batches: Batches, generator: torch.Generator
    ) -> None:
        """Rewrite parameters and buffers of ``model`` in place so that it does better without what ``plan`` removes.

        Called on the model before the event. ``groups.edges()`` says which layers read a group's units, and in which
        columns. Values change and nothing else does: shapes, parameters' identities, modes, gradients, hooks, random
        state and the optimiser stay, also after an error.

        Args:
            plan: what will be removed; its ``meta`` holds the epoch and nothing else.
            batches: the images that criteria see, normalised ``(images, labels)``, may be read more than once; empty
                where nothing is needed.
            generator: the only source of chance.
        """
        ...
