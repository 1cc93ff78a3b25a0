"""The contracts of what an event is made of besides its criterion: allocators, repairs, clocks."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcp_core.allocators import Allocator, Budget
from gcp_core.allocators.base import Looking, looks
from gcp_core.plan import Plan
from gcp_core.pruning.selection import select_channels
from gcp_core.pruning.surgery import apply_plan
from gcp_core.repairs import Repair
from gcp_core.schedule.clocks import Clock
from gcp_core.slots import load_state, state_of
from gcp_core.testing.criteria import CriterionCase, criterion_case
from gcp_core.testing.looks import Broken, Failing, run_all, traces


def stored(state: Mapping[str, Any]) -> dict[str, Any]:
    """What comes back of a state that goes through a checkpoint: plain tensors and numbers, nothing else."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class AllocatorContract:
    """Rules that every allocator keeps. Inherit and override :meth:`allocator`."""

    def allocator(self) -> Allocator:
        """The allocator under test."""
        raise NotImplementedError

    def test_its_answer_is_a_number_of_units_for_groups_that_are_there(self) -> None:
        case = criterion_case()
        sizes = {group.name: group.size for group in case.groups.groups}
        for budget in _budgets(case):
            for name, number in self._seen(case).allot(_scores(case), case.groups, budget).items():
                assert name in sizes
                assert isinstance(number, (int, np.integer)), name
                assert not isinstance(number, bool), name
                assert 0 <= number <= sizes[name], name

    def test_the_plan_keeps_floors_and_takes_no_more_than_the_budget_needs(self) -> None:
        case = criterion_case()
        scores, groups = _layer_scores(case), case.groups
        for budget in _budgets(case):
            plan = select_channels(scores, groups, budget, self._seen(case))
            for group in groups.groups:
                assert group.size - len(plan.removed.get(group.name, ())) >= budget.floor(group), group.name
            assert plan.num_units <= budget.units(groups.num_units)
            if budget.limit is None:
                continue
            cost = groups.cost(plan.removed)[budget.of == "params"]
            assert not budget.whole or cost <= budget.limit
            if cost < budget.limit:
                assert any(
                    groups.cost(_with_one_back(plan, name))[budget.of == "params"] > budget.limit
                    for name in plan.removed
                ), "a unit less would do in every group"

    def test_the_same_scores_give_the_same_answer(self) -> None:
        case = criterion_case()
        for budget in _budgets(case):
            one, two = (self._seen(case).allot(_scores(case), case.groups, budget) for _ in range(2))
            assert dict(one) == dict(two)

    def test_the_scores_are_left_as_found(self) -> None:
        case = criterion_case()
        allocator, scores, before = self._seen(case), _scores(case), _scores(case)
        for budget in _budgets(case):
            allocator.allot(scores, case.groups, budget)
        assert all(np.array_equal(scores[name], before[name]) for name in before)

    def test_which_unit_has_which_score_does_not_matter_unless_it_says_so(self) -> None:
        if getattr(self.allocator(), "per_unit", False):
            return
        case = criterion_case()
        allocator, scores = self._seen(case), _scores(case)
        turned = {name: own[::-1].copy() for name, own in scores.items()}
        for budget in _budgets(case):
            one, two = (allocator.allot(s, case.groups, budget) for s in (scores, turned))
            assert dict(one) == dict(two)

    def test_a_look_leaves_the_model_as_found(self) -> None:
        if not looks(self.allocator()):
            return
        case, broken = criterion_case(), criterion_case()
        broken.model.add_module("13", Broken())
        assert traces(case.model, lambda: self._seen(case)) == []
        assert traces(broken.model, lambda: self._seen(broken)) == []
        failing = CriterionCase(case.model, case.groups, Failing(case.batches))
        assert traces(case.model, lambda: self._seen(failing)) == []

    def _seen(self, case: CriterionCase) -> Allocator:
        allocator = self.allocator()
        if not looks(allocator):
            return allocator
        assert isinstance(allocator, Looking), "what needs data has look(...)"
        return allocator.look(case.model, case.groups, case.batches, _rng())


def _budgets(case: CriterionCase) -> list[Budget]:
    macs, params = case.groups.cost()
    own = Budget(count=3, min_channels=1, min_share=0.0)
    return [
        own,
        replace(own, count=0),
        Budget(ratio=0.5, min_channels=2, min_share=0.4),
        replace(own, count=None, ratio=1.0, limit=0.6 * macs, whole=True),
        replace(own, count=None, ratio=1.0, limit=0.5 * params, of="params", whole=True),
        replace(own, count=None, ratio=0.3, limit=0.8 * macs),
    ]


def _layer_scores(case: CriterionCase) -> dict[str, Tensor]:
    rng = _rng(5)
    sizes = case.groups.scored_layers()
    return {layer: torch.rand(size, generator=rng, dtype=torch.float64) for layer, size in sizes.items()}


def _scores(case: CriterionCase) -> dict[str, np.ndarray]:
    """Every group of the case has one layer, whose name it has."""
    return {name: score.numpy() for name, score in _layer_scores(case).items()}


def _with_one_back(plan: Plan, name: str) -> dict[str, tuple[int, ...]]:
    return {other: units[1:] if other == name else units for other, units in plan.removed.items()}


