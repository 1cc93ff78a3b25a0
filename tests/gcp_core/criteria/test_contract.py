"""Every registered criterion keeps the contract; names, options and errors of the registry."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch

from gcp_core import slots
from gcp_core.criteria import build_criterion, criterion_names, is_comparable, is_set_valued
from gcp_core.errors import ConfigError, RelevanceError
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.pruning.selection import Budget, select_channels
from gcp_core.pruning.surgery import apply_plan
from gcp_core.testing import CriterionContract, SetCriterionContract, check_criterion, criterion_case

# Does doubling a filter before its norm leave all scores as they are?
SCALE_INVARIANT = {
    **dict.fromkeys(
        ("frs", "taylor", "bn_scale", "apoz", "hrank", "mean_activation", "random", "trace_ratio"), True
    ),
    **dict.fromkeys(("active_probability", "gate_mean"), True),
    **dict.fromkeys(("l1", "l2", "fpgm", "lamp", "group_norm", "grasp"), False),
    # Doubling a consumer's filter changes what the units that it reads are worth, unless rows count as behind the norm.
    **dict.fromkeys(("compensation", "variance"), None),
}
CHANCE = ("random", "shuffled:frs", "shuffled:l1")


def contract(name: str) -> type[CriterionContract]:
    def criterion(self):
        return build_criterion(name)

    promises = {"equivariant": name not in CHANCE, "scale_invariant": SCALE_INVARIANT.get(name)}
    return type(f"Test_{name.replace(':', '_')}", (CriterionContract,), {"criterion": criterion, **promises})


for _name in (*criterion_names(), "shuffled:frs", "shuffled:l1"):
    globals()[f"Test_{_name.replace(':', '_')}"] = contract(_name)


class TestSetsOfTraceRatio(SetCriterionContract):
    def criterion(self):
        return build_criterion("trace_ratio")


def test_every_criterion_that_chooses_sets_has_its_contract():
    assert [name for name in criterion_names() if is_set_valued(build_criterion(name))] == ["trace_ratio"]


def test_the_contract_covers_every_registered_criterion():
    assert sorted(SCALE_INVARIANT) == criterion_names()


class Careless:
    """Breaks rules one at a time."""

    needs = "data"

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def score(self, model, groups, batches, generator):
        if self.fault == "leaves eval mode":
            model.eval()
        if self.fault == "leaves a hook":
            model[0].register_forward_hook(lambda *_: None)
        if self.fault == "uses global chance":
            torch.rand(1)
        scores = {
            layer: torch.ones(size, dtype=torch.float64) for layer, size in groups.scored_layers().items()
        }
        if self.fault == "depends on position":
            scores["0"] = torch.arange(5, dtype=torch.float64)
        for images, _ in batches:
            if self.fault == "changes images":
                images.zero_()
            model(images.clone()) if self.fault == "runs in training mode" else None
        return scores


@pytest.mark.parametrize(
    "fault",
    [
        *("leaves eval mode", "leaves a hook", "uses global chance", "depends on position", "changes images"),
        "runs in training mode",
    ],
)
def test_the_contract_catches_a_criterion_that(fault):
    with pytest.raises(AssertionError):
        check_criterion(lambda: Careless(fault))


def test_a_careful_criterion_passes_the_contract():
    check_criterion(lambda: Careless("none"), scale_invariant=True)


def test_shuffling_keeps_each_layers_scores_and_loses_their_order():
    case = criterion_case()
    plain, shuffled = case.scores(build_criterion("l1")), case.scores(build_criterion("shuffled:l1"))
    for layer in plain:
        assert torch.equal(plain[layer].sort().values, shuffled[layer].sort().values)
    assert any(not torch.equal(plain[layer], shuffled[layer]) for layer in plain)
    other = case.scores(build_criterion("shuffled:l1"), seed=1)
    assert any(not torch.equal(other[layer], shuffled[layer]) for layer in plain)


def test_options_reach_the_criterion():
    case = criterion_case()
    build = build_criterion("frs", {"read": "branch", "stabiliser": "published", "winsorise": 0.9})
    assert build.inner.read == "branch"
    plain, clipped = case.scores(build_criterion("frs")), case.scores(build)
    assert not torch.allclose(plain["4"], clipped["4"], rtol=1e-3)


@pytest.mark.parametrize("residual", ["coupled", "scatter", "inner"])
def test_every_criterion_scores_a_residual_network_before_and_after_a_removal(residual):
    torch.manual_seed(0)
    model = build_model("resnet20", 4, width=0.25)
    example = torch.zeros(1, 3, 8, 8)
    groups = find_groups(model, example, residual=residual)
    batches = [(torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1]))]
    for _ in range(2):
        for name in criterion_names():
            scores = build_criterion(name).score(model, groups, batches, torch.Generator().manual_seed(0))
            assert {layer: len(s) for layer, s in scores.items()} == groups.scored_layers(), name
        plan = select_channels(scores, groups, Budget(ratio=0.3, min_channels=1))
        apply_plan(model, plan)
        groups = groups.after(plan)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("frss", {}, r"prune.criterion: 'frss' is unknown \(did you mean \"frs\"\?; or shuffled:NAME"),
        ("shuffled:l3", {}, "prune.criterion: 'l3' is unknown"),
        (
            "frs",
            {"reed": "sum"},
            r"prune.options.reed: unknown option \(value 'sum'\) \(did you mean \"read\"",
        ),
        ("l1", {"p": 2}, r"prune.options.p: unknown option \(value 2\) \(this criterion has no options\)"),
        ("frs", {"read": "skip"}, r"prune.options.read: 'skip' is unknown \(allowed: branch, sum\)"),
        (
            "frs",
            {"stabiliser": "sign"},
            r"prune.options.stabiliser: 'sign' is unknown \(did you mean \"signed\"",
        ),
        ("frs", {"winsorise": 99.9}, r"prune.options.winsorise: 99.9 is not a number in \(0.5, 1\]"),
        ("hrank", {"max_images": 0}, "prune.options.max_images: 0 is not a whole number >= 1"),
        ("group_norm", {"p": -1}, r"prune.options.p: -1 is not a number in \(0, 100\)"),
        ("no_such_package.scores:mine", {}, "prune.criterion: cannot import 'no_such_package.scores'"),
    ],
)
def test_a_bad_name_or_option_is_refused_with_its_path(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_criterion(name, options)


class Broken:
    needs = "nothing"

    def __init__(self, scores):
        self._scores = scores

    def score(self, model, groups, batches, generator):
        return self._scores


def outsider(monkeypatch, factory) -> str:
    module = types.ModuleType("outsider_scores")
    module.mine = factory
    monkeypatch.setitem(sys.modules, "outsider_scores", module)
    return "outsider_scores:mine"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "^0: criterion outsider_scores:mine gave no scores"),
        ({"0": torch.ones(4)}, r"^0: criterion outsider_scores:mine gave scores \(4,\), not \(5,\)"),
        (
            {"0": torch.full((5,), float("nan"))},
            "^0: criterion outsider_scores:mine gave a score that is not finite",
        ),
    ],
)
def test_wrong_scores_are_refused_with_layer_and_criterion(monkeypatch, wrong, message):
    criterion = build_criterion(outsider(monkeypatch, lambda: Broken(wrong)))
    with pytest.raises(RelevanceError, match=message):
        criterion_case().scores(criterion)


def test_a_factory_that_returns_no_criterion_is_refused(monkeypatch):
    name = outsider(monkeypatch, lambda: 3)
    with pytest.raises(
        ConfigError, match=r"prune.criterion: outsider_scores:mine returned a int, which is no criterion"
    ):
        build_criterion(name)


def test_an_installed_package_adds_a_criterion_by_entry_point(monkeypatch):
    value = outsider(monkeypatch, lambda factor=1.0: Broken({"0": factor * torch.ones(5)}))
    entry = EntryPoint("mine", value, "gcp_core.criteria")
    monkeypatch.setattr(slots, "entry_points", lambda group: EntryPoints([entry]))
    assert "mine" in criterion_names()
    assert (
        build_criterion("mine", {"factor": 2.0}).inner.score(None, None, [], None)["0"].tolist() == [2.0] * 5
    )


@pytest.mark.parametrize("name", ["frs", "taylor", "apoz", "bn_scale"])
def test_scoring_without_images_is_refused(name):
    case = criterion_case()
    with pytest.raises(RelevanceError, match="batches: there are no images to score"):
        build_criterion(name).score(case.model, case.groups, [], torch.Generator())


def test_weights_that_are_not_finite_are_refused_by_name():
    case = criterion_case()
    case.model[4].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(RelevanceError, match="4: criterion l1 gave a score that is not finite"):
        case.scores(build_criterion("l1"))


#: Which scores say the same in a small and in a large layer; the others are divided by their layer's L2 norm.
COMPARABLE = {
    *("frs", "random", "lamp", "bn_scale", "apoz", "group_norm"),
    *("trace_ratio", "grasp", "compensation", "variance", "active_probability", "gate_mean"),
}


@pytest.mark.parametrize("name", criterion_names())
def test_a_criterion_says_whether_layers_can_be_ranked_together(name):
    assert is_comparable(build_criterion(name)) == (name in COMPARABLE)
    if not is_set_valued(build_criterion(name)):
        assert is_comparable(build_criterion(f"shuffled:{name}")) == (name in COMPARABLE)
