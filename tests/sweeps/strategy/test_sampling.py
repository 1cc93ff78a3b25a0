"""The fake front is known, so samplers are tested in seconds: no repeats, no forgetting, better than chance."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import pytest

from sweeps.config.search import SAMPLERS
from sweeps.config.sweep_config import SweepConfig
from sweeps.strategy.sampling import Proposer
from tests.sweeps.fake_runner import accuracy
from tests.sweeps.inline import config


def _proposer(checked: SweepConfig, seed: int = 0) -> Proposer:
    key = lambda point: checked.space.resolve(point).key()  # noqa: E731
    return Proposer(checked.space, checked.search, checked.num_trials(), seed, key)


def _play(checked: SweepConfig, number: int, parallel: int = 1, seed: int = 0) -> list[dict]:
    """Propose ``number`` points, answering each ``parallel`` proposals later."""
    proposer, points = _proposer(checked, seed), []
    for index in range(number):
        if index >= parallel:
            _answer(checked, proposer, index - parallel, points[index - parallel])
        point = proposer.propose(index)
        if point is None:
            break
        points.append(point)
    return points


def _answer(checked: SweepConfig, proposer: Proposer, number: int, point: dict) -> None:
    trial = checked.space.resolve(point)
    proposer.answer(number, (accuracy(trial), 1 - trial.prune.target), {})


def _text(point: dict) -> str:
    return json.dumps(point, sort_keys=True)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "gp"])
def test_no_sampler_proposes_a_point_twice(tmp_path: Path, sampler: str) -> None:
    # 4 intervals x 4 ratios x 7 targets = 112 points
    points = _play(config(tmp_path, {"search.sampler": sampler, "search.trials": 64}), 64, parallel=4)
    assert len({_text(point) for point in points}) == len(points) == 64


def test_gp_proposes_new_points_of_the_space(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.sampler": "gp", "search.trials": 12})
    points = _play(checked, 12, parallel=2)
    assert len({_text(point) for point in points}) == 12
    assert all(checked.space.canonical(point) == point for point in points)


def test_a_repeat_of_a_sampler_that_learns_becomes_the_nearest_new_point(tmp_path: Path, monkeypatch) -> None:
    checked = config(tmp_path, {"search.trials": 40})
    proposer, asked = _proposer(checked), []
    wanted = {"prune.interval": 2, "prune.ratio": 0.2, "prune.target": 0.5}
    monkeypatch.setattr(proposer, "_decode", lambda params: asked.append(params) or dict(wanted))
    points = [proposer.propose(number) for number in range(9)]
    assert points[0] == wanted
    assert len({_text(point) for point in points}) == 9
    assert len(asked) == 1 + 8 * 21, "each was drawn anew twenty times, then a new point was taken"
    changed = [[name for name in wanted if point[name] != wanted[name]] for point in points[1:]]
    assert all(len(names) == 1 for names in changed), "it is a neighbour"
    assert len({names[0] for names in changed}) > 1, "not always in the same dimension"
    for point, (name,) in zip(points[1:5], changed, strict=False):
        step = {"prune.ratio": 0.1, "prune.target": 0.1}.get(name)
        assert step is None or abs(point[name] - wanted[name]) == pytest.approx(step)


def test_the_more_a_sampler_knows_the_less_often_a_repeat_is_drawn_anew(tmp_path: Path) -> None:
    proposer = _proposer(config(tmp_path))
    assert proposer._redraws() == 20
    proposer._seen = {str(number) for number in range(60)}
    assert proposer._redraws() == 3
    proposer._seen = {str(number) for number in range(300)}
    assert proposer._redraws() == 0


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_used_up_space_ends_the_proposals(tmp_path: Path, sampler: str) -> None:
    overrides = {"search.sampler": sampler, "prune.target": {"choice": [0.3, 0.5]}, "prune.ratio": 0.2}
    points = _play(config(tmp_path, overrides), 50)
    assert Counter(_text(point) for point in points) == Counter(
        _text({"prune.interval": i, "prune.target": t}) for i in (1, 2, 3, 4) for t in (0.3, 0.5)
    )


def test_the_grid_comes_in_order(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.sampler": "grid", "search.trials": None})
    assert _play(checked, 200) == list(checked.space.grid())


def test_points_to_try_first_come_first(tmp_path: Path) -> None:
    first = {"prune.interval": 4, "prune.ratio": 0.3, "prune.target": 0.7}
    assert _play(config(tmp_path, {"search.points": [first]}), 3)[0] == first


def test_the_same_seed_proposes_the_same_points_one_at_a_time(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.trials": 20})
    assert _play(checked, 20, seed=3) == _play(checked, 20, seed=3)
    assert _play(checked, 20, seed=3) != _play(checked, 20, seed=4)


def test_tpe_finds_the_better_half_of_a_single_objective(tmp_path: Path) -> None:
    """The best accuracy is at a small target; chance would put 10 of the last 20 targets below 0.6."""
    fine = {"low": 0.3, "high": 0.9, "step": 0.005}
    overrides = {"search.objectives": {"val_accuracy": "max"}, "search.trials": 40, "prune.target": fine}
    checked = config(tmp_path, overrides)
    proposer, late = _proposer(checked), []
    for index in range(40):
        point = proposer.propose(index)
        proposer.answer(index, (accuracy(checked.space.resolve(point)),), {})
        late += [point["prune.target"]] if index >= 20 else []
    assert sum(target < 0.6 for target in late) >= 16


# --- a population ----------------------------------------------------------------------------------------------------

#: 4 x 61 x 121 points: a target or ratio that was drawn before is a parent's, not chance's.
FINE = {
    "search.sampler": "nsga2",
    "prune.ratio": {"low": 0.1, "high": 0.4, "step": 0.005},
    "prune.target": {"low": 0.3, "high": 0.9, "step": 0.005},
}


def test_a_population_that_another_driver_takes_over_goes_on_as_it_would_have_gone(tmp_path: Path) -> None:
    """40 trials have a population of ten. After 33 the next driver has the same three generations; with the same dice it
    draws the same children."""
    checked = config(tmp_path, {**FINE, "search.trials": 40, "search.points": [dict(POINT)]})
    first, points = _proposer(checked), []
    for number in range(33):
        points.append(first.propose(number))
        if number != 5:  # it failed
            _answer(checked, first, number, points[number])
        else:
            first.answer(number, None, {})
    second = _proposer(checked)
    for number, point in enumerate(points):
        second._first = iter(())
        second._fresh(point)
        second._enter(number, point)
        if number != 5:
            _answer(checked, second, number, point)
        else:
            second.answer(number, None, {})
    dice = copy.deepcopy(first._mirror._sampler)
    second._mirror._sampler = second._mirror._study.sampler = dice
    ahead = [[one.propose(33 + number) for number in range(12)] for one in (first, second)]
    assert ahead[1] == ahead[0]
    targets, ratios = ({point[name] for point in points} for name in ("prune.target", "prune.ratio"))
    children = [
        point for point in ahead[1] if point["prune.target"] in targets or point["prune.ratio"] in ratios
    ]
    assert len(children) >= 10


POINT = {"prune.interval": 4, "prune.ratio": 0.3, "prune.target": 0.7}


def test_points_to_try_first_become_parents(tmp_path: Path) -> None:
    """Ten given ones are the first generation of ten; a child has a value of theirs unless it mutates (one of three)."""
    given = [
        {**POINT, "prune.target": round(0.5 + 0.005 * n, 3), "prune.ratio": round(0.2 + 0.005 * n, 3)}
        for n in range(10)
    ]
    points = _play(config(tmp_path, {**FINE, "search.trials": 40, "search.points": given}), 30)
    names = ("prune.target", "prune.ratio")
    theirs = {name: {point[name] for point in points[:10]} for name in names}
    inherited = sum(point[name] in theirs[name] for point in points[10:] for name in names)
    # 20 x 2 x 2/3 = 27 of the given ones; by chance 20 x (10/121 + 10/61) = 5
    assert inherited >= 20


def test_a_broken_constraint_keeps_tpe_away(tmp_path: Path) -> None:
    """Cheap models (target >= 0.6) are ruled out; without the constraint more than half of the proposals are there."""

    def share_outside(constrained: bool) -> float:
        checked = config(tmp_path, {"search.objectives": {"macs": "min"}, "search.trials": 40})
        proposer, late = _proposer(checked), []
        for index in range(40):
            target = proposer.propose(index)["prune.target"]
            proposer.answer(index, (1 - target,), {"limit": target - 0.55} if constrained else {})
            late += [target > 0.55] if index >= 20 else []
        return sum(late) / len(late)

    assert share_outside(constrained=True) < share_outside(constrained=False) - 0.2
