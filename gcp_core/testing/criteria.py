"""The contract of criteria."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gcp_core.criteria import Batches, Criterion
from gcp_core.errors import required
from gcp_core.groups import Groups, find_groups

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class CriterionCase:
    """A small network in float64 with two convs and a hidden linear layer, its groups, and two batches.

    The convs are ``0`` and ``4`` (each followed by batch norm and ReLU), the hidden linear layer is ``9``.
    """

    model: nn.Sequential
    groups: Groups
    batches: Batches

    def conv(self, name: str) -> nn.Conv2d:
        """The convolution of this name."""
        return _part(self.model, name, nn.Conv2d)

    def norm(self, name: str) -> nn.BatchNorm2d:
        """The batch norm of this name."""
        return _part(self.model, name, nn.BatchNorm2d)

    def scores(self, criterion: Criterion, seed: int = 0) -> dict[str, Tensor]:
        """Scores with a fresh generator."""
        return criterion.score(self.model, self.groups, self.batches, torch.Generator().manual_seed(seed))


_Part = TypeVar("_Part", bound=nn.Module)


def _part(model: nn.Module, name: str, kind: type[_Part]) -> _Part:
    found = model.get_submodule(name)
    if not isinstance(found, kind):
        raise TypeError(f"{name} is a {type(found).__name__}, not a {kind.__name__}")
    return found


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Running mean and variance ``(C,)``."""
    return required(norm.running_mean, "running_mean"), required(norm.running_var, "running_var")


