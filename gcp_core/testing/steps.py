"""The contracts of what works in every training step: penalties and paces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gcp_core.penalties import Penalty
from gcp_core.pruning.surgery import apply_plan
from gcp_core.schedule.paces import Pace
from gcp_core.slots import load_state, state_of
from gcp_core.testing.criteria import CriterionCase, criterion_case
from gcp_core.testing.events import stored
from gcp_core.testing.looks import run_all, traces


class PenaltyContract:
    """Rules that every penalty keeps. Inherit and override :meth:`penalty`."""

    def penalty(self) -> Penalty:
        """The penalty under test, as it is before the first step."""
        raise NotImplementedError

    def test_its_term_is_a_finite_scalar_that_can_be_added_to_a_loss(self) -> None:
        case, penalty = criterion_case(), self.penalty()
        for _ in range(3):
            term = _step(penalty, case)
            assert isinstance(term, Tensor)
            assert term.shape == ()
            assert bool(torch.isfinite(term))

    def test_the_term_leaves_the_model_as_found(self) -> None:
        case, penalty = criterion_case(), self.penalty()
        for _ in range(2):
            assert traces(case.model, lambda: _term(penalty, case)[0], ("rng",)) == []
            _after_step(penalty, case)

    def test_the_hook_after_a_step_changes_values_and_nothing_else(self) -> None:
        case, penalty = criterion_case(), self.penalty()
        for _ in range(2):
            _term(penalty, case)
            assert traces(case.model, lambda: _after_step(penalty, case), ("state", "rng")) == []

    def test_it_goes_on_after_a_cut_that_it_was_told_about(self) -> None:
        case, penalty = criterion_case(), self.penalty()
        for _ in range(2):
            _step(penalty, case)
        assert bool(torch.isfinite(_step(penalty, _cut(penalty, case))))

    def test_one_that_is_taken_up_from_a_checkpoint_goes_on_as_it_would_have(self) -> None:
        for cut in (False, True):
            case, straight, after = criterion_case(), self.penalty(), self.penalty()
            for _ in range(2):
                _step(straight, case)
            if cut:
                after.on_plan(case.groups.plan(_REMOVED).with_meta(epoch=1))
                case = _cut(straight, case)
                _step(straight, case)
            weights = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
            load_state(after, stored(state_of(straight)))
            expected = [float(_step(straight, case)) for _ in range(3)]
            case.model.load_state_dict(weights)
            for parameter in case.model.parameters():
                parameter.grad = torch.ones_like(parameter)
            assert [float(_step(after, case)) for _ in range(3)] == expected, f"cut: {cut}"


_REMOVED = {"0": [1, 4], "4": [0, 2], "9": [3]}


def _cut(penalty: Penalty, case: CriterionCase) -> CriterionCase:
    plan = case.groups.plan(_REMOVED).with_meta(epoch=1)
    apply_plan(case.model, plan)
    penalty.on_plan(plan)
    return CriterionCase(case.model, case.groups.after(plan), case.batches)


def _term(penalty: Penalty, case: CriterionCase) -> tuple[Tensor, Any]:
    """The term of the first batch; dropout, where there is any, drops the same each time."""
    images, labels = next(iter(case.batches))
    outputs = torch.zeros(len(images), 3, dtype=images.dtype)
    torch.manual_seed(1)
    return penalty.term(case.model, images, labels, outputs), outputs


def _step(penalty: Penalty, case: CriterionCase) -> Tensor:
    """The term of a step of plain gradient descent on it, which also moves every weight a little."""
    term, _ = _term(penalty, case)
    assert isinstance(term, Tensor)
    loss = term + 0.0 * sum(parameter.sum() for parameter in case.model.parameters())
    for parameter in case.model.parameters():
        parameter.grad = None
    loss.backward()
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.add_(0.01 * torch.ones_like(parameter))
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
    _after_step(penalty, case)
    return term.detach()


def _after_step(penalty: Penalty, case: CriterionCase) -> None:
    hook = getattr(penalty, "after_step", None)
    if hook is not None:
        with torch.no_grad():
            hook(case.model)


class PaceContract:
    """Rules that every pace keeps. Inherit and override :meth:`pace`."""

    def pace(self) -> Pace:
        """The pace under test."""
        raise NotImplementedError

    def test_every_factor_is_a_number_between_0_and_1(self) -> None:
        for phase, step, steps in _PLACES:
            factor = self.pace()(phase, step, steps)
            assert isinstance(factor, (int, float)), (phase, step, steps)
            assert math.isfinite(factor), (phase, step, steps)
            assert 0 <= factor <= 1, (phase, step, steps)

    def test_the_factor_depends_on_the_place_alone(self) -> None:
        """Whoever goes on from the middle of a cycle asks for its later steps only, and once."""
        forwards = [self.pace()(*place) for place in _PLACES]
        pace = self.pace()
        assert [pace(*place) for place in reversed(_PLACES)] == forwards[::-1]

    def test_some_step_of_a_cycle_learns(self) -> None:
        for steps in {steps for _, _, steps in _PLACES}:
            assert any(self.pace()(1, step, steps) > 0 for step in range(steps)), steps


_PLACES = [(phase, step, steps) for phase in (1, 2, 5) for steps in (1, 2, 10, 37) for step in range(steps)]


def check_penalty(build: Callable[[], Penalty]) -> None:
    """Run the whole :class:`PenaltyContract`; AssertionError at the first rule that is broken."""

    class _Contract(PenaltyContract):
        def penalty(self) -> Penalty:
            return build()

    run_all(_Contract())


def check_pace(build: Callable[[], Pace]) -> None:
    """Run the whole :class:`PaceContract`; AssertionError at the first rule that is broken."""

    class _Contract(PaceContract):
        def pace(self) -> Pace:
            return build()

    run_all(_Contract())
