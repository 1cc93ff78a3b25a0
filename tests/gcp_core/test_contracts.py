"""The contract suites of slots: everything built in keeps them, and whoever breaks one rule is found out.

Criteria have theirs in ``criteria/test_contract.py``.
"""

import pytest
import torch

from gcp_core.allocators import allocator_names, build_allocator
from gcp_core.errors import ModelError
from gcp_core.models.mode import mode
from gcp_core.penalties import build_penalty, penalty_names
from gcp_core.repairs import build_repair, repair_names
from gcp_core.rewrites import build_rewrite, rewrite_names
from gcp_core.schedule.clocks import build_clock, clock_names
from gcp_core.schedule.paces import build_pace, pace_names
from gcp_core.testing import (
    check_allocator,
    check_clock,
    check_criterion,
    check_pace,
    check_penalty,
    check_repair,
    check_rewrite,
)
from tests.oracles.fillings import (
    EveryOther,
    FirstGroup,
    HalfRemoved,
    Looking,
    PerUnit,
    Remembered,
    Sets,
    Zero,
)

KINDS = {
    "allocator": (check_allocator, build_allocator, allocator_names),
    "repair": (check_repair, build_repair, repair_names),
    "clock": (check_clock, build_clock, clock_names),
    "penalty": (check_penalty, build_penalty, penalty_names),
    "rewrite": (check_rewrite, build_rewrite, rewrite_names),
    "pace": (check_pace, build_pace, pace_names),
}
#: What has no default.
OPTIONS = {("allocator", "given"): {"widths": {"features.0": 3}}}
BUILT_IN = [(kind, name) for kind, (_, _, names) in KINDS.items() for name in names()]


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_everything_that_is_built_in_keeps_its_contract(kind, name):
    check, build, _ = KINDS[kind]
    options = OPTIONS.get((kind, name))
    check(lambda: build(name, options) if options else build(name))


@pytest.mark.parametrize(
    ("check", "build"),
    [
        (check_allocator, FirstGroup), (check_allocator, Looking), (check_allocator, PerUnit),
        (check_repair, HalfRemoved), (check_clock, EveryOther), (check_penalty, Remembered), (check_penalty, Zero),
        (check_criterion, Sets),
    ],
)  # fmt: skip
def test_what_fills_slots_in_our_tests_keeps_the_contracts(check, build):
    check(build)


# --- whoever breaks one rule --------------------------------------------------------------------------------------


#: No two that follow each other are alike: a generator that nobody has seeded, made sure of.
CHANCE = [1 + number % 4 for number in range(1000)]


class CarelessAllocator:
    def __init__(self, fault):
        self.fault = fault
        if fault in ("looks in eval mode", "has no look"):
            self.needs = "data"
        if fault == "looks in eval mode":
            self.look = self._look

    def _look(self, model, groups, batches, generator):
        model.eval()
        return CarelessAllocator("none")

    def allot(self, scores, groups, budget):
        first = groups.groups[0]
        if self.fault == "keeps more than there are":
            return {first.name: first.size + 1}
        if self.fault == "knows other groups":
            return {"another": 1}
        if self.fault == "keeps half a unit":
            return {first.name: 2.5}
        if self.fault == "changes scores":
            scores[first.name][:] = 0
        if self.fault == "goes by chance":
            return {first.name: CHANCE.pop()}
        if self.fault == "reads single units":
            return {first.name: 2 if scores[first.name][0] > scores[first.name][-1] else 3}
        return {first.name: 3}


@pytest.mark.parametrize(
    "fault",
    [
        "keeps more than there are", "knows other groups", "keeps half a unit", "changes scores", "reads single units",
        "looks in eval mode", "has no look", "goes by chance",
    ],
)  # fmt: skip
def test_the_contract_catches_an_allocator_that(fault):
    with pytest.raises(AssertionError):
        check_allocator(lambda: CarelessAllocator(fault))


class CarelessRepair:
    def __init__(self, fault):
        self.fault = fault
        self.needs = "data" if fault in ("changes images", "runs in training mode") else "nothing"

    def patch(self, model, groups, plan, batches, generator):
        if self.fault == "patches without a cut":
            model[0].weight.data += 1
        if not plan.removed:
            return
        if self.fault == "puts in another parameter":
            model[4].weight = torch.nn.Parameter(model[4].weight.detach() * 2)
        if self.fault == "leaves eval mode":
            model.eval()
        if self.fault == "uses global chance":
            model[4].weight.data += torch.rand(1).double()
        if self.fault == "leaves what is not finite":
            model[4].weight.data[0] = torch.nan
        if self.fault == "leaves a hook":
            model[0].register_forward_hook(lambda *_: None)
        if self.fault == "reads what it does not need":
            next(iter(batches))
        if self.fault == "adds a bias":
            model[4].bias = torch.nn.Parameter(torch.zeros(6).double())
        for images, _ in batches if self.needs == "data" else ():
            if self.fault == "changes images":
                images.zero_()
            else:
                model(images)