class RepairContract:
    """Rules that every repair keeps. Inherit and override :meth:`repair`."""

    def repair(self) -> Repair:
        """The repair under test."""
        raise NotImplementedError

    def test_values_change_and_nothing_else_does(self) -> None:
        case = criterion_case()
        assert traces(case.model, lambda: self._patched(case), ("state",)) == []
        assert all(bool(torch.isfinite(t).all()) for t in case.model.state_dict().values())

    def test_nothing_else_changes_where_images_or_model_fail(self) -> None:
        case, broken = criterion_case(), criterion_case()
        broken.model.add_module("13", Broken())
        failing = CriterionCase(case.model, case.groups, Failing(case.batches))
        assert traces(case.model, lambda: self._patched(failing), ("state",)) == []
        assert traces(broken.model, lambda: self._patched(broken), ("state",)) == []

    def test_the_same_seed_gives_the_same_weights(self) -> None:
        one, two = criterion_case(), criterion_case()
        self._patched(one)
        self._patched(two)
        other = two.model.state_dict()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.model.state_dict().items())

    def test_a_plan_that_removes_nothing_patches_nothing(self) -> None:
        case = criterion_case()
        assert traces(case.model, lambda: self._patched(case, {})) == []

    def test_the_patched_model_can_be_cut_and_run(self) -> None:
        case = criterion_case()
        plan = self._patched(case)
        apply_plan(case.model, plan)
        assert bool(torch.isfinite(case.model.eval()(next(iter(case.batches))[0])).all())

    def test_the_images_are_left_as_found(self) -> None:
        case = criterion_case()
        before = [images.clone() for images, _ in case.batches]
        self._patched(case)
        assert all(torch.equal(old, new) for old, (new, _) in zip(before, case.batches))

    def test_nothing_is_read_where_nothing_is_needed(self) -> None:
        if getattr(self.repair(), "needs", "nothing") == "nothing":
            case = criterion_case()
            self._patched(CriterionCase(case.model, case.groups, []))

    def _patched(self, case: CriterionCase, removed: Mapping[str, list[int]] | None = None) -> Plan:
        plan = case.groups.plan({"0": [1, 4], "4": [0, 2], "9": [3]} if removed is None else removed)
        plan = plan.with_meta(epoch=1)
        self.repair().patch(case.model, case.groups, plan, case.batches, _rng())
        return plan


class ClockContract:
    """Rules that every clock keeps. Inherit and override :meth:`clock`."""

    def clock(self) -> Clock:
        """The clock under test, as it is before the first epoch."""
        raise NotImplementedError

    def test_it_says_yes_or_no(self) -> None:
        assert all(isinstance(answer, bool) for answer in self._answers(self.clock(), 1, 6))

    def test_the_same_course_gives_the_same_answers(self) -> None:
        assert self._answers(self.clock(), 1, 6) == self._answers(self.clock(), 1, 6)

    def test_one_that_is_taken_up_from_a_checkpoint_goes_on_as_it_would_have(self) -> None:
        for last in range(1, 5):
            straight, before, after = self.clock(), self.clock(), self.clock()
            expected = self._answers(straight, 1, 6)[last:]
            self._answers(before, 1, last)
            load_state(after, stored(state_of(before)))
            assert self._answers(after, last + 1, 6) == expected, f"after epoch {last}"

    def test_the_model_is_left_as_found(self) -> None:
        case, broken = criterion_case(), criterion_case()
        broken.model.add_module("13", Broken())
        failing = CriterionCase(case.model, case.groups, Failing(case.batches))
        for each in (case, failing, broken):
            clock = self.clock()
            assert traces(each.model, partial(_asked, clock, each, 1)) == []

    def _answers(self, clock: Clock, first: int, last: int) -> list[bool]:
        """Asked after the epochs ``first`` .. ``last`` of a training that moves every weight a little."""
        case, answers = criterion_case(), []
        with torch.no_grad():
            for epoch in range(1, last + 1):
                for number, parameter in enumerate(case.model.parameters()):
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=_rng(100 * epoch + number)))
                if epoch >= first:
                    answers.append(_asked(clock, case, epoch))
        return answers


def _asked(clock: Clock, case: CriterionCase, epoch: int) -> bool:
    return clock.due(epoch, case.model, case.groups, case.batches, _rng(epoch))


def check_allocator(build: Callable[[], Allocator]) -> None:
    """Run the whole :class:`AllocatorContract`; AssertionError at the first rule that is broken."""

    class _Contract(AllocatorContract):
        def allocator(self) -> Allocator:
            return build()

    run_all(_Contract())


def check_repair(build: Callable[[], Repair]) -> None:
    """Run the whole :class:`RepairContract`; AssertionError at the first rule that is broken."""

    class _Contract(RepairContract):
        def repair(self) -> Repair:
            return build()

    run_all(_Contract())


def check_clock(build: Callable[[], Clock]) -> None:
    """Run the whole :class:`ClockContract`; AssertionError at the first rule that is broken."""

    class _Contract(ClockContract):
        def clock(self) -> Clock:
            return build()

    run_all(_Contract())
