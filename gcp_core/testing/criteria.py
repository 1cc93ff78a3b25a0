"""The contract of criteria."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gcp_core.criteria import Batches, Criterion, GroupRanking, is_set_valued
from gcp_core.errors import required
from gcp_core.groups import Groups, find_groups
from gcp_core.testing.looks import Broken, Failing, differences, fingerprint, run_all, traces


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

    def rankings(self, criterion: Criterion, seed: int = 0) -> dict[str, GroupRanking]:
        """Rankings of a criterion that chooses sets, with a fresh generator."""
        look: Any = criterion
        found = look.ranking(self.model, self.groups, self.batches, torch.Generator().manual_seed(seed))
        return dict(found)


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


class SetCriterionContract:
    """Rules that every criterion that chooses sets keeps. Inherit, override :meth:`criterion`."""

    def criterion(self) -> Criterion:
        """The criterion under test."""
        raise NotImplementedError

    def test_it_says_that_it_chooses_sets(self) -> None:
        assert is_set_valued(self.criterion())

    def test_every_group_has_a_finite_worth_a_unit(self) -> None:
        case = criterion_case()
        found = case.rankings(self.criterion())
        assert set(found) == {group.name for group in case.groups.groups}
        for group in case.groups.groups:
            worth = torch.as_tensor(found[group.name].worth)
            assert worth.shape == (group.size,), group.name
            assert bool(torch.isfinite(worth).all()), group.name

    def test_k_distinct_units_are_kept(self) -> None:
        case = criterion_case()
        found = case.rankings(self.criterion())
        for group in case.groups.groups:
            for k in range(1, group.size + 1):
                kept = [int(unit) for unit in found[group.name].keep(k)]
                assert len(kept) == len(set(kept)) == k, group.name
                assert set(kept) <= set(range(group.size)), group.name

    def test_the_same_seed_gives_the_same_rankings(self) -> None:
        case = criterion_case()
        one, two = (case.rankings(self.criterion(), seed=3) for _ in range(2))
        for group in case.groups.groups:
            mine, other = one[group.name], two[group.name]
            assert torch.equal(torch.as_tensor(mine.worth), torch.as_tensor(other.worth)), group.name
            for k in range(1, group.size + 1):
                assert sorted(mine.keep(k)) == sorted(other.keep(k)), group.name

    def test_the_model_is_left_as_found(self) -> None:
        case = criterion_case()
        assert traces(case.model, lambda: case.rankings(self.criterion())) == []

    def test_the_model_is_left_as_found_when_the_images_fail(self) -> None:
        case = criterion_case()
        broken = CriterionCase(case.model, case.groups, Failing(case.batches))
        assert traces(case.model, lambda: broken.rankings(self.criterion())) == []

    def test_the_model_is_left_as_found_when_the_model_fails(self) -> None:
        case = criterion_case()
        case.model.add_module("13", Broken())
        assert traces(case.model, lambda: case.rankings(self.criterion())) == []


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
        broken = CriterionCase(case.model, case.groups, Failing(case.batches))
        self._scored_cleanly(broken)  # a criterion may be content with the first batch

    def test_the_model_is_left_as_found_when_the_model_fails(self) -> None:
        case = criterion_case()
        case.model.add_module("13", Broken())
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
        assert traces(case.model, lambda: case.scores(self.criterion())) == []


def check_criterion(
    build: Callable[[], Criterion], *, equivariant: bool = True, scale_invariant: bool | None = None
) -> None:
    """Run the whole :class:`CriterionContract`, or :class:`SetCriterionContract` for a criterion that chooses sets;
    AssertionError at the first rule that is broken.
    """
    if is_set_valued(build()):

        class _Sets(SetCriterionContract):
            def criterion(self) -> Criterion:
                return build()

        run_all(_Sets())
        return

    class _Contract(CriterionContract):
        def criterion(self) -> Criterion:
            return build()

    contract = _Contract()
    contract.equivariant, contract.scale_invariant = equivariant, scale_invariant
    run_all(contract)
