"""What a rewrite is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from gcp_core.plan import Plan


@dataclass(frozen=True)
class Lifted:
    """What a rewrite takes off a model before a cut.

    Attributes:
        learned: what :meth:`Rewrite.again` needs.
        rewritten: parameters of the plain model that mean something else now: their momenta begin anew.
    """

    learned: Any = None
    rewritten: tuple[nn.Parameter, ...] = ()


class Rewrite(Protocol):
    """Puts modules into a network for its training.

    Everything that leaves a trial (snapshots, the final model, what is exported) and everything that looks at the network
    (evaluation, criteria, cuts, costs) gets a plain one: the same modules under the same names as without a rewrite. All
    that a rewrite learns is in parameters and buffers of the modules it puts in, so that it is in every checkpoint. Like
    a penalty it never sees how the network is pruned.

    Attributes:
        lr: the rate of its own parameters, as a factor of ``train.lr``. May be left out: 1.
        weight_decay: theirs. May be left out: 0.
        moves_statistics: True if channels come and go while training, so that the norms' running statistics are not those
            of eval mode: those of what leaves are then taken anew. May be left out: False.
    """

    def install(self, model: nn.Module, example: Tensor) -> None:
        """Put the modules into a plain model, in place.

        Args:
            example: ``(1, C, H, W)``.

        Raises:
            ConfigError: there is no place for them.
        """
        ...

    def fold(self, model: nn.Module) -> None:
        """Take the modules off, in place: what is left is plain and computes in eval mode what the model computed."""
        ...

    def lift(self, model: nn.Module) -> Lifted:
        """Take the modules off before a cut after which training goes on, in place. Unlike :meth:`fold` it closes no
        channel for good: those that stay can be trained on.
        """
        ...

    def again(self, model: nn.Module, lifted: Lifted, plan: Plan) -> None:
        """Put the modules back after a cut, in place; what they know of channels that ``plan`` removed is gone."""
        ...

    def own(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters of the modules that it has put in: they are a group of their own in the optimiser."""
        ...

    def macs(self, model: nn.Module, batch_size: int) -> float:
        """Multiply-adds that the modules add to a training forward pass of one image."""
        ...
