"""The contract of rewrites."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gcp_core.criteria import Batches
from gcp_core.models.mode import mode
from gcp_core.plan import Plan
from gcp_core.pruning.surgery import apply_plan, gate_channels
from gcp_core.rewrites import Rewrite
from gcp_core.testing.criteria import CriterionCase, criterion_case
from gcp_core.testing.events import stored
from gcp_core.testing.looks import run_all

_REMOVED = {"0": [1, 4], "4": [0, 2]}


class RewriteContract:
    """Rules that every rewrite keeps. Inherit and override :meth:`rewrite`."""

    def rewrite(self) -> Rewrite:
        """The rewrite under test."""
        raise NotImplementedError

    def test_a_folded_network_has_the_modules_that_it_had_and_computes_what_the_rewritten_one_did(
        self,
    ) -> None:
        for steps in (0, 4):
            case, model = self._trained(steps)
            folded, images = copy.deepcopy(model), next(iter(case.batches))[0]
            self.rewrite().fold(folded)
            assert _looks(folded) == _looks(criterion_case().model)
            with mode(model, training=False), mode(folded, training=False), torch.no_grad():
                expected = model(images)
                error = float((folded(images) - expected).abs().max())
            assert error <= 1e-12 * max(1.0, float(expected.abs().max())), f"after {steps} steps"

    def test_a_step_of_training_is_finite_and_reaches_every_parameter_of_its_own(self) -> None:
        case, model = self._trained(1)
        own = self.rewrite().own(model)
        for parameter in own:
            parameter.grad = None
        _step(model, case.batches)
        assert all(p.grad is not None for p in own)
        assert all(bool(torch.isfinite(t).all()) for t in model.state_dict().values())

    def test_its_own_parameters_are_those_that_the_plain_network_has_not(self) -> None:
        case = criterion_case()
        plain = {id(p) for p in case.model.parameters()}
        self.rewrite().install(case.model, _example(case))
        more = {id(p) for p in case.model.parameters()} - plain
        assert {id(p) for p in self.rewrite().own(case.model)} == more

    def test_all_that_it_has_learned_is_in_the_state_of_the_network(self) -> None:
        """A network that was put together anew, cut and loaded from a checkpoint goes on as this one does."""
        for cut in (False, True):
            case, model = self._trained(3)
            fresh = criterion_case()
            fresh.model.train()
            self.rewrite().install(fresh.model, _example(fresh))
            if cut:
                self._cut(case, model)
                self._cut(fresh, fresh.model)
                _step(model, case.batches)
            fresh.model.load_state_dict(stored(model.state_dict()))
            for _ in range(2):
                torch.manual_seed(3)
                _step(model, case.batches)
                torch.manual_seed(3)
                _step(fresh.model, case.batches)
            other = fresh.model.state_dict()
            assert all(torch.equal(t, other[name]) for name, t in model.state_dict().items()), f"cut: {cut}"

    def test_what_is_lifted_is_plain_and_what_is_left_of_a_cut_computes_what_the_gated_whole_does(
        self,
    ) -> None:
        case, model = self._trained(3)
        rewrite, images = self.rewrite(), next(iter(case.batches))[0]
        lifted = rewrite.lift(model)
        assert _looks(model) == _looks(criterion_case().model)
        held = {id(p) for p in model.parameters()}
        assert all(id(p) in held for p in lifted.rewritten)
        plan = case.groups.plan(_REMOVED)
        with mode(model, training=False), torch.no_grad():
            with gate_channels(model, plan):
                expected = model(images)
            apply_plan(model, plan)
            assert torch.allclose(model(images), expected, rtol=0, atol=1e-12)
        rewrite.again(model, lifted, plan)
        _step(model, case.batches)
        rewrite.fold(model)
        small = criterion_case()
        apply_plan(small.model, plan)
        assert _looks(model) == _looks(small.model)

    def test_what_it_adds_to_a_forward_pass_is_a_number_and_less_in_a_smaller_network(self) -> None:
        case, model = self._trained(1)
        before = self.rewrite().macs(model, 32)
        self._cut(case, model)
        after = self.rewrite().macs(model, 32)
        assert 0 <= after <= before < float("inf")

    def test_installing_and_folding_draw_nothing_at_random(self) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        case = criterion_case()
        self.rewrite().install(case.model, _example(case))
        self.rewrite().fold(case.model)
        assert torch.equal(torch.get_rng_state(), before)

    def _trained(self, steps: int) -> tuple[CriterionCase, nn.Module]:
        case = criterion_case()
        case.model.train()  # a norm that is frozen has a gate that is
        self.rewrite().install(case.model, _example(case))
        torch.manual_seed(1)
        for _ in range(steps):
            _step(case.model, case.batches)
        return case, case.model

    def _cut(self, case: CriterionCase, model: nn.Module) -> None:
        plan: Plan = case.groups.plan(_REMOVED)
        rewrite = self.rewrite()
        lifted = rewrite.lift(model)
        apply_plan(model, plan)
        rewrite.again(model, lifted, plan)


def _example(case: CriterionCase) -> Tensor:
    return next(iter(case.batches))[0][:1]


def _looks(model: nn.Module) -> list[tuple[str, type[nn.Module], list[tuple[str, Any]]]]:
    """Names and kinds of modules, names and shapes of what they hold."""
    return [
        (name, type(module), [(key, tuple(t.shape)) for key, t in module.state_dict().items()])
        for name, module in model.named_modules()
    ]


def _step(model: nn.Module, batches: Batches) -> None:
    """A step of plain gradient descent."""
    images, labels = next(iter(batches))
    for parameter in model.parameters():
        parameter.grad = None
    nn.functional.cross_entropy(model(images), labels).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)


def check_rewrite(build: Callable[[], Rewrite]) -> None:
    """Run the whole :class:`RewriteContract`; AssertionError at the first rule that is broken."""

    class _Contract(RewriteContract):
        def rewrite(self) -> Rewrite:
            return build()

    run_all(_Contract())