def criterion_case(seed: int = 0) -> CriterionCase:
    """In training mode except for one frozen norm, with gradients present: everything that could be disturbed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5, eps=1e-12), nn.ReLU(inplace=True)),
            nn.MaxPool2d(2),
            *(nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-12), nn.ReLU(inplace=True)),
            *(
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(6, 4),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(4, 3),
            ),
        ).double()
    for norm in (_part(model, "1", nn.BatchNorm2d), _part(model, "5", nn.BatchNorm2d)):
        mean, variance = _statistics(norm)
        mean.copy_(0.2 * torch.randn(norm.num_features, generator=generator))
        variance.copy_(0.5 + torch.rand(norm.num_features, generator=generator))
        norm.weight.data.copy_(0.5 + torch.rand(norm.num_features, generator=generator))
        norm.bias.data.copy_(0.2 + 0.3 * torch.rand(norm.num_features, generator=generator))
    groups = find_groups(model, torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    model.train()
    model[1].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    images = torch.randn(12, 3, 8, 8, dtype=torch.float64, generator=generator)
    labels = torch.arange(12) % 3
    return CriterionCase(model, groups, list(zip(images.split(7), labels.split(7))))


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the process that a look at it must not change."""
    return {
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "identity": [id(p) for p in model.parameters()],
        "grad": [None if p.grad is None else (id(p.grad), float(p.grad.sum())) for p in model.parameters()],
        "hooks": [len(getattr(m, kind)) for m in model.modules() for kind in _HOOKS],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "rng": torch.get_rng_state(),
        "grad_mode": torch.is_grad_enabled(),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what changed between two :func:`fingerprint` results; empty if nothing did."""
    changed = [key for key in before if key not in ("state", "rng") and before[key] != after[key]]
    if not torch.equal(before["rng"], after["rng"]):
        changed.append("rng")
    same_names = list(before["state"]) == list(after["state"])
    if not same_names or any(not torch.equal(before["state"][n], after["state"][n]) for n in before["state"]):
        changed.append("state")
    return changed


class CriterionContract:
    """Rules that every criterion keeps. Inherit, override :meth:`criterion`, state what is promised.

    Attributes:
        equivariant: permuting a layer's channels permutes its scores and changes no other layer's.
        scale_invariant: doubling a filter whose norm undoes it changes no score. None = nothing is promised.
    """

    equivariant: bool = True
    scale_invariant: bool | None = None

    def criterion(self) -> Criterion:
        """The criterion under test."""
        raise NotImplementedError

    def test_every_scored_layer_gets_one_finite_float64_number_a_channel(self) -> None:
        case = criterion_case()
        scores = case.scores(self.criterion())
        expected = {layer: (size,) for layer, size in case.groups.scored_layers().items()}
        assert {layer: tuple(score.shape) for layer, score in scores.items()} == expected
        for layer, score in scores.items():
            assert score.dtype == torch.float64, layer
            assert score.device.type == "cpu", layer
            assert not score.requires_grad, layer
            assert bool(torch.isfinite(score).all()), layer

    def test_the_same_seed_gives_the_same_scores(self) -> None:
        case = criterion_case()
        first, second = case.scores(self.criterion(), seed=3), case.scores(self.criterion(), seed=3)
        assert all(torch.equal(first[layer], second[layer]) for layer in first)

    def test_the_model_is_left_as_found(self) -> None:
        case = criterion_case()
        before = fingerprint(case.model)
        case.scores(self.criterion())
        assert differences(before, fingerprint(case.model)) == []

    def test_the_images_are_left_as_found(self) -> None:
        case = criterion_case()
        before = [images.clone() for images, _ in case.batches]
        case.scores(self.criterion())
        assert all(torch.equal(old, new) for old, (new, _) in zip(before, case.batches))

    def test_the_model_is_left_as_found_when_the_images_fail(self) -> None:
        case = criterion_case()
        broken = CriterionCase(case.model, case.groups, _Failing(case.batches))
        self._scored_cleanly(broken)  # a criterion may be content with the first batch

    def test_the_model_is_left_as_found_when_the_model_fails(self) -> None:
        case = criterion_case()
        case.model.add_module("13", _Broken())
        self._scored_cleanly(case)

    def test_nothing_is_read_where_nothing_is_needed(self) -> None:
        criterion = self.criterion()
        if criterion.needs == "nothing":
            case = criterion_case()
            empty = CriterionCase(case.model, case.groups, [])
            full, without = case.scores(criterion), empty.scores(criterion)
            assert all(torch.equal(full[layer], without[layer]) for layer in full)

    def test_permuting_channels_permutes_scores(self) -> None:
        if not self.equivariant:
            return
        case, permuted = criterion_case(), criterion_case()
        order = torch.tensor([3, 0, 4, 1, 2])
        with torch.no_grad():
            conv, norm, following = permuted.conv("0"), permuted.norm("1"), permuted.conv("4")
            conv.weight.copy_(conv.weight[order])
            for tensor in (norm.weight, norm.bias, *_statistics(norm)):
                tensor.copy_(tensor[order])
            following.weight.copy_(following.weight[:, order])
        expected, found = case.scores(self.criterion()), permuted.scores(self.criterion())
        for layer, score in expected.items():
            assert torch.allclose(found[layer], score[order] if layer == "0" else score, rtol=1e-8), layer

    def test_doubling_a_filter_before_its_norm_matters_only_where_it_may(self) -> None:
        if self.scale_invariant is None:
            return
        case, doubled = criterion_case(), criterion_case()
        with torch.no_grad():
            mean, variance = _statistics(doubled.norm("1"))
            doubled.conv("0").weight[2] *= 2
            mean[2] *= 2
            variance[2] *= 4
        before, after = case.scores(self.criterion()), doubled.scores(self.criterion())
        same = [torch.allclose(before[layer], after[layer], rtol=1e-6, atol=1e-12) for layer in before]
        assert all(same) == self.scale_invariant

    def _scored_cleanly(self, case: CriterionCase) -> None:
        """Scores, which may fail on purpose; no trace may be left either way."""
        before = fingerprint(case.model)
        with contextlib.suppress(_Failure):
            case.scores(self.criterion())
        assert differences(before, fingerprint(case.model)) == []


def check_criterion(
    build: Callable[[], Criterion], *, equivariant: bool = True, scale_invariant: bool | None = None
) -> None:
    """Run the whole :class:`CriterionContract`; AssertionError at the first rule that is broken."""

    class _Contract(CriterionContract):
        def criterion(self) -> Criterion:
            return build()

    contract = _Contract()
    contract.equivariant, contract.scale_invariant = equivariant, scale_invariant
    for name in dir(contract):
        if name.startswith("test_"):
            getattr(contract, name)()


class _Failure(RuntimeError):
    """Raised on purpose."""


class _Failing:
    """Batches that break after the first one."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield next(iter(self._batches))
        raise _Failure("the images cannot be read")


class _Broken(nn.Module):
    """Fails at the end of the forward pass, with every hook of the layers before it already called."""

    def forward(self, x: Tensor) -> Tensor:
        raise _Failure("broken module")
