"""What a criterion is, how scores of units become scores of channels, and the check that every score passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from gcp_core.errors import RelevanceError
from gcp_core.groups import Groups
from gcp_core.slots import forwards_of

Batches = Iterable[tuple[Tensor, Tensor]]
Needs = Literal["nothing", "data"]


class GroupsLike(Protocol):
    """The part of :class:`gcp_core.groups.Groups` that most criteria use: who needs no more may say so."""

    def scored_layers(self) -> dict[str, int]:
        """Layer name -> number of output channels."""
        ...


class GroupRanking(Protocol):
    """What a criterion that chooses sets says of one group with C units.

    Attributes:
        worth: ``(C,)``, the marginal value of the first, second, ... unit that is kept; allocators read nothing else.
    """

    @property
    def worth(self) -> Tensor: ...

    def keep(self, k: int) -> Sequence[int]:
        """The k units to keep where k are kept, each of 0 .. C - 1 at most once; for other k they may be others."""
        ...


#: What an event goes by: scores ``(C,)`` by layer, or of a criterion that chooses sets a ranking by group.
Judgement = Mapping[str, Tensor] | Mapping[str, GroupRanking]


class Criterion(Protocol):
    """Scores channels.

    Attributes:
        needs: ``data`` if :meth:`score` looks at images, ``nothing`` if weights (or chance) are enough.
        comparable: whether scores of different layers can be ranked together as they are; if not, each layer's are
            divided by their L2 norm first. May be left out: True.
        forwards: what scoring an image costs, in forward passes of the model. May be left out: 1 where data is needed.
        max_images: it looks at no more images than this. May be left out: None, at all.
        reads_gates: True for a criterion that reads the gates of a rewrite: it is shown the network with them; any other
            sees the folded one. May be left out: False. ``needs_gates``: it cannot do without.
        set_valued: True for a criterion that chooses sets of units: it has ``ranking`` with the arguments of
            :meth:`score`, which gives a :class:`GroupRanking` for every group by name, and needs no :meth:`score`. May be
            left out: False.
    """

    @property
    def needs(self) -> Needs: ...

    def score(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """``{layer: (C,)}`` float64 on the CPU for every scored layer; higher = keep.

        Args:
            batches: normalised ``(images, labels)`` on the model's device, may be read more than once; empty where
                nothing is needed.
            generator: the only source of chance.

        The model is left exactly as found: mode, gradients, hooks, buffers, random state; also after an error.
        """
        ...


def is_comparable(criterion: Criterion) -> bool:
    """The criterion's ``comparable``, True where it says nothing."""
    return bool(getattr(criterion, "comparable", True))


def is_set_valued(criterion: Criterion) -> bool:
    """Whether the criterion chooses sets (``set_valued``, False where it says nothing)."""
    return bool(getattr(criterion, "set_valued", False))


def by_layer(units: Tensor, groups: Groups) -> dict[str, Tensor]:
    """``{layer: (C,)}`` of ``(num_units,)``: every channel of a scored layer has its unit's number, or 0."""
    scores = {}
    for layer in groups.scored_layers():
        unit_of = torch.as_tensor(groups.layout.layers[layer])
        scores[layer] = torch.where(unit_of >= 0, units[unit_of.clamp_min(0)], 0.0)
    return scores


@dataclass(frozen=True)
class Wrapped:
    """Base of a criterion that changes another one's scores and promises what that one promises."""

    inner: Criterion

    @property
    def needs(self) -> Needs:
        return self.inner.needs

    @property
    def comparable(self) -> bool:
        return is_comparable(self.inner)

    @property
    def forwards(self) -> float:
        return forwards_of(self.inner)

    @property
    def max_images(self) -> int | None:
        return getattr(self.inner, "max_images", None)

    @property
    def set_valued(self) -> bool:
        return is_set_valued(self.inner)

    @property
    def reads_gates(self) -> bool:
        return bool(getattr(self.inner, "reads_gates", False))

    @property
    def needs_gates(self) -> bool:
        return bool(getattr(self.inner, "needs_gates", False))


@dataclass(frozen=True)
class Checked(Wrapped):
    """A criterion under its name, with every score checked: all layers, one finite number a channel."""

    name: str

    def judge(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> Judgement:
        """:meth:`ranking` of a criterion that chooses sets, :meth:`score` of any other."""
        look = self.ranking if self.set_valued else self.score
        return look(model, groups, batches, generator)

    def ranking(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> dict[str, GroupRanking]:
        """The inner criterion's rankings in the order of the groups; only of one that chooses sets.

        Raises:
            RelevanceError: a group is missing, or its worth has the wrong shape or is not finite.
        """
        rank = getattr(self.inner, "ranking")  # noqa: B009 - only some criteria have it
        found = rank(model, groups, batches, generator)
        for group in groups.groups:
            if group.name not in found:
                raise RelevanceError(f"criterion {self.name} gave no ranking", group.name)
            self._checked(group.name, torch.as_tensor(found[group.name].worth), group.size)
        return {group.name: found[group.name] for group in groups.groups}

    def score(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The inner criterion's scores in the order of ``groups.scored_layers()``.

        Raises:
            RelevanceError: a layer is missing, has the wrong shape, or a score that is not finite.
        """
        found = self.inner.score(model, groups, batches, generator)
        return {
            layer: self._checked(layer, found.get(layer), size)
            for layer, size in groups.scored_layers().items()
        }

    def _checked(self, layer: str, score: Tensor | None, size: int) -> Tensor:
        if score is None:
            raise RelevanceError(f"criterion {self.name} gave no scores", layer)
        if score.shape != (size,):
            raise RelevanceError(
                f"criterion {self.name} gave scores {tuple(score.shape)}, not ({size},)", layer
            )
        score = score.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(score).all()):
            hint = "are the weights and images finite?"
            raise RelevanceError(f"criterion {self.name} gave a score that is not finite", layer, hint)
        return score


@dataclass(frozen=True)
class FilterCriterion:
    """A criterion that looks at one layer's weight at a time.

    Attributes:
        formula: ``(C, weights of a filter)`` float64 -> ``(C,)``.
        comparable: False where the result grows with the size of a filter or of its weights.
    """

    formula: Callable[[Tensor], Tensor]
    comparable: bool = False
    needs: Needs = "nothing"

    def score(
        self, model: nn.Module, groups: GroupsLike, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """``formula`` of each scored layer's filters."""
        return {layer: self.formula(filters(model, layer)) for layer in groups.scored_layers()}


def filters(model: nn.Module, layer: str) -> Tensor:
    """A layer's weight as ``(C, weights of a filter)`` in float64, without gradient."""
    weight = model.get_submodule(layer).weight
    if not isinstance(weight, Tensor):
        raise RelevanceError("the layer has no weight", layer)
    return weight.detach().flatten(1).double()