@pytest.mark.parametrize(
    "fault",
    [
        "patches without a cut", "puts in another parameter", "leaves eval mode", "uses global chance",
        "leaves what is not finite", "leaves a hook", "adds a bias", "changes images", "runs in training mode",
    ],
)  # fmt: skip
def test_the_contract_catches_a_repair_that(fault):
    with pytest.raises((AssertionError, ModelError)):
        check_repair(lambda: CarelessRepair(fault))


def test_the_contract_catches_a_repair_that_reads_what_it_does_not_need():
    with pytest.raises(StopIteration):
        check_repair(lambda: CarelessRepair("reads what it does not need"))


class CarelessClock:
    needs = "data"

    def __init__(self, fault):
        self.fault, self.asked = fault, 0

    def due(self, epoch, model, groups, batches, generator):
        self.asked += 1
        if self.fault == "says nothing":
            return None
        if self.fault == "leaves eval mode":
            model.eval()
        if self.fault == "goes by chance":
            return CHANCE.pop() % 3 == 0
        for images, _ in batches:
            if self.fault == "runs in training mode":
                model(images)
            with mode(model, training=False), torch.no_grad():
                model(images)
        return self.asked % 3 == 0

    def state_dict(self):
        return {} if self.fault == "forgets" else {"asked": self.asked}

    def load_state_dict(self, state):
        self.asked = state.get("asked", 0)


@pytest.mark.parametrize(
    "fault", ["says nothing", "leaves eval mode", "goes by chance", "runs in training mode", "forgets"]
)
def test_the_contract_catches_a_clock_that(fault):
    with pytest.raises(AssertionError):
        check_clock(lambda: CarelessClock(fault))


class CarelessPenalty(Remembered):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def term(self, model, images, labels, outputs):
        term = super().term(model, images, labels, outputs)
        if self.fault == "gives a vector":
            return term.expand(2)
        if self.fault == "gives no tensor":
            return float(term.detach())
        if self.fault == "leaves a hook":
            model[0].register_forward_hook(lambda *_: None)
        if self.fault == "changes weights":
            model[0].weight.data += 1
        if self.fault == "is not finite":
            return term + torch.inf
        return term

    def after_step(self, model):
        super().after_step(model)
        if self.fault == "puts in a parameter after a step":
            model[4].weight = torch.nn.Parameter(model[4].weight.detach())

    def on_plan(self, plan):
        if self.fault != "does not follow cuts":
            super().on_plan(plan)

    def state_dict(self):
        return {"steps": 0} if self.fault == "forgets" else super().state_dict()


@pytest.mark.parametrize(
    "fault",
    [
        "gives a vector", "gives no tensor", "leaves a hook", "changes weights", "is not finite", "does not follow cuts",
        "forgets", "puts in a parameter after a step",
    ],
)  # fmt: skip
def test_the_contract_catches_a_penalty_that(fault):
    with pytest.raises((AssertionError, RuntimeError)):
        check_penalty(lambda: CarelessPenalty(fault))


class CountingPace:
    def __init__(self):
        self.calls = 0

    def __call__(self, phase, step, steps):
        self.calls += 1
        return 1 / self.calls


@pytest.mark.parametrize(
    "pace",
    [
        lambda phase, step, steps: 1.5, lambda phase, step, steps: float("nan"), lambda phase, step, steps: None,
        lambda phase, step, steps: 0.0, CountingPace(),
    ],
)  # fmt: skip
def test_the_contract_catches_a_pace_that_gives_no_share_or_remembers(pace):
    with pytest.raises(AssertionError):
        check_pace(lambda: pace)


class CarelessSets(Sets):
    def __init__(self, fault):
        self.fault = fault

    def ranking(self, model, groups, batches, generator):
        if self.fault == "leaves eval mode":
            model.eval()
        found = super().ranking(model, groups, batches, generator)
        for ranking in found.values():
            if self.fault == "keeps one twice":
                ranking.keep = lambda k: [0] * k
            if self.fault == "keeps too few":
                ranking.keep = lambda k: list(range(k - 1))
        if self.fault == "leaves a group out":
            found.popitem()
        return found


@pytest.mark.parametrize(
    "fault", ["leaves eval mode", "keeps one twice", "keeps too few", "leaves a group out"]
)
def test_the_contract_catches_a_criterion_of_sets_that(fault):
    with pytest.raises(AssertionError):
        check_criterion(lambda: CarelessSets(fault))


@pytest.mark.parametrize(
    ("check", "careless"),
    [
        (check_allocator, CarelessAllocator), (check_repair, CarelessRepair), (check_clock, CarelessClock),
        (check_penalty, CarelessPenalty), (check_criterion, CarelessSets),
    ],
)  # fmt: skip
def test_without_a_fault_they_pass_so_it_is_the_fault_that_is_caught(check, careless):
    check(lambda: careless("none"))
